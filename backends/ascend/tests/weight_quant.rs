//! Products with integers: large ones in parts, and the library's own, which is used where it is asked for and loses nothing of
//! the scales. Emulated.

mod common;

use conformance::Suite;
use hal::{DType, View, WeightFormat};
use half::f16;
use ops::reference::Tensor;
use ops::{Context, HostWeight, Matmul, MatmulArgs, Op};

use common::CANN;

const ASKED: [(&str, &str); 1] = [("GLM_ASCEND_WEIGHT_QUANT", "1")];
const OPERATOR: &str = "aclnnWeightQuantBatchMatmulV2";

/// A number between −1 and 1.
fn number(i: usize) -> f32 {
    ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0
}

/// The product of a weight of `format` whose scales have no more digits than f16, and whether each element is as near to the
/// reference as a weight in f16 allows. Rows of `x` are `gap` elements apart.
fn product(format: WeightFormat, bias: bool, gap: usize) {
    let context = Context::new(backend_ascend::open("ascend:0").unwrap());
    let device = context.device().clone();
    let (m, n, k) = (3, 40, 96);
    let op = Matmul {
        bias,
        ..Matmul::new(n, k, DType::F16, format)
    };
    let plan = context.plan(op.clone()).unwrap();
    // A weight in f16 gets scales in f16.
    let halves: Vec<u8> = (0..n * k)
        .flat_map(|i| f16::from_f32(number(i)).to_le_bytes())
        .collect();
    let half = WeightFormat::Dense(DType::F16);
    let dense = HostWeight::new(half, n, k, halves, Vec::new()).unwrap();
    let host = dense.convert(format).unwrap();
    let weight = plan.pack(&host).unwrap();
    let far = k + gap;
    let x: Vec<f16> = (0..m * far).map(|i| f16::from_f32(number(3 * i))).collect();
    let mut stream = device.stream().unwrap();
    let [x_at, out_at] = [m * far, m * n].map(|n| device.alloc(2 * n).unwrap());
    let bias_at = device.alloc(4 * n).unwrap();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    stream.upload(&View::of_bytes(&x_at), &bytes).unwrap();
    stream
        .upload(&View::of_bytes(&bias_at), &vec![0; 4 * n])
        .unwrap();
    let args = MatmulArgs {
        out: View::new(&out_at, DType::F16, &[m, n]).unwrap(),
        x: View::strided(&x_at, 0, DType::F16, &[m, k], &[far, 1]).unwrap(),
        weight: View::of_bytes(&weight),
        bias: bias.then(|| View::new(&bias_at, DType::F32, &[n]).unwrap()),
        residual: None,
    };
    let sizes = [weight.bytes()];
    let shapes: [&[usize]; 4] = [&[m, n], &[m, k], &sizes, &[n]];
    let shapes = &shapes[..3 + usize::from(bias)];
    let workspace = device.alloc(plan.workspace_bytes(shapes)).unwrap();
    plan.run(&mut *stream, args, &View::of_bytes(&workspace))
        .unwrap();
    let mut back = vec![0; 2 * m * n];
    stream
        .download(&mut back, &View::of_bytes(&out_at))
        .unwrap();
    let rows = x.chunks_exact(far).flat_map(|row| &row[..k]);
    let x = Tensor::new(&[m, k], rows.map(|x| x.to_f64()).collect());
    let w = host.dequantise();
    let mut inputs = vec![x.clone(), w.clone()];
    inputs.extend(bias.then(|| Tensor::zeros(&[n])));
    let wanted = op.reference(shapes, &inputs).swap_remove(0);
    let u = DType::F16.unit_roundoff();
    for (i, got) in back.chunks_exact(2).enumerate() {
        let got = f16::from_le_bytes([got[0], got[1]]).to_f64();
        let (row, column) = (x.row(i / n), w.row(i % n));
        let magnitude: f64 = row.iter().zip(column).map(|(x, w)| (x * w).abs()).sum();
        let bound = u * (magnitude + 1.01 * wanted.data[i].abs());
        let error = (got - wanted.data[i]).abs();
        assert!(error <= bound, "{format} {i}: {got}, {}", wanted.data[i]);
    }
}

