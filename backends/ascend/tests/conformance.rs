//! The conformance suite through the stand-in: memory and streams, every operation, captured launches, on chips of both
//! generations. Emulated: no Ascend device was at hand.

mod common;

use std::collections::BTreeSet;

use backend_emulator::stand_in::{StandIn, promises};
use conformance::{Suite, for_each_op};
use hal::DType;
use ops::Accelerator;

use common::CANN;

fn open() -> Accelerator {
    let accelerator = backend_ascend::open("ascend:0").unwrap();
    println!("{}", accelerator.device.info().detail);
    accelerator
}

/// Chips without bf16, whose products are in f16 alone, and that lack operators of norms: one the first, one the second.
const FIRST: [&str; 2] = ["Ascend910A", "Ascend310P3"];
/// Small cases of an operation on those.
const CASES: usize = 48;

macro_rules! one_test_per_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            CANN.emulated(stringify!($name), &[], &[], |stand_in| {
                let report = Suite::new(open()).run::<ops::$op>();
                println!("{report}");
                report.require_pass().unwrap();
                assert_eq!(stand_in.live(), [""; 0]);
            });
        })*

        mod first_generation {
            use super::*;
            $(#[test]
            fn $name() {
                let name = concat!("first_generation::", stringify!($name));
                for chip in FIRST {
                    CANN.emulated(name, &[("STAND_IN_SOC", chip)], &[], |stand_in| {
                        let accelerator = open();
                        assert_eq!(accelerator.device.info().numerics.floats, [DType::F16]);
                        let report = Suite::new(accelerator).run_small::<ops::$op>(CASES);
                        println!("{report}");
                        report.require_no_failure().unwrap();
                        assert_eq!(stand_in.live(), [""; 0]);
                    });
                }
            })*
        }
    };
}
for_each_op!(one_test_per_op);

#[test]
fn memory_and_streams_keep_their_promises() {
    let name = "memory_and_streams_keep_their_promises";
    CANN.emulated(name, &[], &[], |stand_in| {
        promises::passes(open(), "0", &[]);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn captured_launches_repeat_the_plain_ones() {
    let name = "captured_launches_repeat_the_plain_ones";
    CANN.emulated(name, &[], &[], |stand_in| {
        promises::passes(open(), "6", &["capture"]);
        let calls = stand_in.calls();
        assert!(calls.iter().any(|call| call == "aclmdlRIExecuteAsync"));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn the_card_is_what_the_probes_find() {
    CANN.emulated("the_card_is_what_the_probes_find", &[], &[], |_| {
        promises::card_is_right(&open());
    });
}

#[test]
fn results_depend_on_nothing_else() {
    CANN.emulated("results_depend_on_nothing_else", &[], &[], |_| {
        promises::is_deterministic(&open());
    });
}

#[test]
fn every_property_holds() {
    CANN.emulated("every_property_holds", &[], &[], |_| {
        promises::properties_hold(&open());
    });
}

/// Operators that ran for a few cases of an operation, but for copies.
fn operators<O: conformance::Conformance>(stand_in: &StandIn) -> BTreeSet<String> {
    stand_in.calls();
    let report = Suite::new(open()).run_small::<O>(8);
    report.require_pass().unwrap();
    let mut calls: BTreeSet<String> = stand_in.calls().into_iter().collect();
    calls.retain(|call| call.starts_with("aclnn") && !call.ends_with("GetWorkspaceSize"));
    calls.remove("aclnnInplaceCopy");
    calls
}

#[test]
fn what_is_said_to_be_composed_is() {
    CANN.emulated("what_is_said_to_be_composed_is", &[], &[], |stand_in| {
        let single = [
            ("argmax", operators::<ops::Argmax>(&stand_in)),
            ("cast", operators::<ops::Cast>(&stand_in)),
            ("copy", operators::<ops::StridedCopy>(&stand_in)),
            ("layer_norm", operators::<ops::LayerNorm>(&stand_in)),
            ("rms_norm", operators::<ops::RmsNorm>(&stand_in)),
        ];
        for (op, operators) in single {
            assert!(operators.len() <= 1, "{op}: {operators:?}");
        }
        let several = [
            ("attention", operators::<ops::Attention>(&stand_in)),
            ("embedding", operators::<ops::Embedding>(&stand_in)),
            ("kv_write", operators::<ops::KvWrite>(&stand_in)),
            ("rope", operators::<ops::Rope>(&stand_in)),
            ("sample", operators::<ops::Sample>(&stand_in)),
            ("softmax", operators::<ops::Softmax>(&stand_in)),
            ("top_k", operators::<ops::TopK>(&stand_in)),
        ];
        let said = backend_ascend::COMPOSED.iter().map(|(op, _)| *op);
        assert!(several.iter().map(|(op, _)| *op).eq(said));
        for (op, operators) in several {
            println!("{op}: {operators:?}");
            assert!(operators.len() > 1, "{op}: {operators:?}");
        }
    });
}
