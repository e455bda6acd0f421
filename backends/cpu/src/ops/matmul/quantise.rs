//! Rounding x to eight bits, as [`ops::Matmul::activation_block`] says.

use ops::{ACTIVATION_BLOCK, SMALLEST_ACTIVATION};

use crate::simd::Float;

/// Bits of a float that are not its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// Added to a number below 2²², it leaves the nearest integer, ties to even, in the low bits.
const TO_INTEGER: f32 = 12_582_912.0;

/// Integers of one block of a row, zeros past its end, and what one unit of them is worth.
///
/// Without branches or sums of floats, so that its loops become vectors.
#[inline(always)]
pub(super) fn quantise<T: Float>(x: &[T], to: &mut [i8; ACTIVATION_BLOCK]) -> f32 {
    let mut values = [0.0f32; ACTIVATION_BLOCK];
    for (value, x) in values.iter_mut().zip(x) {
        *value = x.to_f32();
    }
    // Magnitudes are ordered as their bits are.
    let mut most = 0;
    for value in &values {
        most = most.max(value.to_bits() & MAGNITUDE);
    }
    let most = f32::from_bits(most);
    let (scale, inverse) = match most >= SMALLEST_ACTIVATION {
        true => (most / 127.0, 127.0 / most),
        false => (0.0, 0.0),
    };
    for (to, value) in to.iter_mut().zip(&values) {
        *to = (value * inverse + TO_INTEGER).to_bits() as i8;
    }
    if most.is_finite() { scale } else { f32::NAN }
}
