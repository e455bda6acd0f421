//! Mutants of the residual sum with layer normalisation.

use ops::AddLayerNorm;

use super::{Change, residual};

pub(super) fn mutants() -> Vec<Change<AddLayerNorm>> {
    residual::mutants(
        |op| AddLayerNorm {
            alpha: 1.0,
            ..op.clone()
        },
        |op| AddLayerNorm {
            eps: 1e-30,
            ..op.clone()
        },
    )
}
