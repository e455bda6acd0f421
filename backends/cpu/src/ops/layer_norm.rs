//! Layer normalisation, a row at a time; three passes (mean, centred variance, result), the last two from cache.

use std::ops::Range;

use ops::LayerNorm;

use super::native::{Planned, native, with_float};
use super::tensor::{Row, Tensor};
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
    let mean = x.sum(|x: V, sum| sum + x) / dim;
    let centre = V::splat(mean);
    let squares = x.sum(|x: V, sum| {
        let d = x - centre;
        d.mul_add(d, sum)
    });
    let scale = V::splat(1.0 / (squares / dim + eps).sqrt());
    out.fill_with::<V>(|i| {
        ((x.load::<V>(i) - centre) * scale).mul_add(weight.load(i), bias.load(i))
    });
}
