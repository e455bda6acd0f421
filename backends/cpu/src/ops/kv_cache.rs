//! Rows of the KV cache, as [`ops::kv_cache`] defines them.

use half::{bf16, f16};
use ops::kv_cache::{LARGEST, SCALE_BYTES};

use super::tensor::{Row, fold};
use super::vector::{Element, Lanes};

/// A type of a cache's elements.
pub(super) trait Cached: Element {
    /// Whether a row ends with its scale.
    const SCALED: bool = false;
    /// Whether bf16 holds its elements: [`Self::load_pairs`].
    const PAIRS: bool = false;

    /// Writes `x`.
    #[inline(always)]
    fn write<V: Lanes, T: Element>(row: Row<'_, Self>, x: Row<'_, T>) {
        row.copy_from::<V, T>(x);
    }

    /// What elements of the row are to be multiplied with.
    #[inline(always)]
    fn scale(_row: Row<'_, Self>) -> f32 {
        1.0
    }

    /// Reads the row; zeros where it is shorter than `to`.
    #[inline(always)]
    fn read<V: Lanes>(row: Row<'_, Self>, to: Row<'_, f32>) {
        to.copy_from::<V, Self>(row);
    }

    /// Elements as pairs of bf16, exactly.
    ///
    /// # Panics
    /// Without [`Self::PAIRS`] and [`Lanes::PAIRS`].
    ///
    /// # Safety
    /// `2 · V::N` elements can be read at `from`.
    #[inline(always)]
    unsafe fn load_pairs<V: Lanes>(_from: *const Self) -> V {
        unreachable!("bf16 does not hold them")
    }
}

impl Cached for f32 {}
impl Cached for f16 {}

impl Cached for bf16 {
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn load_pairs<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f32(from.cast()) }
    }
}

impl Cached for i8 {
    const SCALED: bool = true;
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn load_pairs<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::pairs(V::load_i8(from), V::load_i8(from.add(V::N))) }
    }

    #[inline(always)]
    fn write<V: Lanes, T: Element>(row: Row<'_, Self>, x: Row<'_, T>) {
        let largest = fold!(V, x, 0.0, max, |x, most| x.abs().max(most)).largest();
        // 0, or NaN where an element is not finite.
        let finite = fold!(V, x, 0.0, add, |x, sum| x.mul_add(V::splat(0.0), sum)).sum();
        let scale = match largest / LARGEST {
            scale if scale < f32::MIN_POSITIVE => finite,
            scale => scale + finite,
        };
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let elements = row.part(0..x.len());
        for i in (0..x.len()).step_by(V::N) {
            elements.store(i, x.load::<V>(i) * V::splat(inverse));
        }
        for (i, byte) in scale.to_le_bytes().into_iter().enumerate() {
            row.set(x.len() + i, byte as i8);
        }
    }

    #[inline(always)]
    fn scale(row: Row<'_, Self>) -> f32 {
        let bytes = row.part(row.len() - SCALE_BYTES..row.len());
        f32::from_le_bytes(std::array::from_fn(|i| bytes.get(i) as u8))
    }

    #[inline(always)]
    fn read<V: Lanes>(row: Row<'_, Self>, to: Row<'_, f32>) {
        let scale = V::splat(Self::scale(row));
        let elements = row.part(0..row.len() - SCALE_BYTES);
        for i in (0..to.len()).step_by(V::N) {
            to.store(i, elements.load::<V>(i) * scale);
        }
    }
}

/// `with_cache!(dtype, Kv => expression)`: `Some` of the expression with `Kv` the [`Cached`] type, `None` for what no
/// cache is of.
macro_rules! with_cache {
    ($dtype:expr, $kv:ident => $body:expr) => {
        match $dtype {
            hal::DType::I8 => {
                type $kv = i8;
                Some($body)
            }
            dtype => $crate::ops::native::with_float!(dtype, $kv => $body),
        }
    };
}
pub(super) use with_cache;
