//! The conformance suite through the stand-in: memory and streams, every operation, captured launches.

mod common;

use backend_emulator::stand_in::promises;
use conformance::{Suite, for_each_op};
use ops::Accelerator;

use common::emulated;

fn open() -> Accelerator {
    let accelerator = backend_cuda::open("cuda:0").unwrap();
    let name = &accelerator.device.info().name;
    assert!(name.contains("emulated"), "{name}");
    accelerator
}

/// Small cases of an operation: what is tested here is the way to the portable kernels, on a chip for which we have no others.
/// All cases run through the same kernels, waves of 32 too, in the emulator's own tests.
const CASES: usize = 12;
const OLD_CHIP: [(&str, &str); 1] = [("STAND_IN_CHIP", "75")];

macro_rules! one_test_per_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            emulated(stringify!($name), &OLD_CHIP, |stand_in| {
                let report = Suite::new(open()).run_small::<ops::$op>(CASES);
                println!("{report}");
                report.require_pass().unwrap();
                assert_eq!(stand_in.live(), [""; 0]);
            });
        })*
    };
}
for_each_op!(one_test_per_op);

/// All cases of an operation that has kernels of our own: as functions of the host these are slow, but tested nowhere else.
fn all<O: conformance::Conformance>(
    stand_in: &backend_emulator::stand_in::StandIn,
    kernels: &[&str],
) {
    let report = Suite::new(open()).run::<O>();
    println!("{report}");
    report.require_pass().unwrap();
    let ran = stand_in.kernels();
    for kernel in kernels {
        assert!(ran.contains(*kernel), "{kernel} is not among {ran:?}");
    }
    assert_eq!(stand_in.live(), [""; 0]);
}

macro_rules! own_kernels {
    ($($name:ident $op:ident $kernels:expr;)*) => {
        $(#[test]
        fn $name() {
            emulated(stringify!($name), &[], |stand_in| all::<ops::$op>(&stand_in, &$kernels));
        })*
    };
}
own_kernels! {
    every_product Matmul ["matmul_few", "matmul_many", "dequantise", "sums_epilogue"];
    every_rms_norm RmsNorm ["norm_rows"];
    every_layer_norm LayerNorm ["norm_rows"];
    every_add_rms_norm AddRmsNorm ["norm_rows"];
    every_add_layer_norm AddLayerNorm ["norm_rows"];
    every_glu Glu ["glu_eights"];
    every_rope Rope ["rope_eights"];
    every_rope_kv_write RopeKvWrite ["rope_kv_write_eights"];
    every_kv_write KvWrite ["kv_write_eights"];
}

#[test]
fn every_attention() {
    emulated("every_attention", &[], |stand_in| {
        let kernels = ["attention_hopper", "attention_many", "attention_few"];
        all::<ops::Attention>(&stand_in, &kernels);
    });
}

#[test]
fn every_attention_without_wgmma() {
    let asked = [("GLM_CUDA_WGMMA", "0")];
    emulated("every_attention_without_wgmma", &asked, |stand_in| {
        let kernels = ["attention_many", "attention_few", "attention_merge"];
        all::<ops::Attention>(&stand_in, &kernels);
        assert!(!stand_in.kernels().contains("attention_hopper"));
    });
}

#[test]
fn memory_and_streams_keep_their_promises() {
    emulated("memory_and_streams_keep_their_promises", &[], |stand_in| {
        promises::passes(open(), "0", &[]);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_device_without_memory_pools_keeps_them_too() {
    let settings = [("STAND_IN_POOLS", "0")];
    emulated(
        "a_device_without_memory_pools_keeps_them_too",
        &settings,
        |stand_in| {
            promises::passes(open(), "0", &[]);
            let calls = stand_in.calls();
            assert!(calls.iter().any(|call| call == "cuMemAlloc_v2"));
            assert!(!calls.iter().any(|call| call == "cuMemAllocAsync"));
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}

#[test]
fn captured_launches_repeat_the_plain_ones() {
    emulated("captured_launches_repeat_the_plain_ones", &[], |stand_in| {
        promises::passes(open(), "6", &["capture"]);
        let calls = stand_in.calls();
        assert!(calls.iter().any(|call| call == "cuGraphLaunch"));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn the_card_is_what_the_probes_find() {
    emulated("the_card_is_what_the_probes_find", &[], |_| {
        promises::card_is_right(&open());
    });
}

#[test]
fn results_depend_on_nothing_else() {
    emulated("results_depend_on_nothing_else", &[], |_| {
        promises::is_deterministic(&open());
    });
}

#[test]
fn every_property_holds() {
    emulated("every_property_holds", &[], |_| {
        promises::properties_hold(&open());
    });
}
