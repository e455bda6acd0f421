//! Weights in fractals: where they are, what products and tables make of them, and that nothing of it is needed. Emulated.

mod common;

use backend_emulator::stand_in::StandIn;
use conformance::Suite;
use hal::{DType, ErrorKind, View, WeightFormat};
use half::{bf16, f16};
use ops::{Accelerator, Context, Embedding, EmbeddingArgs, HostWeight, Matmul, MatmulArgs};

use common::CANN;

const FOLD: &str = "aclnnTransMatmulWeight";
const PRODUCT: &str = "aclnnMatmulWeightNz";

fn open() -> Accelerator {
    backend_ascend::open("ascend:0").unwrap()
}

/// What was called since this was last asked: folding, and products with folded weights.
fn used(stand_in: &StandIn) -> [bool; 2] {
    let calls = stand_in.calls();
    [FOLD, PRODUCT].map(|name| calls.iter().any(|call| call == name))
}

/// Packs a weight `[n, k]` of small whole numbers, reads its rows by a tied table, and multiplies with it.
fn table_and_product(context: &Context, dtype: DType, n: usize, k: usize) {
    let device = context.device().clone();
    let format = WeightFormat::Dense(dtype);
    let product = context.plan(Matmul::new(n, k, dtype, format)).unwrap();
    let table = context
        .plan(Embedding {
            vocab: n,
            dim: k,
            table: format,
            out: dtype,
            tied: true,
        })
        .unwrap();
    let integer = |r: usize, c: usize| ((r * 7 + c * 3) % 11) as f32 - 5.0;
    let bytes_of = |x: f32| match dtype {
        DType::BF16 => bf16::from_f32(x).to_le_bytes(),
        _ => f16::from_f32(x).to_le_bytes(),
    };
    let all = (0..n * k).flat_map(|i| bytes_of(integer(i / k, i % k)));
    let host = HostWeight::new(format, n, k, all.collect::<Vec<u8>>(), Vec::new()).unwrap();
    let weight = product.pack(&host).unwrap();
    let mut stream = device.stream().unwrap();
    // A row that is there twice, and one that is not.
    let ids = [n - 1, 0, n, 0];
    let id_bytes: Vec<u8> = ids
        .iter()
        .flat_map(|&id| (id as i32).to_le_bytes())
        .collect();
    let [id_at, out_at] = [16, 2 * ids.len() * k].map(|bytes| device.alloc(bytes).unwrap());
    stream.upload(&View::of_bytes(&id_at), &id_bytes).unwrap();
    let shapes: [&[usize]; 3] = [&[ids.len(), k], &[ids.len()], &[weight.bytes()]];
    let workspace = device.alloc(table.workspace_bytes(&shapes)).unwrap();
    let args = EmbeddingArgs {
        out: View::new(&out_at, dtype, &[ids.len(), k]).unwrap(),
        ids: View::new(&id_at, DType::I32, &[ids.len()]).unwrap(),
        table: View::of_bytes(&weight),
    };
    table
        .run(&mut *stream, args, &View::of_bytes(&workspace))
        .unwrap();
    let mut back = vec![0; out_at.bytes()];
    stream
        .download(&mut back, &View::of_bytes(&out_at))
        .unwrap();
    for (i, got) in back.chunks_exact(2).enumerate() {
        let id = ids[i / k];
        let want = if id < n { integer(id, i % k) } else { 0.0 };
        assert_eq!(
            got,
            bytes_of(want),
            "{dtype} {n} x {k}: row {id}, {}",
            i % k
        );
    }
    // The product with rows of it is exact too.
    let rows = ids.len();
    let result_at = device.alloc(2 * rows * n).unwrap();
    let shapes: [&[usize]; 3] = [&[rows, n], &[rows, k], &[weight.bytes()]];
    let workspace = device.alloc(product.workspace_bytes(&shapes)).unwrap();
    let args = MatmulArgs {
        out: View::new(&result_at, dtype, &[rows, n]).unwrap(),
        x: View::new(&out_at, dtype, &[rows, k]).unwrap(),
        weight: View::of_bytes(&weight),
        bias: None,
        residual: None,
    };
    product
        .run(&mut *stream, args, &View::of_bytes(&workspace))
        .unwrap();
    let mut back = vec![0; result_at.bytes()];
    stream
        .download(&mut back, &View::of_bytes(&result_at))
        .unwrap();
    for (i, got) in back.chunks_exact(2).enumerate() {
        let (id, column) = (ids[i / n], i % n);
        let products = (0..k).map(|c| {
            if id < n {
                integer(id, c) * integer(column, c)
            } else {
                0.0
            }
        });
        assert_eq!(
            got,
            bytes_of(products.sum::<f32>() + 0.0),
            "{dtype} {n} x {k}: {id}, {column}"
        );
    }
}

