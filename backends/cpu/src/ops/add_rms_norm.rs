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
    sum.fill_with::<V>(|i| residual.load::<V>(i).mul_add(alpha, x.load(i)));
}
