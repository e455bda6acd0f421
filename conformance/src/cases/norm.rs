//! Error bounds of the four normalisations.

use crate::bound::{Model, TINY, U};

/// Roundings of one result besides the sums: `+ eps`, the root and reciprocal (2 ulp), two products, a sum.
const STEPS: f64 = 8.0;

fn mean(terms: impl Iterator<Item = f64>, n: usize) -> f64 {
    terms.sum::<f64>() / n as f64
}

/// Absolute errors of `x·weight/√(mean(x²) + eps)` in f32, when each `x` is itself off by `moved`.
///
/// All terms of the mean are positive, so its relative error is that of the sum, and the root halves it.
pub(crate) fn rms_errors(
    row: &[f64],
    moved: &[f64],
    weight: &[f64],
    eps: f32,
    model: Model,
) -> Vec<f64> {
    let n = row.len();
    let square = mean(row.iter().map(|x| x * x), n) + f64::from(eps);
    let shift = mean(row.iter().zip(moved).map(|(x, d)| (x.abs() + d) * d), n);
    let relative = model.g(n + 2) / 2.0 + STEPS * U + (shift + TINY) / square;
    let scale = 1.0 / square.sqrt();
    let error = |((x, d), w): ((&f64, &f64), &f64)| {
        w.abs() * scale * (x.abs() * relative + d * (1.0 + relative)) + TINY * (1.0 + w.abs())
    };
    row.iter().zip(moved).zip(weight).map(error).collect()
}

/// Absolute errors of `(x − mean)/√(var + eps)·weight + bias` in f32, when each `x` is itself off by `moved`.
///
/// The mean is off by `g(n)·mean|x|`, and that enters the result as it is. The variance must come from deviations
/// (two passes, or Welford's update): its relative error then grows with the condition number `√(mean(x²)/var)`
/// (Chan, Golub & LeVeque 1983), not with its square as that of `mean(x²) − mean²` does.
pub(crate) fn layer_errors(
    row: &[f64],
    moved: &[f64],
    weight: &[f64],
    bias: &[f64],
    eps: f32,
    model: Model,
) -> Vec<f64> {
    let n = row.len();
    let centre = mean(row.iter().copied(), n);
    let centre_error =
        model.g(n + 1) * mean(row.iter().map(|x| x.abs()), n) + mean(moved.iter().copied(), n);
    let var = mean(row.iter().map(|x| (x - centre).powi(2)), n);
    let var_eps = var + f64::from(eps);
    let square = mean(row.iter().map(|x| x * x), n);
    let off = |(x, d): (&f64, &f64)| {
        (
            (x - centre).abs(),
            d + centre_error + U * (x - centre).abs(),
        )
    };
    let shift = mean(row.iter().zip(moved).map(off).map(|(c, d)| (c + d) * d), n);
    let var_error = model.g(n + 3) * (var * square).sqrt() + model.g(n + 3) * var + shift + TINY;
    let relative = var_error / var_eps + STEPS * U;
    let scale = 1.0 / var_eps.sqrt();
    let error = |(((x, d), w), b): (((&f64, &f64), &f64), &f64)| {
        let (c, off) = off((x, d));
        let scaled = w.abs() * scale * (c * relative + off * (1.0 + relative));
        scaled + U * (w.abs() * scale * c + b.abs()) + TINY * (1.0 + w.abs())
    };
    row.iter()
        .zip(moved)
        .zip(weight)
        .zip(bias)
        .map(error)
        .collect()
}
