//! Few query rows: the vector lanes are elements of a head, and keys and values are read where they lie.
//!
//! Such a tile is bound by reading the cache. So each key and value is read once for four rows, widened in registers, and
//! while one block is worked on the next one is asked for: that of the next head, whose rows lie behind. Scores are dot
//! products, four slots at a time, so that their horizontal sums share their shuffles.

use std::ops::Range;

use hal::DType;

use super::{BLOCK, Places, Problem, Task, exp_normal};
use crate::Isa;
use crate::ops::kv_cache::{Cached, with_cache};
use crate::ops::tensor::Row;
use crate::ops::vector::{Element, Kernel, Lanes};

/// The most rows of such a tile.
pub(super) const MOST: usize = 16;
/// Rows that are worked on together.
const TOGETHER: usize = 4;
/// Vectors of results that are worked on together. They lie as [`Element::load_two`] loads values.
const WIDE: usize = 4;

/// The most rows of such a tile, where queries and keys are multiplied as pairs or not.
pub(super) fn most(isa: Isa, pairs: bool) -> usize {
    match pairs && isa.has_pairs() {
        true => MOST,
        false => TOGETHER.max(isa.lanes() / 2),
    }
}

/// Attention of one tile of few rows, and of those of the `heads` from its own on, over `slots`.
pub(super) struct Few<'p> {
    pub(super) problem: &'p Problem<'p>,
    pub(super) task: &'p Task<'p>,
    pub(super) heads: usize,
    pub(super) slots: Range<usize>,
    pub(super) scratch: &'p mut [f32],
}

impl Kernel for Few<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let read = if self.problem.in_place() {
            self.problem.op.kv
        } else {
            DType::F32
        };
        with_cache!(read, E => self.problem.few::<V, E>(self.task, self.heads, self.slots, self.scratch));
    }
}

