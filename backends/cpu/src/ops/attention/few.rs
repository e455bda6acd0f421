//! Few query rows: the vector lanes are elements of a head, and keys and values are read where they lie.
//!
//! Such a tile is bound by reading the cache. That is fastest where hardware reads ahead of two streams of ascending addresses, one
//! of keys and one of values. It does while whatever else is touched stays in the first-level cache, and while each
//! instruction that loads takes steps of one size: hence small blocks of pairs, and loops of known lengths. Where the slots of a head
//! lie together in short pieces only, or products of floats take longer than reading, what comes next is asked for.

use std::marker::PhantomData;
use std::ops::Range;

use hal::DType;

use super::{BLOCK, LINE, Problem, Task, exp_normal};
use crate::Isa;
use crate::ops::kv_cache::{Cached, with_cache};
use crate::ops::tensor::Row;
use crate::ops::vector::{Kernel, Lanes, MAX_LANES};

/// The most rows of such a tile.
pub(super) const MOST: usize = 16;
/// Slots of one block as pairs, and else. All are in one page.
const SLOTS_PAIRS: usize = MAX_LANES;
const SLOTS: usize = BLOCK;
/// Rows whose scores are worked on together.
const TOGETHER: usize = 4;
/// Vectors of results that are worked on together, of two rows as pairs and of up to four rows else; where there are few registers,
/// half as many of four rows. They lie as [`order`] says.
const WIDE_PAIRS: usize = 8;
const WIDE: usize = 4;
/// Vectors of a key of 128 elements as pairs: loops over them have a known length.
const KNOWN: usize = 4;
/// How many blocks ahead of its use a block is asked for, as pairs and else.
const AHEAD_PAIRS: usize = 2;
const AHEAD: usize = 1;
/// Slots whose values are multiplied between two times of asking, where not as pairs.
const STEPS: usize = 8;
/// From this length on a piece of the cache is a stream that hardware follows by itself.
const STREAM_BYTES: usize = 64 << 10;

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

impl Few<'_> {
    /// Attends: each type of cache in a function of its own.
    pub(super) fn run(self) {
        let Problem { op, sizes, isa, .. } = self.problem;
        let read = match self.problem.in_place() {
            true => op.kv,
            false => DType::F32,
        };
        let known = sizes.pairs && isa.has_pairs() && sizes.dim == 2 * KNOWN * MAX_LANES;
        with_cache!(read, E => match known {
            true => self.problem.run(Of::<E, KNOWN>(self, PhantomData)),
            false => self.problem.run(Of::<E, 0>(self, PhantomData)),
        });
    }
}

/// [`Few`] where the cache is read as `E`, and [`Sizes::width`](super::Sizes::width) is `W` vectors, or any number if that is 0.
struct Of<'p, E, const W: usize>(Few<'p>, PhantomData<E>);

impl<E: Cached, const W: usize> Kernel for Of<'_, E, W> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        // What `Few::run` never asks for is not compiled.
        if V::PAIRS && !E::PAIRS || W > 0 && !V::PAIRS {
            unreachable!("no such pairs");
        }
        self.0.problem.few::<V, E, W>(self.0);
    }
}

/// Slots of one block.
const fn block_slots<V: Lanes>() -> usize {
    if V::PAIRS { SLOTS_PAIRS } else { SLOTS }
}

/// Up to [`block_slots`] slots of one head.
struct Block {
    head: usize,
    slots: Range<usize>,
    /// Where their keys and their values lie, one after the other.
    at: [*const u8; 2],
}

/// The blocks of a task: of each page all heads, as they lie in memory.
#[derive(Clone)]
struct Blocks<'w> {
    problem: &'w Problem<'w>,
    task: &'w Task<'w>,
    heads: usize,
    end: usize,
    /// Slots of the page, and the next of them.
    piece: Range<usize>,
    next: usize,
    head: usize,
    /// Where the keys and values of the head's slots of the page lie.
    at: [*const u8; 2],
}

impl<'w> Blocks<'w> {
    fn new(
        problem: &'w Problem<'w>,
        task: &'w Task<'w>,
        heads: usize,
        slots: Range<usize>,
    ) -> Self {
        let start = slots.start;
        Self {
            problem,
            task,
            heads,
            end: slots.end,
            piece: start..start,
            next: start,
            // Behind the last head of no slots.
            head: heads,
            at: [std::ptr::null(); 2],
        }
    }

