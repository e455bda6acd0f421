//! What users see when something is missing, of another release, or fails: typed errors, no panic, nothing left behind.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use backend_emulator::stand_in::{self, StandIn, Vendor};
use hal::{DType, Error, ErrorKind, Result, View};
use ops::{Context, CopyArgs, StridedCopy};

use common::AMD;

/// What the kernels copy.
const BYTES: usize = 4099;

fn sent() -> Vec<u8> {
    (0..BYTES).map(|i| ((i * 31) >> 3) as u8).collect()
}

/// What a program does with a device; the bytes that came back.
fn everything(sent: &[u8]) -> Result<Vec<u8>> {
    stand_in::everything(|| backend_hip::open("hip:0"), sent)
}

/// Functions whose failure may have nobody to go to, because they are also, or only, called while something is dropped.
const IN_DROPS: [&str; 13] = [
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
];

#[test]
fn a_failure_of_any_call_is_a_typed_error() {
    let name = "a_failure_of_any_call_is_a_typed_error";
    AMD.emulated(name, &[], &[], |stand_in| {
        let sent = sent();
        // The first run compiles; the second finds the kept program, as all the others do.
        for _ in 0..2 {
            stand_in.calls();
            assert_eq!(everything(&sent).unwrap(), sent);
            assert_eq!(stand_in.live(), [""; 0]);
        }
        let calls = stand_in.calls();
        println!("{} calls", calls.len());
        assert!(calls.len() > 100);
        let mut outcomes = BTreeMap::<String, usize>::new();
        for (n, function) in calls.iter().enumerate() {
            if function.starts_with("hiprtc") {
                continue;
            }
            // A program that does not load is compiled again, if the device lives.
            let reloads = function == "hipModuleLoadData";
            for (code, kind) in [
                (1, ErrorKind::Unexpected),
                (2, ErrorKind::OutOfMemory),
                (700, ErrorKind::DeviceLost),
                (999, ErrorKind::DeviceLost),
            ] {
                stand_in.fail("", i32::try_from(n).unwrap() + 1, code);
                let result = everything(&sent);
                stand_in.fail("", 0, 0);
                let at = format!("call {n}, {function}, code {code}");
                // An attribute that the runtime does not have.
                let absent = code == 1 && function == "hipDeviceGetAttribute";
                let what = match result {
                    Err(e) => {
                        let kind = if absent { ErrorKind::Unsupported } else { kind };
                        assert_eq!(e.kind(), kind, "{at}: {e}");
                        assert!(e.next().is_some(), "{at}: {e}");
                        format!("{kind:?}")
                    }
                    Ok(bytes) => {
                        let again = code == 2 && function == "hipMallocAsync";
                        let ignored = IN_DROPS.contains(&function.as_str()) || again || absent;
                        assert!(ignored && !reloads, "{at}: nobody heard of it");
                        assert!(bytes == sent, "{at}: wrong bytes");
                        "nothing".into()
                    }
                };
                *outcomes.entry(format!("{code}: {what}")).or_default() += 1;
                assert_eq!(stand_in.live(), [""; 0], "{at}");
            }
        }
        println!("{outcomes:?}");
    });
}

#[test]
fn a_lost_device_says_so_until_the_program_starts_again() {
    let name = "a_lost_device_says_so_until_the_program_starts_again";
    AMD.emulated(name, &[], &[], |stand_in| {
        let accelerator = backend_hip::open("hip:0").unwrap();
        let plan = Context::new(accelerator.clone())
            .plan(StridedCopy { dtype: DType::U8 })
            .unwrap();
        let device = &accelerator.device;
        let (a, b) = (device.alloc(64).unwrap(), device.alloc(64).unwrap());
        let (x, out) = (View::of_bytes(&a), View::of_bytes(&b));
        let nothing = device.alloc(0).unwrap();
        let mut stream = device.stream().unwrap();
        let event = stream.record().unwrap();
        event.synchronize().unwrap();
        stream.upload(&x, &[7; 64]).unwrap();
        // A kernel leaves its memory; the host hears of it later.
        stand_in.fail("kernel", 1, 700);
        let launch = |stream: &mut dyn hal::Stream| {
            plan.run(stream, CopyArgs { out, x }, &View::of_bytes(&nothing))
        };
        launch(&mut *stream).unwrap();
        let first = stream.synchronize().unwrap_err();
        assert_eq!(first.kind(), ErrorKind::DeviceLost, "{first}");
        let mut bytes = [0; 64];
        let later: [(&str, Result<()>); 10] = [
            ("synchronize again", Err(first)),
            ("alloc", device.alloc(64).map(drop)),
            ("stream", device.stream().map(drop)),
            ("upload", stream.upload(&x, &[0; 64])),
            ("download", stream.download(&mut bytes, &x)),
            ("record", stream.record().map(drop)),
            ("wait", stream.wait(&event)),
            ("synchronize", stream.synchronize()),
            ("capture", stream.begin_capture()),
            ("launch", launch(&mut *stream)),
        ];
        for (act, result) in later {
            let e = result.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::DeviceLost, "{act}: {e}");
            let text = e.to_string();
            assert!(
                text.contains("hipErrorIllegalAddress") && text.contains("start the program again"),
                "{act}: {text}"
            );
        }
        let e = event.synchronize().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::DeviceLost);
        drop((stream, event, a, b, nothing, plan, accelerator));
        assert_eq!(stand_in.live(), [""; 0]);
        // The stand-in takes this for a new process.
        let sent = sent();
        assert!(everything(&sent).unwrap() == sent);
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
        let e = backend_hip::open("hip:0").unwrap_err();
        println!("{e}");
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(says) && e.next().is_some(), "{e}");
        assert_eq!(stand_in.live(), [""; 0]);
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
        let sent = sent();
        assert!(everything(&sent).unwrap() == sent);
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
        let sent = sent();
        assert!(everything(&sent).unwrap() == sent);
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
        let sent = sent();
        assert!(everything(&sent).unwrap() == sent);
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
