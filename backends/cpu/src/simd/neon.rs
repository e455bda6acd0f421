//! NEON (aarch64).

use std::arch::aarch64::*;
use std::arch::asm;

use super::{
    Arith, F32Arith, FloatArith, Format, I4, I8, IntArith, NoTiles, Quantised, bf16_pair, enter,
    float_sums, whole_parts,
};

/// f32 products.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Products of bf16 pairs, summed in f32. The instruction adds the two of a pair, rounds that to odd (an inexact sum gets an
/// odd last bit, at most one unit away), adds it to the sum, rounds to odd again, and flushes subnormals: of n products, n
/// halves of a unit at most, as n sums rounded to nearest. (Cores with FEAT_EBF16 do no worse.)
#[derive(Clone, Copy)]
pub(super) struct NeonBf16;

/// Products of fours of integers, both with a sign, summed in i32: `smull`, and sums of pairs.
#[derive(Clone, Copy)]
pub(super) struct NeonInt8;

/// The same by `sdot`. (`smmla` multiplies two rows of x at once, eight columns each: no lane of it is one row's sum, and
/// one row, the case of decoding, would gain nothing.)
#[derive(Clone, Copy)]
pub(super) struct NeonDot;

/// Four f16 as f32. The intrinsic is not in this Rust yet; the instruction is in every aarch64.
///
/// # Safety
/// Four elements can be read at `at`.
#[inline(always)]
pub(crate) unsafe fn widen_f16(at: *const u16) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: the caller's promise; the instruction touches registers only.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) vld1_u16(at),
            options(pure, nomem, nostack));
    }
    wide
}

/// What all kinds do with their sums.
macro_rules! sums {
    () => {
        type Sum = float32x4_t;
        const LANES: usize = 4;

        simd! {
            fn zero() -> float32x4_t = vdupq_n_f32(0.0);
            fn load(at: *const f32) -> float32x4_t = vld1q_f32(at);
            fn store(at: *mut f32, sum: float32x4_t) -> () = vst1q_f32(at, sum);
            fn load_f16(at: *const u16) -> float32x4_t = widen_f16(at);
            fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t =
                vfmaq_f32(c, a, b);
            fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        }
    };
}

impl Arith for Neon {
    type Operand = float32x4_t;
    type Scalar = f32;
    type Tiles = NoTiles;
    const STEP: usize = 1;

    enter! { "neon" }
    sums! {}

    simd! {
        fn operand(at: *const u8) -> float32x4_t = vld1q_f32(at.cast());
        fn store_operand(at: *mut u8, operand: float32x4_t) -> () = vst1q_f32(at.cast(), operand);
        fn splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        fn dot(sum: float32x4_t, w: float32x4_t, x: float32x4_t) -> float32x4_t =
            vfmaq_f32(sum, w, x);
    }

    float_sums! {}
}

impl FloatArith for Neon {
    #[inline(always)]
    fn pack(x: [f32; 2]) -> f32 {
        x[0]
    }
}

impl F32Arith for Neon {
    type Words = uint32x4_t;

    simd! {
        fn load_bf16(at: *const u16) -> float32x4_t =
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at)));
        fn load_i8(at: *const i8) -> float32x4_t = {
            let four = at.cast::<u32>().read_unaligned();
            let wide = vmovl_s8(vcreate_s8(u64::from(four)));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))
        };
        fn words(at: *const u8) -> uint32x4_t = vld1q_u32(at.cast());
        fn lowest(words: uint32x4_t) -> float32x4_t = {
            let top = vreinterpretq_s32_u32(vshlq_n_u32::<28>(words));
            vcvtq_f32_s32(vshrq_n_s32::<28>(top))
        };
        fn shift(words: uint32x4_t) -> uint32x4_t = vshrq_n_u32::<4>(words);
    }
}

impl Arith for NeonBf16 {
    type Operand = uint16x8_t;
    type Scalar = u32;
    type Tiles = NoTiles;
    const STEP: usize = 2;

    enter! { "neon,bf16" }
    sums! {}

