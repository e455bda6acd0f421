//! Rotary embedding from tables: an invocation per pair.

use std::sync::Arc;

use hal::{Result, View};
use ops::{Rope, RopeLayout};

use super::rows::groups;
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/rope.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Rope) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    native(Native {
        program: gpu.program(Text::new(gpu, "rope", BODY, &slots, &[]))?,
        op: op.clone(),
    })
}

struct Native {
    program: Arc<Program>,
    op: Rope,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [out, x, positions, cos, _] = args else {
            unreachable!("counted by check_args")
        };
        if out.is_empty() {
            return Ok(());
        }
        let bound = bind_all(&stream.gpu, args)?;
        let (tokens, heads) = (out.dim(0), out.dim(1));
        let part = self.op.head_dim / self.op.streams;
        let pairs = self.op.rotary_dim / 2;
        let mut params = Params::new()
            .word(tokens)
            .word(heads)
            .word(self.op.streams)
            .word(part)
            .word(pairs)
            .word((self.op.layout == RopeLayout::HalfSplit).into());
        for (bound, view) in [(&bound[0], out), (&bound[1], x)] {
            params = params
                .first(bound)
                .word(view.strides()[0])
                .word(view.strides()[1]);
        }
        params = params
            .rows(&bound[2], positions)
            .first(&bound[3])
            .first(&bound[4])
            .word(cos.dim(0))
            .word(out.same(x).into());
        let items = tokens * heads * self.op.streams * (part - pairs);
        stream.dispatch(&self.program, &bound, &params, groups(items))
    }
}
