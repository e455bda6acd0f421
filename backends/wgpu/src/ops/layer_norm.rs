//! Layer normalisation: a workgroup per row.

use std::sync::Arc;

use ops::LayerNorm;

use super::norm;
use crate::gpu::Gpu;
use crate::kernel::Planned;

const BODY: &str = concat!(
    include_str!("../../kernels/layer_row.wgsl"),
    include_str!("../../kernels/layer_norm.wgsl"),
);

pub(super) fn plan(gpu: &Arc<Gpu>, op: &LayerNorm) -> Planned {
    norm::plan(gpu, op, BODY, &[op.eps])
}
