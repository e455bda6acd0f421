//! How far a correct kernel may be from the reference: per element, from the formats and the data.
//!
//! Formulas and sources: `docs/numerics.md`. Kernels compute in f32; their roundings accumulate by one of two
//! models, and a result inside the probable one passes.

use hal::DType;
use ops::reference::Tensor;

use crate::number::{overflow, round, spacing};

/// Unit roundoff of f32, the type that every kernel computes in.
pub(crate) const U: f64 = DType::F32.unit_roundoff();

/// Smallest normal f32. Devices may flush smaller intermediates to zero.
pub(crate) const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Width of the probabilistic model: an element of 4096 roundings leaves it with probability below 1e-10.
const LAMBDA: f64 = 8.0;

/// How roundings accumulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// As independent errors of mean zero (Higham & Mary 2019).
    Probable,
    /// In the worst case (Higham 2002, lemma 3.1).
    Certain,
}

impl Model {
    /// Relative error that `n` successive f32 roundings may accumulate.
    pub fn g(self, n: usize) -> f64 {
        let n = n as f64;
        match self {
            Model::Probable => n.min(LAMBDA * n.sqrt()) * U,
            Model::Certain => n * U / (1.0 - n * U),
        }
    }
}

/// The largest allowed distance of one element from the reference, by both models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Beyond this the result is suspect: [`crate::Status::PassWeak`].
    pub probable: f64,
    /// Beyond this it is wrong.
    pub certain: f64,
}

impl Bound {
    /// The element must be equal.
    pub const EXACT: Bound = Bound {
        probable: 0.0,
        certain: 0.0,
    };

    /// The bound that `formula` gives under each model.
    pub fn of(formula: impl Fn(Model) -> f64) -> Self {
        Self {
            probable: formula(Model::Probable),
            certain: formula(Model::Certain),
        }
    }

    /// Bounds of `rows` rows, of which `row(r, model)` gives one.
    pub fn rows(rows: usize, row: impl Fn(usize, Model) -> Vec<f64>) -> Vec<Self> {
        let both = |r| {
            row(r, Model::Probable)
                .into_iter()
                .zip(row(r, Model::Certain))
        };
        let bound = |(probable, certain)| Self { probable, certain };
        (0..rows).flat_map(both).map(bound).collect()
    }
}

/// Error of a value computed with absolute error `error` and then stored as `dtype`.
pub(crate) fn stored(dtype: DType, value: f64, error: f64) -> f64 {
    let u = dtype.unit_roundoff();
    // Half the spacing of subnormals is all that rounding adds below the normal range.
    u * value.abs() + (1.0 + u) * error + spacing(dtype, 0.0) / 2.0
}

/// Whether `Σ a·b` (both arguments' products and `more` terms) has no rounding in f32, in any order:
/// all terms are multiples of 1/4 and their magnitudes sum to less than 2²².
pub(crate) fn is_exact_in_f32(a: &[f64], b: &[f64], more: &[f64]) -> bool {
    let quarters = |x: &f64| (x * 4.0).fract() == 0.0;
    let magnitudes = a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>()
        + more.iter().map(|x| x.abs()).sum::<f64>();
    magnitudes < f64::from(1 << 22)
        && a.iter().all(|x| x.fract() == 0.0)
        && b.iter().chain(more).all(quarters)
}

/// What the elements of one output must be.
#[derive(Clone, Debug)]
pub enum Expected {
    /// The reference rounded to storage, bit for bit (any NaN for a NaN).
    Bits(Tensor),
    /// The reference, up to a bound per element.
    Within(Tensor, Vec<Bound>),
    /// One of these integers: near ties may fall either way.
    OneOf(Vec<Vec<i64>>),
}

/// How one element compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// The reference; of several allowed values, the first.
    pub(crate) want: f64,
    /// Share of the probable bound that the error uses; above 1 it is exceeded.
    pub(crate) utilisation: f64,
    /// The allowed distance.
    pub(crate) bound: f64,
    /// Whether the certain bound is exceeded too.
    pub(crate) wrong: bool,
}

impl Expected {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        match self {
            Expected::Bits(want) | Expected::Within(want, _) => want.data.len(),
            Expected::OneOf(sets) => sets.len(),
        }
    }

    /// Compares element `i`, stored as `dtype`, with `got`.
    pub(crate) fn compare(&self, dtype: DType, i: usize, got: f64) -> Comparison {
        let exact = |want: f64, right: bool| Comparison {
            want,
            utilisation: if right { 0.0 } else { f64::INFINITY },
            bound: 0.0,
            wrong: !right,
        };
        match self {
            Expected::Bits(want) => {
                let want = round(dtype, want.data[i]);
                exact(
                    want,
                    want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan()),
                )
            }
            Expected::OneOf(sets) => {
                let first = sets[i].first().map_or(f64::NAN, |&x| x as f64);
                exact(first, sets[i].iter().any(|&x| x as f64 == got))
            }
            Expected::Within(want, bounds) => {
                let (want, bound) = (want.data[i], bounds[i]);
                if want.is_nan() {
                    return exact(want, got.is_nan());
                }
                if want.is_infinite() {
                    return exact(want, got == want);
                }
                let error = distance(dtype, want, got, bound);
                Comparison {
                    want,
                    utilisation: match error / bound.probable {
                        _ if error == 0.0 => 0.0,
                        share if share.is_nan() => f64::INFINITY,
                        share => share,
                    },
                    bound: bound.probable,
                    // Written so that a NaN, in the result or in the bound, is wrong.
                    wrong: !(error <= bound.certain && bound.certain.is_finite()),
                }
            }
        }
    }
}

