//! Residual sum and RMS normalisation in one visit of each row. The norm reads the sum as stored.

use std::ops::Range;

use ops::AddRmsNorm;

use super::native::{Planned, native, with_float};
use super::rms_norm::normalise;
use super::tensor::{Row, Tensor};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &AddRmsNorm) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let tensors = [0, 1, 2, 3].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        // SAFETY: only read.
        let weight = unsafe { Tensor::<f32>::new(&args[4]) };
        cpu.rows(tensors[0].dim(0), op.dim, |rows| {
            cpu.isa.run(Rows { rows, tensors, weight, op: &op });
        });
    })))
}

struct Rows<'a, 'op, T> {
    rows: Range<usize>,
    /// out, sum, x, residual
    tensors: [Tensor<'a, T>; 4],
    weight: Tensor<'a, f32>,
    op: &'op AddRmsNorm,
}

impl<T: Element> Kernel for Rows<'_, '_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        for r in self.rows {
            let [out, sum, x, residual] = self.tensors.map(|t| t.row([r]));
            add::<V, T>(sum, x, residual, self.op.alpha);
            normalise::<V, T>(out, sum, self.weight.flat(), self.op.eps);
        }
    }
}

/// `sum = x + alpha · residual`.
#[inline(always)]
pub(super) fn add<V: Lanes, T: Element>(
    sum: Row<'_, T>,
    x: Row<'_, T>,
    residual: Row<'_, T>,
    alpha: f32,
) {
    let alpha = V::splat(alpha);
    for i in (0..sum.len()).step_by(V::N) {
        sum.store(i, residual.load::<V>(i).mul_add(alpha, x.load(i)));
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check};

    #[test]
    fn keeps_its_bound_in_any_place() {
        for (rows, dim) in [(1, 1), (3, 7), (2, 1025), (0, 8), (40, 500)] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let op = AddRmsNorm {
                    dim,
                    dtype,
                    eps: 1e-5,
                    alpha: 1.7,
                };
                let shape = [rows, dim];
                let random = |seed| Arg::random(&shape, 1.0, seed).padded();
                let weight = Arg::random(&[dim], 1.0, 9);
                // The norm may read the sum as stored: one more rounding, which the mean square sees too.
                let u = 2f64.powi(-24);
                let relative = (dim as f64 / 2.0 + 8.0) * u + 3.0 * dtype.unit_roundoff();
                for (out, sum) in [
                    (Arg::out(&shape), Arg::out(&shape).padded()),
                    (Arg::out(&shape), Arg::same(2)),
                    (Arg::out(&shape), Arg::same(3)),
                    (Arg::same(2), Arg::out(&shape)),
                    (Arg::same(2), Arg::same(3)),
                ] {
                    let args = [out, sum, random(1), random(2), weight.clone()];
                    check(&op, &args, |output, _, expected| match output {
                        // Sums that cancel to less than the rounding of their terms.
                        0 => expected.abs() * relative + 16.0 * u,
                        _ => 16.0 * u,
                    });
                }
            }
        }
    }
}
