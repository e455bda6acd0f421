//! Gated linear units: an invocation per word.

use std::sync::Arc;

use hal::{Result, View};
use ops::Glu;

use super::activation::{ACT, number};
use super::rows::{groups, units};
use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = include_str!("../../kernels/glu.wgsl");

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Glu) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    let text = Text::new(gpu, "glu", &[ACT, BODY].concat(), &slots, &[]);
    native(Native {
        program: gpu.program(text)?,
        op: op.clone(),
    })
}

struct Native {
    program: Arc<Program>,
    op: Glu,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        if out.is_empty() {
            return Ok(());
        }
        let bound = bind_all(&stream.gpu, args)?;
        let (rows, dim) = (out.dim(0), self.op.dim);
        let units = units(out, dim);
        let [gate, up] = self.op.halves();
        let x_first = bound[1].first as usize;
        let params = Params::new()
            .word(rows)
            .word(dim)
            .word(units)
            .word(number(Some(self.op.act)))
            .rows(&bound[0], out)
            .word(x_first + gate.start)
            .word(x_first + up.start)
            .word(x.strides()[0])
            .word(self.op.limit.is_some().into())
            .float(self.op.limit.unwrap_or(0.0));
        stream.dispatch(&self.program, &bound, &params, groups(rows * units))
    }
}
