//! The driver's error codes as errors of the workspace.

use backend_runtime::{Code, OUT_OF_MEMORY};
use hal::{Error, ErrorKind};

use crate::symbols::Driver;

const STUB_LIBRARY: Code = 34;
const DEVICE_UNAVAILABLE: Code = 46;
const NO_DEVICE: Code = 100;
const SYSTEM_NOT_READY: Code = 802;
const DRIVER_MISMATCH: Code = 803;

/// Codes after which the context gives nothing but the same code, or after which nothing it gives can be trusted.
const LAST: [Code; 17] = [
    4,   // deinitialized
    201, // invalid context
    214, // uncorrectable memory error
    220, // uncorrectable NVLink error
    226, // contained
    700, // illegal address
    702, // launch timeout
    709, // context is destroyed
    710, // assert
    714, // hardware stack error
    715, // illegal instruction
    716, // misaligned address
    717, // invalid address space
    718, // invalid program counter
    719, // launch failed
    721, // tensor memory leak
    999, // unknown
];

/// Codes of a module that this driver or device does not take.
const UNLOADABLE: [Code; 8] = [
    200, // invalid image
    209, // no binary for this GPU
    218, // invalid PTX
    221, // no JIT compiler
    222, // PTX of a newer toolkit
    223, // JIT compilation disabled
    300, // invalid source
    500, // not found
];

/// Whether nothing else will come of the device after `code`.
pub(crate) fn is_last(code: Code) -> bool {
    LAST.contains(&code)
}

/// What `code` means while `doing` something.
pub(crate) fn failure(driver: &Driver, doing: &str, code: Code) -> Error {
    let (kind, next) = match code {
        OUT_OF_MEMORY => (
            ErrorKind::OutOfMemory,
            "choose a smaller model, --dtype or context; close other programs that use the device",
        ),
        NO_DEVICE => (ErrorKind::NotFound, driver.vendor.lists_devices),
        STUB_LIBRARY => (
            ErrorKind::NotFound,
            "take the toolkit's folder of stubs out of the search path",
        ),
        DEVICE_UNAVAILABLE => (
            ErrorKind::NotFound,
            "it is in use by another process in exclusive mode: end that, or choose another device",
        ),
        SYSTEM_NOT_READY => (
            ErrorKind::NotFound,
            "start nvidia-fabricmanager, or wait until it is up",
        ),
        DRIVER_MISMATCH => (
            ErrorKind::NotFound,
            "the library and the kernel module are of different versions: restart the machine",
        ),
        801 => (
            ErrorKind::Unsupported,
            "report this with the device's name and the driver's version",
        ),
        _ if is_last(code) => (ErrorKind::DeviceLost, "open the device again"),
        _ if UNLOADABLE.contains(&code) => (
            ErrorKind::CompileFailed,
            "remove the folder of kept programs; update the driver",
        ),
        _ => (
            ErrorKind::Unexpected,
            "report this with the device's name and the driver's version",
        ),
    };
    let title = driver.vendor.title;
    let detail = format!("{title} error {code} ({})", driver.describe(code));
    Error::new(kind, doing, detail).next_step(next)
}
