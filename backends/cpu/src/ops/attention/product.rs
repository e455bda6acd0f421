//! The inner loop of many rows: one product of matrices, sums in registers.

use crate::ops::vector::Lanes;

/// The most vectors of lanes of one block: with [`MANY`] or [`FEW`] rows, its sums and operands fill the registers.
pub(super) const VECTORS: usize = 3;
/// Rows of a block with 32 vector registers, and with 16.
const MANY: usize = 8;
const FEW: usize = 4;
/// Rows of a block of one vector alone, with 32 registers.
const TALL: usize = 16;

/// `c[m, ..] = c[m, ..] · factors + Σ_k a(m, k) · b[k, ..]`, without the first part if there are none. `a(m, k)` lies at
/// `m · steps[0] + k · steps[1]`. Rows of `b` and `c`, and the factors, have `lanes` elements, whole vectors.
#[inline(always)]
pub(super) fn product<V: Lanes>(
    c: &mut [f32],
    factors: Option<&[f32]>,
    a: (&[f32], [usize; 2]),
    rows: usize,
    b: &[f32],
    depth: usize,
    lanes: usize,
) {
    assert!(lanes.is_multiple_of(V::N) && rows > 0 && depth > 0);
    assert!(c.len() >= rows * lanes && b.len() >= depth * lanes);
    assert!(a.0.len() > (rows - 1) * a.1[0] + (depth - 1) * a.1[1]);
    assert!(factors.is_none_or(|factors| factors.len() >= lanes));
    let call = Product {
        c: c.as_mut_ptr(),
        factors: factors.map(<[f32]>::as_ptr),
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
            match (lanes - lane) / V::N {
                1 => call.column::<V, 1>(rows, lane),
                2 => call.column::<V, 2>(rows, lane),
                _ => call.column::<V, VECTORS>(rows, lane),
            }
        };
    }
}

struct Product {
    c: *mut f32,
    factors: Option<*const f32>,
    a: *const f32,
    steps: [usize; 2],
    b: *const f32,
    depth: usize,
    lanes: usize,
}

impl Product {
    /// All rows of `NV` vectors. Returns their lanes.
    ///
    /// # Safety
    /// They lie inside.
    #[inline(always)]
    unsafe fn column<V: Lanes, const NV: usize>(&self, rows: usize, lane: usize) -> usize {
        let mut row = 0;
        while row < rows {
            // SAFETY: the caller's promise.
            row += unsafe {
                match rows - row {
                    // One vector alone: more rows, so that its sums hide a multiply-add's latency.
                    TALL.. if NV == 1 && V::MANY_REGISTERS => self.block::<V, TALL, NV>(row, lane),
                    MANY.. if V::MANY_REGISTERS => self.block::<V, MANY, NV>(row, lane),
                    FEW.. => self.block::<V, FEW, NV>(row, lane),
                    _ => self.block::<V, 1, NV>(row, lane),
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
    unsafe fn block<V: Lanes, const M: usize, const NV: usize>(
        &self,
        row: usize,
        lane: usize,
    ) -> usize {
        let Self { lanes, steps, .. } = *self;
        let mut sums = [[V::splat(0.0); NV]; M];
        // SAFETY: the caller's promise; the last step may leave the block, but nothing is read there.
        unsafe {
            if let Some(factors) = self.factors {
                for v in 0..NV {
                    let factor = V::load_f32(factors.add(lane + v * V::N));
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
                        sums[m][v] = a.mul_add(x[v], sums[m][v]);
                    }
                }
                (a, b) = (a.wrapping_add(steps[1]), b.wrapping_add(lanes));
            }
            for m in 0..M {
                for v in 0..NV {
                    sums[m][v].store_f32(self.c.add((row + m) * lanes + lane + v * V::N));
                }
            }
        }
        M
    }
}
