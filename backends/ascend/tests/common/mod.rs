//! The stand-in for CANN's libraries, in a process of its own.

use backend_emulator::stand_in::Vendor;

/// CANN, all in one library under each of its names.
pub(crate) const CANN: Vendor = Vendor {
    exports: concat!(
        include_str!("../stand_in/acl.h"),
        include_str!("../stand_in/operators.h")
    ),
    files: &["libascendcl.so", "libnnopbase.so", "libopapi.so"],
    variable: "GLM_ASCEND_LIBRARIES",
};
