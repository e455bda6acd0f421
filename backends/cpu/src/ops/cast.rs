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
