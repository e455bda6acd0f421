//! RMS normalisation: a workgroup per row.

use std::sync::Arc;

use ops::RmsNorm;

use super::norm;
use crate::gpu::Gpu;
use crate::kernel::Planned;

const BODY: &str = concat!(
    include_str!("../../kernels/rms_row.wgsl"),
    include_str!("../../kernels/rms_norm.wgsl"),
);

pub(super) fn plan(gpu: &Arc<Gpu>, op: &RmsNorm) -> Planned {
    norm::plan(gpu, op, BODY, &[op.eps])
}
