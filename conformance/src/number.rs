//! Rounding to storage types, and their bytes; written from the formats' definitions.

use hal::DType;
use half::{bf16, f16};

/// Bits of the significand (the hidden one included), smallest normal exponent, largest exponent.
const fn format(dtype: DType) -> (i32, i32, i32) {
    match dtype {
        DType::F16 => (11, -14, 15),
        DType::BF16 => (8, -126, 127),
        _ => (24, -126, 127),
    }
}

/// `2^n`, for n in the normal range of f64.
pub(crate) fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// The distance between neighbours of `x` in `dtype`; for zero and subnormals the smallest subnormal.
pub(crate) fn spacing(dtype: DType, x: f64) -> f64 {
    let (digits, min, _) = format(dtype);
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).max(min);
    power_of_two(exponent - digits + 1)
}

/// The smallest magnitude that rounds to infinity.
pub(crate) fn overflow(dtype: DType) -> f64 {
    let (digits, _, max) = format(dtype);
    power_of_two(max) * (2.0 - power_of_two(-digits))
}

/// `x` rounded to `dtype`, to nearest and ties to even, in one step. Integers saturate.
pub fn round(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::I8 => x.round_ties_even().clamp(-128.0, 127.0),
        DType::U8 => x.round_ties_even().clamp(0.0, 255.0),
        DType::I32 => x
            .round_ties_even()
            .clamp(f64::from(i32::MIN), f64::from(i32::MAX)),
        _ if !x.is_finite() => x,
        _ if x.abs() >= overflow(dtype) => f64::INFINITY.copysign(x),
        _ => {
            let ulp = spacing(dtype, x);
            (x / ulp).round_ties_even() * ulp
        }
    }
}

/// Appends `x`, rounded to `dtype`, as little-endian bytes.
pub fn encode(dtype: DType, x: f64, bytes: &mut Vec<u8>) {
    let x = round(dtype, x);
    match dtype {
        DType::F32 => bytes.extend((x as f32).to_le_bytes()),
        DType::F16 => bytes.extend(f16::from_f32(x as f32).to_le_bytes()),
        DType::BF16 => bytes.extend(bf16::from_f32(x as f32).to_le_bytes()),
        DType::I8 => bytes.extend((x as i8).to_le_bytes()),
        DType::U8 => bytes.push(x as u8),
        DType::I32 => bytes.extend((x as i32).to_le_bytes()),
        _ => unreachable!("every element type is listed above"),
    }
}

/// The value of the element that `bytes`, little-endian, start with.
///
/// # Panics
/// When there are fewer bytes than an element has.
pub fn decode(dtype: DType, bytes: &[u8]) -> f64 {
    fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes[..N].try_into().expect("N bytes were sliced")
    }
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(array(bytes))),
        DType::F16 => f16::from_le_bytes(array(bytes)).to_f64(),
        DType::BF16 => bf16::from_le_bytes(array(bytes)).to_f64(),
        DType::I8 => f64::from(bytes[0] as i8),
        DType::U8 => f64::from(bytes[0]),
        DType::I32 => f64::from(i32::from_le_bytes(array(bytes))),
        _ => unreachable!("every element type is listed above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f16 and bf16, its neighbours' midpoints, and points just beside them: the cast of `half` agrees.
    #[test]
    fn rounds_to_nearest_even() {
        for bits in 0..0x7c00u16 {
            let (x, next) = (
                f16::from_bits(bits).to_f64(),
                f16::from_bits(bits + 1).to_f64(),
            );
            assert_eq!(round(DType::F16, x), x);
            let even = if bits % 2 == 0 { x } else { next };
            let middle = if next.is_finite() {
                (x + next) / 2.0
            } else {
                65520.0
            };
            assert_eq!(round(DType::F16, middle), even, "{bits:#x}");
            assert_eq!(round(DType::F16, middle * (1.0 + 1e-12)), next);
            assert_eq!(round(DType::F16, -middle * (1.0 - 1e-12)), -x);
        }
        let mut rng = crate::Rng::of("round");
        for _ in 0..100_000 {
            let x = f32::from_bits(rng.bits());
            if x.is_nan() {
                continue;
            }
            assert_eq!(
                round(DType::BF16, x.into()),
                bf16::from_f32(x).to_f64(),
                "{x:e}"
            );
            assert_eq!(round(DType::F16, x.into()), f16::from_f32(x).to_f64());
            assert_eq!(round(DType::F32, x.into()), f64::from(x));
            let wide = f64::from(x) * (1.0 + f64::from(rng.bits()) / 3e16);
            assert_eq!(round(DType::F32, wide), f64::from(wide as f32), "{wide:e}");
        }
    }

    #[test]
    fn keeps_signs_infinities_and_nan() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert!(round(dtype, -0.0).is_sign_negative());
            assert_eq!(round(dtype, -1e39), f64::NEG_INFINITY);
            for x in [f64::NAN, f64::INFINITY, -0.0, 1.5, spacing(dtype, 0.0)] {
                let mut bytes = Vec::new();
                encode(dtype, x, &mut bytes);
                let back = decode(dtype, &bytes);
                assert!(back.to_bits() == x.to_bits() || (back.is_nan() && x.is_nan()));
            }
        }
    }
}
