//! Properties of what moves and ranks numbers.

use hal::DType;
use ops::reference::Tensor;
use ops::{Cast, Embedding, StridedCopy, TopK};

use super::{F32, HOLDS, Held, Row, equal, first, largest, reordered, require, vector};
use crate::lab::{Lab, normal};
use crate::number::decode;
use crate::{Case, Layout, Operand};

pub(super) const TESTS: &[Row] = &[
    ("copy", "through any layout it is the identity", copies),
    ("copy", "parts put together are the whole", concat),
    (
        "cast",
        "to a wider type and back is the identity, for every number",
        casts,
    ),
    ("argmax", "a row turned turns the index", argmax_turn),
    (
        "top_k",
        "values descend and lie at their indices",
        top_k_order,
    ),
    (
        "embedding",
        "ids in another order give rows in that order",
        id_order,
    ),
];

fn copies(lab: &Lab) -> Held {
    let x = normal(&[3, 5, 17], "copy").map(|x| f64::from(x as f32));
    let layouts = [
        Layout::Contiguous,
        Layout::Offset(1),
        Layout::Padded(3),
        Layout::Spread,
        Layout::Transposed,
    ];
    for from in layouts {
        for to in layouts {
            let case = Case::new(
                StridedCopy { dtype: DType::F32 },
                vec![
                    Operand::out(&x.shape).layout(to),
                    Operand::values(&x.shape, x.data.clone()).layout(from),
                ],
            );
            let y = match lab.suite.outputs(&case) {
                Err(e) if e.kind() == hal::ErrorKind::Unsupported => return Ok(None),
                outputs => outputs?.swap_remove(0),
            };
            require!(equal(&y.data, &x.data));
        }
    }
    HOLDS
}

/// The halves of rows are copied out, then into the halves of wider rows.
fn concat(lab: &Lab) -> Held {
    let device = lab.suite.device();
    let x: Vec<f32> = (0..6 * 34).map(|i| i as f32).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let plan = match lab.suite.context().plan(StridedCopy { dtype: DType::F32 }) {
        Err(e) if e.kind() == hal::ErrorKind::Unsupported => return Ok(None),
        plan => plan?,
    };
    let mut stream = device.stream()?;
    let buffers = [bytes.len(), bytes.len() / 2, bytes.len() / 2, bytes.len()];
    let buffers = buffers.map(|bytes| device.alloc(bytes));
    let [whole, left, right, again] = buffers;
    let (whole, left, right, again) = (whole?, left?, right?, again?);
    let matrix = |buffer, cols| hal::View::new(buffer, DType::F32, &[6, cols]);
    stream.upload(&matrix(&whole, 34)?, &bytes)?;
    let workspace = device.alloc(plan.workspace_bytes(&[&[6, 17], &[6, 17]]).max(1))?;
    let workspace = hal::View::of_bytes(&workspace);
    for (part, columns) in [(&left, 0..17), (&right, 17..34)] {
        let part = matrix(part, 17)?;
        let from = matrix(&whole, 34)?.slice(1, columns.clone())?;
        plan.run(
            &mut *stream,
            ops::CopyArgs { out: part, x: from },
            &workspace,
        )?;
        let to = matrix(&again, 34)?.slice(1, columns)?;
        plan.run(&mut *stream, ops::CopyArgs { out: to, x: part }, &workspace)?;
    }
    let mut out = vec![0; bytes.len()];
    stream.download(&mut out, &matrix(&again, 34)?)?;
    let numbers: Vec<f64> = out.chunks(4).map(|b| decode(DType::F32, b)).collect();
    let want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    Ok(Some(equal(&numbers, &want)))
}

fn casts(lab: &Lab) -> Held {
    for narrow in [DType::F16, DType::BF16] {
        let every = (0..=u16::MAX).map(|bits| decode(narrow, &bits.to_le_bytes()));
        let every: Vec<f64> = every.filter(|x| !x.is_nan()).collect();
        let shape = [every.len()];
        let to = |from, to, x: Vec<f64>| {
            lab.run(Cast { from, to }, &[&shape], &[Tensor::new(&shape, x)])
        };
        let wide = first!(to(narrow, DType::F32, every.clone()));
        require!(equal(&wide.data, &every));
        let back = first!(to(DType::F32, narrow, wide.data));
        let signs = |x: &[f64]| -> Vec<u64> { x.iter().map(|x| x.to_bits()).collect() };
        if signs(&back.data) != signs(&every) {
            return Ok(Some(Err(format!("{narrow} is not the same after f32"))));
        }
    }
    HOLDS
}

fn argmax_turn(lab: &Lab) -> Held {
    let (m, n) = (3, 203);
    // All negative, so that nothing hides behind a zero.
    let x = normal(&[m, n], "argmax").map(|x| x - 10.0);
    let index = first!(largest(lab, &x));
    for turn in [1, 50, 202] {
        let turned = (0..m * n).map(|i| x.row(i / n)[(i % n + turn) % n]);
        let turned = first!(largest(lab, &Tensor::new(&[m, n], turned.collect())));
        let want = index.map(|i| ((i as usize + n - turn) % n) as f64);
        require!(equal(&turned.data, &want.data));
    }
    let ties = first!(largest(lab, &Tensor::new(&[1, n], vec![1.0; n])));
    Ok(Some(equal(&ties.data, &[0.0])))
}

fn top_k_order(lab: &Lab) -> Held {
    let (m, n, k) = (3, 203, 20);
    let x = normal(&[m, n], "top").map(|x| f64::from((x * 8.0).round() as f32));
    let op = TopK {
        k,
        dtype: DType::F32,
    };
    let Some(outputs) = lab.run(op, &[&[m, k], &[m, k]], std::slice::from_ref(&x))? else {
        return Ok(None);
    };
    let index = first!(largest(lab, &x));
    for r in 0..m {
        let (values, indices) = (outputs[0].row(r), outputs[1].row(r));
        let there: Vec<f64> = indices
            .iter()
            .map(|&i| x.row(r).get(i as usize).copied().unwrap_or(f64::NAN))
            .collect();
        require!(equal(values, &there));
        let sorted = (1..k).all(|j| {
            values[j - 1] > values[j] || (values[j - 1] == values[j] && indices[j - 1] < indices[j])
        });
        let left_out = x.row(r).iter().filter(|&&x| x > values[k - 1]).count();
        if !sorted || left_out >= k || indices[0] != index.data[r] {
            return Ok(Some(Err(format!("row {r}: {values:?} at {indices:?}"))));
        }
    }
    HOLDS
}

fn id_order(lab: &Lab) -> Held {
    let (vocab, dim) = (50, 33);
    let table = normal(&[vocab, dim], "table").map(|x| f64::from(x as f32));
    let op = Embedding {
        vocab,
        dim,
        table: F32,
        out: DType::F32,
        tied: false,
    };
    let ids = [49usize, 0, 7, 7, 31];
    let ids_values = vector(&ids.map(|id| id as f64));
    let y = first!(lab.run(op, &[&[5, dim]], &[ids_values, table.clone()]));
    Ok(Some(equal(&y.data, &reordered(&table, &ids).data)))
}
