//! What users see when something is missing, too old, or fails: typed errors, no panic, nothing left behind.

mod common;

use std::path::PathBuf;

use backend_emulator::stand_in::{self, Functions, StandIn};
use hal::{DType, Error, ErrorKind, Result};
use ops::{Accelerator, Context, StridedCopy};

use common::{emulated, emulated_without};

const FUNCTIONS: Functions<'_> = Functions {
    in_drops: &[
        "cuCtxSetCurrent",
        "cuCtxSynchronize",
        "cuDevicePrimaryCtxRelease_v2",
        "cuEventDestroy_v2",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuGraphDestroy",
        "cuGraphExecDestroy",
        "cuMemFreeAsync",
        "cuMemFreeHost",
        "cuModuleUnload",
        "cuStreamDestroy_v2",
        "cuStreamEndCapture",
        "cuStreamWaitEvent",
        // The device goes without the library, and its detail says so.
        "cublasLtCreate",
        "cublasLtMatmulDescCreate",
        "cublasLtMatmulDescSetAttribute",
    ],
    compiler: "nvrtc",
    alloc: "cuMemAllocAsync",
    fact: None,
    load: "cuModuleLoadData",
};

fn open() -> Result<Accelerator> {
    backend_cuda::open("cuda:0")
}

#[test]
fn a_failure_of_any_call_is_a_typed_error() {
    emulated("a_failure_of_any_call_is_a_typed_error", &[], |stand_in| {
        stand_in::fail_each(&stand_in, open, FUNCTIONS);
    });
}

#[test]
fn a_lost_device_says_so_until_it_is_opened_again() {
    let name = "a_lost_device_says_so_until_it_is_opened_again";
    emulated(name, &[], |stand_in| {
        stand_in::lose_device(&stand_in, open, &["ILLEGAL_ADDRESS"]);
    });
}

#[test]
fn out_of_memory_says_what_is_in_use() {
    emulated("out_of_memory_says_what_is_in_use", &[], |stand_in| {
        let accelerator = backend_cuda::open("cuda:0").unwrap();
        let device = &accelerator.device;
        let half = device.memory().unwrap().total_bytes / 2 + 1;
        let first = device.alloc(half).unwrap();
        let text = device.alloc(half).unwrap_err().to_string();
        assert!(
            text.contains(&format!("{half} of")) && text.contains("smaller model"),
            "{text}"
        );
        // What was given back is there again, and another program's use is told by the driver.
        drop(first);
        drop(device.alloc(half).unwrap());
        stand_in.fail("cuMemAllocAsync", 1, 2);
        drop(device.alloc(64).unwrap());
        assert!(
            stand_in
                .calls()
                .iter()
                .any(|call| call == "cuMemPoolTrimTo")
        );
        let e = outlasting(&stand_in, || device.alloc(64).map(drop));
        assert_eq!(e.kind(), ErrorKind::OutOfMemory, "{e}");
        assert!(e.to_string().contains("in use, by all programs"), "{e}");
        drop(device.alloc(64).unwrap());
    });
}

/// The error of an allocation that fails twice.
fn outlasting(stand_in: &StandIn, alloc: impl FnOnce() -> Result<()>) -> Error {
    stand_in.fail("cuMemAllocAsync", -2, 2);
    let e = alloc().unwrap_err();
    stand_in.fail("", 0, 0);
    e
}

