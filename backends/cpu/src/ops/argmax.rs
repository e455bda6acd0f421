//! Index of the largest element of each row.

use std::ops::Range;

use ops::Argmax;

use super::native::{Planned, native, with_float};
use super::tensor::{Row, Tensor, fold};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

/// Elements whose maximum is taken before it is compared with the best so far.
const BLOCK: usize = 256;

pub(super) fn plan(cpu: &Cpu, op: &Argmax) -> Planned {
    let cpu = cpu.clone();
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each row is written by the thread that has it.
        let out = unsafe { Tensor::<i32>::new(&args[0]) };
        // SAFETY: only read.
        let x = unsafe { Tensor::<T>::new(&args[1]) };
        cpu.rows(x.dim(0), x.dim(1), |rows| cpu.isa.run(Rows { rows, out, x }));
    })))
}

struct Rows<'a, T> {
    rows: Range<usize>,
    out: Tensor<'a, i32>,
    x: Tensor<'a, T>,
}

impl<T: Element> Kernel for Rows<'_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        for r in self.rows {
            self.out
                .flat()
                .set(r, argmax::<V, T>(self.x.row([r])) as i32);
        }
    }
}

/// The first index of the largest element, or of the first NaN.
#[inline(always)]
pub(super) fn argmax<V: Lanes, T: Element>(x: Row<'_, T>) -> usize {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for start in (0..x.len()).step_by(BLOCK) {
        let block = x.part(start..x.len().min(start + BLOCK));
        let max = fold!(V, block, f32::NEG_INFINITY, max, |x, max| max.max(x)).largest();
        if max > best {
            (best, at) = (max, start);
        }
    }
    // NaN is not seen above. A sum is NaN for one, and also for ∞ − ∞: then the slow search below finds none.
    let suspicious = fold!(V, x, 0.0, add, |x, sum| sum + x).sum().is_nan();
    let nan = suspicious
        .then(|| x.0.iter().position(|x| x.get().widen().is_nan()))
        .flatten();
    nan.unwrap_or_else(|| {
        let is_best = |x: &std::cell::Cell<T>| x.get().widen() == best;
        at + x.0[at..].iter().position(is_best).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check_exact};

    #[test]
    fn agrees_with_the_reference() {
        let infinite = [1.0, f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY, 2.0];
        let not_a_number = [1.0, f64::INFINITY, f64::NAN, f64::NAN, 2.0];
        let hidden = [f64::NEG_INFINITY; 5];
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for row in [infinite, not_a_number, hidden] {
                let args = [Arg::out(&[1]), Arg::new(&[1, 5], row.to_vec())];
                check_exact(&Argmax { dtype }, &args);
            }
            // In f16 and bf16 many of these are equal.
            for (rows, cols) in [(0, 3), (7, 1), (3, 255), (2, 257), (3, 20_000)] {
                let x = Arg::random(&[rows, cols], 1.0, cols as u64).padded();
                check_exact(&Argmax { dtype }, &[Arg::out(&[rows]), x]);
            }
        }
    }
}
