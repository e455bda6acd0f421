//! Index of the largest element: a workgroup per row.

use std::sync::Arc;

use hal::{Result, View};
use ops::Argmax;

use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/argmax.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Argmax) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    native(Native(gpu.program(Text::new(
        gpu,
        "argmax",
        BODY,
        &slots,
        &[],
    ))?))
}

struct Native(Arc<Program>);

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        if out.is_empty() {
            return Ok(());
        }
        let bound = bind_all(&stream.gpu, args)?;
        let params = Params::new()
            .word(x.dim(0))
            .word(x.dim(1))
            .first(&bound[0])
            .rows(&bound[1], x);
        stream.dispatch(&self.0, &bound, &params, x.dim(0))
    }
}
