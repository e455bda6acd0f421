//! Residual sum and layer normalisation in one visit of each row. The norm reads the sum as stored.

use std::ops::Range;

use ops::AddLayerNorm;

use super::add_rms_norm::add;
use super::layer_norm::normalise;
use super::native::{Planned, native, with_float};
use super::tensor::Tensor;
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &AddLayerNorm) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let tensors = [0, 1, 2, 3].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        // SAFETY: only read.
        let vectors = [4, 5].map(|i| unsafe { Tensor::<f32>::new(&args[i]) });
        cpu.rows(tensors[0].dim(0), op.dim, |rows| {
            cpu.isa.run(Rows { rows, tensors, vectors, op: &op });
        });
    })))
}

struct Rows<'a, 'op, T> {
    rows: Range<usize>,
    /// out, sum, x, residual
    tensors: [Tensor<'a, T>; 4],
    /// weight, bias
    vectors: [Tensor<'a, f32>; 2],
    op: &'op AddLayerNorm,
}

impl<T: Element> Kernel for Rows<'_, '_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        for r in self.rows {
            let [out, sum, x, residual] = self.tensors.map(|t| t.row([r]));
            add::<V, T>(sum, x, residual, self.op.alpha);
            normalise::<V, T>(out, sum, self.vectors.map(|v| v.flat()), self.op.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check};

    #[test]
    fn keeps_its_bound_in_any_place() {
        for (rows, dim) in [(3, 7), (2, 1025), (0, 8), (40, 500)] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let op = AddLayerNorm {
                    dim,
                    dtype,
                    eps: 1e-5,
                    alpha: 1.7,
                };
                let shape = [rows, dim];
                let random = |seed| Arg::random(&shape, 1.0, seed).padded();
                let vectors = [Arg::random(&[dim], 1.0, 8), Arg::random(&[dim], 1.0, 9)];
                // The norm may read the sum as stored. Elements are below 16 deviations, weights and biases below 4.
                let u = 2f64.powi(-24);
                let size = 64.0 * ((dim as f64 + 16.0) * u + 3.0 * dtype.unit_roundoff());
                for (out, sum) in [
                    (Arg::out(&shape), Arg::out(&shape).padded()),
                    (Arg::out(&shape), Arg::same(2)),
                    (Arg::out(&shape), Arg::same(3)),
                    (Arg::same(2), Arg::out(&shape)),
                ] {
                    let [weight, bias] = vectors.clone();
                    let args = [out, sum, random(1), random(2), weight, bias];
                    check(&op, &args, |output, _, _| match output {
                        0 => size,
                        _ => 16.0 * u,
                    });
                }
            }
        }
    }
}
