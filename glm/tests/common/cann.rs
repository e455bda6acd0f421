//! The stand-in for Ascend's libraries.

use backend_emulator::stand_in::Vendor;

pub(crate) const CANN: Vendor = Vendor {
    exports: concat!(
        include_str!("../../../backends/ascend/tests/stand_in/acl.h"),
        include_str!("../../../backends/ascend/tests/stand_in/operators.h")
    ),
    files: &["libascendcl.so", "libnnopbase.so", "libopapi.so"],
    variable: "GLM_ASCEND_LIBRARIES",
};
