//! Softmax: a workgroup per row.

use std::sync::Arc;

use hal::{DType, Result, View};
use ops::{Mask, Softmax};

use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Slot, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

/// The text that says which slots a token sees.
pub(super) const VISIBLE: &str = include_str!("../../kernels/visible.wgsl");
const BODY: &str = include_str!("../../kernels/softmax.wgsl");

/// The number of a mask in that text.
pub(super) fn number(mask: Mask) -> usize {
    match mask {
        Mask::Causal => 0,
        Mask::Prefix => 1,
        Mask::Full => 2,
    }
}

/// The number of no mask.
const NO_MASK: usize = 3;

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Softmax) -> Planned {
    let Some(mut slots) = slots(op) else {
        return Ok(None);
    };
    // The program is the same with and without a mask; what is missing is bound to something and not read.
    for name in ["q_range", "kv_len", "prefix"].iter().skip(slots.len() - 2) {
        slots.push(Slot::input(name, DType::I32));
    }
    let text = Text::new(gpu, "softmax", &[VISIBLE, BODY].concat(), &slots, &[]);
    native(Native {
        program: gpu.program(text)?,
        op: op.clone(),
    })
}

struct Native {
    program: Arc<Program>,
    op: Softmax,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let (out, x) = (&args[0], &args[1]);
        if out.is_empty() {
            return Ok(());
        }
        let mut bound = bind_all(&stream.gpu, args)?;
        while bound.len() < 5 {
            bound.push(bound[1].clone());
        }
        let rows = out.dim(0) * out.dim(1);
        let mut params = Params::new()
            .word(rows)
            .word(out.dim(1))
            .word(out.dim(2))
            .float(self.op.scale);
        for (bound, view) in [(&bound[0], out), (&bound[1], x)] {
            params = params
                .first(bound)
                .word(view.strides()[1])
                .word(view.strides()[0]);
        }
        params = params.word(self.op.mask.map_or(NO_MASK, number));
        for bound in &bound[2..] {
            params = params.first(bound);
        }
        stream.dispatch(&self.program, &bound, &params, rows)
    }
}
