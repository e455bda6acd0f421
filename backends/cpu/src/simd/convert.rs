//! Rows of f32, f16 and bf16: to f32 and back, without branches, so that loops over them become vectors.

use hal::{DType, View};
use half::{bf16, f16};

use crate::memory::address;

/// A storage type of activations.
pub(crate) trait Float: bytemuck::Pod {
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // Rounding could carry a NaN's payload into infinity or wrap its sign.
        let bits = if x.is_nan() {
            bits >> 16 | 0x40
        } else {
            rounded
        };
        Self::from_bits(bits as u16)
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = u32::from(self.to_bits());
        // The f16 exponent, read as an f32 exponent, is 112 too small; the product is exact, subnormals included.
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        let special = if bits & 0x7c00 == 0x7c00 {
            0xff << 23
        } else {
            0
        };
        f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let sign = x.to_bits() >> 16 & 0x8000;
        let a = x.abs();
        let normal = {
            let bits = a.to_bits();
            // Half a unit less a tie bit, then the exponent moves down by 112; overflow lands on infinity or above.
            let rounded = bits.wrapping_add(0xfff + (bits >> 13 & 1)) >> 13;
            rounded.wrapping_sub(112 << 10).min(0x7c00)
        };
        // Below 2⁻¹⁴ one unit of f16 is 2⁻²⁴: adding 1/2 lets the f32 adder round to that unit.
        let subnormal = (a + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let finite = if a < 6.103_515_6e-5 {
            subnormal
        } else {
            normal
        };
        let bits = if x.is_nan() {
            x.to_bits() >> 13 & 0x3ff | 0x7e00
        } else {
            finite
        };
        Self::from_bits((bits | sign) as u16)
    }
}

/// `n` elements of `dtype` at `from` as f32.
///
/// # Safety
/// `from` is aligned for `dtype` and readable for `n` elements, `to` is writable for `n` values.
///
/// # Panics
/// When `dtype` is no float type: `ops` has checked that.
#[inline(always)]
pub(crate) unsafe fn load_f32(dtype: DType, from: *const u8, to: *mut f32, n: usize) {
    #[inline(always)]
    unsafe fn of<T: Float>(from: *const u8, to: *mut f32, n: usize) {
        for i in 0..n {
            // SAFETY: both are good for `n` elements.
            unsafe { *to.add(i) = (*from.cast::<T>().add(i)).to_f32() };
        }
    }
    match dtype {
        // SAFETY: the caller's promise.
        DType::F32 => unsafe { of::<f32>(from, to, n) },
        // SAFETY: the caller's promise.
        DType::F16 => unsafe { of::<f16>(from, to, n) },
        // SAFETY: the caller's promise.
        DType::BF16 => unsafe { of::<bf16>(from, to, n) },
        other => unreachable!("{other} activations"),
    }
}

/// Stores `n` values as elements of `dtype`.
///
/// # Safety
/// `to` is aligned for `dtype` and writable for `n` elements, `from` is readable for `n` values.
///
/// # Panics
/// As [`load_f32`].
#[inline(always)]
pub(crate) unsafe fn store_f32(dtype: DType, from: *const f32, to: *mut u8, n: usize) {
    #[inline(always)]
    unsafe fn of<T: Float>(from: *const f32, to: *mut u8, n: usize) {
        for i in 0..n {
            // SAFETY: both are good for `n` elements.
            unsafe { *to.cast::<T>().add(i) = T::from_f32(*from.add(i)) };
        }
    }
    match dtype {
        // SAFETY: the caller's promise.
        DType::F32 => unsafe { of::<f32>(from, to, n) },
        // SAFETY: the caller's promise.
        DType::F16 => unsafe { of::<f16>(from, to, n) },
        // SAFETY: the caller's promise.
        DType::BF16 => unsafe { of::<bf16>(from, to, n) },
        other => unreachable!("{other} activations"),
    }
}

/// Rows of activations in memory that kernels share.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    at: *mut u8,
    pub(crate) dtype: DType,
    stride: usize,
}

// SAFETY: a pointer that is only computed with; who reads or writes says why it may.
unsafe impl Sync for Rows {}

impl Rows {
    /// The rows of a view with two dimensions.
    pub(crate) fn of(view: &View<'_>) -> Self {
        Self {
            at: address(view),
            dtype: view.dtype(),
            stride: view.strides()[0],
        }
    }

    /// Element `col` of row `row`.
    #[inline(always)]
    pub(crate) fn element(&self, row: usize, col: usize) -> *mut u8 {
        self.at
            .wrapping_add((row * self.stride + col) * self.dtype.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (h, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(same(Float::to_f32(h), h.to_f32()), "f16 {bits:#x}");
            assert!(same(Float::to_f32(b), b.to_f32()), "bf16 {bits:#x}");
        }
    }

    #[test]
    fn every_rounding_is_to_nearest_even() {
        // Every f16 and bf16 value, the midpoint above it, and both neighbours of the midpoint.
        let mut inputs = vec![
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::MAX,
            65519.99,
            65520.0,
        ];
        for bits in 0..=u16::MAX {
            let b = u32::from(bits) << 16;
            inputs.extend([b, b + 0x7fff, b + 0x8000, b + 0x8001].map(f32::from_bits));
            let h = f16::from_bits(bits).to_f32();
            let next = f16::from_bits(bits.wrapping_add(1)).to_f32();
            let middle = (h + next) / 2.0;
            inputs.extend([h, middle, middle.next_up(), middle.next_down()]);
        }
        for x in inputs {
            let (h, b) = (<f16 as Float>::from_f32(x), <bf16 as Float>::from_f32(x));
            if x.is_nan() {
                assert!(h.is_nan() && b.is_nan());
            } else {
                assert_eq!(h.to_bits(), f16::from_f32(x).to_bits(), "f16 {x:e}");
                assert_eq!(b.to_bits(), bf16::from_f32(x).to_bits(), "bf16 {x:e}");
            }
        }
    }
}