impl Problem<'_> {
    /// As [`Few`]. `E` is the type of the cache where its rows are whole vectors, else f32.
    #[inline(always)]
    fn few<V: Lanes, E: Cached>(
        &self,
        task: &Task<'_>,
        heads: usize,
        all_slots: Range<usize>,
        scratch: &mut [f32],
    ) {
        let (dim, rows) = (self.sizes.dim, task.rows.len());
        let (width, all) = (self.sizes.width::<V>(), heads * rows);
        let (q, rest) = scratch.split_at_mut(all * width);
        let (results, rest) = rest.split_at_mut(all * dim);
        let (max, rest) = rest.split_at_mut(all);
        let (sum, rest) = rest.split_at_mut(all);
        let (scores, rest) = rest.split_at_mut(rows * BLOCK);
        let (key_block, rest) = rest.split_at_mut(BLOCK * dim);
        let value_block = &mut rest[..BLOCK * dim];
        let of = |head: usize| task.of_head(task.kv_head + head);
        let mut seen = [0; MOST];
        for (r, seen) in seen.iter_mut().enumerate().take(rows) {
            let place = self.place(task, task.rows.start + r);
            *seen = self.visible(task.sequence, place[0]);
        }
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        results.fill(0.0);
        for (i, q) in q.chunks_exact_mut(width).enumerate() {
            self.query::<V>(&of(i / rows), task.rows.start + i % rows, q);
        }

        let end = all_slots.end.min(seen.into_iter().max().unwrap_or(0));
        let block = |start: usize| start.min(end)..end.min(start + BLOCK);
        let mut keys: Places = [std::ptr::null(); BLOCK];
        let mut values = keys;
        self.reach::<V>(0, task, block(all_slots.start), &mut keys, key_block);
        self.ask::<V>(&keys, 0, 1);
        for start in (all_slots.start..end).step_by(BLOCK) {
            let slots = block(start);
            let n = slots.len();
            for head in 0..heads {
                let own = head * rows..(head + 1) * rows;
                let q = &q[own.start * width..own.end * width];
                let results = &mut results[own.start * dim..own.end * dim];
                let state = max[own.clone()].iter_mut().zip(&mut sum[own]);
                self.reach::<V>(1, &of(head), slots.clone(), &mut values, value_block);
                // SAFETY: found before.
                unsafe { self.dots::<V, E>(scores, &keys, n, &values, q) };
                if E::SCALED {
                    // SAFETY: found before.
                    unsafe { self.rescale::<V, E>(scores, &keys, n) };
                }
                let mut rescale = [1.0; MOST];
                for (r, (scores, (max, sum))) in
                    scores.chunks_exact_mut(BLOCK).zip(state).enumerate()
                {
                    scores[seen[r].clamp(start, slots.end) - start..].fill(f32::NEG_INFINITY);
                    let width = n.next_multiple_of(V::N);
                    rescale[r] = softmax::<V>(&mut scores[..width], max, sum);
                }
                let (next, slots) = match head + 1 < heads {
                    true => (head + 1, slots.clone()),
                    false => (0, block(start + BLOCK)),
                };
                self.reach::<V>(0, &of(next), slots, &mut keys, key_block);
                if E::SCALED {
                    // SAFETY: found before.
                    unsafe { self.rescale::<V, E>(scores, &values, n) };
                }
                // SAFETY: found before.
                unsafe { self.weigh::<V, E>(results, &rescale, scores, (&values, n), &keys) };
            }
        }

        for (i, result) in results.chunks_exact_mut(dim).enumerate() {
            for d in (0..dim / (WIDE * V::N) * (WIDE * V::N)).step_by(2 * V::N) {
                // SAFETY: two vectors of the result.
                unsafe {
                    let at = result.as_mut_ptr().add(d);
                    let [a, b] = E::ordered([V::load_f32(at), V::load_f32(at.add(V::N))]);
                    a.store_f32(at);
                    b.store_f32(at.add(V::N));
                }
            }
            let row = task.rows.start + i % rows;
            self.finish::<V>(&of(i / rows), row, max[i], sum[i], Row::of(result));
        }
    }

    /// Finds the keys (0) or values (1) of `slots`, or copies them to `to` where their rows are not whole vectors.
    #[inline(always)]
    fn reach<V: Lanes>(
        &self,
        which: usize,
        task: &Task<'_>,
        slots: Range<usize>,
        places: &mut Places,
        to: &mut [f32],
    ) {
        if self.in_place() {
            return self.find(which, task, slots, places);
        }
        let last = slots.len().saturating_sub(1);
        self.gather::<V>(which, task, slots, to);
        for (i, place) in places.iter_mut().enumerate() {
            *place = to[i.min(last) * self.sizes.dim..].as_ptr().cast();
        }
    }

    /// `scores[r, j] = scale · keys[j] · q[r]` for the first `n` slots, and anything for up to three behind them. Asks for what
    /// lies `ahead`.
    ///
    /// # Safety
    /// At each of `keys` lie `dim` elements, whole vectors.
    #[inline(always)]
    unsafe fn dots<V: Lanes, E: Cached>(
        &self,
        scores: &mut [f32],
        keys: &Places,
        n: usize,
        ahead: &Places,
        q: &[f32],
    ) {
        let width = self.sizes.width::<V>();
        let rows = q.len() / width;
        assert!(width.is_multiple_of(V::N) && scores.len() >= rows * BLOCK && n <= BLOCK);
        for j in (0..n).step_by(4) {
            let mut next = [std::ptr::null(); 4];
            for (i, next) in next.iter_mut().enumerate() {
                *next = self.asked(ahead, j + i);
            }
            let keys = [keys[j], keys[j + 1], keys[j + 2], keys[j + 3]].map(<*const u8>::cast::<E>);
            let mut r = 0;
            while r < rows {
                // SAFETY: as many rows of q and scores are left; keys are the caller's promise.
                r += unsafe {
                    let dot = Dot {
                        problem: self,
                        scores: scores.as_mut_ptr().add(r * BLOCK + j),
                        keys,
                        q: q.as_ptr().add(r * width),
                        next: (r == 0).then_some(next),
                    };
                    match rows - r {
                        TOGETHER.. if V::MANY_REGISTERS => dot.rows::<V, TOGETHER>(),
                        2.. => dot.rows::<V, 2>(),
                        _ => dot.rows::<V, 1>(),
                    }
                };
            }
        }
    }

    /// Multiplies each row's scores of the first `n` slots with the scales of what lies at `places`; those behind become
    /// anything.
    ///
    /// # Safety
    /// At the first `n` places lie rows of the cache, of type `E`.
    #[inline(always)]
    unsafe fn rescale<V: Lanes, E: Cached>(&self, scores: &mut [f32], places: &Places, n: usize) {
        let mut scales = [0.0; BLOCK];
        for (scale, place) in scales.iter_mut().zip(&places[..n]) {
            // SAFETY: the caller's promise; a cell is its element.
            let row = unsafe { std::slice::from_raw_parts(place.cast(), self.row()) };
            *scale = E::scale(Row(row));
        }
        let scales = Row::of(&mut scales);
        for scores in scores.chunks_exact_mut(BLOCK) {
            let scores = Row::of(scores);
            for i in (0..n).step_by(V::N) {
                scores.store(i, scores.load::<V>(i) * scales.load(i));
            }
        }
    }

    /// `results[r] = results[r] · rescale[r] + Σ_j p[r, j] · values[j]` over the first `n` slots. Asks for what lies
    /// `ahead`.
    ///
    /// # Safety
    /// At each of `values` lie `dim` elements, whole vectors.
    #[inline(always)]
    unsafe fn weigh<V: Lanes, E: Element>(
        &self,
        results: &mut [f32],
        rescale: &[f32; MOST],
        p: &[f32],
        values: (&Places, usize),
        ahead: &Places,
    ) {
        let dim = self.sizes.dim;
        let rows = results.len() / dim;
        assert!(dim.is_multiple_of(V::N) && p.len() >= rows * BLOCK && values.1 <= BLOCK);
        let call = Weigh {
            problem: self,
            results: results.as_mut_ptr(),
            rescale,
            p: p.as_ptr(),
            values,
            ahead,
        };
        for r in (0..rows).step_by(TOGETHER) {
            let mut d = 0;
            while d < dim {
                // SAFETY: as many rows and elements are left.
                d += unsafe {
                    match (dim - d) / V::N {
                        WIDE.. => call.column::<V, E, WIDE>(r, rows.min(r + TOGETHER), d),
                        _ => call.column::<V, E, 1>(r, rows.min(r + TOGETHER), d),
                    }
                };
            }
        }
    }
}

