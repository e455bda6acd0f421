//! The runtime's error codes as errors of the workspace.

use backend_runtime::{Code, OUT_OF_MEMORY};
use hal::{Error, ErrorKind};

use crate::symbols::Driver;

const INSUFFICIENT_DRIVER: Code = 35;
const NO_DEVICE: Code = 100;
const INVALID_DEVICE: Code = 101;
pub(crate) const NOT_SUPPORTED: Code = 801;

/// Codes after which a device gives nothing but the same code, or after which nothing it gives can be trusted.
const LAST: [Code; 9] = [
    4,   // deinitialized
    201, // invalid context
    214, // uncorrectable memory error
    700, // illegal address
    702, // launch timeout
    709, // context is destroyed
    710, // assert
    719, // launch failure
    999, // unknown
];

/// Codes of a module that this runtime or device does not take.
const UNLOADABLE: [Code; 8] = [
    200, // invalid image
    209, // no binary for this GPU
    218, // invalid kernel file
    300, // invalid source
    301, // file not found
    302, // symbol of a shared object not found
    303, // a shared object does not start
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
        NO_DEVICE | INVALID_DEVICE => (
            ErrorKind::NotFound,
            "`rocminfo` (AMD) and `hy-smi` (Hygon) list the devices; the user needs /dev/kfd and /dev/dri (groups render and \
             video); HIP_VISIBLE_DEVICES may hide some",
        ),
        INSUFFICIENT_DRIVER => (
            ErrorKind::NotFound,
            "update the kernel's driver, or take a runtime of its age",
        ),
        NOT_SUPPORTED => (
            ErrorKind::Unsupported,
            "report this with the device's name and the runtime's version",
        ),
        // Unlike a context of CUDA, HIP's is the process's own.
        _ if is_last(code) => (ErrorKind::DeviceLost, "start the program again"),
        _ if UNLOADABLE.contains(&code) => (
            ErrorKind::CompileFailed,
            "remove the folder of kept programs; take runtime and compiler of one release",
        ),
        _ => (
            ErrorKind::Unexpected,
            "report this with the device's name and the runtime's version",
        ),
    };
    let detail = format!("HIP error {code} ({})", driver.describe(code));
    Error::new(kind, doing, detail).next_step(next)
}
