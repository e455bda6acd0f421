//! What the four normalisations share: a workgroup per row; arguments are matrices first, then vectors.

use std::sync::Arc;

use hal::{Result, View};
use ops::Op;

use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

/// The kernel `body`. Its parameters are rows, length of a row, `floats`, then where each argument begins and, of
/// matrices, how far its rows lie apart.
pub(super) fn plan<O: Op>(gpu: &Arc<Gpu>, op: &O, body: &'static str, floats: &[f32]) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    native(Native {
        program: gpu.program(Text::new(gpu, O::NAME, body, &slots, &[]))?,
        floats: floats.to_vec(),
    })
}

struct Native {
    program: Arc<Program>,
    floats: Vec<f32>,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [rows, dim] = [args[0].dim(0), args[0].dim(1)];
        if args[0].is_empty() {
            return Ok(());
        }
        let mut params = Params::new().word(rows).word(dim);
        for &x in &self.floats {
            params = params.float(x);
        }
        let bound = bind_all(&stream.gpu, args)?;
        for (bound, view) in bound.iter().zip(args) {
            params = match view.rank() {
                1 => params.first(bound),
                _ => params.rows(bound, view),
            };
        }
        stream.dispatch(&self.program, &bound, &params, rows)
    }
}
