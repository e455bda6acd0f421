//! How far a correct kernel may be from the reference: per element, from the formats and the data.
//!
//! Formulas and sources: `docs/numerics.md`. Kernels compute in f32; their roundings accumulate by one of two
//! models, and a result inside the probable one passes.

use hal::{DType, Numerics};
use ops::reference::Tensor;

use crate::number::{overflow, power_of_two, round, spacing};

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
    /// Nothing can be said: a sum in the narrow type that the device declares may have overflowed on the way.
    pub const ANYTHING: Bound = Bound {
        probable: f64::MAX,
        certain: f64::MAX,
    };

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

/// Sums of products, as a card declares them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Products {
    /// The type that they are added up in.
    sum: DType,
    /// Bits that operands keep.
    operand_bits: u32,
}

impl Products {
    pub(crate) fn of(card: &Numerics) -> Self {
        Self {
            sum: card.accumulator,
            operand_bits: card.operand_bits,
        }
    }

    /// Relative error of a product whose operands have so many bits.
    pub(crate) fn operands(self, bits: [u32; 2]) -> f64 {
        let lost = |bits: u32| match bits > self.operand_bits {
            true => power_of_two(-(self.operand_bits as i32)),
            false => 0.0,
        };
        (1.0 + lost(bits[0])) * (1.0 + lost(bits[1])) - 1.0
    }

    /// Relative error that `n` successive roundings of the sum may accumulate.
    pub(crate) fn g(self, model: Model, n: usize) -> f64 {
        match (self.sum, model) {
            (DType::F32, _) => model.g(n),
            // In units of the narrow type. The worst case of a sum of products needs no n·u < 1 (Jeannerod & Rump 2013).
            (_, Model::Probable) => model.g(n) / U * self.sum.unit_roundoff(),
            (_, Model::Certain) => n as f64 * self.sum.unit_roundoff(),
        }
    }

    /// Error of a sum of products of this magnitude with `n` roundings, of operands of so many bits.
    pub(crate) fn error(self, model: Model, n: usize, magnitude: f64, bits: [u32; 2]) -> f64 {
        let operands = self.operands(bits);
        magnitude * (operands + (1.0 + operands) * self.g(model, n)) + self.below_normal(n)
    }

    /// What `n` roundings of numbers below the normal range may add up to. In f32 that is charged as flushing.
    pub(crate) fn below_normal(self, n: usize) -> f64 {
        match self.sum {
            DType::F32 => 0.0,
            sum => 2.0 * n as f64 * spacing(sum, 0.0) / 2.0,
        }
    }

    /// Whether a sum of this magnitude may overflow on the way, by no fault of the device.
    pub(crate) fn may_overflow(self, magnitude: f64) -> bool {
        // Roundings may carry a partial sum beyond the sum of magnitudes, but not to twice it.
        self.sum != DType::F32 && 2.0 * magnitude >= overflow(self.sum)
    }

    /// Whether `Σ a·b` (both arguments' products and `more` terms) has no rounding, in any order: all terms are
    /// multiples of 1/4, and their magnitudes sum to less than what the type holds of quarters.
    pub(crate) fn are_exact(self, a: &[f64], b: &[f64], more: &[f64]) -> bool {
        let quarters = |x: &f64| (x * 4.0).fract() == 0.0;
        let magnitudes = a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>()
            + more.iter().map(|x| x.abs()).sum::<f64>();
        magnitudes < 0.25 / self.sum.unit_roundoff()
            && a.iter().all(|x| x.fract() == 0.0)
            && b.iter().chain(more).all(quarters)
    }
}

/// Bits of a float type's significand.
pub(crate) fn digits(dtype: DType) -> u32 {
    -dtype.unit_roundoff().log2() as u32
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
                if bound == Bound::ANYTHING {
                    return Comparison {
                        want,
                        utilisation: 0.0,
                        bound: bound.probable,
                        wrong: false,
                    };
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
        let wide = Products::of(&Numerics::exact());
        assert!(wide.are_exact(&[3.0, -2.0], &[0.25, 8.0], &[1.0]));
        assert!(!wide.are_exact(&[3.5], &[1.0], &[]));
        assert!(!wide.are_exact(&[3.0], &[0.1], &[]));
        assert!(!wide.are_exact(&[4096.0], &[1024.0], &[]));
        assert!(!wide.are_exact(&[f64::NAN], &[1.0], &[]));
        let narrow = Products::of(&Numerics {
            accumulator: DType::F16,
            ..Numerics::exact()
        });
        assert!(narrow.are_exact(&[511.0], &[1.0], &[0.75]));
        assert!(!narrow.are_exact(&[511.0], &[1.0], &[1.0]));
    }

    #[test]
    fn a_declared_class_widens_its_own_bounds_only() {
        let exact = Products::of(&Numerics::exact());
        assert_eq!(exact.error(Model::Probable, 64, 1.0, [24, 24]), 64.0 * U);
        assert!(!exact.may_overflow(1e30));
        let tf32 = Products {
            operand_bits: 11,
            ..exact
        };
        // 2u + u² for f32 operands, nothing for those that fit.
        let u = 2f64.powi(-11);
        assert_eq!(tf32.operands([24, 24]), (1.0 + u) * (1.0 + u) - 1.0);
        assert_eq!(tf32.operands([11, 8]), 0.0);
        let f16 = Products {
            sum: DType::F16,
            ..exact
        };
        assert_eq!(f16.g(Model::Probable, 4096), 512.0 * u);
        assert_eq!(f16.g(Model::Certain, 4096), 4096.0 * u);
        assert!(f16.may_overflow(40000.0) && !f16.may_overflow(30000.0));
        let open = Expected::Within(Tensor::new(&[1], vec![7e4]), vec![Bound::ANYTHING]);
        for got in [0.0, f64::NAN, f64::NEG_INFINITY] {
            assert!(!open.compare(DType::F32, 0, got).wrong);
        }
    }
}
