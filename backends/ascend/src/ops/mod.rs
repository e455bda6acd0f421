//! One file per operation: which operators it is made of.

mod activation;
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
mod mask;
mod matmul;
mod rms_norm;
mod rope;
mod sample;
mod softmax;
mod top_k;
mod weight;

use std::sync::Arc;

use ::ops::{Op, Ops, Planner};

use crate::planned::{Npu, Planned};

/// Operations that always take several of the library's operators, and why. Beside these, `rope_kv_write`, `add_rms_norm` and
/// `add_layer_norm` compose as `ops` says, and so does `attention` where the library's own does not take it; a factor, an
/// epilogue or integers take more than one operator too.
pub const COMPOSED: &[(&str, &str)] = &[
    (
        "attention",
        "the library's own takes lengths from the host: a mask is made of those in device memory",
    ),
    ("embedding", "ids that name no row stop the chip"),
    (
        "kv_write",
        "a slot that is none stops the chip, and none can be left out",
    ),
    (
        "rope",
        "the library's operators take whole heads of 128 elements, and tables of their type",
    ),
    (
        "sample",
        "no operator draws with Philox, penalties and cuts",
    ),
    (
        "softmax",
        "no operator takes a mask whose lengths lie in device memory",
    ),
    (
        "top_k",
        "the library's own does not say which of equal elements comes first",
    ),
];

/// The planners of a device. Sums with a norm compose from these.
pub(crate) fn table(npu: &Npu) -> Ops {
    Ops {
        activation: planner(npu, activation::plan),
        argmax: planner(npu, argmax::plan),
        attention: planner(npu, attention::plan),
        batched_matmul: planner(npu, batched_matmul::plan),
        cast: planner(npu, cast::plan),
        copy: planner(npu, copy::plan),
        elementwise: planner(npu, elementwise::plan),
        embedding: planner(npu, embedding::plan),
        glu: planner(npu, glu::plan),
        kv_write: planner(npu, kv_write::plan),
        layer_norm: planner(npu, layer_norm::plan),
        matmul: planner(npu, matmul::plan),
        rms_norm: planner(npu, rms_norm::plan),
        rope: planner(npu, rope::plan),
        sample: planner(npu, sample::plan),
        softmax: planner(npu, softmax::plan),
        top_k: planner(npu, top_k::plan),
        ..Ops::none()
    }
}

fn planner<O: Op>(npu: &Npu, plan: fn(&Npu, &O) -> Planned) -> Option<Arc<dyn Planner<O>>> {
    let npu = npu.clone();
    Some(Arc::new(move |op: &O| plan(&npu, op)))
}