#[test]
fn it_multiplies_where_it_is_asked_for() {
    CANN.emulated(
        "it_multiplies_where_it_is_asked_for",
        &ASKED,
        &[],
        |stand_in| {
            let used = || stand_in.calls().iter().any(|call| call == OPERATOR);
            for format in [WeightFormat::Int8Row, WeightFormat::Int4Row] {
                product(format, false, 0);
                assert!(used(), "{format}");
                // What comes after a product is added in f32.
                product(format, true, 0);
                assert!(!used(), "{format}");
                // It takes no rows with gaps.
                product(format, false, 8);
                assert!(!used(), "{format}");
            }
            product(WeightFormat::Int4Group(32), false, 0);
            assert!(!used());
            assert_eq!(stand_in.live(), [""; 0]);
        },
    );
}

/// Of more integers than become floats at a time.
#[test]
fn a_large_weight_is_taken_in_parts() {
    CANN.emulated("a_large_weight_is_taken_in_parts", &[], &[], |stand_in| {
        let context = Context::new(backend_ascend::open("ascend:0").unwrap());
        let device = context.device().clone();
        let (m, n, k) = (2, 2100, 8192);
        for format in [WeightFormat::Int8Row, WeightFormat::Int8Group(32)] {
            let plan = context.plan(Matmul::new(n, k, DType::F32, format)).unwrap();
            // Row r has r mod 100 in its first column, 1 in the others, and scales of 1.
            let integer = |i: usize| {
                if i.is_multiple_of(k) {
                    (i / k % 100) as u8
                } else {
                    1
                }
            };
            let integers: Vec<u8> = (0..n * k).map(integer).collect();
            let (scales, dtype) = format.row_scales(k);
            let one = match dtype {
                DType::F16 => f16::ONE.to_le_bytes().to_vec(),
                _ => 1f32.to_le_bytes().to_vec(),
            };
            let host = HostWeight::new(format, n, k, integers, one.repeat(n * scales)).unwrap();
            let weight = plan.pack(&host).unwrap();
            let shapes: [&[usize]; 3] = [&[m, n], &[m, k], &[weight.bytes()]];
            let bytes = plan.workspace_bytes(&shapes);
            assert!(bytes < 8 * n * k, "{bytes}");
            let [x, out, workspace] =
                [4 * m * k, 4 * m * n, bytes].map(|n| device.alloc(n).unwrap());
            let mut stream = device.stream().unwrap();
            let ones = 1f32.to_le_bytes().repeat(m * k);
            stream.upload(&View::of_bytes(&x), &ones).unwrap();
            let args = MatmulArgs {
                out: View::new(&out, DType::F32, &[m, n]).unwrap(),
                x: View::new(&x, DType::F32, &[m, k]).unwrap(),
                weight: View::of_bytes(&weight),
                bias: None,
                residual: None,
            };
            plan.run(&mut *stream, args, &View::of_bytes(&workspace))
                .unwrap();
            let mut back = vec![0; 4 * m * n];
            stream.download(&mut back, &View::of_bytes(&out)).unwrap();
            for (i, bytes) in back.chunks_exact(4).enumerate() {
                let wanted = (i % n % 100 + k - 1) as f32;
                assert_eq!(
                    f32::from_le_bytes(bytes.try_into().unwrap()),
                    wanted,
                    "{format} {i}"
                );
            }
        }
        drop((context, device));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn it_is_not_used_unasked() {
    CANN.emulated("it_is_not_used_unasked", &[], &[], |stand_in| {
        product(WeightFormat::Int8Row, false, 0);
        assert!(!stand_in.calls().iter().any(|call| call == OPERATOR));
    });
}

#[test]
fn the_card_says_that_weights_are_rounded() {
    CANN.emulated(
        "the_card_says_that_weights_are_rounded",
        &ASKED,
        &[],
        |_| {
            let accelerator = backend_ascend::open("ascend:0").unwrap();
            let info = accelerator.device.info();
            assert_eq!(info.numerics.operand_bits, 11);
            assert!(
                info.detail.contains("GLM_ASCEND_WEIGHT_QUANT=1"),
                "{}",
                info.detail
            );
            let report = Suite::new(accelerator).run_small::<Matmul>(48);
            println!("{report}");
            report.require_pass().unwrap();
        },
    );
}
