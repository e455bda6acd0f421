//! Cases of [`Activation`].

use hal::Numerics;
use ops::reference::{Tensor, erf};
use ops::{Act, Activation, Op};

use super::{Conformance, FLOATS};
use crate::bound::{TINY, U, stored};
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

/// Largest errors of f32 functions in units in the last place, which are up to 2 unit roundoffs:
/// the full profile of OpenCL C 3.0, table "ULP values for single precision built-in math functions".
const EXP: f64 = 3.0 * 2.0;
const TANH: f64 = 5.0 * 2.0;
const ERF: f64 = 16.0 * 2.0; // of erfc too

impl Conformance for Activation {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (rows, dim) = (picks.size(65), picks.size(1025));
        let op = Activation {
            act: picks.one(&Act::ALL),
            dtype: picks.one(&FLOATS),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::Rising,
            Generator::SignedZeros,
            Generator::Subnormals,
            Generator::Nan,
            Generator::Wide,
        ]);
        let x = picks.one(&Layout::ROWS);
        let out = picks.one(&[Layout::Contiguous, Layout::InPlace(1), Layout::Padded(3)]);
        Case::new(
            op,
            vec![
                Operand::out(&[rows, dim]).layout(out),
                Operand::random(&[rows, dim], generator).layout(x),
            ],
        )
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        let bound =
            |(&x, &y): (&f64, &f64)| Bound::of(|_| stored(self.dtype, y, act_error(self.act, x)));
        let bounds = inputs[0].data.iter().zip(&want.data).map(bound).collect();
        vec![Expected::Within(want, bounds)]
    }
}

/// Absolute error of an activation computed in f32 at exactly `x`.
pub(crate) fn act_error(act: Act, x: f64) -> f64 {
    let y = act.reference(x).abs();
    // An exponential beyond the range of f32 may stop at its border.
    let floor = (1.0 + x.abs()) * TINY;
    let error = match act {
        Act::Silu => (EXP + 3.0) * U * y,
        Act::GeluQuick => {
            let a = 1.702 * x;
            let weight = 1.0 / (1.0 + a.exp());
            (EXP + 3.0 + 2.0 * a.abs() * weight) * U * y
        }
        Act::GeluErf => {
            let e = erf(x * std::f64::consts::FRAC_1_SQRT_2).abs();
            // The argument x/√2 has two roundings; erf' = 2/√π·exp(−x²/2).
            let slope = std::f64::consts::FRAC_2_SQRT_PI * (-x * x / 2.0).exp() * x.abs();
            // By 1 + erf, or by the tail erfc = 1 − |erf|: whichever is less exact here.
            0.5 * x.abs() * (ERF * e.max(1.0 - e) + 2.0 * slope + 1.0) * U + 3.0 * U * y
        }
        Act::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let t = inner.tanh();
            // The argument has five roundings.
            let slope = 5.0 * (1.0 - t * t) * inner.abs();
            0.5 * x.abs() * (TANH * t.abs() + slope + 1.0) * U + 3.0 * U * y
        }
    };
    // The limits at infinity are exact.
    if x.is_infinite() { 0.0 } else { error + floor }
}

/// How far the activation moves when its argument does by up to `error`.
pub(crate) fn act_spread(act: Act, x: f64, error: f64) -> f64 {
    let y = act.reference(x);
    let moved = |x| (act.reference(x) - y).abs();
    moved(x + error).max(moved(x - error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A straightforward f32 implementation stays within the bound over the whole range.
    #[test]
    fn plain_f32_code_conforms() {
        let f32_act = |act: Act, x: f32| match act {
            Act::Silu => x / (1.0 + (-x).exp()),
            Act::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
            Act::GeluErf => {
                let e = erf(f64::from(x * std::f32::consts::FRAC_1_SQRT_2)) as f32;
                0.5 * x * (1.0 + e)
            }
            Act::GeluTanh => {
                let w = 0.797_884_6 * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + w.tanh())
            }
        };
        for act in Act::ALL {
            let mut used = 0.0f64;
            for i in -40_000..=40_000 {
                let x = i as f32 * 0.002_5;
                let error = f64::from(f32_act(act, x)) - act.reference(x.into());
                used = used.max(error.abs() / act_error(act, x.into()));
            }
            assert!((0.02..1.0).contains(&used), "{act:?} uses {used}");
        }
    }
}
