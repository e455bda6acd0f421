//! The stand-in for the vendors' library, in a process of its own.

use backend_emulator::stand_in::Vendor;

const EXPORTS: &str = include_str!("../stand_in/hip.h");
const VARIABLE: &str = "GLM_HIP_LIBRARIES";

/// AMD's runtime, with the compiler inside.
pub(crate) const AMD: Vendor = Vendor {
    exports: EXPORTS,
    files: &["libamdhip64.so.6"],
    variable: VARIABLE,
};
