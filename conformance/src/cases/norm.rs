//! Error bounds of the four normalisations, and what the two residual sums share.

use hal::DType;
use ops::reference::Tensor;

use super::FLOATS;
use crate::bound::{Model, TINY, U, stored};
use crate::{Bound, Expected, Generator, Layout, Operand, Picks};

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

/// What the cases of the two residual sums pick: everything but the parameters of the norm.
pub(crate) struct SumPicks {
    pub(crate) dim: usize,
    pub(crate) dtype: DType,
    pub(crate) eps: f32,
    pub(crate) alpha: f32,
    /// out, sum, x, residual
    pub(crate) operands: Vec<Operand>,
}

impl SumPicks {
    pub(crate) fn new(picks: &mut Picks) -> Self {
        let (rows, dim) = (picks.size(33), picks.size_from_1(4097));
        let (dtype, eps) = (picks.one(&FLOATS), picks.one(&[1e-5, 1e-6]));
        // 1, and DeepNorm's √140 and √56.
        let alpha = picks.one(&[1.0, 11.832_159, 7.483_315]);
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::SignedZeros,
            Generator::Constant,
            Generator::Nan,
        ]);
        let inputs = [picks.one(&Layout::ROWS), picks.one(&Layout::ROWS)];
        let sum = picks.one(&[
            Layout::Contiguous,
            Layout::InPlace(2),
            Layout::InPlace(3),
            Layout::Padded(3),
        ]);
        // The norm may take the place of x unless the sum has taken it.
        let out = match picks.one(&[Layout::Contiguous, Layout::InPlace(2), Layout::Padded(3)]) {
            Layout::InPlace(2) if sum == Layout::InPlace(2) => Layout::Contiguous,
            layout => layout,
        };
        let shape = [rows, dim];
        Self {
            dim,
            dtype,
            eps,
            alpha,
            operands: vec![
                Operand::out(&shape).layout(out),
                Operand::out(&shape).layout(sum),
                Operand::random(&shape, generator).layout(inputs[0]),
                Operand::random(&shape, Generator::Normal).layout(inputs[1]),
            ],
        }
    }
}

/// The norm and the sum within their bounds. `outputs` are the two references; `errors` bounds the norm of a row whose
/// elements are each off by `moved`.
pub(crate) fn expect_sum(
    dtype: DType,
    alpha: f32,
    residual: &Tensor,
    outputs: Vec<Tensor>,
    errors: impl Fn(&[f64], &[f64], Model) -> Vec<f64>,
) -> Vec<Expected> {
    let [out, sum] = <[Tensor; 2]>::try_from(outputs).expect("two outputs");
    let (terms, alpha) = (residual.data.iter().zip(&sum.data), f64::from(alpha));
    let moved: Vec<f64> = terms
        .map(|(r, s)| {
            let product = (alpha * r).abs();
            stored(dtype, *s, U * (product + s.abs()) + 2.0 * TINY)
        })
        .collect();
    let dim = sum.shape[1];
    let bounds = Bound::rows(out.rows(), |r, model| {
        let errors = errors(sum.row(r), &moved[r * dim..(r + 1) * dim], model);
        let elements = out.row(r).iter().zip(errors);
        elements.map(|(&y, e)| stored(dtype, y, e)).collect()
    });
    let sums = moved.iter().map(|&e| Bound::of(|_| e)).collect();
    vec![Expected::Within(out, bounds), Expected::Within(sum, sums)]
}
