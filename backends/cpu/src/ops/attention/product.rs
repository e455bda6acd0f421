//! The inner loop of many rows: one product of matrices, sums in registers.

use crate::ops::vector::Lanes;

/// What lies in the operands of a product.
pub(super) trait Factors {
    /// `sum + a · b`
    fn add<V: Lanes>(a: V, b: V, sum: V) -> V;
}

/// Floats.
pub(super) struct Floats;

/// Pairs of bf16: the products of both halves.
pub(super) struct Pairs;

impl Factors for Floats {
    #[inline(always)]
    fn add<V: Lanes>(a: V, b: V, sum: V) -> V {
        a.mul_add(b, sum)
    }
}

impl Factors for Pairs {
    #[inline(always)]
    fn add<V: Lanes>(a: V, b: V, sum: V) -> V {
        a.dot_pairs(b, sum)
    }
}

/// What becomes of a product's sums.
#[derive(Clone, Copy)]
pub(super) enum Into<'a> {
    /// Results, times this.
    Times(f32),
    /// They are added to results, which are multiplied with these before, one for each lane.
    Added(&'a [f32]),
}

/// The most vectors of lanes of one block: with 8 rows, or 6 by two vectors, its sums and operands fill 32 registers, or all but one
/// of 16. With none to spare, a sum is kept in memory.
pub(super) const fn vectors<V: Lanes>() -> usize {
    if V::MANY_REGISTERS { 3 } else { 2 }
}

/// `Σ_k a(m, k) · b[k, ..]` into `c[m, ..]`. `a(m, k)` lies at `m · steps[0] + k · steps[1]`. Rows of `b` and `c` have `lanes`
/// elements, whole vectors.
#[inline(always)]
pub(super) fn product<V: Lanes, F: Factors>(
    c: &mut [f32],
    into: Into<'_>,
    a: (&[f32], [usize; 2]),
    rows: usize,
    b: &[f32],
    depth: usize,
    lanes: usize,
) {
    assert!(lanes.is_multiple_of(V::N) && rows > 0 && depth > 0);
    assert!(c.len() >= rows * lanes && b.len() >= depth * lanes);
    assert!(a.0.len() > (rows - 1) * a.1[0] + (depth - 1) * a.1[1]);
    if let Into::Added(factors) = into {
        assert!(factors.len() >= lanes);
    }
    let call = Product {
        c: c.as_mut_ptr(),
        into,
        a: a.0.as_ptr(),
        steps: a.1,
        b: b.as_ptr(),
        depth,
        lanes,
    };
    let mut lane = 0;
    while lane < lanes {
        // SAFETY: checked above for every row and lane.
        lane += unsafe {
            match ((lanes - lane) / V::N).min(vectors::<V>()) {
                1 => call.column::<V, F, 1>(rows, lane),
                2 => call.column::<V, F, 2>(rows, lane),
                _ => call.column::<V, F, 3>(rows, lane),
            }
        };
    }
}

struct Product<'a> {
    c: *mut f32,
    into: Into<'a>,
    a: *const f32,
    steps: [usize; 2],
    b: *const f32,
    depth: usize,
    lanes: usize,
}

impl Product<'_> {
    /// All rows of `NV` vectors. Returns their lanes.
    ///
    /// # Safety
    /// They lie inside.
    #[inline(always)]
    unsafe fn column<V: Lanes, F: Factors, const NV: usize>(
        &self,
        rows: usize,
        lane: usize,
    ) -> usize {
        let mut row = 0;
        while row < rows {
            // SAFETY: the caller's promise.
            row += unsafe {
                match rows - row {
                    // One vector alone: more rows, so that its sums hide a multiply-add's latency.
                    16.. if NV == 1 && V::MANY_REGISTERS => self.block::<V, F, 16, NV>(row, lane),
                    8.. if V::MANY_REGISTERS => self.block::<V, F, 8, NV>(row, lane),
                    6.. if !V::MANY_REGISTERS => self.block::<V, F, 6, NV>(row, lane),
                    4.. => self.block::<V, F, 4, NV>(row, lane),
                    2.. if !V::MANY_REGISTERS => self.block::<V, F, 2, NV>(row, lane),
                    _ => self.block::<V, F, 1, NV>(row, lane),
                }
            };
        }
        NV * V::N
    }

    /// `M` rows of `NV` vectors. Returns `M`.
    ///
    /// # Safety
    /// They lie inside.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators would put closures between the intrinsics and their target features"
    )]
    unsafe fn block<V: Lanes, F: Factors, const M: usize, const NV: usize>(
        &self,
        row: usize,
        lane: usize,
    ) -> usize {
        let Self { lanes, steps, .. } = *self;
        let mut sums = [[V::splat(0.0); NV]; M];
        // SAFETY: the caller's promise; the last step may leave the block, but nothing is read there.
        unsafe {
            if let Into::Added(factors) = self.into {
                for v in 0..NV {
                    let factor = V::load_f32(factors.as_ptr().add(lane + v * V::N));
                    for m in 0..M {
                        let c = self.c.add((row + m) * lanes + lane + v * V::N);
                        sums[m][v] = V::load_f32(c) * factor;
                    }
                }
            }
            let mut a = self.a.add(row * steps[0]);
            let mut b = self.b.add(lane);
            for _ in 0..self.depth {
                let mut x = [V::splat(0.0); NV];
                for v in 0..NV {
                    x[v] = V::load_f32(b.add(v * V::N));
                }
                for m in 0..M {
                    let a = V::splat(*a.add(m * steps[0]));
                    for v in 0..NV {
                        sums[m][v] = F::add(a, x[v], sums[m][v]);
                    }
                }
                (a, b) = (a.wrapping_add(steps[1]), b.wrapping_add(lanes));
            }
            let factor = match self.into {
                Into::Times(factor) => V::splat(factor),
                Into::Added(_) => V::splat(1.0),
            };
            for m in 0..M {
                for v in 0..NV {
                    (sums[m][v] * factor)
                        .store_f32(self.c.add((row + m) * lanes + lane + v * V::N));
                }
            }
        }
        M
    }
}
