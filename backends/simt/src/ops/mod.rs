//! The planners: one file per operation.

mod activation;
mod add_layer_norm;
mod add_rms_norm;
mod argmax;
pub(crate) mod attention;
mod batched_matmul;
mod cast;
mod copy;
mod elementwise;
mod embedding;
mod glu;
pub(crate) mod kv_write;
mod layer_norm;
pub(crate) mod matmul;
pub(crate) mod norm;
mod rms_norm;
mod rope;
pub(crate) mod rope_kv_write;
mod sample;
mod softmax;
mod top_k;
pub(crate) mod weight;

use std::sync::Arc;

use ops::{Ops, Planner};

use crate::device::Chip;
use crate::driver::SimtDriver;
use crate::launch::Planned;

/// Work-items of a group for kernels that handle elements one by one.
const ELEMENTS: usize = 128;

/// Work-items of a group for kernels that reduce a row.
const ROW: usize = 128;

/// Every operation of one device.
pub(crate) fn table<D: SimtDriver>(chip: &Arc<Chip<D>>) -> Ops {
    fn planner<D: SimtDriver, O: 'static>(
        chip: &Arc<Chip<D>>,
        plan: fn(&Arc<Chip<D>>, &O) -> Planned,
    ) -> Option<Arc<dyn Planner<O>>> {
        let chip = Arc::clone(chip);
        Some(Arc::new(move |op: &O| plan(&chip, op)))
    }
    Ops {
        embedding: planner(chip, embedding::plan),
        matmul: planner(chip, matmul::plan),
        batched_matmul: planner(chip, batched_matmul::plan),
        attention: planner(chip, attention::plan),
        softmax: planner(chip, softmax::plan),
        kv_write: planner(chip, kv_write::plan),
        rope: planner(chip, rope::plan),
        rope_kv_write: planner(chip, rope_kv_write::plan),
        rms_norm: planner(chip, rms_norm::plan),
        layer_norm: planner(chip, layer_norm::plan),
        add_rms_norm: planner(chip, add_rms_norm::plan),
        add_layer_norm: planner(chip, add_layer_norm::plan),
        glu: planner(chip, glu::plan),
        activation: planner(chip, activation::plan),
        elementwise: planner(chip, elementwise::plan),
        cast: planner(chip, cast::plan),
        copy: planner(chip, copy::plan),
        argmax: planner(chip, argmax::plan),
        top_k: planner(chip, top_k::plan),
        sample: planner(chip, sample::plan),
    }
}

/// The number of an activation in the kernels; 0: none.
pub fn activation_code(act: Option<ops::Act>) -> usize {
    match act {
        None => 0,
        Some(ops::Act::Silu) => 1,
        Some(ops::Act::GeluErf) => 2,
        Some(ops::Act::GeluTanh) => 3,
        Some(ops::Act::GeluQuick) => 4,
    }
}