    #[inline(always)]
    fn next<V: Lanes>(&mut self) -> Option<Block> {
        if self.next == self.piece.end {
            if self.head + 1 < self.heads {
                self.head += 1;
            } else {
                let (start, page_size) = (self.piece.end, self.problem.op.page_size);
                if start >= self.end {
                    return None;
                }
                self.piece = start..self.end.min((start / page_size + 1) * page_size);
                self.head = 0;
            }
            self.next = self.piece.start;
            self.at = self.find();
        }
        let offset = (self.next - self.piece.start) * self.problem.row_bytes();
        let slots = self.next..self.piece.end.min(self.next + block_slots::<V>());
        self.next = slots.end;
        Some(Block {
            head: self.head,
            slots,
            at: self.at.map(|at| at.wrapping_add(offset)),
        })
    }

    #[inline(never)]
    fn find(&self) -> [*const u8; 2] {
        let task = self.task.of_head(self.task.kv_head + self.head);
        let mut at = [std::ptr::null(); 2];
        with_cache!(self.problem.op.kv, Kv => {
            for (which, at) in at.iter_mut().enumerate() {
                let mut pieces = self.problem.pieces::<Kv>(which, &task, self.piece.clone());
                if let Some(piece) = pieces.next() {
                    *at = piece.0.as_ptr().cast();
                }
            }
        });
        at
    }
}

