//! The stand-in for the runtime and for the library of products beside it, in a process of its own.

use backend_emulator::stand_in::{StandIn, Vendor};

pub(crate) const BOTH: Vendor = Vendor {
    exports: concat!(
        include_str!("../stand_in/hip.h"),
        include_str!("../stand_in/rocblas.h")
    ),
    files: &["libamdhip64.so.6", "librocblas.so.4"],
    variable: "GLM_HIP_LIBRARIES",
};

/// Runs `test`, the body of the test called `name`, in a process whose only device is the first chip, with the library of products
/// and kernels of that for the second; with further `settings`, without the functions and libraries `hidden`.
pub(crate) fn with_library(
    name: &str,
    [chip, kernels]: [&str; 2],
    settings: &[(&str, &str)],
    hidden: &[&str],
    test: impl FnOnce(StandIn),
) {
    let folder = std::env::temp_dir().join(format!("glm-hip-kernels-{kernels}"));
    let file = folder.join(format!("TensileLibrary_lazy_{kernels}.dat"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(file, "").unwrap();
    let mut all = vec![
        ("STAND_IN_ARCH", chip),
        ("ROCBLAS_TENSILE_LIBPATH", folder.to_str().unwrap()),
    ];
    all.extend(settings);
    BOTH.emulated(name, &all, hidden, test);
}
