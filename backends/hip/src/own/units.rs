//! Which units of a chip kernels of ours can use: asked by compiling a kernel that does, so that there is no list of chips.

use std::sync::Arc;

use backend_simt::kit::{Chip, DIALECT, EIGHT};
use backend_simt::{SimtDriver, Source};
use hal::{ErrorKind, Result};

const DOT: Source = Source {
    name: "hip_probe_dot",
    parts: &[
        DIALECT,
        EIGHT,
        include_str!("../../kernels/dot.h"),
        include_str!("../../kernels/probe_dot.h"),
    ],
    begins_early: false,
};
const MATRIX: Source = Source {
    name: "hip_probe_mfma",
    parts: &[
        DIALECT,
        EIGHT,
        include_str!("../../kernels/mfma.h"),
        include_str!("../../kernels/probe_mfma.h"),
    ],
    begins_early: false,
};

/// Work-items of a wave that uses matrix units.
pub(super) const MATRIX_WAVE: usize = 64;

/// What a chip has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// Sums of two products of f16 in f32.
    pub dot: bool,
    /// Matrix units for f16.
    pub matrix_f16: bool,
    /// Matrix units for bf16.
    pub matrix_bf16: bool,
}

impl Units {
    /// What a compiler knows of: `compiles` says whether it takes a program.
    ///
    /// # Errors
    /// Those of `compiles`.
    pub fn ask(
        mut compiles: impl FnMut(&Source, &[(&'static str, String)]) -> Result<bool>,
    ) -> Result<Self> {
        let one = || String::from("1");
        let dot = compiles(&DOT, &[("X_IS_f16", one())])?;
        let matrix_f16 = compiles(&MATRIX, &[("X_IS_f16", one())])?;
        // No chip has matrix units for bf16 alone, and what does not compile is not kept.
        let matrix_bf16 = matrix_f16 && compiles(&MATRIX, &[("X_IS_bf16", one())])?;
        Ok(Self {
            dot,
            matrix_f16,
            matrix_bf16,
        })
    }

    /// What `chip` has, in waves of its own.
    ///
    /// # Errors
    /// What the driver reports, but for programs that do not compile.
    pub(crate) fn of<D: SimtDriver>(chip: &Arc<Chip<D>>) -> Result<Self> {
        let units = Self::ask(|source, defines| {
            match chip.kernel(source, "probe", MATRIX_WAVE, defines) {
                Ok(_) => Ok(true),
                Err(e) if e.kind() == ErrorKind::CompileFailed => Ok(false),
                Err(e) => Err(e),
            }
        })?;
        Ok(match chip.driver().limits().wave {
            MATRIX_WAVE => units,
            _ => units.without_matrices(),
        })
    }

    fn without_matrices(self) -> Self {
        Self {
            matrix_f16: false,
            matrix_bf16: false,
            ..self
        }
    }

    /// Without those that take f16 numbers below 2⁻¹⁴ for zero.
    pub(super) fn without_f16(self) -> Self {
        Self {
            dot: false,
            matrix_f16: false,
            ..self
        }
    }
}
