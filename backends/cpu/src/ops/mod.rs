//! One file per operation: planner, kernels, and the choice among them.

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
mod kv_cache;
mod kv_write;
mod layer_norm;
mod matmul;
mod native;
mod rms_norm;
mod rope;
mod rope_kv_write;
mod sample;
mod softmax;
mod strided;
mod tensor;
#[cfg(test)]
mod testing;
mod top_k;
mod vector;

use ops::Ops;

use crate::device::Cpu;
use native::planner;

/// What the CPU can do.
pub(crate) fn table(cpu: &Cpu) -> Ops {
    Ops {
        embedding: planner(cpu, embedding::plan),
        matmul: planner(cpu, matmul::plan),
        batched_matmul: planner(cpu, batched_matmul::plan),
        softmax: planner(cpu, softmax::plan),
        attention: planner(cpu, attention::plan),
        kv_write: planner(cpu, kv_write::plan),
        rope: planner(cpu, rope::plan),
        rope_kv_write: planner(cpu, rope_kv_write::plan),
        rms_norm: planner(cpu, rms_norm::plan),
        layer_norm: planner(cpu, layer_norm::plan),
        add_rms_norm: planner(cpu, add_rms_norm::plan),
        add_layer_norm: planner(cpu, add_layer_norm::plan),
        glu: planner(cpu, glu::plan),
        activation: planner(cpu, activation::plan),
        elementwise: planner(cpu, elementwise::plan),
        cast: planner(cpu, cast::plan),
        copy: planner(cpu, copy::plan),
        argmax: planner(cpu, argmax::plan),
        top_k: planner(cpu, top_k::plan),
        sample: planner(cpu, sample::plan),
    }
}
