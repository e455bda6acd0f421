//! Residual sum and RMS normalisation.

use std::sync::Arc;

use ops::AddRmsNorm;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, source};

use super::norm;

const SOURCE: Source = source!("add_rms_norm", "reduce.h", "norm.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &AddRmsNorm) -> Planned {
    norm::plan(chip, &SOURCE, op.dtype, &[op.alpha, op.eps])
}
