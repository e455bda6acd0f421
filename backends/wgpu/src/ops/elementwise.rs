//! Sum, difference, product: one program per element type.

use std::sync::Arc;

use hal::{Result, View};
use ops::{Binary, Elementwise};

use super::strided::{self, STRIDED};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Planned, Program, Text, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/elementwise.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Elementwise) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    let text = Text::new(gpu, "elementwise", &[STRIDED, BODY].concat(), &slots, &[]);
    native(Native {
        program: gpu.program(text)?,
        kind: match op.kind {
            Binary::Add => 0,
            Binary::Sub => 1,
            Binary::Mul => 2,
        },
        alpha: op.alpha,
    })
}

struct Native {
    program: Arc<Program>,
    kind: usize,
    alpha: f32,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        strided::queue(stream, &self.program, args, &|params| {
            params.word(self.kind).float(self.alpha)
        })
    }
}
