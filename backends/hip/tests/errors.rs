//! What users see when something is missing, of another release, or fails: typed errors, no panic, nothing left behind.

mod common;

use std::path::PathBuf;

use backend_emulator::stand_in::{self, Functions, StandIn, Vendor};
use hal::{DType, Error, ErrorKind, Result};
use ops::{Accelerator, Context, StridedCopy};

use common::AMD;

const FUNCTIONS: Functions<'_> = Functions {
    in_drops: &[
        "hipDeviceSynchronize",
        "hipEventDestroy",
        "hipEventRecord",
        "hipEventSynchronize",
        "hipFreeAsync",
        "hipGraphDestroy",
        "hipGraphExecDestroy",
        "hipHostFree",
        "hipModuleUnload",
        "hipSetDevice",
        "hipStreamDestroy",
        "hipStreamEndCapture",
        "hipStreamWaitEvent",
    ],
    compiler: "hiprtc",
    alloc: "hipMallocAsync",
    fact: Some("hipDeviceGetAttribute"),
    load: "hipModuleLoadData",
};

fn open() -> Result<Accelerator> {
    backend_hip::open("hip:0")
}

#[test]
fn a_failure_of_any_call_is_a_typed_error() {
    let name = "a_failure_of_any_call_is_a_typed_error";
    AMD.emulated(name, &[], &[], |stand_in| {
        stand_in::fail_each(&stand_in, open, FUNCTIONS);
    });
}

#[test]
fn a_lost_device_says_so_until_the_program_starts_again() {
    let name = "a_lost_device_says_so_until_the_program_starts_again";
    AMD.emulated(name, &[], &[], |stand_in| {
        // The stand-in takes what is opened again for a new process.
        let says = ["hipErrorIllegalAddress", "start the program again"];
        stand_in::lose_device(&stand_in, open, &says);
    });
}

/// The error of an allocation that fails twice.
fn outlasting(stand_in: &StandIn, alloc: impl FnOnce() -> Result<()>) -> Error {
    stand_in.fail("hipMallocAsync", -2, 2);
    let e = alloc().unwrap_err();
    stand_in.fail("", 0, 0);
    e
}

#[test]
fn out_of_memory_says_what_is_in_use() {
    let name = "out_of_memory_says_what_is_in_use";
    AMD.emulated(name, &[], &[], |stand_in| {
        let accelerator = backend_hip::open("hip:0").unwrap();
        let device = &accelerator.device;
        stand_in.fail("hipMallocAsync", 1, 2);
        drop(device.alloc(64).unwrap());
        let calls = stand_in.calls();
        assert!(calls.iter().any(|call| call == "hipMemPoolTrimTo"));
        let e = outlasting(&stand_in, || device.alloc(64).map(drop));
        assert_eq!(e.kind(), ErrorKind::OutOfMemory, "{e}");
        assert!(e.to_string().contains("in use, by all programs"), "{e}");
        drop(device.alloc(64).unwrap());
    });
}