impl Problem<'_> {
    /// As [`Of`].
    #[inline(always)]
    fn few<V: Lanes, E: Cached, const W: usize>(&self, call: Few<'_>) {
        let (task, heads, all_slots) = (call.task, call.heads, call.slots);
        let (dim, rows) = (self.sizes.dim, task.rows.len());
        let (width, all) = (self.sizes.width::<V>(), heads * rows);
        let (q, rest) = call.scratch.split_at_mut(all * width);
        let (results, rest) = rest.split_at_mut(all * dim);
        let (max, rest) = rest.split_at_mut(all);
        let (sums, rest) = rest.split_at_mut(all * V::N);
        let (key_block, rest) = rest.split_at_mut(SLOTS * dim);
        let value_block = &mut rest[..SLOTS * dim];
        let of = |head: usize| task.of_head(task.kv_head + head);
        let mut seen = [0; MOST];
        for (r, seen) in seen.iter_mut().enumerate().take(rows) {
            let place = self.place(task, task.rows.start + r);
            *seen = self.visible(task.sequence, place[0]);
        }
        let seen = &seen[..rows];
        let all_see = seen.iter().copied().min().unwrap_or(0);
        max.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        results.fill(0.0);
        for (i, q) in q.chunks_exact_mut(width).enumerate() {
            self.query::<V>(&of(i / rows), task.rows.start + i % rows, q);
            if !V::PAIRS {
                q.chunks_exact_mut(2 * V::N).for_each(E::as_loaded::<V>);
            }
        }

        let end = all_slots.end.min(seen.iter().copied().max().unwrap_or(0));
        let mut blocks = Blocks::new(self, task, heads, all_slots.start.min(end)..end);
        // The first are asked for in any case: hardware that follows a stream needs a few of its lines to find it.
        let mut first = blocks.clone();
        if self.in_place() {
            for _ in 0..if V::PAIRS { AHEAD_PAIRS } else { AHEAD } {
                let Some(next) = first.next::<V>() else { break };
                for next in self.to_ask::<V>(&next) {
                    next.ask::<V>(0..next.fours);
                }
            }
        }
        let mut ahead = self.asks_ahead().then_some(first);
        let mut scores = [0.0; MOST * SLOTS];
        let scores = &mut scores[..rows * SLOTS];
        while let Some(block) = blocks.next::<V>() {
            let next = ahead.as_mut().and_then(Blocks::next::<V>);
            let next = next.map_or([None; 2], |next| self.to_ask::<V>(&next).map(Some));
            let (start, n) = (block.slots.start, block.slots.len());
            let own = block.head * rows..(block.head + 1) * rows;
            let q = &q[own.start * width..own.end * width];
            let results = &mut results[own.start * dim..own.end * dim];
            let mut at = block.at;
            let mut step = self.row_bytes();
            if !self.in_place() {
                let head = of(block.head);
                self.gather::<V>(0, &head, block.slots.clone(), key_block);
                self.gather::<V>(1, &head, block.slots.clone(), value_block);
                at = [key_block.as_ptr().cast(), value_block.as_ptr().cast()];
                step = dim * size_of::<f32>();
            }
            let [keys, values] = at.map(|at| Slots { at, step, n });
            // SAFETY: keys of `n` slots lie there.
            unsafe { self.dots::<V, E, W>(scores, keys, next[0], q) };
            if E::SCALED {
                // SAFETY: as above.
                unsafe { self.rescale::<V, E>(scores, keys) };
            }
            let state = max[own.clone()]
                .iter_mut()
                .zip(sums[own.start * V::N..].chunks_exact_mut(V::N));
            let rows = scores.chunks_exact_mut(SLOTS).zip(seen);
            for (((scores, seen), (max, sums)), result) in
                rows.zip(state).zip(results.chunks_exact_mut(dim))
            {
                if start + block_slots::<V>() > block.slots.end.min(all_see) {
                    scores[(*seen).clamp(start, block.slots.end) - start..].fill(f32::NEG_INFINITY);
                }
                softmax::<V>(&mut scores[..block_slots::<V>()], max, sums, result);
            }
            if E::SCALED {
                // SAFETY: values of `n` slots lie there.
                unsafe { self.rescale::<V, E>(scores, values) };
            }
            if V::PAIRS {
                for scores in scores.chunks_exact_mut(SLOTS) {
                    let scores = Row::of(scores);
                    scores.store(0, V::pairs(scores.load(0), V::splat(0.0)));
                }
            }
            // SAFETY: as above.
            unsafe { self.weigh::<V, E, W>(results, scores, values, next[1]) };
        }

        for (i, result) in results.chunks_exact_mut(dim).enumerate() {
            order::<V, E>(result);
            let row = task.rows.start + i % rows;
            let sum = Row::of(&mut sums[i * V::N..(i + 1) * V::N])
                .load::<V>(0)
                .sum();
            self.finish::<V>(&of(i / rows), row, max[i], sum, Row::of(result));
        }
    }

    /// Whether blocks are asked for ahead of their use.
    pub(super) fn asks_ahead(&self) -> bool {
        let stream = self.op.page_size * self.row_bytes() >= STREAM_BYTES;
        self.in_place() && !(self.sizes.pairs && stream && self.isa.reads_long_pages())
    }

    /// How the keys and values of a block are asked for.
    #[inline(always)]
    fn to_ask<V: Lanes>(&self, block: &Block) -> [Next; 2] {
        block.at.map(|at| Next {
            at,
            fours: (block_slots::<V>() * self.row_bytes()).div_ceil(4 * LINE),
            far: self.isa.asks_far(),
        })
    }

    /// `scores[r, j] = scale · keys[j] · q[r]`, and anything for slots behind the last. Asks for `next`.
    ///
    /// # Safety
    /// At each of `keys` lie `dim` elements, whole vectors.
    #[inline(always)]
    unsafe fn dots<V: Lanes, E: Cached, const W: usize>(
        &self,
        scores: &mut [f32],
        keys: Slots,
        next: Option<Next>,
        q: &[f32],
    ) {
        let width = if W > 0 {
            W * V::N
        } else {
            self.sizes.width::<V>()
        };
        let rows = q.len() / width;
        assert!(width.is_multiple_of(V::N) && scores.len() >= rows * SLOTS && keys.n <= SLOTS);
        for j in (0..keys.n).step_by(4) {
            if let Some(next) = next {
                next.ask::<V>(next.part(j..j + 4, block_slots::<V>()));
            }
            let mut r = 0;
            while r < rows {
                // SAFETY: as many rows of q and scores are left; keys are the caller's promise.
                r += unsafe {
                    let dot = Dot::<E, W> {
                        width,
                        scale: self.op.scale,
                        scores: scores.as_mut_ptr().add(r * SLOTS + j),
                        // Behind the last, the last.
                        keys: [0, 1, 2, 3].map(|i| keys.row((j + i).min(keys.n - 1))),
                        q: q.as_ptr().add(r * width),
                    };
                    match rows - r {
                        TOGETHER.. => dot.rows::<V, TOGETHER>(),
                        2.. => dot.rows::<V, 2>(),
                        _ => dot.rows::<V, 1>(),
                    }
                };
            }
        }
    }

    /// Multiplies each row's scores with the scales of `slots`.
    ///
    /// # Safety
    /// There lie rows of the cache, of type `E`.
    #[inline(always)]
    unsafe fn rescale<V: Lanes, E: Cached>(&self, scores: &mut [f32], slots: Slots) {
        let mut scales = [0.0; SLOTS];
        for (j, scale) in scales.iter_mut().enumerate().take(slots.n) {
            // SAFETY: the caller's promise; a cell is its element.
            let row = unsafe { std::slice::from_raw_parts(slots.row::<E>(j).cast(), self.row()) };
            *scale = E::scale(Row(row));
        }
        let scales = Row::of(&mut scales);
        for scores in scores.chunks_exact_mut(SLOTS) {
            let scores = Row::of(scores);
            for i in (0..block_slots::<V>()).step_by(V::N) {
                scores.store(i, scores.load::<V>(i) * scales.load(i));
            }
        }
    }

    /// `results[r] += Σ_j p[r, j] · values[j]`. Asks for `next`.
    ///
    /// # Safety
    /// At each of `values` lie `dim` elements, whole vectors.
    #[inline(always)]
    unsafe fn weigh<V: Lanes, E: Cached, const W: usize>(
        &self,
        results: &mut [f32],
        p: &[f32],
        values: Slots,
        next: Option<Next>,
    ) {
        let dim = if W > 0 { 2 * W * V::N } else { self.sizes.dim };
        let rows = results.len() / dim;
        assert!(dim.is_multiple_of(V::N) && p.len() >= rows * SLOTS && values.n <= SLOTS);
        let call = Weigh {
            dim,
            results: results.as_mut_ptr(),
            p: p.as_ptr(),
            values,
            next,
        };
        let mut r = 0;
        while r < rows {
            // SAFETY: as many rows are left.
            r += unsafe {
                match rows - r {
                    TOGETHER.. if !V::PAIRS => call.rows::<V, E, TOGETHER>(r),
                    2.. => call.rows::<V, E, 2>(r),
                    _ => call.rows::<V, E, 1>(r),
                }
            };
        }
    }
}

