//! Strided copy: elements are 1, 2 or 4 bytes inside words; the device's own copy where whole words are contiguous.

use std::sync::Arc;

use hal::{Result, View};
use ops::StridedCopy;

use super::strided::{self, STRIDED};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Planned, Program, Slot, Text, native};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/copy.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &StridedCopy) -> Planned {
    let slots = [Slot::atomics("out"), Slot::words("x")];
    let size = [("SIZE", op.dtype.bytes() as u32)];
    let text = Text::new(gpu, "copy", &[STRIDED, BODY].concat(), &slots, &size);
    native(Native(gpu.program(text)?))
}

struct Native(Arc<Program>);

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        match stream.copy_words(&args[0], &args[1])? {
            true => Ok(()),
            false => strided::queue(stream, &self.0, args, &|params| params),
        }
    }
}