/// One step of [`Problem::dots`].
struct Dot<'a, E> {
    problem: &'a Problem<'a>,
    scores: *mut f32,
    keys: [*const E; 4],
    q: *const f32,
    /// What to ask for meanwhile.
    next: Option<[*const u8; 4]>,
}

impl<E: Cached> Dot<'_, E> {
    /// Scores of `R` rows and four slots. Returns `R`.
    ///
    /// # Safety
    /// There are `R` rows of q, and room for their scores, and all keys are whole vectors.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators would put closures between the intrinsics and their target features"
    )]
    unsafe fn rows<V: Lanes, const R: usize>(&self) -> usize {
        let width = self.problem.sizes.width::<V>();
        let bytes = self.problem.op.kv.bytes() * self.problem.sizes.dim / width;
        let mut sums = [[V::splat(0.0); 4]; R];
        // SAFETY: the caller's promise.
        unsafe {
            for d in (0..width).step_by(V::N) {
                if let Some(next) = self.next
                    && (d * bytes).is_multiple_of(64)
                {
                    for i in 0..4 {
                        self.problem.ask_for::<V>(next[i], d * bytes..d * bytes + 1);
                    }
                }
                let mut k = [V::splat(0.0); 4];
                for j in 0..4 {
                    k[j] = match V::PAIRS {
                        true => E::load_pairs(self.keys[j].add(2 * d)),
                        false => E::load::<V>(self.keys[j].add(d)),
                    };
                }
                for r in 0..R {
                    let q = V::load_f32(self.q.add(r * width + d));
                    for j in 0..4 {
                        sums[r][j] = match V::PAIRS {
                            true => k[j].dot_pairs(q, sums[r][j]),
                            false => k[j].mul_add(q, sums[r][j]),
                        };
                    }
                }
            }
            let scale = V::splat(self.problem.op.scale);
            for r in 0..R {
                V::store_sums(sums[r], scale, self.scores.add(r * BLOCK));
            }
        }
        R
    }
}