/// Rows of the cache that lie one after the other.
#[derive(Clone, Copy)]
struct Slots {
    at: *const u8,
    /// Bytes of a row.
    step: usize,
    n: usize,
}

impl Slots {
    #[inline(always)]
    fn row<E>(self, j: usize) -> *const E {
        self.at.wrapping_add(j * self.step).cast()
    }
}

/// Keys or values of a block that are asked for, by value: what lies in memory would be read again for each of them.
#[derive(Clone, Copy)]
struct Next {
    at: *const u8,
    /// Cache lines, four by four.
    fours: usize,
    far: bool,
}

impl Next {
    /// The fours of `part` of `whole`, which may be any numbers.
    #[inline(always)]
    fn part(self, part: Range<usize>, whole: usize) -> Range<usize> {
        self.fours * part.start / whole..self.fours * part.end / whole
    }

    /// Asks for them. Where they go to the first-level cache, four lie in the four quarters: hardware that follows a stream of
    /// addresses does so inside a page, and these are four.
    #[inline(always)]
    fn ask<V: Lanes>(self, fours: Range<usize>) {
        for four in fours {
            let (first, step) = match self.far {
                true => (4 * four, 1),
                false => (four, self.fours),
            };
            for i in 0..4 {
                V::prefetch(self.at.wrapping_add((first + i * step) * LINE), self.far);
            }
        }
    }
}

/// One step of [`Problem::dots`].
struct Dot<E, const W: usize> {
    width: usize,
    scale: f32,
    scores: *mut f32,
    keys: [*const E; 4],
    q: *const f32,
}

