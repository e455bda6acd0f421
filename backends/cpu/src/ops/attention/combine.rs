//! The results of a row over all chunks of its cache, combined in their order.

use std::ops::Range;

use super::{Problem, Sequence, exp_normal, inverse};
use crate::ops::native::with_float;
use crate::ops::tensor::Row;
use crate::ops::vector::{Kernel, Lanes};

/// Combines the chunks of rows, in order.
pub(super) struct Combine<'p, 'a> {
    pub(super) problem: &'p Problem<'a>,
    /// Of all rows that were cut: tokens times heads.
    pub(super) rows: Range<usize>,
}

impl Kernel for Combine<'_, '_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let (problem, heads) = (self.problem, self.problem.op.heads);
        let cut = problem.sequences().filter(|s| s.chunks > 1);
        for sequence in cut {
            let first = sequence.cut_before * heads;
            let own = first..first + sequence.tokens.len() * heads;
            for row in self.rows.start.max(own.start)..self.rows.end.min(own.end) {
                let row = row - own.start;
                let place = [sequence.tokens.start + row / heads, row % heads];
                problem.combine::<V>(&sequence, place);
            }
        }
    }
}

impl Problem<'_> {
    #[inline(always)]
    fn combine<V: Lanes>(&self, sequence: &Sequence, place: [usize; 2]) {
        let (chunks, size) = (sequence.chunks, self.sizes.partial());
        let start = self.partial(sequence, place, 0);
        // SAFETY: all chunks are done, and the row is this thread's.
        let partials = Row::of(unsafe { self.partials.part(start, chunks * size) });
        let partial = |c: usize| partials.part(c * size..(c + 1) * size);
        let max = (0..chunks).fold(f32::NEG_INFINITY, |max, c| max.max(partial(c).get(0)));
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sum = 0.0;
        for c in 0..chunks {
            let factor = exp_normal(partial(c).get(0) - shift);
            sum += partial(c).get(1) * factor;
            // From here on the place of the maximum holds the factor.
            partial(c).set(0, factor);
        }
        let factor = V::splat(inverse(sum));
        with_float!(self.op.dtype, T => {
            let out = self.out::<T>().row(place);
            for i in (0..out.len()).step_by(V::N) {
                let mut total = V::splat(0.0);
                for c in 0..chunks {
                    let weight = V::splat(partial(c).get(0));
                    total = partial(c).part(2..size).load::<V>(i).mul_add(weight, total);
                }
                out.store(i, total * factor);
            }
        });
    }
}
