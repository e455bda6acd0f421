//! Layer normalisation, a row at a time; three passes (mean, centred variance, result), the last two from cache.

use std::ops::Range;

use ops::LayerNorm;

use super::native::{Planned, native, with_float};
use super::tensor::{Row, Tensor, fold};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &LayerNorm) -> Planned {
    let (cpu, dim, eps) = (cpu.clone(), op.dim, op.eps);
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let [out, x] = [0, 1].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        // SAFETY: only read.
        let [weight, bias] = [2, 3].map(|i| unsafe { Tensor::<f32>::new(&args[i]) });
        cpu.rows(out.dim(0), dim, |rows| {
            cpu.isa.run(Rows { rows, out, x, weight, bias, eps });
        });
    })))
}

struct Rows<'a, T> {
    rows: Range<usize>,
    out: Tensor<'a, T>,
    x: Tensor<'a, T>,
    weight: Tensor<'a, f32>,
    bias: Tensor<'a, f32>,
    eps: f32,
}

impl<T: Element> Kernel for Rows<'_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        for r in self.rows {
            normalise::<V, T>(
                self.out.row([r]),
                self.x.row([r]),
                [self.weight.flat(), self.bias.flat()],
                self.eps,
            );
        }
    }
}

/// `out = (x − mean) / sqrt(var + eps) · weight + bias`.
#[inline(always)]
pub(super) fn normalise<V: Lanes, T: Element>(
    out: Row<'_, T>,
    x: Row<'_, T>,
    [weight, bias]: [Row<'_, f32>; 2],
    eps: f32,
) {
    let dim = x.len() as f32;
    let mean = fold!(V, x, 0.0, add, |x, sum| sum + x).sum() / dim;
    let centre = V::splat(mean);
    let squares = fold!(V, x, 0.0, add, |x, sum| (x - centre)
        .mul_add(x - centre, sum))
    .sum();
    let scale = V::splat(1.0 / (squares / dim + eps).sqrt());
    for i in (0..out.len()).step_by(V::N) {
        let x = (x.load::<V>(i) - centre) * scale;
        out.store(i, x.mul_add(weight.load(i), bias.load(i)));
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;
    use ops::Op;

    use super::*;
    use crate::ops::testing::{Arg, check, inputs};

    /// The error of the mean counts once per element; it is large when the mean is far from 0.
    #[test]
    fn keeps_its_bound() {
        for (rows, dim, mean) in [
            (1, 1, 0.0),
            (3, 7, 2.0),
            (5, 64, -30.0),
            (2, 1025, 0.5),
            (0, 8, 0.0),
            (40, 700, 5.0),
        ] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let op = LayerNorm {
                    dim,
                    dtype,
                    eps: 1e-5,
                };
                let shape = [rows, dim];
                let x = Arg::random(&shape, 2.0, 1).plus(mean).padded();
                let vectors = [Arg::random(&[dim], 1.0, 2), Arg::random(&[dim], 1.0, 3)];
                for out in [Arg::out(&shape).padded(), Arg::same(1)] {
                    let args = [out, x.clone(), vectors[0].clone(), vectors[1].clone()];
                    let u = 2f64.powi(-24);
                    let (n, inputs) = (dim as f64, inputs(&op, &args));
                    let plain = reference_without_bias(&op, &shape, &inputs);
                    check(&op, &args, |_, i, expected| {
                        let row = inputs[0].row(i / dim);
                        let size = row.iter().map(|x| x.abs()).sum::<f64>() / n;
                        let mean = row.iter().sum::<f64>() / n;
                        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                        let sigma = (var + f64::from(op.eps)).sqrt();
                        let shift = (n * u * size + 2.0 * u * mean.abs()) / sigma;
                        let weight = inputs[1].data[i % dim].abs();
                        let spread = (n / 2.0 + 8.0) * u + shift * shift;
                        plain[i].abs() * spread + weight * shift * 1.01 + 2.0 * u * expected.abs()
                    });
                }
            }
        }
    }

    fn reference_without_bias(
        op: &LayerNorm,
        shape: &[usize],
        inputs: &[ops::reference::Tensor],
    ) -> Vec<f64> {
        let mut inputs = inputs.to_vec();
        inputs[2] = inputs[2].map(|_| 0.0);
        op.reference(&[shape], &inputs).remove(0).data
    }
}
