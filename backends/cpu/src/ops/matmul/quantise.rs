//! Rounding x to eight bits, as [`ops::Matmul::activation_block`] says.

use ops::{ACTIVATION_BLOCK, SMALLEST_ACTIVATION};

use crate::simd::{Float, Quantised};

/// Integers of one part of a row, zeros past its end. `offset` is what the weight's integers were moved up by.
#[inline(always)]
pub(super) fn quantise<T: Float>(
    x: &[T],
    to: &mut [i8; ACTIVATION_BLOCK],
    offset: i32,
) -> Quantised {
    let (mut most, mut poison) = (0.0f32, 0.0f32);
    let mut values = [0.0f32; ACTIVATION_BLOCK];
    for (value, x) in values.iter_mut().zip(x) {
        *value = x.to_f32();
        most = most.max(value.abs());
        // NaN where x is no number.
        poison += *value * 0.0;
    }
    let (scale, inverse) = match most >= SMALLEST_ACTIVATION {
        true => (most / 127.0, 127.0 / most),
        false => (0.0, 0.0),
    };
    let mut sum = 0;
    for (to, value) in to.iter_mut().zip(values) {
        *to = (value * inverse).round_ties_even() as i8;
        sum += i32::from(*to);
    }
    Quantised {
        scale: scale + poison,
        start: -offset * sum,
    }
}