#[test]
fn what_the_compiler_says_is_told() {
    let kept = std::env::temp_dir().join(format!("glm-cuda-{}", std::process::id()));
    let settings = [("GLM_CACHE", kept.to_str().unwrap())];
    emulated("what_the_compiler_says_is_told", &settings, |stand_in| {
        let plan = || {
            let context = Context::new(backend_cuda::open("cuda:0")?);
            context.plan(StridedCopy { dtype: DType::U8 }).map(drop)
        };
        for function in [
            "nvrtcCreateProgram",
            "nvrtcCompileProgram",
            "nvrtcGetCUBINSize",
            "nvrtcGetCUBIN",
        ] {
            stand_in.fail(function, 1, 6);
            let e = plan().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::CompileFailed, "{function}: {e}");
            assert!(
                e.to_string().contains("NVRTC_ERROR_COMPILATION"),
                "{function}: {e}"
            );
            assert_eq!(stand_in.live(), [""; 0], "{function}");
        }
        for function in [
            "nvrtcVersion",
            "nvrtcGetNumSupportedArchs",
            "nvrtcGetSupportedArchs",
        ] {
            stand_in.fail(function, 1, 11);
            let e = plan().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotFound, "{function}: {e}");
        }
        plan().unwrap();
        // It is kept now, and not compiled again.
        stand_in.fail("nvrtcCompileProgram", 1, 6);
        plan().unwrap();
        stand_in.fail("", 0, 0);
        // What is kept may be of another driver than its name says.
        stand_in.fail("cuModuleLoadData", 1, 222);
        plan().unwrap();
        assert_eq!(stand_in.live(), [""; 0]);
    });
    let _ = std::fs::remove_dir_all(kept);
}