impl<E: Cached, const W: usize> Dot<E, W> {
    /// Scores of `R` rows and four slots. Returns `R`.
    ///
    /// # Safety
    /// There are `R` rows of q, and room for their scores, and all keys are whole vectors.
    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(&self) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = match V::PAIRS {
                true => self.pairs::<V, R>(),
                false => self.floats::<V, R>(),
            };
            let scale = V::splat(self.scale);
            for (r, sums) in sums.into_iter().enumerate() {
                V::store_sums(sums, scale, self.scores.add(r * SLOTS));
            }
        }
        R
    }

    /// Sums of pairs, two slots after the other two.
    ///
    /// # Safety
    /// As [`Self::rows`].
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators would put closures between the intrinsics and their target features"
    )]
    unsafe fn pairs<V: Lanes, const R: usize>(&self) -> [[V; 4]; R] {
        let width = if W > 0 { W * V::N } else { self.width };
        let mut sums = [[V::splat(0.0); 4]; R];
        // SAFETY: the caller's promise.
        unsafe {
            for first in [0, 2] {
                for d in (0..width).step_by(V::N) {
                    let mut k = [V::splat(0.0); 2];
                    for j in 0..2 {
                        k[j] = E::load_pairs(self.keys[first + j].add(2 * d));
                    }
                    for r in 0..R {
                        let q = V::load_f32(self.q.add(r * width + d));
                        for j in 0..2 {
                            let sum = &mut sums[r][first + j];
                            *sum = k[j].dot_pairs(q, *sum);
                        }
                    }
                }
            }
        }
        sums
    }

    /// Sums of floats, eight at once. q lies as [`Element::load_two`] loads keys.
    ///
    /// # Safety
    /// As [`Self::rows`].
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators would put closures between the intrinsics and their target features"
    )]
    unsafe fn floats<V: Lanes, const R: usize>(&self) -> [[V; 4]; R] {
        let (width, at_once) = (self.width, if R == TOGETHER { 2 } else { 4 });
        let twos = width - width % (2 * V::N);
        let mut sums = [[V::splat(0.0); 4]; R];
        // SAFETY: the caller's promise.
        unsafe {
            for first in (0..4).step_by(at_once) {
                for d in (0..twos).step_by(2 * V::N) {
                    let mut k = [[V::splat(0.0); 2]; 4];
                    for j in first..first + at_once {
                        k[j] = E::load_two::<V>(self.keys[j].add(d));
                    }
                    for r in 0..R {
                        let at = self.q.add(r * width + d);
                        let q = [V::load_f32(at), V::load_f32(at.add(V::N))];
                        for j in first..first + at_once {
                            let sum = k[j][0].mul_add(q[0], sums[r][j]);
                            sums[r][j] = k[j][1].mul_add(q[1], sum);
                        }
                    }
                }
                if twos < width {
                    for j in first..first + at_once {
                        let k = E::load::<V>(self.keys[j].add(twos));
                        for r in 0..R {
                            let q = V::load_f32(self.q.add(r * width + twos));
                            sums[r][j] = k.mul_add(q, sums[r][j]);
                        }
                    }
                }
            }
        }
        sums
    }
}

/// Turns the scores of one row into the exponentials of their distances to the running maximum, and adds these to `sums`, a vector of
/// them. Earlier sums and results are scaled where the maximum grows, which is seldom.
#[inline(always)]
fn softmax<V: Lanes>(scores: &mut [f32], max: &mut f32, sums: &mut [f32], result: &mut [f32]) {
    let slots = block_slots::<V>();
    let (scores, sums) = (Row::of(&mut scores[..slots]), Row::of(&mut sums[..V::N]));
    let top = V::splat(*max);
    let mut grows = false;
    for i in (0..slots).step_by(V::N) {
        grows |= scores.load::<V>(i).exceeds(top);
    }
    // While a row has seen nothing its maximum is −∞, and the exponentials must be 0 all the same.
    let finite = |max: f32| if max < f32::MIN { 0.0 } else { max };
    if grows {
        let mut largest = top;
        for i in (0..slots).step_by(V::N) {
            largest = largest.max(scores.load(i));
        }
        let last = std::mem::replace(max, largest.largest());
        let factor = V::splat(exp_normal(last - finite(*max)));
        sums.store(0, sums.load::<V>(0) * factor);
        let result = Row::of(result);
        for d in (0..result.len()).step_by(V::N) {
            result.store(d, result.load::<V>(d) * factor);
        }
    }
    let shift = V::splat(finite(*max));
    let mut total = sums.load::<V>(0);
    for i in (0..slots).step_by(V::N) {
        let x = (scores.load::<V>(i) - shift).exp_normal();
        scores.store(i, x);
        total = total + x;
    }
    sums.store(0, total);
}

/// Elements of a result that are loaded two vectors at once.
#[inline(always)]
fn in_twos<V: Lanes>(dim: usize) -> usize {
    match V::PAIRS {
        true => dim,
        false => dim / (WIDE * V::N) * (WIDE * V::N),
    }
}

/// Puts a result into the order of memory.
#[inline(always)]
fn order<V: Lanes, E: Cached>(result: &mut [f32]) {
    let dim = result.len();
    for d in (0..in_twos::<V>(dim)).step_by(2 * V::N) {
        // SAFETY: two vectors of the result.
        unsafe {
            let at = result.as_mut_ptr().add(d);
            let two = [V::load_f32(at), V::load_f32(at.add(V::N))];
            let [a, b] = match V::PAIRS {
                true => V::ordered_pairs(two),
                false => E::ordered(two),
            };
            a.store_f32(at);
            b.store_f32(at.add(V::N));
        }
    }
}

