//! Tables of cosines and sines for the rotary embedding, one row per position.
//!
//! Every rounding that the official code makes on the way from position to table is made here too:
//! at position 2047 the f16 angles of GLM-130B are off by up to half a radian, and the model was
//! trained that way. "The model's type" is the type of its activations, as in the official code:
//! run in f32, only the f16 frequencies of GLM-130B and ChatGLM-6B stay.

use hal::DType;
use half::{bf16, f16};

use crate::architecture::{RopeRecipe, RopeRounding, RopeScaling};

/// Cosines and sines, each f32 `[positions, rotary_dim / 2]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTables {
    /// Cosines, times YaRN's attention factor where there is one.
    pub cos: Vec<f32>,
    /// Sines, likewise.
    pub sin: Vec<f32>,
}

impl RopeTables {
    /// The tables of `recipe` for positions `0..positions` and activations of type `dtype`.
    pub fn new(recipe: &RopeRecipe, dtype: DType, positions: usize) -> Self {
        let frequencies = frequencies(recipe, dtype);
        let factor = match recipe.scaling {
            RopeScaling::Yarn { factor, .. } => (0.1 * factor.ln() + 1.0) as f32,
            _ => 1.0,
        };
        let len = positions * frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(len), Vec::with_capacity(len));
        for position in 0..positions {
            for &frequency in &frequencies {
                let angle = angle(recipe, dtype, position, frequency);
                // Cosine and sine of the f32 angle in f64: correctly rounded, the same on every
                // machine.
                let (s, c) = f64::from(angle).sin_cos();
                cos.push(round(c as f32 * factor, dtype));
                sin.push(round(s as f32 * factor, dtype));
            }
        }
        Self { cos, sin }
    }
}

/// The angle per position of each pair.
fn frequencies(recipe: &RopeRecipe, dtype: DType) -> Vec<f32> {
    let dim = recipe.rotary_dim;
    (0..dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f64 / dim as f64;
            let yarn = yarn(recipe, i);
            let exact = (recipe.base.powf(-exponent) * yarn) as f32;
            match recipe.rounding {
                RopeRounding::Table => exact,
                RopeRounding::F16Frequencies => round(exact, DType::F16),
                // Exponent, power and reciprocal are each a tensor of the model's type.
                RopeRounding::Everything => {
                    let exponent = round(exponent as f32, dtype);
                    let power = round(recipe.base.powf(f64::from(exponent)) as f32, dtype);
                    round(yarn as f32 / power, dtype)
                }
            }
        })
        .collect()
}

fn angle(recipe: &RopeRecipe, dtype: DType, position: usize, frequency: f32) -> f32 {
    let (position, dtype) = match recipe.rounding {
        RopeRounding::Table => (position as f32, DType::F32),
        _ => (round(position as f32, dtype), dtype),
    };
    let position = match recipe.scaling {
        RopeScaling::DividePositions(ratio) => round(position / ratio as f32, dtype),
        _ => position,
    };
    round(position * frequency, dtype)
}

/// What YaRN multiplies the frequency of pair `i` by: 1 for fast pairs, `1/factor` for slow ones, a
/// ramp between.
fn yarn(recipe: &RopeRecipe, i: usize) -> f64 {
    let RopeScaling::Yarn {
        factor,
        original_context,
    } = recipe.scaling
    else {
        return 1.0;
    };
    let dim = recipe.rotary_dim as f64;
    // The pair that turns n times within the original context.
    let pair = |n: f64| {
        let turns = original_context as f64 / (2.0 * std::f64::consts::PI * n);
        dim * turns.ln() / (2.0 * recipe.base.ln())
    };
    let low = pair(32.0).floor().clamp(0.0, dim - 1.0);
    // The official code keeps the ramp from having no width in the same way.
    let high = pair(1.0).ceil().clamp(0.0, dim - 1.0).max(low + 0.001);
    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
    ramp / factor + (1.0 - ramp)
}

