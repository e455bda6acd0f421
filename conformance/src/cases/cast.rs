//! Cases of [`Cast`]: bit-exact, ties to even, overflow to infinity, subnormals kept.

use hal::{DType, Numerics};
use ops::Cast;
use ops::reference::Tensor;

use super::{Conformance, EXACT_GENERATORS, FLOATS, strided_shape};
use crate::{Case, Expected, Layout, Operand, Picks, Rng};

impl Conformance for Cast {
    fn case(picks: &mut Picks) -> Case<Self> {
        let shape = strided_shape(picks);
        // One question, so that every change of type meets every shape and generator.
        let pairs = FLOATS.map(|from| FLOATS.map(|to| (from, to)));
        let (from, to) = picks.one(pairs.as_flattened());
        let generator = picks.one(&EXACT_GENERATORS);
        // Every eighth value of f16 and bf16, their midpoints and the numbers beside them.
        let borders = picks.one(&[false, true]);
        let (out, x) = (picks.one(&Layout::STRIDED), picks.one(&Layout::ANY));
        let x_values = match borders {
            true => Operand::values(&shape, border_values(to, shape.iter().product())),
            false => Operand::random(&shape, generator),
        };
        Case::new(
            Cast { from, to },
            vec![Operand::out(&shape).layout(out), x_values.layout(x)],
        )
    }

    fn expect(&self, _shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        vec![Expected::Bits(inputs[0].clone())]
    }
}

/// f32 numbers whose cast to `to` is a tie, or one f32 away from a tie.
fn border_values(to: DType, n: usize) -> Vec<f64> {
    let mut rng = Rng::of(&format!("cast borders {to}"));
    let kept_bits = if to == DType::BF16 { 16 } else { 13 };
    let mut border = || {
        let bits = (rng.bits() >> kept_bits << kept_bits) | 1 << (kept_bits - 1);
        let beside = [bits, bits + 1, bits - 1][rng.below(3)];
        // f16 has a narrow range: bring most exponents into and around it.
        let exponent = 127 - 28 + rng.below(48) as u32;
        match to {
            DType::F16 => f32::from_bits(beside & !(0xff << 23) | exponent << 23),
            _ => f32::from_bits(beside),
        }
    };
    (0..n).map(|_| f64::from(border())).collect()
}