/// How far `got` is from the finite `want`. An infinity is as far as the threshold of overflow.
fn distance(dtype: DType, want: f64, got: f64, bound: Bound) -> f64 {
    if got.is_infinite() && got.signum() == want.signum() && bound.certain.is_finite() {
        return (overflow(dtype) - want.abs()).max(0.0);
    }
    (got - want).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(want: f64, bound: f64) -> Expected {
        let bound = Bound {
            probable: bound,
            certain: 2.0 * bound,
        };
        Expected::Within(Tensor::new(&[1], vec![want]), vec![bound])
    }

    #[test]
    fn models_agree_for_few_roundings_and_part_for_many() {
        assert_eq!(Model::Probable.g(64), 64.0 * U);
        assert_eq!(Model::Probable.g(4096), 512.0 * U);
        assert!((Model::Certain.g(4096) / (4096.0 * U) - 1.0).abs() < 1e-3);
    }

    #[test]
    fn judges_by_the_bound() {
        let e = within(1.0, 0.25);
        let at = |got| e.compare(DType::F32, 0, got);
        assert_eq!((at(1.125).utilisation, at(1.125).wrong), (0.5, false));
        assert_eq!((at(1.375).utilisation, at(1.375).wrong), (1.5, false));
        assert!(at(1.75).wrong && at(f64::NAN).wrong && at(f64::INFINITY).wrong);
        assert!(!within(0.0, 0.0).compare(DType::F32, 0, -0.0).wrong);
        assert!(within(0.0, 0.0).compare(DType::F32, 0, 1e-300).wrong);
        // A bound that is no number allows nothing.
        assert!(within(1.0, f64::NAN).compare(DType::F32, 0, 1.0).wrong);
    }

    #[test]
    fn nan_and_infinities_must_be_met() {
        assert!(within(f64::NAN, 1.0).compare(DType::F32, 0, 0.0).wrong);
        assert!(
            !within(f64::NAN, f64::NAN)
                .compare(DType::F32, 0, f64::NAN)
                .wrong
        );
        let inf = within(f64::INFINITY, f64::NAN);
        assert!(!inf.compare(DType::F16, 0, f64::INFINITY).wrong);
        assert!(inf.compare(DType::F16, 0, 65504.0).wrong);
        assert!(inf.compare(DType::F16, 0, f64::NEG_INFINITY).wrong);
        // 65500 ± 30 may overflow in f16, 65400 ± 30 may not, and never to the other side.
        let near = within(65500.0, 30.0);
        assert!(!near.compare(DType::F16, 0, f64::INFINITY).wrong);
        assert!(near.compare(DType::F16, 0, f64::NEG_INFINITY).wrong);
        assert!(
            within(65400.0, 30.0)
                .compare(DType::F16, 0, f64::INFINITY)
                .wrong
        );
        // What overflows must not be clamped.
        assert!(within(70000.0, 35.0).compare(DType::F16, 0, 65504.0).wrong);
        assert!(
            !within(70000.0, 35.0)
                .compare(DType::F16, 0, f64::INFINITY)
                .wrong
        );
    }

    #[test]
    fn bits_tell_the_sign_of_zero() {
        let e = Expected::Bits(Tensor::new(&[2], vec![-0.0, 0.1]));
        assert!(!e.compare(DType::F16, 0, -0.0).wrong);
        assert!(e.compare(DType::F16, 0, 0.0).wrong);
        assert!(!e.compare(DType::F16, 1, round(DType::F16, 0.1)).wrong);
        assert!(e.compare(DType::F16, 1, 0.1).wrong);
    }

    #[test]
    fn knows_exact_sums() {
        assert!(is_exact_in_f32(&[3.0, -2.0], &[0.25, 8.0], &[1.0]));
        assert!(!is_exact_in_f32(&[3.5], &[1.0], &[]));
        assert!(!is_exact_in_f32(&[3.0], &[0.1], &[]));
        assert!(!is_exact_in_f32(&[4096.0], &[1024.0], &[]));
        assert!(!is_exact_in_f32(&[f64::NAN], &[1.0], &[]));
    }
}