/// `x` rounded to `dtype` and back.
fn round(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ops::RopeLayout;

    fn recipe(rotary_dim: usize, rounding: RopeRounding, scaling: RopeScaling) -> RopeRecipe {
        RopeRecipe {
            layout: RopeLayout::Interleaved,
            rotary_dim,
            base: 10_000.0,
            scaling,
            rounding,
        }
    }

    fn angles(recipe: &RopeRecipe, dtype: DType, position: usize) -> Vec<f32> {
        frequencies(recipe, dtype)
            .into_iter()
            .map(|f| angle(recipe, dtype, position, f))
            .collect()
    }

    // Check values: the official f16 code of GLM-130B, ChatGLM-6B and ChatGLM2.

    #[test]
    fn f16_frequencies_are_those_of_glm_130b_and_chatglm_6b() {
        let bits = |dim| -> Vec<u16> {
            let recipe = recipe(dim, RopeRounding::F16Frequencies, RopeScaling::None);
            let frequencies = frequencies(&recipe, DType::F32).into_iter();
            frequencies.map(|f| f16::from_f32(f).to_bits()).collect()
        };
        assert_eq!(bits(128)[..4], [0x3c00, 0x3aed, 0x3a00, 0x3932]);
        assert_eq!(bits(64)[..4], [0x3c00, 0x3a00, 0x3880, 0x36bf]);
        let last = |dim: usize| f16::from_bits(bits(dim)[dim / 2 - 1]).to_f32();
        // Neighbours in f16 are 6e-8 apart there, and 1.2e-7.
        assert!((last(128) - 1.15455e-4).abs() < 1e-8);
        assert!((last(64) - 1.33395e-4).abs() < 1e-8);
    }

    #[test]
    fn f16_angles_are_those_of_glm_130b() {
        let recipe = recipe(128, RopeRounding::F16Frequencies, RopeScaling::None);
        let at = |position| angles(&recipe, DType::F16, position)[..4].to_vec();
        assert_eq!(at(2047), [2047.0, 1772.0, 1535.0, 1329.0]);
        assert_eq!(at(1000), [1000.0, 865.5, 750.0, 649.5]);
        let tables = RopeTables::new(&recipe, DType::F16, 2048);
        let expected = [0.249756, 0.989746, -0.325928, -0.994141];
        for (cos, expected) in tables.cos[2047 * 64..].iter().zip(expected) {
            assert!((cos - expected).abs() < 1e-6, "{cos} {expected}");
        }
    }

    #[test]
    fn everything_in_f16_is_chatglm2() {
        let recipe = recipe(64, RopeRounding::Everything, RopeScaling::None);
        let bits = frequencies(&recipe, DType::F16).into_iter();
        let bits: Vec<u16> = bits.map(|f| f16::from_f32(f).to_bits()).collect();
        assert_eq!(bits[..6], [0x3c00, 0x39ff, 0x3880, 0x36bf, 0x350f, 0x3396]);
        let at = angles(&recipe, DType::F16, 4097);
        assert_eq!(at[..4], [4096.0, 3070.0, 2304.0, 1727.0]);
    }

    #[test]
    fn table_rounds_the_table_only() {
        let recipe = recipe(64, RopeRounding::Table, RopeScaling::None);
        assert_eq!(angles(&recipe, DType::F16, 4097)[0], 4097.0);
        let (f, h) = (
            RopeTables::new(&recipe, DType::F32, 9),
            RopeTables::new(&recipe, DType::BF16, 9),
        );
        assert_eq!((f.cos.len(), f.sin.len()), (9 * 32, 9 * 32));
        assert_eq!((f.cos[0], f.sin[0]), (1.0, 0.0));
        assert!((f.sin[8 * 32 + 1] - (8.0 * 10_000f32.powf(-1.0 / 32.0)).sin()).abs() < 1e-6);
        for (f, h) in f.cos.iter().zip(&h.cos) {
            assert_eq!(*h, bf16::from_f32(*f).to_f32());
        }
    }

    #[test]
    fn divided_positions_are_those_of_the_shorter_context() {
        let plain = recipe(64, RopeRounding::Table, RopeScaling::None);
        let long = recipe(64, RopeRounding::Table, RopeScaling::DividePositions(16.0));
        let (a, b) = (
            RopeTables::new(&plain, DType::F32, 10),
            RopeTables::new(&long, DType::F32, 160),
        );
        assert_eq!(a.cos[9 * 32..10 * 32], b.cos[144 * 32..145 * 32]);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32768,
        };
        let (plain, long) = (
            recipe(64, RopeRounding::Table, RopeScaling::None),
            recipe(64, RopeRounding::Table, scaling),
        );
        let (a, b) = (
            frequencies(&plain, DType::F32),
            frequencies(&long, DType::F32),
        );
        // 64·ln(32768 / 64π) / (2·ln 10000) = 17.68; 64·ln(32768 / 2π) / (2·ln 10000) = 29.74.
        assert_eq!(a[..18], b[..18]);
        assert_eq!(b[30], a[30] / 4.0);
        assert_eq!(b[31], a[31] / 4.0);
        // A quarter of the way from pair 17 to pair 30 would be 20.25; pair 20 is 3/13 of it.
        let expected = a[20] * (3.0 / 13.0 / 4.0 + 10.0 / 13.0);
        assert!((b[20] - expected).abs() < 1e-9);
        let tables = RopeTables::new(&long, DType::F32, 1);
        assert!((tables.cos[0] - 1.138_629_4).abs() < 1e-6);
    }
}
