//! Change of float type, by integer arithmetic on the bits.

use std::sync::Arc;

use hal::{Result, View};
use ops::Cast;

use super::strided::{self, STRIDED};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Planned, Program, Text, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/cast.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Cast) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    let text = Text::new(gpu, "cast", &[STRIDED, BODY].concat(), &slots, &[]);
    native(Native(gpu.program(text)?))
}

struct Native(Arc<Program>);

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        strided::queue(stream, &self.0, args, &|params| params)
    }
}
