//! The portable kernels, run on the host: every operation, in waves of 32 and 64 and in small groups.
//!
//! Kernels are compiled by the machine's C++ compiler, once: they are kept in the user's cache folder.

use std::process::Command;

use conformance::{Case, Conformance, Suite, for_each_op};
use ops::reference::Tensor;
use ops::{Accelerator, Attention};

/// Devices like those of NVIDIA, of AMD and Hygon, and a small one without waves.
const SPECS: [&str; 3] = [
    "emulator:simt,wave32,wg256,local48k",
    "emulator:simt,wave64,wg256,local64k",
    "emulator:simt,wg32,local16k",
];

/// Opens `spec`; `None`, with the reason printed, where there is no C++ compiler.
fn open(spec: &str) -> Option<Accelerator> {
    match backend_emulator::open(spec) {
        Ok(accelerator) => Some(accelerator),
        Err(e) => {
            conformance::skip("simt", format!("{spec}: {e}"));
            None
        }
    }
}

/// All cases of an operation.
fn run<O: Conformance>(spec: &str) {
    let Some(accelerator) = open(spec) else {
        return;
    };
    let report = Suite::new(accelerator).run::<O>();
    println!("{spec}: {report}");
    report.require_pass().unwrap();
}

macro_rules! tests_per_op {
    ($($name:ident $op:ident),*) => {
        $(mod $name {
            #[test]
            fn waves_of_32() {
                super::run::<ops::$op>(super::SPECS[0]);
            }

            #[test]
            fn waves_of_64() {
                super::run::<ops::$op>(super::SPECS[1]);
            }

            #[test]
            fn without_waves() {
                super::run::<ops::$op>(super::SPECS[2]);
            }
        })*
    };
}
for_each_op!(tests_per_op);

/// A device of one unit gives a tile's cache to one group, a device of many to several: no bit may tell.
#[test]
fn attention_does_not_depend_on_who_merges() {
    let words = "wave32,wg64,local48k";
    let Some(one) = open(&format!("emulator:simt,{words}")) else {
        return;
    };
    let many = open(&format!("emulator:simt,{words},units64")).unwrap();
    let (one, many) = (Suite::new(one), Suite::new(many));
    let is_long = |case: &Case<Attention>| {
        let table = &case.operands[4].shape;
        table[1] * case.op.page_size > 600 && case.op.kv.is_float()
    };
    let mut shared = 0;
    for case in Attention::cases().into_iter().filter(is_long).take(12) {
        let shapes: Vec<&[usize]> = case.operands.iter().map(|o| &o.shape[..]).collect();
        let plan = many.context().plan(case.op.clone()).unwrap();
        shared += usize::from(plan.workspace_bytes(&shapes) > 0);
        let [a, b] = [&one, &many].map(|suite| suite.outputs(&case).unwrap().swap_remove(0));
        let bits = |t: Tensor| t.data.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(a), bits(b), "{}", case.id());
    }
    assert!(shared >= 10, "{shared}");
}

/// Two kernels of one text are one library: threads that launch them take turns.
#[test]
fn two_devices_run_at_once() {
    let Some(first) = open(SPECS[0]) else { return };
    let Some(second) = open(SPECS[0]) else { return };
    std::thread::scope(|scope| {
        for accelerator in [first, second] {
            scope.spawn(|| {
                let suite = Suite::new(accelerator);
                for _ in 0..20 {
                    run_small::<ops::LayerNorm>(&suite);
                }
            });
        }
    });
}

/// Waves of other sizes, on a few small cases of each operation.
#[test]
fn waves_of_8_and_16() {
    for spec in [
        "emulator:simt,wave8,wg64,local16k",
        "emulator:simt,wave16,wg128,local32k",
    ] {
        let Some(accelerator) = open(spec) else {
            return;
        };
        let suite = Suite::new(accelerator);
        macro_rules! run {
            ($($name:ident $op:ident),*) => {{ $(run_small::<ops::$op>(&suite);)* }};
        }
        for_each_op!(run);
    }
}

/// Set in the process that runs with the sanitizer.
const INSIDE: &str = "GLM_TEST_INSIDE_SANITIZER";

/// Cases per operation.
const CASES: usize = 4;

/// The first small cases of an operation.
fn run_small<O: Conformance>(suite: &Suite) {
    let report = suite.run_small::<O>(CASES);
    println!("{report}");
    report.require_pass().unwrap();
}

#[test]
fn no_kernel_leaves_its_memory() {
    if std::env::var_os(INSIDE).is_some() {
        let Some(accelerator) = open("emulator:simt,wave32,wg64,local16k,asan") else {
            panic!("the sanitizer was preloaded");
        };
        let suite = Suite::new(accelerator);
        macro_rules! run {
            ($($name:ident $op:ident),*) => {{ $(run_small::<ops::$op>(&suite);)* }};
        }
        return for_each_op!(run);
    }
    let Some(library) = backend_emulator::sanitizer() else {
        println!("SKIPPED: the C++ compiler has no address sanitizer");
        return;
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "no_kernel_leaves_its_memory", "--nocapture"])
        .env(INSIDE, "1")
        .env("LD_PRELOAD", library)
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .output()
        .unwrap();
    let (out, error) = (output.stdout, output.stderr);
    let text = [out, error]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
