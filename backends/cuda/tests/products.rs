//! Products of many rows by the stand-in for cuBLASLt: what is asked for once, captures, failures, and a library that is missing
//! or does not suit. Whether the numbers are right the conformance suite says.

mod common;

use backend_emulator::stand_in::StandIn;
use backend_emulator::stand_in::product::{self, Product};
use hal::{DType, ErrorKind, Result, WeightFormat};

use common::{emulated, emulated_without};

/// Rows above which quantised weights too go by the library.
const MANY: usize = 130;

const DENSE: WeightFormat = WeightFormat::Dense(DType::BF16);

/// A product on the stand-in's device.
fn made(weight: WeightFormat, bias: bool, m: usize) -> Result<Product> {
    Product::new(backend_cuda::open("cuda:0")?, weight, bias, m)
}

/// Calls of the library since this was last asked.
fn library_calls(stand_in: &StandIn) -> Vec<String> {
    let mut calls = stand_in.calls();
    calls.retain(|call| call.starts_with("cublas"));
    calls
}

#[test]
fn a_shape_is_asked_for_once() {
    emulated("a_shape_is_asked_for_once", &[], |stand_in| {
        for (weight, bias) in [
            (DENSE, false),
            (DENSE, true),
            (WeightFormat::Int8Row, false),
        ] {
            let product = made(weight, bias, MANY).unwrap();
            library_calls(&stand_in);
            product.run().unwrap();
            let asked = library_calls(&stand_in);
            let heuristic = |call: &&String| call.ends_with("Heuristic");
            assert_eq!(asked.iter().filter(heuristic).count(), 1, "{asked:?}");
            for _ in 0..3 {
                product.run().unwrap();
                assert_eq!(library_calls(&stand_in), ["cublasLtMatmul"]);
            }
            let few = made(weight, bias, 3).unwrap();
            library_calls(&stand_in);
            few.run().unwrap();
            assert_eq!(library_calls(&stand_in), [""; 0]);
        }
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn more_rows_never_need_less_workspace() {
    emulated("more_rows_never_need_less_workspace", &[], |_| {
        product::more_rows_never_need_less_workspace(backend_cuda::open("cuda:0").unwrap());
    });
}

#[test]
fn products_are_captured() {
    emulated("products_are_captured", &[], |stand_in| {
        for weight in [DENSE, WeightFormat::Int8Row] {
            made(weight, true, MANY).unwrap().replays().unwrap();
        }
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn threads_share_a_product() {
    emulated("threads_share_a_product", &[], |stand_in| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let product = made(DENSE, true, 20).unwrap();
                    for _ in 0..8 {
                        product.run().unwrap();
                    }
                });
            }
        });
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_failure_of_any_call_is_a_typed_error() {
    emulated("a_failure_of_any_call_is_a_typed_error", &[], |stand_in| {
        let everything = || made(DENSE, true, MANY)?.run();
        everything().unwrap();
        stand_in.calls();
        everything().unwrap();
        let calls = stand_in.calls();
        let mut heard = std::collections::BTreeSet::new();
        for (n, function) in calls.iter().enumerate() {
            // Before a product is asked for, the device goes without the library, and says so.
            let opens = ["cublasLtCreate", "Desc"]
                .iter()
                .any(|name| function.contains(name));
            if !function.starts_with("cublas") || function.ends_with("Destroy") || opens {
                continue;
            }
            heard.insert(function);
            for (status, kind, says) in [
                (3, ErrorKind::OutOfMemory, "CUBLAS_STATUS_ALLOC_FAILED"),
                (7, ErrorKind::Unexpected, "CUBLAS_STATUS_INVALID_VALUE"),
                (13, ErrorKind::Unexpected, "CUBLAS_STATUS_EXECUTION_FAILED"),
                (15, ErrorKind::Unsupported, "CUBLAS_STATUS_NOT_SUPPORTED"),
                (4711, ErrorKind::Unexpected, "4711"),
            ] {
                stand_in.fail("", i32::try_from(n).unwrap() + 1, status);
                let result = everything();
                stand_in.fail("", 0, 0);
                let at = format!("call {n}, {function}, status {status}");
                match result {
                    // That it has no kernel is no failure: ours serve.
                    Ok(()) => assert!(status == 15 && function.contains("Heuristic"), "{at}"),
                    Err(e) => {
                        assert_eq!(e.kind(), kind, "{at}: {e}");
                        assert!(
                            e.to_string().contains(says) && e.next().is_some(),
                            "{at}: {e}"
                        );
                    }
                }
                assert_eq!(stand_in.live(), [""; 0], "{at}");
            }
        }
        assert_eq!(heard.len(), 5, "{heard:?}");
    });
}

/// Without a library products are right, and the device says why there is none: `says`.
fn goes_without(says: &str) {
    let folder = std::env::var_os("GLM_CUDA_LIBRARIES").unwrap();
    let mut found = backend_cuda::libraries().products.into_iter();
    let other = found.find(|p| p.problem.is_none() && p.path.parent() != Some(folder.as_ref()));
    if let Some(other) = other {
        let why = format!("there is another: {}", other.path.display());
        return conformance::skip("no-cublaslt", why);
    }
    let accelerator = backend_cuda::open("cuda:0").unwrap();
    let info = accelerator.device.info();
    println!("{}", info.detail);
    assert!(
        info.detail.contains("products by own kernels only"),
        "{}",
        info.detail
    );
    assert!(info.detail.contains(says), "{}", info.detail);
    assert!(!info.numerics.rounds_weights);
    for weight in [DENSE, WeightFormat::Int8Row] {
        made(weight, true, MANY).unwrap().run().unwrap();
    }
}

#[test]
fn a_library_that_is_found_is_named() {
    emulated("a_library_that_is_found_is_named", &[], |_| {
        let accelerator = backend_cuda::open("cuda:0").unwrap();
        let info = accelerator.device.info();
        assert!(info.detail.contains("cuBLASLt 13.0 ("), "{}", info.detail);
        assert!(info.numerics.rounds_weights);
        assert_eq!(backend_cuda::libraries().products[0].problem, None);
    });
}

#[test]
fn a_machine_without_the_library_goes_without() {
    let name = "a_machine_without_the_library_goes_without";
    emulated_without(name, &[], &["libcublasLt.so.13"], |stand_in| {
        goes_without("there is no libcublasLt.so.13 or libcublasLt.so.12: the system's loader");
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_library_without_a_function_is_none() {
    let name = "a_library_without_a_function_is_none";
    emulated_without(name, &[], &["cublasLtMatmul"], |_| {
        goes_without("it has no cublasLtMatmul");
        let found = backend_cuda::libraries();
        let problem = found.products[0].problem.clone();
        assert_eq!(problem.as_deref(), Some("it has no cublasLtMatmul"));
        assert!(found.to_string().contains("products: "), "{found}");
    });
}

#[test]
fn a_library_newer_than_the_driver_is_refused() {
    let settings = [("STAND_IN_DRIVER", "12040"), ("STAND_IN_NVRTC", "12040")];
    let name = "a_library_newer_than_the_driver_is_refused";
    emulated(name, &settings, |_| {
        goes_without("is of CUDA 13, the driver of 12")
    });
}

#[test]
fn a_library_that_does_not_start_is_told() {
    emulated("a_library_that_does_not_start_is_told", &[], |stand_in| {
        for function in [
            "cublasLtCreate",
            "cublasLtMatmulDescCreate",
            "cublasLtMatmulDescSetAttribute",
        ] {
            stand_in.fail(function, -1, 1);
            let accelerator = backend_cuda::open("cuda:0").unwrap();
            let detail = &accelerator.device.info().detail;
            assert!(detail.contains("cuBLASLt status 1 ("), "{detail}");
            stand_in.fail("", 0, 0);
            drop(accelerator);
            assert_eq!(stand_in.live(), [""; 0], "{function}");
        }
    });
}