#[test]
fn a_text_that_does_not_compile_gives_the_log() {
    emulated(
        "a_text_that_does_not_compile_gives_the_log",
        &[],
        |stand_in| {
            let nvrtc = backend_cuda::Nvrtc::find(90, 13000).unwrap();
            let source = backend_simt::Source {
                name: "bad",
                parts: &["\nKERNEL bad(int *x) { x[0] = undeclared_name; }"],
                begins_early: false,
            };
            let defines = [("KERNEL", "extern\t\"C\"\tvoid".into())];
            let e = nvrtc
                .compile(&source, &defines, &nvrtc.target(90), &[])
                .unwrap_err();
            assert_eq!(e.kind(), ErrorKind::CompileFailed);
            let text = e.to_string();
            assert!(
                text.contains("undeclared_name") && text.contains("sm_90a"),
                "{text}"
            );
            let zero = backend_simt::Source {
                parts: &["\0"],
                begins_early: false,
                ..source
            };
            let e = nvrtc.compile(&zero, &[], "sm_90a", &[]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument);
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}

#[test]
fn a_driver_that_does_not_start_is_explained() {
    emulated(
        "a_driver_that_does_not_start_is_explained",
        &[],
        |stand_in| {
            for (code, kind, says) in [
                (34, ErrorKind::NotFound, "folder of stubs"),
                (46, ErrorKind::NotFound, "exclusive mode"),
                (100, ErrorKind::NotFound, "nvidia-smi"),
                (801, ErrorKind::Unsupported, "driver's version"),
                (802, ErrorKind::NotFound, "nvidia-fabricmanager"),
                (803, ErrorKind::NotFound, "restart the machine"),
                (123_456, ErrorKind::Unexpected, "123456"),
            ] {
                stand_in.fail("cuInit", 1, code);
                let e = backend_cuda::devices().unwrap_err();
                assert_eq!(e.kind(), kind, "{e}");
                assert!(e.to_string().contains(says), "{e}");
            }
            assert_eq!(backend_cuda::devices().unwrap().len(), 1);
        },
    );
}

/// Opening `cuda:0` under these settings fails; the error.
fn refused(name: &str, settings: &[(&str, &str)], hidden: &[&str], kind: ErrorKind, says: &str) {
    emulated_without(name, settings, hidden, |stand_in| {
        stand_in.refused(backend_cuda::open("cuda:0"), kind, says);
    });
}

#[test]
fn an_old_driver_is_named() {
    let settings = [("STAND_IN_DRIVER", "11040")];
    let says = "CUDA 11.4, 12.0 is needed";
    refused(
        "an_old_driver_is_named",
        &settings,
        &[],
        ErrorKind::Unsupported,
        says,
    );
}

#[test]
fn a_driver_without_a_function_is_named() {
    let hidden = ["cuMemAllocAsync"];
    let name = "a_driver_without_a_function_is_named";
    refused(
        name,
        &[],
        &hidden,
        ErrorKind::NotFound,
        "has no cuMemAllocAsync",
    );
}

#[test]
fn a_compiler_without_a_function_is_no_compiler() {
    let hidden = ["nvrtcGetCUBIN"];
    let name = "a_compiler_without_a_function_is_no_compiler";
    refused(
        name,
        &[("PATH", "/usr/bin:/bin")],
        &hidden,
        ErrorKind::NotFound,
        "NVRTC",
    );
}

#[test]
fn a_compiler_newer_than_the_driver_is_refused() {
    let settings = [("STAND_IN_DRIVER", "12040")];
    let name = "a_compiler_newer_than_the_driver_is_refused";
    refused(
        name,
        &settings,
        &[],
        ErrorKind::NotFound,
        "the driver, of CUDA 12.4, is too old for",
    );
}

#[test]
fn a_chip_older_than_the_compiler_is_refused() {
    let settings = [("STAND_IN_CHIP", "70")];
    let name = "a_chip_older_than_the_compiler_is_refused";
    refused(
        name,
        &settings,
        &[],
        ErrorKind::NotFound,
        "knows sm_75 and newer only",
    );
}

#[test]
fn a_machine_without_devices_says_so() {
    let settings = [("STAND_IN_DEVICES", "0")];
    refused(
        "a_machine_without_devices_says_so",
        &settings,
        &[],
        ErrorKind::NotFound,
        "CUDA error 100",
    );
}

#[test]
fn a_chip_newer_than_the_compiler_gets_ptx() {
    let settings = [("STAND_IN_CHIP", "123")];
    emulated("a_chip_newer_than_the_compiler_gets_ptx", &settings, |_| {
        stand_in::works(open);
        let detail = backend_cuda::open("cuda")
            .unwrap()
            .device
            .info()
            .detail
            .clone();
        assert!(detail.contains("for compute_120"), "{detail}");
    });
}

#[test]
fn devices_are_listed_with_their_peers() {
    let settings = [("STAND_IN_DEVICES", "3"), ("STAND_IN_CHIP", "86")];
    emulated(
        "devices_are_listed_with_their_peers",
        &settings,
        |stand_in| {
            let all = backend_cuda::devices().unwrap();
            let specs: Vec<&str> = all.iter().map(|found| found.spec.as_str()).collect();
            assert_eq!(specs, ["cuda:0", "cuda:1", "cuda:2"]);
            let one = backend_cuda::open("cuda:1").unwrap();
            let info = one.device.info();
            assert_eq!(info.spec, "cuda:1");
            assert!(info.detail.contains("for sm_86"), "{}", info.detail);
            assert!(
                info.detail.contains("reaches cuda:0 cuda:2"),
                "{}",
                info.detail
            );
            let e = backend_cuda::open("cuda:3").unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotFound);
            assert!(e.to_string().contains("cuda:0, cuda:1, cuda:2"), "{e}");
            drop(one);
            assert_eq!(stand_in.live(), [""; 0]);
            let found = backend_cuda::libraries();
            let folder = PathBuf::from(std::env::var_os("GLM_CUDA_LIBRARIES").unwrap());
            assert_eq!(found.driver[0].path, folder.join("libcuda.so.1"));
            assert_eq!(found.driver[0].problem, None);
            assert_eq!(found.compiler[0].problem, None);
            assert_eq!(found.folders[0], folder);
        },
    );
}

#[test]
fn without_a_driver_the_error_says_where_it_looked() {
    match backend_cuda::devices() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            assert!(e.to_string().contains("system's loader was asked"), "{e}");
            assert!(!e.to_string().contains('\n'), "{e}");
        }
        other => conformance::skip("without-cuda", format!("there is a driver: {other:?}")),
    }
}
