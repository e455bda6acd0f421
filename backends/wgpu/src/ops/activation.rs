//! Activation functions: an invocation per word.

use std::sync::Arc;

use hal::{Result, View};
use ops::{Act, Activation};

use super::rows::{groups, units};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

/// The text of the functions.
pub(super) const ACT: &str = include_str!("../../kernels/act.wgsl");
const BODY: &str = include_str!("../../kernels/activation.wgsl");

/// The number of a function in that text.
pub(super) fn number(act: Option<Act>) -> usize {
    match act {
        None => 0,
        Some(Act::Silu) => 1,
        Some(Act::GeluErf) => 2,
        Some(Act::GeluTanh) => 3,
        Some(Act::GeluQuick) => 4,
    }
}

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Activation) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    let text = Text::new(gpu, "activation", &[ACT, BODY].concat(), &slots, &[]);
    native(Native {
        program: gpu.program(text)?,
        act: number(Some(op.act)),
    })
}

struct Native {
    program: Arc<Program>,
    act: usize,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        if out.is_empty() {
            return Ok(());
        }
        let bound = bind_all(&stream.gpu, args)?;
        let (rows, dim) = (out.dim(0), out.dim(1));
        let units = units(out, dim);
        let params = Params::new()
            .word(rows)
            .word(dim)
            .word(units)
            .word(self.act)
            .rows(&bound[0], out)
            .rows(&bound[1], x);
        stream.dispatch(&self.program, &bound, &params, groups(rows * units))
    }
}
