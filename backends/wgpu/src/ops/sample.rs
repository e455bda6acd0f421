//! Drawing tokens: a workgroup per row, with the row's logits and weights in the workspace.

use std::sync::Arc;

use hal::{Result, View};
use ops::Sample;

use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Slot, Text, bind, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/sample.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Sample) -> Planned {
    let Some(mut slots) = slots(op) else {
        return Ok(None);
    };
    slots.push(Slot::words("workspace"));
    native(Native {
        program: gpu.program(Text::new(gpu, "sample", BODY, &slots, &[]))?,
        vocab: op.vocab,
    })
}

struct Native {
    program: Arc<Program>,
    vocab: usize,
}

impl Kernel for Native {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        8 * self.vocab * shapes[0][0]
    }

    fn queue(
        &self,
        stream: &mut WgpuStream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let [out, logits, _, _, history, _] = args else {
            unreachable!("counted by check_args")
        };
        if out.is_empty() {
            return Ok(());
        }
        let mut bound = bind_all(&stream.gpu, args)?;
        bound.push(bind(
            &stream.gpu,
            &super::words(workspace, self.workspace_bytes(&[out.shape()]))?,
        )?);
        let params = Params::new()
            .word(out.dim(0))
            .word(self.vocab)
            .word(history.dim(1))
            .first(&bound[0])
            .rows(&bound[1], logits)
            .first(&bound[2])
            .first(&bound[3])
            .rows(&bound[4], history)
            .first(&bound[5])
            .first(&bound[6]);
        stream.dispatch(&self.program, &bound, &params, out.dim(0))
    }
}
