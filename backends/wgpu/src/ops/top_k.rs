//! The k largest elements: a workgroup per row, sorted in the workspace.

use std::sync::Arc;

use hal::{Result, View};
use ops::TopK;

use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Slot, Text, bind, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/top_k.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &TopK) -> Planned {
    let Some(mut slots) = slots(op) else {
        return Ok(None);
    };
    slots.push(Slot::words("workspace"));
    native(Native {
        program: gpu.program(Text::new(gpu, "top_k", BODY, &slots, &[]))?,
        k: op.k,
    })
}

struct Native {
    program: Arc<Program>,
    k: usize,
}

impl Native {
    /// Entries of a row in the workspace: a key and an index each.
    fn entries(&self) -> usize {
        self.k.next_power_of_two()
    }
}

impl Kernel for Native {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        8 * self.entries() * shapes[2][0]
    }

    fn queue(
        &self,
        stream: &mut WgpuStream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let x = &args[2];
        if args[0].is_empty() {
            return Ok(());
        }
        let mut bound = bind_all(&stream.gpu, args)?;
        bound.push(bind(
            &stream.gpu,
            &super::words(workspace, self.workspace_bytes(&[&[], &[], x.shape()]))?,
        )?);
        let params = Params::new()
            .word(x.dim(0))
            .word(x.dim(1))
            .word(self.k)
            .word(self.entries())
            .first(&bound[0])
            .first(&bound[1])
            .rows(&bound[2], x)
            .first(&bound[3]);
        stream.dispatch(&self.program, &bound, &params, x.dim(0))
    }
}