/// Turns the scores of one row into the exponentials of their distances to the running maximum. Returns what earlier
/// results are to be multiplied with.
#[inline(always)]
fn softmax<V: Lanes>(scores: &mut [f32], max: &mut f32, sum: &mut f32) -> f32 {
    let scores = Row::of(scores);
    let mut largest = V::splat(*max);
    for i in (0..scores.len()).step_by(V::N) {
        largest = largest.max(scores.load(i));
    }
    let last = std::mem::replace(max, largest.largest());
    // While a row has seen nothing its maximum is −∞, and the exponentials must be 0 all the same.
    let shift = if *max < f32::MIN { 0.0 } else { *max };
    let mut total = V::splat(0.0);
    for i in (0..scores.len()).step_by(V::N) {
        let x = (scores.load::<V>(i) - V::splat(shift)).exp_normal();
        scores.store(i, x);
        total = total + x;
    }
    let rescale = exp_normal(last - shift);
    *sum = *sum * rescale + total.sum();
    rescale
}

/// One call of [`Problem::weigh`].
struct Weigh<'a> {
    problem: &'a Problem<'a>,
    results: *mut f32,
    rescale: &'a [f32; MOST],
    p: *const f32,
    values: (&'a Places, usize),
    ahead: &'a Places,
}

impl Weigh<'_> {
    /// `NV` vectors at `d` of the results from `r` to `end`. Returns their elements.
    ///
    /// # Safety
    /// The rows exist, and the vectors lie inside all values.
    #[inline(always)]
    unsafe fn column<V: Lanes, E: Element, const NV: usize>(
        &self,
        mut r: usize,
        end: usize,
        d: usize,
    ) -> usize {
        while r < end {
            // SAFETY: as many rows are left.
            r += unsafe {
                match end - r {
                    TOGETHER.. if V::MANY_REGISTERS => self.block::<V, E, TOGETHER, NV>(r, d),
                    2.. => self.block::<V, E, 2, NV>(r, d),
                    _ => self.block::<V, E, 1, NV>(r, d),
                }
            };
        }
        NV * V::N
    }

    /// `NV` vectors of `R` results. Returns `R`.
    ///
    /// # Safety
    /// As [`Self::column`].
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators would put closures between the intrinsics and their target features"
    )]
    unsafe fn block<V: Lanes, E: Element, const R: usize, const NV: usize>(
        &self,
        row: usize,
        d: usize,
    ) -> usize {
        let dim = self.problem.sizes.dim;
        let bytes = self.problem.op.kv.bytes();
        let (places, n) = self.values;
        let mut sums = [[V::splat(0.0); NV]; R];
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..R {
                let rescale = V::splat(self.rescale[row + r]);
                for v in 0..NV {
                    let result = self.results.add((row + r) * dim + d + v * V::N);
                    sums[r][v] = V::load_f32(result) * rescale;
                }
            }
            let p = self.p.add(row * BLOCK);
            for j in 0..n {
                if row == 0 {
                    let next = self.problem.asked(self.ahead, j);
                    self.problem
                        .ask_for::<V>(next, d * bytes..(d + NV * V::N) * bytes);
                }
                let value = places[j].cast::<E>().add(d);
                let mut x = [E::load::<V>(value); NV];
                if NV.is_multiple_of(2) {
                    for v in 0..NV / 2 {
                        [x[2 * v], x[2 * v + 1]] = E::load_two(value.add(2 * v * V::N));
                    }
                }
                for r in 0..R {
                    let p = V::splat(*p.add(r * BLOCK + j));
                    for v in 0..NV {
                        sums[r][v] = p.mul_add(x[v], sums[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..NV {
                    sums[r][v].store_f32(self.results.add((row + r) * dim + d + v * V::N));
                }
            }
        }
        R
    }
}
