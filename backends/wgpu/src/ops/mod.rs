//! One file per operation: planner, program, parameters.

mod activation;
mod add_layer_norm;
mod add_rms_norm;
mod argmax;
mod attention;
mod batched_matmul;
mod cast;
mod copy;
mod elementwise;
mod embedding;
mod glu;
mod kv_write;
mod layer_norm;
mod matmul;
mod norm;
mod rms_norm;
mod rope;
mod rows;
mod sample;
mod softmax;
mod strided;
mod top_k;
mod weight;

use std::sync::Arc;

use hal::{DType, Result, View};
use ops::{Ops, Planner};

use crate::gpu::Gpu;
use crate::kernel::Planned;

/// The table's entry for an operation that `plan` plans.
fn planner<O: 'static>(
    gpu: &Arc<Gpu>,
    plan: fn(&Arc<Gpu>, &O) -> Planned,
) -> Option<Arc<dyn Planner<O>>> {
    let gpu = Arc::clone(gpu);
    Some(Arc::new(move |op: &O| plan(&gpu, op)))
}

/// What a wgpu device can do.
pub(crate) fn table(gpu: &Arc<Gpu>) -> Ops {
    Ops {
        embedding: planner(gpu, embedding::plan),
        matmul: planner(gpu, matmul::plan),
        batched_matmul: planner(gpu, batched_matmul::plan),
        softmax: planner(gpu, softmax::plan),
        attention: planner(gpu, attention::plan),
        kv_write: planner(gpu, kv_write::plan),
        rope: planner(gpu, rope::plan),
        // Composes from the two above.
        rope_kv_write: None,
        rms_norm: planner(gpu, rms_norm::plan),
        layer_norm: planner(gpu, layer_norm::plan),
        add_rms_norm: planner(gpu, add_rms_norm::plan),
        add_layer_norm: planner(gpu, add_layer_norm::plan),
        glu: planner(gpu, glu::plan),
        activation: planner(gpu, activation::plan),
        elementwise: planner(gpu, elementwise::plan),
        cast: planner(gpu, cast::plan),
        copy: planner(gpu, copy::plan),
        argmax: planner(gpu, argmax::plan),
        top_k: planner(gpu, top_k::plan),
        sample: planner(gpu, sample::plan),
    }
}

/// The first `bytes` of a workspace as words. It may begin at any byte that is a multiple of four.
fn words<'a>(workspace: &View<'a>, bytes: usize) -> Result<View<'a>> {
    View::at(
        workspace.buffer(),
        workspace.offset_bytes(),
        DType::I32,
        &[bytes / 4],
    )
}
