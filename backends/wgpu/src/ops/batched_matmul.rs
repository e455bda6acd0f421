//! Matrix products of activations: a workgroup per tile.

use std::sync::Arc;

use hal::{Result, View};
use ops::BatchedMatmul;

use crate::gpu::Gpu;
use crate::kernel::{Kernel, Params, Planned, Program, Text, bind_all, native, slots};
use crate::stream::WgpuStream;

const BODY: &str = concat!(
    include_str!("../../kernels/tile.wgsl"),
    include_str!("../../kernels/batched_matmul.wgsl")
);

/// A side of the tile, as the kernel has it.
const TILE: usize = 32;

pub(super) fn plan(gpu: &Arc<Gpu>, op: &BatchedMatmul) -> Planned {
    let Some(slots) = slots(op) else {
        return Ok(None);
    };
    native(Native {
        program: gpu.program(Text::new(gpu, "batched_matmul", BODY, &slots, &[]))?,
        alpha: op.alpha,
    })
}

struct Native {
    program: Arc<Program>,
    alpha: f32,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let [out, a, _] = args else {
            unreachable!("counted by check_args")
        };
        if out.is_empty() {
            return Ok(());
        }
        let bound = bind_all(&stream.gpu, args)?;
        let mut params = Params::new().words(out.shape(), 4, 1);
        for view in args {
            params = params.words(view.strides(), 4, 0);
        }
        params = params.word(a.dim(3)).float(self.alpha);
        for bound in &bound {
            params = params.first(bound);
        }
        let tiles = out.dim(2).div_ceil(TILE) * out.dim(3).div_ceil(TILE);
        let groups = out.dim(0) * out.dim(1) * tiles;
        stream.dispatch(&self.program, &bound, &params, groups)
    }
}
