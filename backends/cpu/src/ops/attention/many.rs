//! Many query rows: the vector lanes are rows, so that the softmax needs no horizontal step and any head size fits.
//!
//! Such a tile is bound by its products. A block of keys, and one of values, is widened to f32 once for
//! all rows; what is multiplied as pairs of bf16 is paired once: keys as they lie, values of two slots. Rows of i8 go without their
//! scale, which scores and probabilities get.

use std::ops::Range;

use hal::DType;

use super::product::{Floats, Into, Pairs, product, vectors};
use super::{BLOCK, Problem, Task};
use crate::ops::kv_cache::{Cached, with_cache};
use crate::ops::tensor::Row;
use crate::ops::vector::{Kernel, Lanes};

/// Rows of one part of a product whose other operand stays in the first-level cache.
const PART: usize = 16;

/// Attention of one tile of many rows over `slots`.
pub(super) struct Many<'p> {
    pub(super) problem: &'p Problem<'p>,
    pub(super) task: &'p Task<'p>,
    pub(super) slots: Range<usize>,
    pub(super) scratch: &'p mut [f32],
}

impl Kernel for Many<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        self.problem.many::<V>(self.task, self.slots, self.scratch);
    }
}

impl Problem<'_> {
    /// As [`Many`].
    #[inline(always)]
    fn many<V: Lanes>(&self, task: &Task<'_>, all_slots: Range<usize>, scratch: &mut [f32]) {
        let (dim, width) = (self.sizes.dim, self.sizes.width::<V>());
        // Whole vectors.
        let lanes = task.rows.len().next_multiple_of(V::N);
        let (q, rest) = scratch.split_at_mut(dim * lanes);
        let (results, rest) = rest.split_at_mut(dim * lanes);
        let (scores, rest) = rest.split_at_mut(BLOCK * lanes);
        let (block, rest) = rest.split_at_mut(BLOCK * dim);
        let (seen, rest) = rest.split_at_mut(lanes);
        let (max, rest) = rest.split_at_mut(lanes);
        let (sum, rest) = rest.split_at_mut(lanes);
        let rescale = &mut rest[..lanes];

        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        seen.fill(0.0);
        let (mut least, mut most) = (usize::MAX, 0);
        for (seen, row) in seen.iter_mut().zip(task.rows.clone()) {
            let n = self.visible(task.sequence, self.place(task, row)[0]);
            *seen = n as f32;
            (least, most) = (least.min(n), most.max(n));
        }
        let end = most.min(all_slots.end);
        let slots_from = |start: usize| start.min(end)..end.min(start + BLOCK);
        let mut places = [std::ptr::null(); BLOCK];
        self.find(0, task, slots_from(all_slots.start), &mut places);
        self.ask::<V>(&places, 0, 1);
        // The place of the results is free.
        self.transpose_q::<V>(task, q, lanes, results);
        results.fill(0.0);
        // What is asked for comes in parts, between the parts of a product.
        let part_rows = match lanes <= vectors::<V>() * V::N {
            true => PART,
            false => BLOCK.max(dim),
        };
        let mut scales = [1.0; BLOCK];
        for start in (all_slots.start..end).step_by(BLOCK) {
            let slots = slots_from(start);
            let n = slots.len();
            self.gather_keys::<V>(task, slots.clone(), block, &mut scales);
            self.find(1, task, slots.clone(), &mut places);
            let parts = n.div_ceil(part_rows);
            for part in 0..parts {
                self.ask::<V>(&places, part, parts);
                let first = part * part_rows;
                let rows = part_rows.min(n - first);
                let keys = (&block[first * width..], [width, 1]);
                let scores = &mut scores[first * lanes..];
                let into = Into::Times(self.op.scale);
                match V::PAIRS {
                    true => product::<V, Pairs>(scores, into, keys, rows, q, width, lanes),
                    false => product::<V, Floats>(scores, into, keys, rows, q, width, lanes),
                }
            }
            if V::PAIRS && self.op.kv == DType::I8 {
                for (scores, scale) in scores.chunks_exact_mut(lanes).zip(&scales[..n]) {
                    let scores = Row::of(scores);
                    for lane in (0..lanes).step_by(V::N) {
                        scores.store(lane, scores.load::<V>(lane) * V::splat(*scale));
                    }
                }
            }
            let hidden = (slots.end > least).then_some(Row::of(seen));
            let state = State { max, sum, rescale };
            softmax::<V>(scores, slots.clone(), hidden, state);
            let depth = match V::PAIRS {
                true => {
                    self.pair_values::<V>(&places[..n], scores, lanes, block);
                    n.div_ceil(2)
                }
                false => {
                    self.gather::<V>(1, task, slots, block);
                    n
                }
            };
            self.find(0, task, slots_from(start + BLOCK), &mut places);
            let parts = dim.div_ceil(part_rows);
            for part in 0..parts {
                self.ask::<V>(&places, part, parts);
                let first = part * part_rows;
                let rows = part_rows.min(dim - first);
                let values = (&block[first..], [1, dim]);
                let results = &mut results[first * lanes..];
                let into = Into::Added(rescale);
                match V::PAIRS {
                    true => product::<V, Pairs>(results, into, values, rows, scores, depth, lanes),
                    false => {
                        product::<V, Floats>(results, into, values, rows, scores, depth, lanes)
                    }
                }
            }
        }
        // The place of the queries is free.
        self.transpose_results::<V>(task, results, [max, sum], q);
    }

    /// The values at `places` as pairs of bf16 of slots that follow each other, `[slots / 2, dim]`, and so the probabilities `p`, in
    /// their place, which get the scales of the values. An odd last slot is paired with zeros.
    #[inline(always)]
    fn pair_values<V: Lanes>(
        &self,
        places: &[*const u8],
        p: &mut [f32],
        lanes: usize,
        to: &mut [f32],
    ) {
        let (dim, row) = (self.sizes.dim, self.row());
        let zero = V::splat(0.0);
        with_cache!(self.op.kv, Kv => for (i, pair) in places.chunks(2).enumerate() {
            let first: *const Kv = pair[0].cast();
            let second: Option<*const Kv> = pair.get(1).map(|place| place.cast());
            for d in (0..dim).step_by(2 * V::N) {
                // SAFETY: rows have `dim` elements, whole pairs of vectors.
                let lower = unsafe { Kv::load_pairs::<V>(first.add(d)) };
                let mut upper = zero;
                if let Some(second) = second {
                    // SAFETY: as above.
                    upper = unsafe { Kv::load_pairs(second.add(d)) };
                }
                let pairs = V::ordered_pairs(V::in_pairs(lower, upper));
                let to = Row::of(&mut to[i * dim..]);
                to.store(d, pairs[0]);
                to.store(d + V::N, pairs[1]);
            }
            let scale = |place: *const Kv| {
                // SAFETY: a row lies there; a cell is its element.
                Kv::scale(Row(unsafe { std::slice::from_raw_parts(place.cast(), row) }))
            };
            let scales = [Some(first), second].map(|row| row.map_or(0.0, scale));
            let p = Row::of(p);
            for lane in (0..lanes).step_by(V::N) {
                let from = 2 * i * lanes + lane;
                let lower = p.load::<V>(from) * V::splat(scales[0]);
                let mut upper = zero;
                if second.is_some() {
                    upper = p.load::<V>(from + lanes) * V::splat(scales[1]);
                }
                p.store(i * lanes + lane, V::pair_lanes(lower, upper));
            }
        });
    }

    /// Queries as `[width, lanes]`; lanes of no row are 0. `rows` has room for four.
    #[inline(always)]
    fn transpose_q<V: Lanes>(
        &self,
        task: &Task<'_>,
        to: &mut [f32],
        lanes: usize,
        rows: &mut [f32],
    ) {
        let width = self.sizes.width::<V>();
        assert!(to.len() >= width * lanes && rows.len() >= 4 * width);
        for first in (0..lanes).step_by(4) {
            for (i, row) in rows.chunks_exact_mut(width).take(4).enumerate() {
                match first + i < task.rows.len() {
                    true => self.query::<V>(task, task.rows.start + first + i, row),
                    false => row.fill(0.0),
                }
            }
            for d in (0..width).step_by(V::N) {
                let mut x = [V::splat(0.0); 4];
                for (i, x) in x.iter_mut().enumerate() {
                    // SAFETY: four rows lie inside.
                    *x = unsafe { V::load_f32(rows.as_ptr().add(i * width + d)) };
                }
                for (j, x) in V::transpose(x).into_iter().enumerate() {
                    // SAFETY: elements up to `d + N` of rows up to `first + 4` lie inside.
                    unsafe {
                        x.store_fours(to.as_mut_ptr().add((d + j) * lanes + first), 4 * lanes)
                    };
                }
            }
        }
    }

    /// Results `[dim, lanes]` to where they belong. `rows` has room for four.
    #[inline(always)]
    fn transpose_results<V: Lanes>(
        &self,
        task: &Task<'_>,
        results: &[f32],
        [max, sum]: [&[f32]; 2],
        rows: &mut [f32],
    ) {
        let (dim, lanes) = (self.sizes.dim, max.len());
        assert!(results.len() >= dim * lanes && rows.len() >= 4 * dim);
        for first in (0..task.rows.len()).step_by(4) {
            for d in (0..dim).step_by(V::N) {
                let mut x = [V::splat(0.0); 4];
                for (j, x) in x.iter_mut().enumerate() {
                    // SAFETY: elements up to `d + N` of rows up to `first + 4` lie inside.
                    *x = unsafe {
                        V::load_fours(results.as_ptr().add((d + j) * lanes + first), 4 * lanes)
                    };
                }
                for (i, x) in V::transpose(x).into_iter().enumerate() {
                    // SAFETY: four rows lie inside.
                    unsafe { x.store_f32(rows.as_mut_ptr().add(i * dim + d)) };
                }
            }
            for (i, result) in rows.chunks_exact_mut(dim).take(4).enumerate() {
                let r = first + i;
                if r < task.rows.len() {
                    let row = task.rows.start + r;
                    self.finish::<V>(task, row, max[r], sum[r], Row::of(result));
                }
            }
        }
    }
}

