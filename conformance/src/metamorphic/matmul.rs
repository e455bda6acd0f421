//! Properties of products.

use hal::{DType, Result, WeightFormat};
use ops::reference::Tensor;
use ops::{Act, Activation, BatchedMatmul, Matmul};

use super::{F32, HOLDS, Held, Row, backwards, close, equal, first, joined, reordered, require};
use crate::generate;
use crate::lab::{Lab, integers, normal};

pub(super) const TESTS: &[Row] = &[
    (
        "matmul",
        "a product with the identity is the operand",
        identity,
    ),
    (
        "matmul",
        "rows in another order give rows in that order",
        row_order,
    ),
    (
        "matmul",
        "columns of two weights side by side",
        columns_side_by_side,
    ),
    ("matmul", "a power of two comes through", power_of_two),
    ("matmul", "two halves of k add up", halves_of_k),
    (
        "matmul",
        "quantising what was dequantised gives the same integers",
        quantised_again,
    ),
    (
        "matmul",
        "the epilogue is bias, then activation, then residual",
        epilogue,
    ),
    (
        "batched_matmul",
        "the transposed product has the factors swapped",
        transposed_product,
    ),
    (
        "batched_matmul",
        "each batch is a product of its own",
        batches_apart,
    ),
];

fn product(lab: &Lab, x: &Tensor, w: &Tensor) -> Result<Option<Vec<Tensor>>> {
    let [m, k] = x.shape[..] else {
        unreachable!("a matrix")
    };
    let op = Matmul::new(w.shape[0], k, DType::F32, F32);
    lab.run(op, &[&[m, w.shape[0]]], &[x.clone(), w.clone()])
}

fn identity(lab: &Lab) -> Held {
    for dtype in lab.floats() {
        let (m, k) = (5, 65);
        let op = Matmul::new(k, k, dtype, WeightFormat::Dense(dtype));
        let x = lab
            .normal(&[m, k], "identity")
            .map(|x| crate::number::round(dtype, x));
        let one = |i: usize| f64::from(u8::from(i / k == i % k));
        let w = Tensor::new(&[k, k], (0..k * k).map(one).collect());
        let y = first!(lab.run(op, &[&[m, k]], &[x.clone(), w]));
        require!(equal(&y.data, &x.data));
    }
    HOLDS
}

fn row_order(lab: &Lab) -> Held {
    let (x, w) = (lab.integers(&[37, 129], "x"), lab.integers(&[33, 129], "w"));
    let y = first!(product(lab, &x, &w));
    let turned = first!(product(lab, &reordered(&x, &backwards(37)), &w));
    Ok(Some(equal(
        &turned.data,
        &reordered(&y, &backwards(37)).data,
    )))
}

fn columns_side_by_side(lab: &Lab) -> Held {
    let x = lab.integers(&[3, 257], "x");
    let (a, b) = (lab.integers(&[65, 257], "a"), lab.integers(&[31, 257], "b"));
    let both = first!(product(lab, &x, &joined(&a, &b)));
    let (ya, yb) = (first!(product(lab, &x, &a)), first!(product(lab, &x, &b)));
    let side = |r: usize| [ya.row(r), yb.row(r)].concat();
    Ok(Some(equal(
        &both.data,
        &(0..3).flat_map(side).collect::<Vec<_>>(),
    )))
}

fn power_of_two(lab: &Lab) -> Held {
    // A narrow sum has neither the reach nor the subnormals for it, but for small integers.
    let (x, w, factor) = match lab.sums_narrowly() {
        true => (
            lab.integers(&[3, 1025], "x"),
            lab.integers(&[17, 1025], "w"),
            8.0,
        ),
        false => (normal(&[3, 1025], "x"), normal(&[17, 1025], "w"), 1024.0),
    };
    let y = first!(product(lab, &x, &w));
    let scaled = first!(product(lab, &x.map(|x| factor * x), &w));
    Ok(Some(equal(&scaled.data, &y.map(|y| factor * y).data)))
}

fn halves_of_k(lab: &Lab) -> Held {
    let (x, w) = (lab.integers(&[4, 2100], "x"), lab.integers(&[9, 2100], "w"));
    let half = |t: &Tensor, start: usize| {
        let part = (0..t.rows()).flat_map(|r| t.row(r)[start..start + 1050].to_vec());
        Tensor::new(&[t.rows(), 1050], part.collect())
    };
    let whole = first!(product(lab, &x, &w));
    let mut sum = first!(product(lab, &half(&x, 0), &half(&w, 0)));
    let second = first!(product(lab, &half(&x, 1050), &half(&w, 1050)));
    sum.data
        .iter_mut()
        .zip(&second.data)
        .for_each(|(a, b)| *a += b);
    Ok(Some(equal(&whole.data, &sum.data)))
}

