//! How packed weights become operands. Row `r`, column `k` of a panel of `rows` rows lies
//! - dense and int8: at element `(k / STEP · rows + r) · STEP + k % STEP`;
//! - int4: in the 32-bit word `k / 8 · rows + r`, where columns [`Path::nibble_step`](super::Path::nibble_step) apart share a byte.

use super::{Arith, F32Arith};

/// One encoding of weights as `A` reads it: units of `STEPS` steps.
///
/// # Safety
/// Of every method: as [`Arith`].
pub(crate) trait Format<A: Arith> {
    /// One unit of `LANES` rows, in registers.
    type Raw: Copy;
    /// Steps of one unit.
    const STEPS: usize;
    /// Bytes of one unit of `LANES` rows.
    const BYTES: usize;
    /// Whether a unit is an operand as it lies in memory.
    const NATIVE: bool = false;
    /// Whether its steps differ, so that a loop over them has to be written out.
    const WRITTEN_OUT: bool = false;

    unsafe fn load(at: *const u8) -> Self::Raw;
    /// The first step of what is left.
    unsafe fn operand(raw: Self::Raw) -> A::Operand;
    /// Drops the first step.
    #[inline(always)]
    unsafe fn next(raw: Self::Raw) -> Self::Raw {
        raw
    }
}

/// Operands as `A` uses them: f32, pairs of bf16, or fours of int8.
pub(crate) struct Native;
/// f16 elements.
pub(crate) struct F16;
/// bf16 elements, for f32 arithmetic.
pub(crate) struct BF16;
/// i8 elements.
pub(crate) struct I8;
/// int4 elements, eight per word.
pub(crate) struct I4;

impl<A: Arith> Format<A> for Native {
    type Raw = A::Operand;
    const STEPS: usize = 1;
    const BYTES: usize = A::OPERAND_BYTES;
    const NATIVE: bool = true;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> A::Operand {
        // SAFETY: the caller's promise.
        unsafe { A::operand(at) }
    }

    #[inline(always)]
    unsafe fn operand(raw: A::Operand) -> A::Operand {
        raw
    }
}

/// A format of one step per unit, converted as it is loaded.
macro_rules! converted {
    ($format:ident, $bytes:expr, $load:ident) => {
        impl<A: F32Arith> Format<A> for $format {
            type Raw = A::Sum;
            const STEPS: usize = 1;
            const BYTES: usize = A::LANES * $bytes;

            #[inline(always)]
            unsafe fn load(at: *const u8) -> A::Sum {
                // SAFETY: the caller's promise.
                unsafe { A::$load(at.cast()) }
            }

            #[inline(always)]
            unsafe fn operand(raw: A::Sum) -> A::Sum {
                raw
            }
        }
    };
}

converted!(F16, 2, load_f16);
converted!(BF16, 2, load_bf16);
converted!(I8, 1, load_i8);

impl<A: F32Arith> Format<A> for I4 {
    type Raw = A::Words;
    const STEPS: usize = 8;
    const BYTES: usize = A::LANES * 4;
    const WRITTEN_OUT: bool = A::COLUMNS_DIFFER;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> A::Words {
        // SAFETY: the caller's promise.
        unsafe { A::words(at) }
    }

    #[inline(always)]
    unsafe fn operand(raw: A::Words) -> A::Sum {
        // SAFETY: the caller's promise.
        unsafe { A::lowest(raw) }
    }

    #[inline(always)]
    unsafe fn next(raw: A::Words) -> A::Words {
        // SAFETY: the caller's promise.
        unsafe { A::shift(raw) }
    }
}
