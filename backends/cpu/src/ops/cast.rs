//! Change of float type through f32, which holds f16 and bf16 exactly: rounded once, by the store.

use ops::Cast;

use super::native::{Planned, native, with_float};
use super::strided::Walk;
use super::tensor::{Run, Tensor};
use super::vector::{Element, Kernel, Lanes};
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &Cast) -> Planned {
    let (cpu, to) = (cpu.clone(), op.to);
    Ok(
        with_float!(op.from, From => with_float!(to, To => native(move |args| {
            // SAFETY: each run is written by the thread that has it.
            let out = unsafe { Tensor::<To>::new(&args[0]) };
            // SAFETY: only read.
            let x = unsafe { Tensor::<From>::new(&args[1]) };
            let walk = Walk::new([&args[0], &args[1]]);
            let [to, from] = walk.steps();
            walk.run(&cpu, |offsets, len| {
                let (out, x) = (out.run(offsets[0], to, len), x.run(offsets[1], from, len));
                cpu.isa.run(Runs { out, x });
            });
        })))
        .flatten(),
    )
}

struct Runs<'a, T, X> {
    out: Run<'a, T>,
    x: Run<'a, X>,
}

impl<T: Element, X: Element> Kernel for Runs<'_, T, X> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        for i in (0..self.out.len()).step_by(V::N) {
            self.out.store::<V>(i, self.x.load(i));
        }
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;
    use half::{bf16, f16};

    use super::*;
    use crate::ops::testing::{Arg, check_exact};

    const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    #[test]
    fn every_f16_and_bf16() {
        for to in FLOATS {
            let f16s = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f64());
            let bf16s = (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f64());
            for (from, values) in [
                (DType::F16, f16s.collect::<Vec<_>>()),
                (DType::BF16, bf16s.collect()),
            ] {
                let args = [Arg::out(&[1 << 16]), Arg::new(&[1 << 16], values)];
                check_exact(&Cast { from, to }, &args);
            }
        }
    }

    #[test]
    fn dense_f32_and_every_tie() {
        let dense = (0..u32::MAX).step_by(39_119).map(f32::from_bits);
        // Halfway between neighbours of f16 and of bf16, and just beside.
        let ties = (0..=u16::MAX).flat_map(|bits| {
            let [a, b] = [bits, bits.wrapping_add(1)].map(|b| f16::from_bits(b).to_f32());
            let half = (a + b) / 2.0;
            let other = f32::from_bits(u32::from(bits) << 16 | 0x8000);
            [
                half,
                half.next_up(),
                half.next_down(),
                other,
                other.next_up(),
                other.next_down(),
            ]
        });
        let values: Vec<f64> = dense.chain(ties).map(f64::from).collect();
        for to in FLOATS {
            let args = [
                Arg::out(&[values.len()]),
                Arg::new(&[values.len()], values.clone()),
            ];
            check_exact(
                &Cast {
                    from: DType::F32,
                    to,
                },
                &args,
            );
        }
    }

    #[test]
    fn strides() {
        let shape = [3, 4, 21];
        for args in [
            [Arg::out(&shape).padded(), Arg::random(&shape, 1.0, 1)],
            [
                Arg::out(&shape),
                Arg::random(&shape, 1.0, 1).strides(&[1, 3, 12]),
            ],
            [
                Arg::out(&shape).strides(&[1, 3, 12]),
                Arg::random(&shape, 1.0, 1).padded(),
            ],
            [Arg::out(&[0]), Arg::out(&[0])],
        ] {
            check_exact(
                &Cast {
                    from: DType::F32,
                    to: DType::F16,
                },
                &args,
            );
        }
    }
}
