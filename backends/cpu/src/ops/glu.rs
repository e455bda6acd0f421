//! Gated linear unit, a row at a time.

use std::ops::Range;

use ops::Glu;

use super::activation::with_act;
use super::native::{Planned, native, with_float};
use super::tensor::Tensor;
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &Glu) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let [out, x] = [0, 1].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        cpu.rows(out.dim(0), op.dim, |rows| {
            cpu.isa.run(Rows { rows, out, x, op: &op });
        });
    })))
}

struct Rows<'a, 'op, T> {
    rows: Range<usize>,
    out: Tensor<'a, T>,
    x: Tensor<'a, T>,
    op: &'op Glu,
}

impl<T: Element> Kernel for Rows<'_, '_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let (low, high) = match self.op.limit {
            Some(limit) => (V::splat(-limit), V::splat(limit)),
            None => (V::splat(f32::NEG_INFINITY), V::splat(f32::INFINITY)),
        };
        let halves = self.op.halves();
        with_act!(self.op.act, F => for r in self.rows.clone() {
            let (out, x) = (self.out.row([r]), self.x.row([r]));
            let [gate, up] = halves.clone().map(|half| x.part(half));
            for i in (0..out.len()).step_by(V::N) {
                let (g, u) = (gate.load::<V>(i), up.load::<V>(i));
                out.store(i, F::of(g.min(high)) * u.max(low).min(high));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;
    use ops::{Act, Half};

    use super::*;
    use crate::ops::testing::{Arg, check};

    #[test]
    fn keeps_its_bound() {
        for (rows, dim) in [(1, 1), (3, 7), (0, 4), (4, 0), (2, 1030), (33, 600)] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for (act, gate, limit) in [
                    (Act::Silu, Half::First, None),
                    (Act::Silu, Half::Second, Some(1.5)),
                    (Act::GeluErf, Half::Second, None),
                    (Act::GeluTanh, Half::First, Some(0.5)),
                ] {
                    let op = Glu {
                        dim,
                        act,
                        gate,
                        limit,
                        dtype,
                    };
                    let x = Arg::random(&[rows, 2 * dim], 2.0, 1).padded();
                    let out = Arg::out(&[rows, dim]).padded();
                    // The activation's error for |x| below 8.
                    check(&op, &[out, x], |_, _, expected| {
                        expected.abs() * 300.0 * 2f64.powi(-24)
                    });
                }
            }
        }
    }
}
