//! Properties of norms.

use hal::DType;
use ops::reference::Tensor;
use ops::{AddLayerNorm, AddRmsNorm, LayerNorm, RmsNorm};

use super::{Held, Row, close, equal, first, require};
use crate::lab::{Lab, normal};

pub(super) const TESTS: &[Row] = &[
    (
        "rms_norm",
        "rows have mean square one, whatever their scale",
        rms_scale,
    ),
    (
        "layer_norm",
        "rows have mean zero and variance one, whatever their shift",
        layer_moments,
    ),
    (
        "add_rms_norm",
        "the sum is symmetric, the norm that of the sum",
        add_rms,
    ),
    (
        "add_layer_norm",
        "the sum is symmetric, the norm that of the sum",
        add_layer,
    ),
];

fn rms_scale(lab: &Lab) -> Held {
    let (m, dim) = (3, 1025);
    let x = normal(&[m, dim], "rms");
    let ones = Tensor::new(&[dim], vec![1.0; dim]);
    let op = |eps| RmsNorm {
        dim,
        dtype: DType::F32,
        eps,
    };
    let norm = |x: &Tensor, eps| lab.run(op(eps), &[&[m, dim]], &[x.clone(), ones.clone()]);
    let y = first!(norm(&x, 1e-12));
    let mean_square = |r: usize| y.row(r).iter().map(|y| y * y).sum::<f64>() / dim as f64;
    require!(close(
        &(0..m).map(mean_square).collect::<Vec<_>>(),
        &[1.0; 3],
        1e-5
    ));
    let large = first!(norm(&x.map(|x| 4096.0 * x), 1e-12));
    require!(close(&large.data, &y.data, 1e-5));
    // eps is added to the mean square: at 3 times it the result is half.
    let level = Tensor::new(&[m, dim], vec![1.0; m * dim]);
    let half = first!(norm(&level, 3.0));
    require!(close(&half.data, &vec![0.5; m * dim], 1e-6));
    let weight = normal(&[dim], "weight");
    let weighted = first!(lab.run(op(1e-12), &[&[m, dim]], &[x.clone(), weight.clone()]));
    let want: Vec<f64> = y
        .data
        .iter()
        .enumerate()
        .map(|(i, y)| y * weight.data[i % dim])
        .collect();
    Ok(Some(close(&weighted.data, &want, 1e-6)))
}

fn layer_moments(lab: &Lab) -> Held {
    let (m, dim) = (3, 513);
    let x = normal(&[m, dim], "layer");
    let constant = |value: f64| Tensor::new(&[dim], vec![value; dim]);
    let op = LayerNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-12,
    };
    let norm = |x: &Tensor, weight: f64, bias: f64| {
        let inputs = [x.clone(), constant(weight), constant(bias)];
        lab.run(op.clone(), &[&[m, dim]], &inputs)
    };
    let y = first!(norm(&x, 1.0, 0.0));
    for r in 0..m {
        let mean = y.row(r).iter().sum::<f64>() / dim as f64;
        let square = y.row(r).iter().map(|y| y * y).sum::<f64>() / dim as f64;
        require!(close(&[1.0 + mean, square], &[1.0, 1.0], 1e-5));
    }
    let shifted = first!(norm(&x.map(|x| x + 16.0), 1.0, 0.0));
    require!(close(&shifted.data, &y.data, 1e-4));
    let moved = first!(norm(&x, 2.0, 3.0));
    Ok(Some(close(
        &moved.data,
        &y.map(|y| 2.0 * y + 3.0).data,
        1e-5,
    )))
}

fn add_rms(lab: &Lab) -> Held {
    let (m, dim) = (3, 257);
    let (x, r) = (normal(&[m, dim], "x"), normal(&[m, dim], "r"));
    let weight = normal(&[dim], "weight");
    let op = |alpha| AddRmsNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
        alpha,
    };
    let shape: &[usize] = &[m, dim];
    let run = |alpha, a: &Tensor, b: &Tensor| {
        lab.run(
            op(alpha),
            &[shape; 2],
            &[a.clone(), b.clone(), weight.clone()],
        )
    };
    let (Some(a), Some(b)) = (run(1.0, &x, &r)?, run(1.0, &r, &x)?) else {
        return Ok(None);
    };
    let norm = RmsNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
    };
    let alone = first!(lab.run(norm, &[shape], &[a[1].clone(), weight.clone()]));
    let Some(scaled) = run(4.0, &x, &r)? else {
        return Ok(None);
    };
    sum_of_two(&a, &b, &alone, &x, &r, &scaled)
}

fn add_layer(lab: &Lab) -> Held {
    let (m, dim) = (3, 257);
    let (x, r) = (normal(&[m, dim], "x"), normal(&[m, dim], "r"));
    let (weight, bias) = (normal(&[dim], "weight"), normal(&[dim], "bias"));
    let op = |alpha| AddLayerNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
        alpha,
    };
    let shape: &[usize] = &[m, dim];
    let run = |alpha, a: &Tensor, b: &Tensor| {
        let inputs = [a.clone(), b.clone(), weight.clone(), bias.clone()];
        lab.run(op(alpha), &[shape; 2], &inputs)
    };
    let (Some(a), Some(b)) = (run(1.0, &x, &r)?, run(1.0, &r, &x)?) else {
        return Ok(None);
    };
    let norm = LayerNorm {
        dim,
        dtype: DType::F32,
        eps: 1e-5,
    };
    let inputs = [a[1].clone(), weight.clone(), bias.clone()];
    let alone = first!(lab.run(norm, &[shape], &inputs));
    let Some(scaled) = run(4.0, &x, &r)? else {
        return Ok(None);
    };
    sum_of_two(&a, &b, &alone, &x, &r, &scaled)
}

/// Norm and sum of x and r, of r and x; the norm of that sum alone; norm and sum of x and 4 r.
fn sum_of_two(
    a: &[Tensor],
    b: &[Tensor],
    alone: &Tensor,
    x: &Tensor,
    r: &Tensor,
    scaled: &[Tensor],
) -> Held {
    require!(equal(&a[0].data, &b[0].data));
    require!(equal(&a[1].data, &b[1].data));
    require!(close(&a[0].data, &alone.data, 1e-5));
    let sum = |alpha: f64| -> Vec<f64> {
        x.data
            .iter()
            .zip(&r.data)
            .map(|(x, r)| x + alpha * r)
            .collect()
    };
    require!(close(&a[1].data, &sum(1.0), 1e-6));
    Ok(Some(close(&scaled[1].data, &sum(4.0), 1e-6)))
}