/// One call of [`Problem::weigh`].
struct Weigh {
    dim: usize,
    results: *mut f32,
    p: *const f32,
    values: Slots,
    next: Option<Next>,
}

impl Weigh {
    /// `R` results. Returns `R`.
    ///
    /// # Safety
    /// The rows exist, and values are whole vectors.
    #[inline(always)]
    unsafe fn rows<V: Lanes, E: Cached, const R: usize>(&self, row: usize) -> usize {
        let mut d = 0;
        while d < self.dim {
            // SAFETY: as many elements are left.
            d += unsafe {
                if V::PAIRS {
                    match (self.dim - d) / V::N {
                        WIDE_PAIRS.. => self.block::<V, E, R, WIDE_PAIRS>(row, d),
                        _ => self.block::<V, E, R, 2>(row, d),
                    }
                } else if d >= in_twos::<V>(self.dim) {
                    self.block::<V, E, R, 1>(row, d)
                } else if R < TOGETHER || V::MANY_REGISTERS {
                    self.block::<V, E, R, WIDE>(row, d)
                } else {
                    self.block::<V, E, R, { WIDE / 2 }>(row, d)
                }
            };
        }
        R
    }

    /// `NV` vectors of `R` results. Returns their elements.
    ///
    /// # Safety
    /// As [`Self::rows`].
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators would put closures between the intrinsics and their target features"
    )]
    unsafe fn block<V: Lanes, E: Cached, const R: usize, const NV: usize>(
        &self,
        row: usize,
        d: usize,
    ) -> usize {
        let n = self.values.n;
        let mut sums = [[V::splat(0.0); NV]; R];
        // SAFETY: the caller's promise.
        unsafe {
            let results = self.results.add(row * self.dim + d);
            for r in 0..R {
                for v in 0..NV {
                    sums[r][v] = V::load_f32(results.add(r * self.dim + v * V::N));
                }
            }
            let p = self.p.add(row * SLOTS);
            let steps = if V::PAIRS { n.div_ceil(2) } else { n };
            // Each column its own part, and of that each group of steps, so that requests come evenly.
            let group = if V::PAIRS { 1 } else { STEPS };
            let next = self.next.filter(|_| row == 0);
            let (mut ask, each) = next.map_or((0..0, 0), |next| {
                let ask = next.part(d..d + NV * V::N, self.dim);
                let each = ask.len().div_ceil(steps.div_ceil(group).max(1));
                (ask, each)
            });
            for first in (0..steps).step_by(group) {
                if let Some(next) = next {
                    let end = ask.end.min(ask.start + each);
                    next.ask::<V>(ask.start..end);
                    ask.start = end;
                }
                for j in first..steps.min(first + group) {
                    let slots = if V::PAIRS { 2 * j..2 * j + 2 } else { j..j + 1 };
                    let value = self.values.row::<E>(slots.start).add(d);
                    let mut x = [V::splat(0.0); NV];
                    if V::PAIRS {
                        let second = self.values.row::<E>(slots.start + 1).add(d);
                        let whole = slots.end <= n;
                        for v in 0..NV / 2 {
                            let at = 2 * v * V::N;
                            let lower = E::load_pairs(value.add(at));
                            let upper = match whole {
                                true => E::load_pairs(second.add(at)),
                                false => V::splat(0.0),
                            };
                            [x[2 * v], x[2 * v + 1]] = V::in_pairs(lower, upper);
                        }
                    } else if NV == 1 {
                        x[0] = E::load::<V>(value);
                    } else {
                        for v in 0..NV / 2 {
                            [x[2 * v], x[2 * v + 1]] = E::load_two(value.add(2 * v * V::N));
                        }
                    }
                    for r in 0..R {
                        let p = V::splat(*p.add(r * SLOTS + j));
                        for v in 0..NV {
                            sums[r][v] = match V::PAIRS {
                                true => p.dot_pairs(x[v], sums[r][v]),
                                false => p.mul_add(x[v], sums[r][v]),
                            };
                        }
                    }
                }
            }
            for r in 0..R {
                for v in 0..NV {
                    sums[r][v].store_f32(results.add(r * self.dim + v * V::N));
                }
            }
        }
        NV * V::N
    }
}
