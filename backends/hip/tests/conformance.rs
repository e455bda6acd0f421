//! The conformance suite through the stand-in: memory and streams, every operation, captured launches, in waves of 64 and 32.

mod common;

use backend_emulator::stand_in::promises;
use conformance::{Suite, for_each_op};
use hal::DType;
use ops::Accelerator;

use common::AMD;

fn open() -> Accelerator {
    let accelerator = backend_hip::open("hip:0").unwrap();
    let info = accelerator.device.info();
    assert!(info.name.contains("emulated"), "{}", info.name);
    println!("{}", info.detail);
    accelerator
}

/// A device of RDNA, whose waves have 32 work-items.
const NARROW: [(&str, &str); 2] = [("STAND_IN_WAVE", "32"), ("STAND_IN_ARCH", "gfx1100")];

/// Small cases of an operation: what is tested here is the way to the kernels. All cases run through the same kernels, in waves
/// of 32 and 64 too, in the emulator's own tests.
const CASES: usize = 12;

macro_rules! one_test_per_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            AMD.emulated(stringify!($name), &[], &[], |stand_in| {
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
                AMD.emulated(concat!("waves_of_32::", stringify!($name)), &NARROW, &[], |stand_in| {
                    let accelerator = open();
                    let detail = &accelerator.device.info().detail;
                    assert!(detail.contains("waves of 32"), "{detail}");
                    let report = Suite::new(accelerator).run_small::<ops::$op>(CASES);
                    println!("{report}");
                    report.require_pass().unwrap();
                    assert_eq!(stand_in.live(), [""; 0]);
                });
            })*
        }
    };
}
for_each_op!(one_test_per_op);

/// All products of a chip with units of its own: as functions of the host these are slow, but tested nowhere else.
fn every_product(name: &str, chip: &str, has_dot: bool, has_matrices: bool) {
    AMD.emulated(name, &[("STAND_IN_ARCH", chip)], &[], |stand_in| {
        let report = Suite::new(open()).run_where::<ops::Matmul>(|case| case.op.x != DType::F32);
        println!("{report}");
        report.require_pass().unwrap();
        let ran = stand_in.kernels();
        for (kernel, goes) in [("matmul_dot", has_dot), ("matmul_mfma", has_matrices)] {
            assert_eq!(ran.contains(kernel), goes, "{kernel} of {ran:?}");
        }
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn every_product_by_dot_units() {
    let name = "every_product_by_dot_units";
    every_product(name, "gfx906:sramecc+:xnack-", true, false);
}

#[test]
fn every_product_by_dot_and_matrix_units() {
    let name = "every_product_by_dot_and_matrix_units";
    every_product(name, "gfx908", true, true);
}

#[test]
fn every_product_by_matrix_units_that_flush_f16() {
    let name = "every_product_by_matrix_units_that_flush_f16";
    every_product(name, "gfx90a", false, true);
}

fn goes_by_portable_kernels(name: &str, settings: &[(&str, &str)]) {
    AMD.emulated(name, settings, &[], |stand_in| {
        let report = Suite::new(open()).run_small::<ops::Matmul>(CASES);
        report.require_pass().unwrap();
        let ran = stand_in.kernels();
        assert!(!ran.contains("matmul_dot") && !ran.contains("matmul_mfma"));
    });
}

#[test]
fn units_can_be_left_alone() {
    let settings = [("STAND_IN_ARCH", "gfx908"), ("GLM_HIP_UNITS", "0")];
    goes_by_portable_kernels("units_can_be_left_alone", &settings);
}

#[test]
fn a_chip_without_such_units_goes_by_portable_kernels() {
    let name = "a_chip_without_such_units_goes_by_portable_kernels";
    goes_by_portable_kernels(name, &[("STAND_IN_ARCH", "gfx936")]);
}

#[test]
fn memory_and_streams_keep_their_promises() {
    let name = "memory_and_streams_keep_their_promises";
    AMD.emulated(name, &[], &[], |stand_in| {
        promises::passes(open(), "0", &[]);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// Level 0 of a device without memory in the order of a stream.
fn without_pools(name: &str, settings: &[(&str, &str)], hidden: &[&str]) {
    AMD.emulated(name, settings, hidden, |stand_in| {
        let detail = open().device.info().detail.clone();
        assert!(detail.contains("no memory pools"), "{detail}");
        promises::passes(open(), "0", &[]);
        let calls = stand_in.calls();
        assert!(calls.iter().any(|call| call == "hipMalloc"));
        assert!(!calls.iter().any(|call| call == "hipMallocAsync"));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_device_without_memory_pools_keeps_them_too() {
    let name = "a_device_without_memory_pools_keeps_them_too";
    without_pools(name, &[("STAND_IN_POOLS", "0")], &[]);
}

#[test]
fn a_runtime_without_memory_pools_keeps_them_too() {
    let name = "a_runtime_without_memory_pools_keeps_them_too";
    without_pools(name, &[], &["hipMemPoolTrimTo"]);
}

#[test]
fn captured_launches_repeat_the_plain_ones() {
    let name = "captured_launches_repeat_the_plain_ones";
    AMD.emulated(name, &[], &[], |stand_in| {
        promises::passes(open(), "6", &["capture"]);
        let calls = stand_in.calls();
        assert!(calls.iter().any(|call| call == "hipGraphLaunch"));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn the_card_is_what_the_probes_find() {
    AMD.emulated("the_card_is_what_the_probes_find", &[], &[], |_| {
        promises::card_is_right(&open());
    });
}

#[test]
fn results_depend_on_nothing_else() {
    AMD.emulated("results_depend_on_nothing_else", &[], &[], |_| {
        promises::is_deterministic(&open());
    });
}

#[test]
fn every_property_holds() {
    AMD.emulated("every_property_holds", &[], &[], |_| {
        promises::properties_hold(&open());
    });
}

#[test]
fn a_chip_without_bf16_does_not_claim_it() {
    let settings = [("STAND_IN_ARCH", "gfx926:sramecc+:xnack-")];
    let name = "a_chip_without_bf16_does_not_claim_it";
    AMD.emulated(name, &settings, &[], |_| {
        let info = open().device.info().clone();
        assert_eq!(info.native_floats, [DType::F32, DType::F16]);
    });
}
