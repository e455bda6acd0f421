//! Attention over the paged cache: a workgroup per token and head.

use std::sync::Arc;

use hal::{DType, Result, View};
use ops::Attention;

use super::softmax::{VISIBLE, number};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Slot, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/attention.wgsl");

/// The longest head that the kernel has room for; others are composed.
const HEAD: usize = 256;

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Attention) -> Planned {
    let Some(mut slots) = slots(op) else {
        return Ok(None);
    };
    if op.head_dim > HEAD {
        return Ok(None);
    }
    // The program is the same with and without prefixes; what is missing is bound to something and not read.
    if slots.len() < 8 {
        slots.push(Slot::input("prefix", DType::I32));
    }
    let text = Text::new(gpu, "attention", &[VISIBLE, BODY].concat(), &slots, &[]);
    native(Native {
        program: gpu.program(text)?,
        op: op.clone(),
    })
}

struct Native {
    program: Arc<Program>,
    op: Attention,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let (out, q, block_table) = (&args[0], &args[1], &args[4]);
        if out.is_empty() {
            return Ok(());
        }
        let mut bound = bind_all(&stream.gpu, args)?;
        if bound.len() < 8 {
            bound.push(bound[6].clone());
        }
        let op = &self.op;
        let mut params = Params::new()
            .word(q.dim(0))
            .word(op.heads)
            .word(op.heads / op.kv_heads)
            .word(op.kv_heads)
            .word(op.head_dim)
            .word(op.pages)
            .word(op.page_size)
            .float(op.scale)
            .word(number(op.mask))
            .word(block_table.dim(0))
            .word(block_table.dim(1));
        for (bound, view) in [(&bound[0], out), (&bound[1], q)] {
            params = params
                .first(bound)
                .word(view.strides()[0])
                .word(view.strides()[1]);
        }
        for bound in &bound[2..] {
            params = params.first(bound);
        }
        stream.dispatch(&self.program, &bound, &params, q.dim(0) * op.heads)
    }
}