    simd! {
        fn operand(at: *const u8) -> uint16x8_t = vld1q_u16(at.cast());
        fn store_operand(at: *mut u8, operand: uint16x8_t) -> () = vst1q_u16(at.cast(), operand);
        fn splat(x: u32) -> uint16x8_t = vreinterpretq_u16_u32(vdupq_n_u32(x));
        // The intrinsic is not in this Rust yet.
        fn dot(sum: float32x4_t, w: uint16x8_t, x: uint16x8_t) -> float32x4_t = {
            let mut sum = sum;
            asm!("bfdot {0:v}.4s, {1:v}.8h, {2:v}.8h", inout(vreg) sum, in(vreg) w, in(vreg) x,
                options(pure, nomem, nostack));
            sum
        };
    }

    float_sums! {}
}

impl FloatArith for NeonBf16 {
    #[inline(always)]
    fn pack(x: [f32; 2]) -> u32 {
        bf16_pair(x)
    }
}

simd! {
    // Integers of up to eight bits are exact in bf16, the upper half of an f32.
    fn as_bf16(q: int16x8_t) -> uint16x8_t = {
        let low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(q)));
        let high = vcvtq_f32_s32(vmovl_high_s16(q));
        vuzp2q_u16(vreinterpretq_u16_f32(low), vreinterpretq_u16_f32(high))
    };
}

impl Format<NeonBf16> for I8 {
    type Raw = int8x8_t;
    const STEPS: usize = 1;
    const BYTES: usize = 8;

    simd! {
        fn load(at: *const u8) -> int8x8_t = vld1_s8(at.cast());
        fn operand(raw: int8x8_t) -> uint16x8_t = as_bf16(vmovl_s8(raw));
    }
}

impl Format<NeonBf16> for I4 {
    type Raw = uint16x8_t;
    const STEPS: usize = 4;
    const BYTES: usize = 16;

    simd! {
        fn load(at: *const u8) -> uint16x8_t = vld1q_u16(at.cast());
        fn operand(raw: uint16x8_t) -> uint16x8_t = {
            let top = vshlq_n_s16::<12>(vreinterpretq_s16_u16(raw));
            as_bf16(vshrq_n_s16::<12>(top))
        };
        fn next(raw: uint16x8_t) -> uint16x8_t = vshrq_n_u16::<4>(raw);
    }
}

/// Arithmetic on integers, by the features and products of fours given.
macro_rules! integers {
    ($arith:ident, $features:literal, $($dot:tt)*) => {
        impl Arith for $arith {
            type Acc = int32x4_t;
            type Operand = int8x16_t;
            type Scalar = u32;
            type Tiles = NoTiles;
            const STEP: usize = 4;
            const ROUNDED: bool = true;

            enter! { $features }
            sums! {}
            whole_parts! {}

            simd! {
                fn start(x: *const Quantised) -> int32x4_t = vdupq_n_s32((*x).start);
                fn sums(acc: int32x4_t) -> float32x4_t = vcvtq_f32_s32(acc);
                fn merge(sum: float32x4_t, x: *const Quantised, old: float32x4_t) -> float32x4_t =
                    vfmaq_n_f32(old, sum, (*x).scale);
                fn operand(at: *const u8) -> int8x16_t = vld1q_s8(at.cast());
                fn store_operand(at: *mut u8, operand: int8x16_t) -> () =
                    vst1q_s8(at.cast(), operand);
                fn splat(x: u32) -> int8x16_t = vreinterpretq_s8_u32(vdupq_n_u32(x));
                $($dot)*
            }
        }

        impl IntArith for $arith {}

        impl Format<$arith> for I4 {
            type Raw = uint8x16_t;
            const STEPS: usize = 2;
            const BYTES: usize = 16;

            simd! {
                fn load(at: *const u8) -> uint8x16_t = vld1q_u8(at);
                fn operand(raw: uint8x16_t) -> int8x16_t =
                    vreinterpretq_s8_u8(vandq_u8(raw, vdupq_n_u8(15)));
                fn next(raw: uint8x16_t) -> uint8x16_t = vshrq_n_u8::<4>(raw);
            }
        }
    };
}

integers! { NeonInt8, "neon",
    // Two products are at most 2 · 128 · 127 in size, which sixteen bits hold: x has no -128.
    fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t = {
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
    };
}

integers! { NeonDot, "neon,dotprod",
    // The intrinsic is not in this Rust yet.
    fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t = {
        let mut sum = acc;
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack));
        sum
    };
}