#[test]
fn what_the_compiler_says_is_told() {
    let kept = std::env::temp_dir().join(format!("glm-hip-{}", std::process::id()));
    let settings = [("GLM_CACHE", kept.to_str().unwrap())];
    AMD.emulated(
        "what_the_compiler_says_is_told",
        &settings,
        &[],
        |stand_in| {
            let plan = || {
                let context = Context::new(backend_hip::open("hip:0")?);
                context.plan(StridedCopy { dtype: DType::U8 }).map(drop)
            };
            for function in [
                "hiprtcCreateProgram",
                "hiprtcCompileProgram",
                "hiprtcGetCodeSize",
                "hiprtcGetCode",
            ] {
                stand_in.fail(function, 1, 6);
                let e = plan().unwrap_err();
                assert_eq!(e.kind(), ErrorKind::CompileFailed, "{function}: {e}");
                assert!(e.to_string().contains("HIPRTC_ERROR_COMPILATION"), "{e}");
                assert_eq!(stand_in.live(), [""; 0], "{function}");
            }
            stand_in.fail("hiprtcVersion", 1, 11);
            assert_eq!(plan().unwrap_err().kind(), ErrorKind::Unexpected);
            plan().unwrap();
            // It is kept now, and not compiled again.
            stand_in.fail("hiprtcCompileProgram", 1, 6);
            plan().unwrap();
            stand_in.fail("", 0, 0);
            // What is kept may be of another device than its name says.
            stand_in.fail("hipModuleLoadData", 1, 209);
            plan().unwrap();
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
    let _ = std::fs::remove_dir_all(kept);
}

#[test]
fn a_runtime_that_does_not_start_is_explained() {
    let name = "a_runtime_that_does_not_start_is_explained";
    AMD.emulated(name, &[], &[], |stand_in| {
        for (code, kind, says) in [
            (35, ErrorKind::NotFound, "update the kernel's driver"),
            (100, ErrorKind::NotFound, "hy-smi"),
            (101, ErrorKind::NotFound, "/dev/kfd"),
            (801, ErrorKind::Unsupported, "runtime's version"),
            (123_456, ErrorKind::Unexpected, "123456"),
        ] {
            stand_in.fail("hipInit", 1, code);
            let e = backend_hip::devices().unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains(says), "{e}");
        }
        assert_eq!(backend_hip::devices().unwrap().len(), 1);
    });
}

/// Opening `hip:0` fails in this way; the error.
fn refused(name: &str, settings: &[(&str, &str)], hidden: &[&str], kind: ErrorKind, says: &str) {
    AMD.emulated(name, settings, hidden, |stand_in| {
        stand_in.refused(backend_hip::open("hip:0"), kind, says);
    });
}

#[test]
fn a_runtime_without_a_function_is_named() {
    let name = "a_runtime_without_a_function_is_named";
    let hidden = ["hipMemcpyHtoDAsync"];
    let says = "has no hipMemcpyHtoDAsync";
    refused(name, &[], &hidden, ErrorKind::NotFound, says);
}

#[test]
fn a_machine_without_devices_says_so() {
    let settings = [("STAND_IN_DEVICES", "0")];
    let name = "a_machine_without_devices_says_so";
    refused(name, &settings, &[], ErrorKind::NotFound, "HIP error 100");
}

#[test]
fn a_device_without_an_architecture_is_refused() {
    let settings = [("STAND_IN_ARCH", "unknown")];
    let name = "a_device_without_an_architecture_is_refused";
    let says = "does not name its architecture";
    refused(name, &settings, &[], ErrorKind::Unsupported, says);
}

#[test]
fn a_device_of_other_waves_is_refused() {
    let settings = [("STAND_IN_WAVE", "48")];
    let name = "a_device_of_other_waves_is_refused";
    let says = "HIP 6.3.42134's device attributes are not known";
    refused(name, &settings, &[], ErrorKind::Unsupported, says);
}

/// The names of the compiler's functions that make a library no compiler.
const COMPILER: [&str; 2] = ["hiprtcCreateProgram", "hiprtcCompileProgram"];

#[test]
fn a_compiler_beside_the_runtime_is_found() {
    // Two libraries in two folders: a runtime that does not compile, and a compiler of the same release.
    const HIPRTC: Vendor = Vendor {
        files: &["libhiprtc.so.6"],
        ..AMD
    };
    let name = "a_compiler_beside_the_runtime_is_found";
    let folders = [AMD.build(&COMPILER), HIPRTC.build(&[])];
    let [Ok(runtime), Ok(compiler)] = folders else {
        return conformance::skip("stand-in", "there is no C++ compiler");
    };
    let both = std::env::join_paths([runtime, compiler.clone()]).unwrap();
    let settings = [(AMD.variable, both.to_str().unwrap())];
    AMD.emulated(name, &settings, &COMPILER, |_| {
        stand_in::works(open);
        let detail = backend_hip::open("hip")
            .unwrap()
            .device
            .info()
            .detail
            .clone();
        assert!(detail.contains("libhiprtc.so.6 for gfx90a"), "{detail}");
        let found = backend_hip::libraries();
        let beside = compiler.join("libhiprtc.so.6");
        assert!(found.compiler.iter().any(|place| place.path == beside));
        assert_eq!(found.driver[0].problem, None);
    });
}

#[test]
fn a_release_before_6_works_too() {
    let name = "a_release_before_6_works_too";
    let hidden = ["hipGetDevicePropertiesR0600"];
    const OLDER: Vendor = Vendor {
        files: &["libamdhip64.so.5"],
        ..AMD
    };
    OLDER.emulated(name, &[], &hidden, |stand_in| {
        stand_in::works(open);
        let calls = stand_in.calls();
        assert!(calls.iter().any(|call| call == "hipGetDeviceProperties"));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn hygons_runtime_works_too() {
    let name = "hygons_runtime_works_too";
    let settings = [
        ("STAND_IN_DTK", "1"),
        ("STAND_IN_ARCH", "gfx936:sramecc+:xnack-"),
    ];
    let hidden = ["hipGetDevicePropertiesR0600"];
    const HYGON: Vendor = Vendor {
        files: &["libgalaxyhip.so.5"],
        ..AMD
    };
    HYGON.emulated(name, &settings, &hidden, |stand_in| {
        stand_in::works(open);
        let found = &backend_hip::devices().unwrap()[0];
        assert_eq!(found.target, "gfx936:sramecc+:xnack-");
        let limits = &found.limits;
        assert_eq!((limits.wave, limits.max_group), (64, 256));
        assert_eq!((limits.local_bytes, limits.parallelism), (64 << 10, 4));
        let calls = stand_in.calls();
        assert!(!calls.iter().any(|call| call == "hipMallocAsync"));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_runtime_without_captures_says_so() {
    let name = "a_runtime_without_captures_says_so";
    AMD.emulated(name, &[], &["hipGraphLaunch"], |_| {
        let device = backend_hip::open("hip:0").unwrap().device;
        let detail = &device.info().detail;
        assert!(detail.contains("no captures"), "{detail}");
        let mut stream = device.stream().unwrap();
        let e = stream.begin_capture().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        stream.synchronize().unwrap();
    });
}

#[test]
fn devices_are_listed_with_their_peers() {
    let settings = [("STAND_IN_DEVICES", "3"), ("STAND_IN_ARCH", "gfx908")];
    let name = "devices_are_listed_with_their_peers";
    AMD.emulated(name, &settings, &[], |stand_in| {
        let all = backend_hip::devices().unwrap();
        let specs: Vec<&str> = all.iter().map(|found| found.spec.as_str()).collect();
        assert_eq!(specs, ["hip:0", "hip:1", "hip:2"]);
        let one = backend_hip::open("hip:1").unwrap();
        let info = one.device.info();
        assert_eq!(info.spec, "hip:1");
        for part in ["for gfx908", "reaches hip:0 hip:2", "waves of 64"] {
            assert!(info.detail.contains(part), "{}", info.detail);
        }
        let e = backend_hip::open("hip:3").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().contains("hip:0, hip:1, hip:2"), "{e}");
        drop(one);
        assert_eq!(stand_in.live(), [""; 0]);
        let found = backend_hip::libraries();
        let folder = PathBuf::from(std::env::var_os(AMD.variable).unwrap());
        assert_eq!(found.driver[0].path, folder.join(AMD.files[0]));
        assert_eq!(found.driver[0].problem, None);
        assert_eq!(found.compiler[0].path, folder.join(AMD.files[0]));
        assert_eq!(found.folders[0], folder);
    });
}
