//! Memory and streams, every operation, captures and failures through the stand-in for MUSA's libraries: emulated. And how much of this crate there is.

use backend_emulator::stand_in::{self, Functions, StandIn, Vendor, promises};
use conformance::{Suite, for_each_op};
use hal::{ErrorKind, Result};
use ops::Accelerator;

const MOORE_THREADS: Vendor = Vendor {
    exports: concat!(
        include_str!("stand_in/musa.h"),
        include_str!("../../cuda/tests/stand_in/cuda.h")
    ),
    files: &["libmusa.so.1", "libmtrtc.so.5"],
    variable: "GLM_MUSA_LIBRARIES",
};

/// An MTT S4000: mp_22, in waves of 128; SDK 4.2.
const S4000: [(&str, &str); 4] = [
    ("STAND_IN_CHIP", "22"),
    ("STAND_IN_WAVE", "128"),
    ("STAND_IN_DRIVER", "40200"),
    ("STAND_IN_NVRTC", "4020"),
];
/// An MTT S5000: mp_31, in waves of 32; SDK 5.2.
const S5000: [(&str, &str); 4] = [
    ("STAND_IN_CHIP", "31"),
    ("STAND_IN_WAVE", "32"),
    ("STAND_IN_DRIVER", "50200"),
    ("STAND_IN_NVRTC", "5020"),
];

fn try_to_open() -> Result<Accelerator> {
    backend_musa::open_with("musa:0", Default::default())
}

fn open() -> Accelerator {
    let accelerator = try_to_open().unwrap();
    let info = accelerator.device.info();
    assert!(
        info.name.contains("emulated Moore Threads"),
        "{}",
        info.name
    );
    accelerator
}

fn emulated(name: &str, settings: &[(&str, &str)], test: impl FnOnce(StandIn)) {
    MOORE_THREADS.emulated(name, settings, &[], test);
}

/// Small cases of every operation, as in the tests of `backend-cuda`.
const CASES: usize = 12;

macro_rules! one_test_per_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            emulated(stringify!($name), &S4000, |stand_in| {
                let report = Suite::new(open()).run_small::<ops::$op>(CASES);
                println!("{report}");
                report.require_pass().unwrap();
                assert_eq!(stand_in.live(), [""; 0]);
            });
        })*

        mod waves_of_32 {
            use super::*;
            $(#[test]
            fn $name() {
                emulated(concat!("waves_of_32::", stringify!($name)), &S5000, |stand_in| {
                    let report = Suite::new(open()).run_small::<ops::$op>(CASES);
                    println!("{report}");
                    report.require_pass().unwrap();
                    assert_eq!(stand_in.live(), [""; 0]);
                });
            })*
        }
    };
}
for_each_op!(one_test_per_op);

#[test]
fn memory_and_streams_keep_their_promises() {
    let name = "memory_and_streams_keep_their_promises";
    emulated(name, &S4000, |stand_in| {
        let detail = open().device.info().detail.clone();
        for words in ["MUSA 4.2 driver", "MTRTC 4.2 for mp_22", "no memory pools"] {
            assert!(detail.contains(words), "{detail}");
        }
        promises::passes(open(), "0", &[]);
        let calls = stand_in.calls();
        assert!(calls.iter().all(|call| !call.starts_with("cu")));
        assert!(calls.iter().any(|call| call == "muMemAlloc_v2"));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn captured_launches_repeat_the_plain_ones() {
    let name = "captured_launches_repeat_the_plain_ones";
    emulated(name, &S4000, |stand_in| {
        promises::passes(open(), "6", &["capture"]);
        assert!(stand_in.calls().iter().any(|call| call == "muGraphLaunch"));
    });
}

#[test]
fn the_card_is_what_the_probes_find() {
    emulated("the_card_is_what_the_probes_find", &S4000, |_| {
        promises::card_is_right(&open());
    });
}

#[test]
fn a_failure_of_any_call_is_a_typed_error() {
    let name = "a_failure_of_any_call_is_a_typed_error";
    emulated(name, &S4000, |stand_in| {
        let functions = Functions {
            in_drops: &[
                "muCtxSetCurrent",
                "muCtxSynchronize",
                "muDevicePrimaryCtxRelease_v2",
                "muEventDestroy_v2",
                "muEventRecord",
                "muEventSynchronize",
                "muGraphDestroy",
                "muGraphExecDestroy",
                "muMemFreeHost",
                "muMemFree_v2",
                "muModuleUnload",
                "muStreamDestroy_v2",
                "muStreamEndCapture",
                "muStreamSynchronize",
                "muStreamWaitEvent",
            ],
            compiler: "mtrtc",
            alloc: "muMemAlloc_v2",
            fact: None,
            load: "muModuleLoadData",
        };
        stand_in::fail_each(&stand_in, try_to_open, functions);
    });
}

/// What a release lacks is found under an older name, or named.
#[test]
fn a_missing_function_is_named() {
    let name = "a_missing_function_is_named";
    MOORE_THREADS.emulated(name, &S4000, &["muGraphLaunch"], |_| {
        let e = try_to_open().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        assert!(e.to_string().contains("has no muGraphLaunch"), "{e}");
        assert!(e.next().is_some());
    });
}

#[test]
fn launches_that_begin_early_are_not_needed() {
    let name = "launches_that_begin_early_are_not_needed";
    MOORE_THREADS.emulated(name, &S5000, &["muLaunchKernelEx"], |_| {
        stand_in::works(try_to_open);
    });
}

#[test]
fn without_a_driver_the_error_says_where_it_looked() {
    let e = match backend_musa::devices() {
        Err(e) => e,
        Ok(devices) => return println!("there are {}", devices.len()),
    };
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(e.next().unwrap().contains("GLM_MUSA_LIBRARIES"), "{e}");
}

/// What "CUDA with other names" costs, all told.
#[test]
fn the_vendor_takes_at_most_200_lines() {
    let lines = |text: &str| text.lines().count();
    let all = lines(include_str!("../src/lib.rs")) + lines(include_str!("../Cargo.toml"));
    println!("{all} lines, with comments and manifest");
    assert!(all <= 200, "{all}");
}
