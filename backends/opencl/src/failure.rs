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

/// What kind of call failed: `CL_OUT_OF_RESOURCES` means another thing for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// It makes something: a context, memory, a program, a queue; or asks for a fact.
    Make,
    /// It queues work, for which a runtime may first have to place memory on the device.
    Queue,
    /// It waits for queued work.
    Wait,
}

/// What `code` of such a call means while `doing` something.
pub(crate) fn failure(doing: &'static str, call: Call, code: ClError) -> Error {
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
        OUT_OF_RESOURCES => match call {
            Call::Make => (
                ErrorKind::OutOfMemory,
                "choose a smaller model or context; close other programs that use the device",
            ),
            Call::Queue => (
                ErrorKind::Unexpected,
                "if the device's memory is nearly full, choose a smaller model or context; else an earlier kernel \
                 failed: open the device again, and run `glm conform` on it",
            ),
            // NVIDIA's runtime says so of a kernel that accessed foreign memory or ran into the watchdog.
            Call::Wait => (
                ErrorKind::DeviceLost,
                "a kernel failed: open the device again, and run `glm conform` on it",
            ),
        },
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
        use Call::{Make, Queue, Wait};
        use ErrorKind::{CompileFailed, DeviceLost, NotFound, OutOfMemory, Unexpected};
        for (call, code, kind, says) in [
            (Make, NO_LOADER, NotFound, "ocl-icd-libopencl1"),
            (Make, NO_PLATFORM, NotFound, "pocl-opencl-icd"),
            (Make, MEM_OBJECT_ALLOCATION_FAILURE, OutOfMemory, "smaller"),
            (Queue, MEM_OBJECT_ALLOCATION_FAILURE, OutOfMemory, "smaller"),
            (Wait, OUT_OF_HOST_MEMORY, OutOfMemory, "smaller"),
            (Make, OUT_OF_RESOURCES, OutOfMemory, "close other programs"),
            (
                Queue,
                OUT_OF_RESOURCES,
                Unexpected,
                "an earlier kernel failed",
            ),
            (Wait, OUT_OF_RESOURCES, DeviceLost, "a kernel failed"),
            (Wait, ILLEGAL_ACCESS, DeviceLost, "open the device again"),
            (
                Queue,
                INVALID_COMMAND_QUEUE,
                DeviceLost,
                "open the device again",
            ),
            (Make, BUILD_PROGRAM_FAILURE, CompileFailed, "log"),
            (Queue, -30, Unexpected, "-30"),
        ] {
            let e = failure("try", call, ClError(code));
            assert_eq!(e.kind(), kind, "{call:?} {code}");
            assert!(e.to_string().contains(says), "{e}");
            assert!(e.next().is_some(), "{e}");
        }
    }
}
