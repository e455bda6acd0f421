//! The devices that tests open.

use backend_cpu::Options;
use ops::{Accelerator, Ops};

/// The CPU as it is.
pub(crate) fn cpu() -> Accelerator {
    backend_cpu::open(&Options::default()).unwrap()
}

/// The CPU without kernels for operations that can be composed.
pub(crate) fn primitive() -> Accelerator {
    let Accelerator { device, ops } = cpu();
    let ops = Ops {
        attention: None,
        glu: None,
        add_rms_norm: None,
        add_layer_norm: None,
        ..ops
    };
    Accelerator { device, ops }
}
