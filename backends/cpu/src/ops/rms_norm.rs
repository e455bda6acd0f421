//! RMS normalisation, a row at a time; two passes over the row, the second from cache.

use std::ops::Range;

use ops::RmsNorm;

use super::native::{Planned, native, with_float};
use super::tensor::{Row, Tensor, fold};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &RmsNorm) -> Planned {
    let (cpu, dim, eps) = (cpu.clone(), op.dim, op.eps);
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let [out, x] = [0, 1].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        // SAFETY: only read.
        let weight = unsafe { Tensor::<f32>::new(&args[2]) };
        cpu.rows(out.dim(0), dim, |rows| {
            cpu.isa.run(Rows { rows, out, x, weight, eps });
        });
    })))
}

struct Rows<'a, T> {
    rows: Range<usize>,
    out: Tensor<'a, T>,
    x: Tensor<'a, T>,
    weight: Tensor<'a, f32>,
    eps: f32,
}

impl<T: Element> Kernel for Rows<'_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        for r in self.rows {
            normalise::<V, T>(
                self.out.row([r]),
                self.x.row([r]),
                self.weight.flat(),
                self.eps,
            );
        }
    }
}

/// `out = x · weight / sqrt(mean(x²) + eps)`.
#[inline(always)]
pub(super) fn normalise<V: Lanes, T: Element>(
    out: Row<'_, T>,
    x: Row<'_, T>,
    weight: Row<'_, f32>,
    eps: f32,
) {
    let squares = fold!(V, x, 0.0, add, |x, sum| x.mul_add(x, sum)).sum();
    let scale = V::splat(1.0 / (squares / x.len() as f32 + eps).sqrt());
    for i in (0..out.len()).step_by(V::N) {
        out.store(i, x.load::<V>(i) * scale * weight.load(i));
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check};

    #[test]
    fn keeps_its_bound() {
        for (rows, dim) in [(1, 1), (3, 7), (5, 64), (2, 1025), (0, 8), (40, 700)] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let op = RmsNorm {
                    dim,
                    dtype,
                    eps: 1e-5,
                };
                let shape = [rows, dim];
                let x = Arg::random(&shape, 3.0, 1).padded();
                let weight = Arg::random(&[dim], 1.0, 2);
                // Half the sum's error goes through the root; then the root, its inverse and two products.
                let relative = (dim as f64 / 2.0 + 6.0) * 2f64.powi(-24);
                for out in [Arg::out(&shape).padded(), Arg::same(1)] {
                    let args = [out, x.clone(), weight.clone()];
                    check(&op, &args, |_, _, expected| expected.abs() * relative);
                }
            }
        }
    }
}
