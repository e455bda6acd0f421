//! Products of many rows by the stand-in for rocBLAS: the suite, captures, failures, and a library that is missing or does not
//! suit.

mod library;

use backend_emulator::stand_in::product::{self, Product};
use backend_emulator::stand_in::{StandIn, Vendor, promises};
use conformance::Suite;
use hal::{DType, ErrorKind, Result, WeightFormat};
use ops::{Accelerator, Matmul};

use library::{BOTH, with_library};

/// Rows above which quantised weights too go by the library.
const MANY: usize = 130;

const DENSE: WeightFormat = WeightFormat::Dense(DType::BF16);

/// A chip that the library has kernels for.
const CHIP: [&str; 2] = ["gfx908"; 2];

fn open() -> Accelerator {
    backend_hip::open("hip:0").unwrap()
}

/// A product on the stand-in's device.
fn made(weight: WeightFormat, bias: bool, m: usize) -> Result<Product> {
    Product::new(backend_hip::open("hip:0")?, weight, bias, m)
}

/// Calls of the library since this was last asked.
fn library_calls(stand_in: &StandIn) -> Vec<String> {
    let mut calls = stand_in.calls();
    calls.retain(|call| call.starts_with("rocblas"));
    calls
}

fn every_product(name: &str, chip: [&str; 2], goes: impl Fn(&Matmul) -> bool) {
    with_library(name, chip, &[], &[], |stand_in| {
        let suite = Suite::new(open());
        stand_in.calls();
        let report = suite.run_where::<Matmul>(|case| goes(&case.op));
        println!("{report}");
        report.require_pass().unwrap();
        let calls = library_calls(&stand_in);
        assert!(calls.iter().any(|call| call == "rocblas_gemm_ex"));
        drop(suite);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn every_product_of_dense_weights() {
    every_product("every_product_of_dense_weights", CHIP, |op| {
        matches!(op.weight, WeightFormat::Dense(_))
    });
}

#[test]
fn every_product_of_quantised_weights() {
    every_product("every_product_of_quantised_weights", CHIP, |op| {
        !matches!(op.weight, WeightFormat::Dense(_))
    });
}

#[test]
fn f16_goes_without_where_units_flush_it() {
    let name = "f16_goes_without_where_units_flush_it";
    with_library(
        name,
        ["gfx90a:sramecc+:xnack-", "gfx90a"],
        &[],
        &[],
        |stand_in| {
            let suite = Suite::new(open());
            stand_in.calls();
            let f16 = |op: &Matmul| op.x == DType::F16;
            suite
                .run_where::<Matmul>(|case| f16(&case.op))
                .require_pass()
                .unwrap();
            assert_eq!(library_calls(&stand_in), [""; 0]);
        },
    );
}

#[test]
fn the_card_is_what_the_probes_find() {
    for chip in ["gfx908", "gfx90a"] {
        with_library(
            "the_card_is_what_the_probes_find",
            [chip; 2],
            &[],
            &[],
            |_| {
                promises::card_is_right(&open());
            },
        );
    }
}

#[test]
fn a_product_is_three_calls() {
    with_library("a_product_is_three_calls", CHIP, &[], &[], |stand_in| {
        for (weight, bias) in [
            (DENSE, false),
            (DENSE, true),
            (WeightFormat::Int8Row, false),
        ] {
            let product = made(weight, bias, MANY).unwrap();
            library_calls(&stand_in);
            product.run().unwrap();
            let calls = [
                "rocblas_set_stream",
                "rocblas_set_workspace",
                "rocblas_gemm_ex",
            ];
            assert_eq!(library_calls(&stand_in), calls);
        }
        let few = made(DENSE, true, 3).unwrap();
        library_calls(&stand_in);
        few.run().unwrap();
        assert_eq!(library_calls(&stand_in), [""; 0]);
        drop(few);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn products_are_captured() {
    with_library("products_are_captured", CHIP, &[], &[], |stand_in| {
        for weight in [DENSE, WeightFormat::Int8Row] {
            made(weight, true, MANY).unwrap().replays().unwrap();
        }
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn threads_share_the_library() {
    with_library("threads_share_the_library", CHIP, &[], &[], |stand_in| {
        let accelerator = open();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let product = Product::new(accelerator.clone(), DENSE, true, 20).unwrap();
                    for _ in 0..8 {
                        product.run().unwrap();
                    }
                });
            }
        });
        drop(accelerator);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn more_rows_never_need_less_workspace() {
    let name = "more_rows_never_need_less_workspace";
    with_library(name, CHIP, &[], &[], |_| {
        product::more_rows_never_need_less_workspace(open())
    });
}

#[test]
fn a_failure_of_any_call_is_a_typed_error() {
    with_library(
        "a_failure_of_any_call_is_a_typed_error",
        CHIP,
        &[],
        &[],
        |stand_in| {
            let everything = || made(DENSE, true, MANY)?.run();
            everything().unwrap();
            stand_in.calls();
            everything().unwrap();
            let calls = stand_in.calls();
            let queued = calls
                .iter()
                .position(|call| call == "rocblas_set_stream")
                .unwrap();
            for (n, function) in calls.iter().enumerate() {
                if !function.starts_with("rocblas") || function.contains("destroy") {
                    continue;
                }
                for (status, kind, says) in [
                    (2, ErrorKind::Unsupported, "rocblas_status_not_implemented"),
                    (5, ErrorKind::OutOfMemory, "rocblas_status_memory_error"),
                    (6, ErrorKind::Unexpected, "rocblas_status_internal_error"),
                    (11, ErrorKind::Unexpected, "rocblas_status_invalid_value"),
                    (4711, ErrorKind::Unexpected, "4711"),
                ] {
                    stand_in.fail("", i32::try_from(n).unwrap() + 1, status);
                    let result = everything();
                    stand_in.fail("", 0, 0);
                    let at = format!("call {n}, {function}, status {status}");
                    match result {
                        // Without the library, which did not open or has no such products, ours serve.
                        Ok(()) => assert!(
                            n < queued || (status == 2 && function.contains("gemm")),
                            "{at}"
                        ),
                        Err(e) => {
                            assert_eq!(e.kind(), kind, "{at}: {e}");
                            assert!(n >= queued && e.next().is_some(), "{at}: {e}");
                            assert!(e.to_string().contains(says), "{at}: {e}");
                        }
                    }
                    assert_eq!(stand_in.live(), [""; 0], "{at}");
                }
            }
        },
    );
}

#[test]
fn that_less_memory_served_is_no_failure() {
    with_library(
        "that_less_memory_served_is_no_failure",
        CHIP,
        &[],
        &[],
        |stand_in| {
            let product = made(DENSE, false, MANY).unwrap();
            // The stand-in computes nothing then.
            stand_in.fail("rocblas_gemm_ex", 1, 7);
            let mut stream = product.accelerator.device.stream().unwrap();
            product.queue(&mut *stream).unwrap();
            stream.synchronize().unwrap();
        },
    );
}

#[test]
fn a_library_without_such_products_leaves_them_to_ours() {
    let name = "a_library_without_such_products_leaves_them_to_ours";
    with_library(
        name,
        CHIP,
        &[("STAND_IN_BLAS_TYPES", "0")],
        &[],
        |stand_in| {
            for (weight, bias) in [(DENSE, false), (DENSE, true), (WeightFormat::Int8Row, true)] {
                let product = made(weight, bias, MANY).unwrap();
                library_calls(&stand_in);
                product.run().unwrap();
                assert_eq!(library_calls(&stand_in).len(), 3);
                // Asked once.
                product.run().unwrap();
                assert_eq!(library_calls(&stand_in), [""; 0]);
            }
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}

/// Without a library products are right, and the device says why there is none: `says`.
fn goes_without(says: &str) {
    let folder = std::env::var_os("GLM_HIP_LIBRARIES").unwrap();
    let mut found = backend_hip::libraries().products.into_iter();
    let other = found.find(|p| p.problem.is_none() && p.path.parent() != Some(folder.as_ref()));
    if let Some(other) = other {
        let why = format!("there is another: {}", other.path.display());
        return conformance::skip("no-rocblas", why);
    }
    let accelerator = open();
    let info = accelerator.device.info();
    println!("{}", info.detail);
    for part in ["products by own kernels only", says] {
        assert!(info.detail.contains(part), "{}", info.detail);
    }
    assert!(!info.numerics.rounds_weights);
    for weight in [DENSE, WeightFormat::Int8Row] {
        made(weight, true, MANY).unwrap().run().unwrap();
    }
}

#[test]
fn a_library_that_is_found_is_named() {
    with_library("a_library_that_is_found_is_named", CHIP, &[], &[], |_| {
        let accelerator = open();
        let info = accelerator.device.info();
        assert!(info.detail.contains("rocBLAS 4.2.1 ("), "{}", info.detail);
        assert!(info.numerics.rounds_weights);
        let found = backend_hip::libraries();
        assert_eq!(found.products[0].problem, None);
        assert!(found.to_string().contains("products: "), "{found}");
    });
}

#[test]
fn a_machine_without_the_library_goes_without() {
    let name = "a_machine_without_the_library_goes_without";
    with_library(name, CHIP, &[], &["librocblas.so.4"], |stand_in| {
        goes_without("there is no librocblas.so.5 or librocblas.so.4 or");
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_library_without_a_function_is_none() {
    let name = "a_library_without_a_function_is_none";
    with_library(name, CHIP, &[], &["rocblas_gemm_ex"], |_| {
        goes_without("it has no rocblas_gemm_ex");
        let problem = backend_hip::libraries().products[0].problem.clone();
        assert_eq!(problem.as_deref(), Some("it has no rocblas_gemm_ex"));
    });
}

#[test]
fn a_library_of_another_runtime_is_not_touched() {
    const ALONE: Vendor = Vendor {
        files: &["librocblas.so.4"],
        ..BOTH
    };
    const RUNTIME: Vendor = Vendor {
        files: &["libamdhip64.so.6"],
        ..BOTH
    };
    let name = "a_library_of_another_runtime_is_not_touched";
    let [Ok(runtime), Ok(library)] = [RUNTIME.build(&["hipGraphLaunch"]), ALONE.build(&[])] else {
        return conformance::skip("stand-in", "there is no C++ compiler");
    };
    let both = std::env::join_paths([runtime, library]).unwrap();
    let settings = [(BOTH.variable, both.to_str().unwrap())];
    with_library(name, CHIP, &settings, &["hipGraphLaunch"], |_| {
        goes_without("it is of another HIP than the runtime that was found");
    });
}

#[test]
fn a_library_without_kernels_for_the_chip_is_not_touched() {
    let name = "a_library_without_kernels_for_the_chip_is_not_touched";
    with_library(
        name,
        ["gfx906:sramecc+:xnack-", "gfx908"],
        &[],
        &[],
        |stand_in| {
            goes_without("no kernels for gfx906 in ");
            assert_eq!(library_calls(&stand_in), [""; 0]);
        },
    );
}
