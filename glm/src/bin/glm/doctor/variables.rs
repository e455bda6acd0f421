//! Environment variables that decide which devices and drivers are seen, and their traps.

use std::env;

use glm::backends;

use super::Finding;
use crate::codes::Severity;

const AREA: &str = "variables";

const ASCEND: &str = "ASCEND_RT_VISIBLE_DEVICES";
const CUDA: &str = "CUDA_VISIBLE_DEVICES";

/// Lists of visible devices.
const VISIBLE: &[&str] = &[
    CUDA,
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    ASCEND,
    "MUSA_VISIBLE_DEVICES",
    "MTHREADS_VISIBLE_DEVICES",
];

/// Those that filter AMD's and Hygon's devices one after the other.
const FILTERS: [&str; 3] = [
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
];

/// Launches wait for each other under these.
const SLOW: &[&str] = &[
    "CUDA_LAUNCH_BLOCKING",
    "HIP_LAUNCH_BLOCKING",
    "AMD_SERIALIZE_KERNEL",
    "ASCEND_LAUNCH_BLOCKING",
];

/// Others that choose drivers or devices.
const CHOOSING: &[&str] = &[
    "OCL_ICD_VENDORS",
    "OPENCL_DYLIB_PATH",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "WGPU_BACKEND",
    "WGPU_ADAPTER_NAME",
    "GLM_CPU_LEVEL",
];

/// Lists of paths of ours, which must exist.
const PATHS: &[&str] = &[
    "GLM_ASCEND_LIBRARIES",
    "GLM_CUDA_LIBRARIES",
    "GLM_HIP_LIBRARIES",
    "GLM_MUSA_LIBRARIES",
    "GLM_PLUGINS",
];

pub(super) fn check() -> Vec<Finding> {
    // Without what nobody set; values that are no text are shown as well as may be.
    let set = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let mut found = Vec::new();
    for &variable in VISIBLE {
        if let Some(value) = set(variable) {
            found.push(visible(variable, &value));
        }
    }
    let filters: Vec<&str> = FILTERS
        .into_iter()
        .filter(|name| set(name).is_some())
        .collect();
    for pair in filters.windows(2) {
        let values = [
            ("variable", pair[0].to_owned()),
            ("other", pair[1].to_owned()),
        ];
        found.push(Finding::new("GLM-D044", AREA, values));
    }
    let mut tell = |code, names: &[&'static str], shown: &dyn Fn(&str) -> bool| {
        for &variable in names {
            if let Some(value) = set(variable).filter(|value| shown(value)) {
                let values = [("variable", variable.to_owned()), ("value", value)];
                found.push(Finding::new(code, AREA, values));
            }
        }
    };
    let filled = |value: &str| !value.is_empty();
    tell("GLM-D045", &["HSA_OVERRIDE_GFX_VERSION"], &filled);
    tell("GLM-D046", SLOW, &|value| filled(value) && value != "0");
    tell("GLM-D040", CHOOSING, &filled);
    for &variable in PATHS {
        let list = env::var_os(variable).unwrap_or_default();
        let missing = env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty() && !path.exists())
            .map(|path| {
                let path = path.display().to_string();
                let values = [("variable", variable.to_owned()), ("path", path)];
                Finding::new("GLM-D047", AREA, values)
            });
        found.extend(missing);
    }
    found
}

/// What a list of visible devices does.
fn visible(variable: &str, value: &str) -> Finding {
    let of = |code, more: Option<(&'static str, String)>| {
        let values = [
            ("variable", variable.to_owned()),
            ("value", value.to_owned()),
        ];
        Finding::new(code, AREA, values.into_iter().chain(more))
    };
    if value.is_empty() {
        return of("GLM-D041", None);
    }
    // Nothing of this build reads the list of a back end that it has not.
    let ascend_is_here = backends::NAMES.contains(&"ascend");
    let of_ascend = |finding: Finding| match ascend_is_here {
        true => finding.of_severity(Severity::Error),
        false => finding,
    };
    if variable == ASCEND && value.contains(char::is_whitespace) {
        let fixed: String = value.chars().filter(|c| !c.is_whitespace()).collect();
        return of_ascend(of("GLM-D042", Some(("fixed", fixed))));
    }
    match unseen(variable, value) {
        Some(entry) => {
            let finding = of("GLM-D043", Some(("entry", entry.to_owned())));
            match variable {
                ASCEND => of_ascend(finding),
                _ => finding,
            }
        }
        None => of("GLM-D040", None),
    }
}

/// The first entry that no device can have, where the driver's rules are known.
fn unseen<'v>(variable: &str, value: &'v str) -> Option<&'v str> {
    let mut before: Option<u64> = None;
    value.split(',').find(|entry| {
        let number = entry.trim().parse::<u64>().ok();
        let good = match variable {
            ASCEND => number.is_some_and(|n| before.is_none_or(|before| n > before)),
            CUDA => {
                let named = ["GPU-", "MIG-"];
                number.is_some() || named.iter().any(|named| entry.trim().starts_with(named))
            }
            _ => true,
        };
        before = number;
        !good
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_drivers_read_them() {
        for (variable, value, entry) in [
            (CUDA, "0,1", None),
            (CUDA, "1,0", None),
            (CUDA, "GPU-8932f937,MIG-0", None),
            (CUDA, "0,-1,1", Some("-1")),
            (CUDA, "none", Some("none")),
            (CUDA, "0,,1", Some("")),
            (ASCEND, "0,3,4", None),
            (ASCEND, "0,4,3", Some("3")),
            (ASCEND, "0,0", Some("0")),
            (ASCEND, "0,x", Some("x")),
            ("HIP_VISIBLE_DEVICES", "1,0", None),
        ] {
            assert_eq!(unseen(variable, value), entry, "{variable}={value}");
        }
    }

    #[test]
    fn each_trap_has_its_code() {
        for (variable, value, code) in [
            (CUDA, "", "GLM-D041"),
            ("HIP_VISIBLE_DEVICES", "", "GLM-D041"),
            (CUDA, "0,x", "GLM-D043"),
            (ASCEND, "0, 1", "GLM-D042"),
            (ASCEND, "1,0", "GLM-D043"),
            (ASCEND, "0,1", "GLM-D040"),
        ] {
            assert_eq!(visible(variable, value).code, code, "{variable}={value}");
        }
        let spaced = visible(ASCEND, "0, 1");
        assert_eq!(spaced.values["fixed"], "0,1");
    }
}
