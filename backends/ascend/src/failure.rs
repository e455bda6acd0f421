//! The codes of AscendCL and of the operators as errors of the workspace.

use backend_runtime::{ABSENT, Code};
use hal::{Error, ErrorKind};

use crate::libraries::Library;
use crate::operators::Status;

/// `ACL_ERROR_REPEAT_INITIALIZE`: somebody in this process has called `aclInit`.
pub(crate) const ALREADY: Code = 100_002;

/// Codes of memory that is not there.
const NO_MEMORY: [Code; 4] = [
    200_000, // bad alloc
    207_001, // memory allocation
    207_005, // resource
    207_018, // device out of memory
];

/// Codes of devices that are not there.
const NO_DEVICE: [Code; 4] = [
    107_001, // invalid device
    207_004, // no device
    207_006, // no permission
    507_033, // device setup
];

/// `ACL_ERROR_RT_FEATURE_NOT_SUPPORT`, and what this release does not have.
const NOT_SUPPORTED: [Code; 2] = [207_000, ABSENT];

/// Codes after which nothing that a device gives can be trusted.
const LAST: &[(Code, Code)] = &[
    (107_022, 107_023), // aborting
    (500_004, 500_004), // driver
    (507_010, 507_018), // heartbeat, copies, timeouts and exceptions of the cores
    (507_034, 507_036), // vector cores
    (507_042, 507_045), // reads and writes outside of memory
    (507_048, 507_050), // several cores
    (507_053, 507_057), // memory, links
    (507_899, 507_901), // driver
];

/// Whether nothing else will come of the device after `code`.
pub(crate) fn is_last(code: Code) -> bool {
    LAST.iter().any(|(from, to)| (*from..=*to).contains(&code))
}

pub(crate) fn is_no_memory(code: Code) -> bool {
    NO_MEMORY.contains(&code)
}

const REPORT: &str = "report this with the device's name and CANN's version";
const SMALLER: &str =
    "choose a smaller model, --dtype or context; close other programs that use the device";

/// What `code` means while `doing` something.
pub(crate) fn failure(library: &Library, doing: &str, code: Code) -> Error {
    let (kind, next) = match code {
        _ if is_no_memory(code) => (ErrorKind::OutOfMemory, SMALLER),
        _ if NO_DEVICE.contains(&code) => (
            ErrorKind::NotFound,
            "`npu-smi info` lists the devices; the user needs /dev/davinci* (group HwHiAiUser); ASCEND_RT_VISIBLE_DEVICES may \
             hide some",
        ),
        _ if NOT_SUPPORTED.contains(&code) => (ErrorKind::Unsupported, REPORT),
        _ if is_last(code) => (
            ErrorKind::DeviceLost,
            "open the device again; `npu-smi info` says whether it is well; plog files in ~/ascend/log say more",
        ),
        _ => (ErrorKind::Unexpected, REPORT),
    };
    let detail = format!("AscendCL error {code}{}", library.recent());
    Error::new(kind, doing, detail).next_step(next)
}

/// Whether an operator refuses what it was given, rather than that its device failed.
pub(crate) fn is_refusal(status: Status) -> bool {
    matches!(status, 161_001 | 161_002 | 561_000..=561_999)
}

/// What such a `status` of the operator `name` means.
pub(crate) fn refusal(library: &Library, name: &str, status: Status) -> Error {
    let detail = format!("aclnn status {status}{}", library.recent());
    Error::unsupported(format!("run {name}"), detail).next_step(
        "this operator of this CANN release does not take these arguments: choose another --dtype or a newer release, and \
         report it with the device's name",
    )
}