/// The state of the online softmax, a number per row each.
struct State<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// Out: what earlier results are to be multiplied with.
    rescale: &'a mut [f32],
}

/// Turns scores `[slots, rows]` into the exponentials of their distances to the running maximum.
/// A row sees the first `seen` slots.
#[inline(always)]
fn softmax<V: Lanes>(
    scores: &mut [f32],
    slots: Range<usize>,
    seen: Option<Row<'_, f32>>,
    state: State<'_>,
) {
    let lanes = state.max.len();
    let scores = Row::of(&mut scores[..slots.len() * lanes]);
    let [running, sum, rescale] = [state.max, state.sum, state.rescale].map(Row::of);
    let hidden = V::splat(f32::NEG_INFINITY);
    for lane in (0..lanes).step_by(V::N) {
        let last = running.load::<V>(lane);
        let mut max = last;
        for (i, slot) in slots.clone().enumerate() {
            let at = i * lanes + lane;
            let mut x = scores.load::<V>(at);
            if let Some(seen) = seen {
                x = V::splat(slot as f32).less(seen.load::<V>(lane), x, hidden);
                scores.store(at, x);
            }
            max = max.max(x);
        }
        running.store(lane, max);
        // While a row has seen nothing its maximum is −∞, and the exponentials must be 0 all the same.
        let shift = max.less(V::splat(f32::MIN), V::splat(0.0), max);
        let factor = (last - shift).exp_normal();
        let mut total = sum.load::<V>(lane) * factor;
        for i in 0..slots.len() {
            let at = i * lanes + lane;
            let x = (scores.load::<V>(at) - shift).exp_normal();
            scores.store(at, x);
            total = total + x;
        }
        sum.store(lane, total);
        rescale.store(lane, factor);
    }
}
