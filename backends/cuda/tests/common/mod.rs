//! The stand-in for the vendor's libraries, in a process of its own.

use backend_emulator::stand_in::{StandIn, Vendor};

const NVIDIA: Vendor = Vendor {
    exports: concat!(
        include_str!("../stand_in/cuda.h"),
        include_str!("../stand_in/cublaslt.h")
    ),
    files: &["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13"],
    variable: "GLM_CUDA_LIBRARIES",
};

/// Runs `test`, the body of the test called `name`, in a process whose only NVIDIA device is the stand-in, with further
/// `settings` of its environment. Without a C++ compiler says so.
pub(crate) fn emulated(name: &str, settings: &[(&str, &str)], test: impl FnOnce(StandIn)) {
    emulated_without(name, settings, &[], test);
}

/// As [`emulated`], of a stand-in that lacks the functions, or libraries, `hidden`.
pub(crate) fn emulated_without(
    name: &str,
    settings: &[(&str, &str)],
    hidden: &[&str],
    test: impl FnOnce(StandIn),
) {
    NVIDIA.emulated(name, settings, hidden, test);
}