#[test]
fn half_types_lie_in_fractals() {
    CANN.emulated("half_types_lie_in_fractals", &[], &[], |stand_in| {
        let accelerator = open();
        let detail = accelerator.device.info().detail.clone();
        assert!(detail.contains("weights in fractals"), "{detail}");
        let context = Context::new(accelerator);
        for dtype in [DType::F16, DType::BF16] {
            // Whole fractals, and parts of them.
            for (n, k) in [(32, 16), (2, 2), (17, 31), (48, 33), (100, 64)] {
                table_and_product(&context, dtype, n, k);
                assert_eq!(used(&stand_in), [true; 2], "{dtype} {n} x {k}");
            }
            // The library folds no vectors.
            for (n, k) in [(1, 16), (16, 1)] {
                table_and_product(&context, dtype, n, k);
                assert_eq!(used(&stand_in), [false; 2], "{dtype} {n} x {k}");
            }
        }
        drop(context);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

/// Whether weights lie in fractals with these settings and without these functions; products are right either way.
fn folds(name: &str, settings: &[(&str, &str)], hidden: &[&str], wanted: bool) {
    CANN.emulated(name, settings, hidden, |stand_in| {
        let context = Context::new(open());
        table_and_product(&context, DType::F16, 33, 20);
        assert_eq!(used(&stand_in), [wanted; 2]);
        drop(context);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn they_may_be_refused() {
    folds("they_may_be_refused", &[("GLM_ASCEND_NZ", "0")], &[], false);
}

#[test]
fn a_310p_is_asked_for_them() {
    let settings = [("GLM_ASCEND_NZ", "1"), ("STAND_IN_SOC", "Ascend310P3")];
    folds("a_310p_is_asked_for_them", &settings, &[], true);
}

#[test]
fn a_310p_has_none_unasked() {
    let settings = [("STAND_IN_SOC", "Ascend310P3")];
    folds("a_310p_has_none_unasked", &settings, &[], false);
}

#[test]
fn a_910a_has_none() {
    let settings = [("GLM_ASCEND_NZ", "1"), ("STAND_IN_SOC", "Ascend910A")];
    folds("a_910a_has_none", &settings, &[], false);
}

#[test]
fn a_950_has_none() {
    let settings = [("GLM_ASCEND_NZ", "1"), ("STAND_IN_SOC", "Ascend950DT")];
    folds("a_950_has_none", &settings, &[], false);
}

#[test]
fn without_the_size_rows_stay() {
    let hidden = ["aclnnCalculateMatmulWeightSizeV2"];
    folds("without_the_size_rows_stay", &[], &hidden, false);
}

#[test]
fn without_the_product_rows_stay() {
    folds("without_the_product_rows_stay", &[], &[PRODUCT], false);
}

#[test]
fn without_folding_products_pass_the_suite() {
    let name = "without_folding_products_pass_the_suite";
    CANN.emulated(name, &[], &[FOLD], |stand_in| {
        let suite = Suite::new(open());
        for report in [
            suite.run_small::<Matmul>(96),
            suite.run_small::<Embedding>(48),
        ] {
            println!("{report}");
            report.require_pass().unwrap();
        }
        drop(suite);
        assert_eq!(used(&stand_in), [false; 2]);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn each_call_of_folding_may_fail() {
    CANN.emulated("each_call_of_folding_may_fail", &[], &[], |stand_in| {
        let pack = || {
            let context = Context::new(open());
            let half = WeightFormat::Dense(DType::F16);
            let plan = context.plan(Matmul::new(8, 8, DType::F16, half))?;
            let host = HostWeight::new(half, 8, 8, vec![0; 128], Vec::new())?;
            plan.pack(&host).map(drop)
        };
        pack().unwrap();
        for (function, code, kind) in [
            (
                "aclnnCalculateMatmulWeightSizeV2",
                161_002,
                ErrorKind::Unsupported,
            ),
            (
                "aclnnCalculateMatmulWeightSizeV2",
                507_015,
                ErrorKind::DeviceLost,
            ),
            (
                "aclnnTransMatmulWeightGetWorkspaceSize",
                361_001,
                ErrorKind::Unexpected,
            ),
            (
                "aclnnTransMatmulWeightGetWorkspaceSize",
                561_002,
                ErrorKind::Unsupported,
            ),
            (FOLD, 207_001, ErrorKind::OutOfMemory),
            (FOLD, 507_015, ErrorKind::DeviceLost),
            ("aclCreateIntArray", 1, ErrorKind::OutOfMemory),
            ("aclCreateTensor", 1, ErrorKind::OutOfMemory),
        ] {
            stand_in.fail(function, 1, code);
            let e = pack().unwrap_err();
            stand_in.fail("", 0, 0);
            assert_eq!(e.kind(), kind, "{function}: {e}");
            assert!(e.next().is_some(), "{function}: {e}");
            assert_eq!(stand_in.live(), [""; 0], "{function}");
        }
        pack().unwrap();
    });
}
