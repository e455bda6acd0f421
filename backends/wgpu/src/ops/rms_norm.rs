//! RMS normalisation: a workgroup per row.

use std::sync::Arc;

use hal::{Result, View};
use ops::RmsNorm;

use super::norm;
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/rms_norm.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &RmsNorm) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    let program = gpu.program(Text::new(gpu, "rms_norm", BODY, &slots, &[]))?;
    native(Native {
        program,
        op: op.clone(),
    })
}

struct Native {
    program: Arc<Program>,
    op: RmsNorm,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let params = Params::new()
            .word(args[0].dim(0))
            .word(self.op.dim)
            .float(self.op.eps);
        norm::queue(stream, &self.program, args, params)
    }
}
