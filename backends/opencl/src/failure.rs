//! The runtime's error codes as errors of the workspace.

use hal::{Error, ErrorKind};
use opencl3::error_codes::ClError;

/// No loader library (a code of `cl3`, not of OpenCL).
const NO_LOADER: i32 = -2000;
/// The loader knows no driver.
const NO_PLATFORM: i32 = -1001;
const DEVICE_NOT_AVAILABLE: i32 = -2;
const COMPILER_NOT_AVAILABLE: i32 = -3;
const MEM_OBJECT_ALLOCATION_FAILURE: i32 = -4;
const OUT_OF_RESOURCES: i32 = -5;
const OUT_OF_HOST_MEMORY: i32 = -6;
const BUILD_PROGRAM_FAILURE: i32 = -11;
const INVALID_COMMAND_QUEUE: i32 = -36;
/// An illegal access on NVIDIA's runtime, which makes the context unusable.
const ILLEGAL_ACCESS: i32 = -9999;

/// What `code` means while `doing` something.
pub(crate) fn failure(doing: &'static str, code: ClError) -> Error {
    let (kind, next) = match code.0 {
        NO_LOADER => (
            ErrorKind::NotFound,
            "install the OpenCL loader (Debian: ocl-icd-libopencl1) and a driver for your device",
        ),
        NO_PLATFORM => (
            ErrorKind::NotFound,
            "install your vendor's OpenCL driver, or pocl-opencl-icd to use the CPU",
        ),
        MEM_OBJECT_ALLOCATION_FAILURE | OUT_OF_HOST_MEMORY => (
            ErrorKind::OutOfMemory,
            "choose a smaller model, --dtype or context",
        ),
        OUT_OF_RESOURCES => (
            ErrorKind::OutOfMemory,
            "choose a smaller model or context; close other programs that use the device",
        ),
        DEVICE_NOT_AVAILABLE | INVALID_COMMAND_QUEUE | ILLEGAL_ACCESS => {
            (ErrorKind::DeviceLost, "open the device again")
        }
        BUILD_PROGRAM_FAILURE => (ErrorKind::CompileFailed, "report the compiler's log"),
        COMPILER_NOT_AVAILABLE => (
            ErrorKind::Unsupported,
            "install a driver with an online compiler",
        ),
        _ => (
            ErrorKind::Unexpected,
            "report this with the driver's name and version",
        ),
    };
    let what = match code.0 {
        NO_LOADER => "there is no OpenCL loader library",
        NO_PLATFORM => "no OpenCL driver is installed",
        _ => "the OpenCL driver refused",
    };
    let detail = format!("{what} (error {}, {code})", code.0);
    Error::new(kind, doing, detail).next_step(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_class_and_a_next_step() {
        for (code, kind, says) in [
            (NO_LOADER, ErrorKind::NotFound, "ocl-icd-libopencl1"),
            (NO_PLATFORM, ErrorKind::NotFound, "pocl-opencl-icd"),
            (
                MEM_OBJECT_ALLOCATION_FAILURE,
                ErrorKind::OutOfMemory,
                "smaller",
            ),
            (
                INVALID_COMMAND_QUEUE,
                ErrorKind::DeviceLost,
                "open the device again",
            ),
            (BUILD_PROGRAM_FAILURE, ErrorKind::CompileFailed, "log"),
            (-30, ErrorKind::Unexpected, "-30"),
        ] {
            let e = failure("try", ClError(code));
            assert_eq!(e.kind(), kind);
            assert!(e.to_string().contains(says), "{e}");
        }
    }
}
