//! NEON (aarch64).

use std::arch::aarch64::*;

use half::f16;

use super::{Arith, F32Arith, Float, FloatArith, Task, float_sums};

#[derive(Clone, Copy)]
pub(super) struct Neon;

#[target_feature(enable = "neon")]
pub(super) unsafe fn run<T: Task>(task: &T) {
    // SAFETY: the feature of this function.
    unsafe { task.with_f32::<Neon, 4>() }
}

impl Arith for Neon {
    type Sum = float32x4_t;
    type Operand = float32x4_t;
    type Scalar = f32;
    const LANES: usize = 4;
    const STEP: usize = 1;

    simd! {
        fn zero() -> float32x4_t = vdupq_n_f32(0.0);
        fn load(at: *const f32) -> float32x4_t = vld1q_f32(at);
        fn store(at: *mut f32, sum: float32x4_t) -> () = vst1q_f32(at, sum);
        // The conversion instruction has no stable intrinsic; these loops become vectors.
        fn load_f16(at: *const u16) -> float32x4_t = {
            let bits = at.cast::<[u16; 4]>().read_unaligned();
            let mut out = [0.0; 4];
            for i in 0..4 {
                out[i] = Float::to_f32(f16::from_bits(bits[i]));
            }
            vld1q_f32(out.as_ptr())
        };
        fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t =
            vfmaq_f32(c, a, b);
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
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