fn quantised_again(lab: &Lab) -> Held {
    for format in [
        WeightFormat::Int8Row,
        WeightFormat::Int8Group(32),
        WeightFormat::Int4Row,
        WeightFormat::Int4Group(32),
    ] {
        let (n, k) = (24, 64);
        let values = normal(&[n, k], "quantised");
        let weight = generate::weight(format, [n, k], &values.data)?;
        // Rows of the identity bring out the columns of the dequantised weight.
        let one = |i: usize| f64::from(u8::from(i / k == i % k));
        let x = Tensor::new(&[k, k], (0..k * k).map(one).collect());
        let op = Matmul::new(n, k, DType::F32, format);
        let y = first!(lab.run(op, &[&[k, n]], &[x, values]));
        let turned: Vec<f64> = (0..n * k).map(|i| y.data[i % k * n + i / k]).collect();
        require!(close(
            &turned,
            &weight.dequantise().data,
            lab.tolerance(1e-7)
        ));
        // The integers come back from numbers that are nearly those, not from fewer bits.
        if lab.keeps_less() {
            continue;
        }
        let again = generate::weight(format, [n, k], &turned)?;
        if again.data != weight.data {
            return Ok(Some(Err(format!("the integers of {format} differ"))));
        }
    }
    HOLDS
}

fn epilogue(lab: &Lab) -> Held {
    let (m, n, k) = (5, 40, 33);
    let (x, w) = (
        integers(&[m, k], "x"),
        integers(&[n, k], "w").map(|w| w / 64.0),
    );
    let (bias, residual) = (integers(&[n], "bias"), integers(&[m, n], "residual"));
    let op = Matmul {
        bias: true,
        activation: Some(Act::Silu),
        residual: true,
        ..Matmul::new(n, k, DType::F32, F32)
    };
    let inputs = [x.clone(), w.clone(), bias.clone(), residual.clone()];
    let fused = first!(lab.run(op, &[&[m, n]], &inputs));
    let mut z = first!(product(lab, &x, &w));
    for (i, z) in z.data.iter_mut().enumerate() {
        *z += bias.data[i % n];
    }
    let act = Activation {
        act: Act::Silu,
        dtype: DType::F32,
    };
    let mut y = first!(lab.run(act, &[&[m, n]], &[z]));
    y.data
        .iter_mut()
        .zip(&residual.data)
        .for_each(|(y, r)| *y += r);
    Ok(Some(close(&fused.data, &y.data, lab.tolerance(1e-5))))
}

fn batched(lab: &Lab, a: &Tensor, b: &Tensor) -> Result<Option<Vec<Tensor>>> {
    let op = BatchedMatmul {
        a: DType::F32,
        b: DType::F32,
        out: DType::F32,
        alpha: 0.5,
    };
    let out = [a.shape[0], a.shape[1], a.shape[2], b.shape[2]];
    lab.run(op, &[&out], &[a.clone(), b.clone()])
}

fn transposed_product(lab: &Lab) -> Held {
    let (a, b) = (
        lab.integers(&[1, 1, 9, 65], "a"),
        lab.integers(&[1, 1, 17, 65], "b"),
    );
    let ab = first!(batched(lab, &a, &b));
    let ba = first!(batched(lab, &b, &a));
    let turned: Vec<f64> = (0..9 * 17).map(|i| ba.data[i % 17 * 9 + i / 17]).collect();
    Ok(Some(equal(&ab.data, &turned)))
}

fn batches_apart(lab: &Lab) -> Held {
    let (a, b) = (
        lab.integers(&[2, 3, 4, 33], "a"),
        lab.integers(&[2, 3, 5, 33], "b"),
    );
    let all = first!(batched(lab, &a, &b));
    for i in 0..6 {
        let one = |t: &Tensor, m: usize| {
            Tensor::new(
                &[1, 1, m, 33],
                t.data[i * m * 33..(i + 1) * m * 33].to_vec(),
            )
        };
        let alone = first!(batched(lab, &one(&a, 4), &one(&b, 5)));
        require!(equal(&all.data[i * 20..(i + 1) * 20], &alone.data));
    }
    HOLDS
}
