//! Mutants of the residual sum with RMS normalisation.

use ops::AddRmsNorm;

use super::{Change, residual};

pub(super) fn mutants() -> Vec<Change<AddRmsNorm>> {
    residual::mutants(
        |op| AddRmsNorm {
            alpha: 1.0,
            ..op.clone()
        },
        |op| AddRmsNorm {
            eps: 1e-30,
            ..op.clone()
        },
    )
}
