//! Layer normalisation.

use std::sync::Arc;

use ops::LayerNorm;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, source};

use super::norm;

const SOURCE: Source = source!("layer_norm", "reduce.h", "norm.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &LayerNorm) -> Planned {
    norm::plan(chip, &SOURCE, op.dtype, &[op.eps])
}
