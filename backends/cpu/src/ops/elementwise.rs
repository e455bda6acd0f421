//! Sum, difference and product over any strides: vectors where the run is dense or repeats an input.

use ops::{Binary, Elementwise};

use super::native::{Planned, native, with_float};
use super::strided::Walk;
use super::tensor::{Run, Tensor};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &Elementwise) -> Planned {
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(with_float!(op.dtype, T => native(move |args| {
        // SAFETY: each run is written by the thread that has it.
        let tensors = [0, 1, 2].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
        let walk = Walk::new([&args[0], &args[1], &args[2]]);
        let steps = walk.steps();
        walk.run(&cpu, |offsets, len| {
            let run = |i: usize| tensors[i].run(offsets[i], steps[i], len);
            cpu.isa.run(Runs { out: run(0), a: run(1), b: run(2), op: &op });
        });
    })))
}

struct Runs<'a, 'op, T> {
    out: Run<'a, T>,
    a: Run<'a, T>,
    b: Run<'a, T>,
    op: &'op Elementwise,
}

impl<T: Element> Kernel for Runs<'_, '_, T> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self { out, a, b, op } = self;
        let sign = if op.kind == Binary::Sub { -1.0 } else { 1.0 };
        let alpha = V::splat(sign * op.alpha);
        for i in (0..out.len()).step_by(V::N) {
            let (a, b) = (a.load::<V>(i), b.load::<V>(i));
            out.store(
                i,
                match op.kind {
                    Binary::Add | Binary::Sub => b.mul_add(alpha, a),
                    Binary::Mul => a * (alpha * b),
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;

    use super::*;
    use crate::ops::testing::{Arg, check};

    #[test]
    fn keeps_its_bound_over_any_strides() {
        let shape = [3, 5, 33];
        let dense = || Arg::random(&shape, 1.0, 1);
        let arguments = [
            [Arg::out(&shape), dense(), dense()],
            [Arg::out(&shape).padded(), dense().padded(), dense()],
            [
                Arg::out(&shape).strides(&[1, 3, 15]),
                dense(),
                dense().padded(),
            ],
            [Arg::same(1), dense().padded(), dense()],
            [Arg::same(2), dense(), dense()],
            // Repeated along the last and along the first dimension.
            [
                Arg::out(&shape),
                dense(),
                Arg::new(&shape, vec![0.7; 495]).strides(&[0, 0, 0]),
            ],
            [
                Arg::out(&[2, 9000]),
                Arg::random(&[2, 9000], 1.0, 2),
                Arg::random(&[2, 9000], 1.0, 3),
            ],
            [Arg::out(&[0, 4]), Arg::out(&[0, 4]), Arg::out(&[0, 4])],
            [
                Arg::out(&[]),
                Arg::random(&[], 1.0, 2),
                Arg::random(&[], 1.0, 3),
            ],
        ];
        for args in arguments {
            for kind in Binary::ALL {
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    let op = Elementwise {
                        kind,
                        dtype,
                        alpha: 1.3,
                    };
                    // Terms are below 4 and 5.2: two roundings.
                    check(&op, &args, |_, _, expected| {
                        2.0 * 2f64.powi(-24)
                            * if kind == Binary::Mul {
                                expected.abs()
                            } else {
                                10.0
                            }
                    });
                }
            }
        }
    }
}
