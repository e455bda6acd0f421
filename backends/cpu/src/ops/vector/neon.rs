//! NEON (aarch64).

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::*;
use crate::simd::widen_f16;

#[target_feature(enable = "neon")]
pub(super) fn run<K: Kernel>(kernel: K) {
    kernel.run::<Neon>();
}

#[derive(Clone, Copy)]
struct Neon(float32x4_t);

operators! { [] Neon, a, b:
    Add add intrinsics!(vaddq_f32(a.0, b.0));
    Sub sub intrinsics!(vsubq_f32(a.0, b.0));
    Mul mul intrinsics!(vmulq_f32(a.0, b.0));
    Div div intrinsics!(vdivq_f32(a.0, b.0));
}

impl Lanes for Neon {
    const N: usize = 4;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(intrinsics!(vdupq_n_f32(x)))
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        Self(intrinsics!(vld1q_f32(from)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(intrinsics!(widen_f16(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self(intrinsics!(vreinterpretq_f32_u32(vshll_n_u16::<16>(
            vld1_u16(from.cast())
        ))))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(intrinsics!({
            let four = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))))
        }))
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        intrinsics!(vst1q_f32(to, self.0))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        intrinsics!({
            // The intrinsic is not in this Rust yet.
            let half: uint16x4_t;
            asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) half, in(vreg) self.0,
                options(pure, nomem, nostack));
            vst1_u16(to.cast(), half)
        })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        intrinsics!({
            let bits = vreinterpretq_u32_f32(self.0);
            let high = vshrq_n_u32::<16>(bits);
            let odd = vandq_u32(high, vdupq_n_u32(1));
            let half = vaddq_u32(odd, vdupq_n_u32(0x7fff));
            let rounded = vshrq_n_u32::<16>(vaddq_u32(bits, half));
            let number = vceqq_f32(self.0, self.0);
            let quiet = vorrq_u32(high, vdupq_n_u32(0x40));
            vst1_u16(to.cast(), vmovn_u32(vbslq_u32(number, rounded, quiet)))
        })
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(intrinsics!(vfmaq_f32(c.0, self.0, b.0)))
    }
    #[inline(always)]
    fn residue(a: Self, b: Self, p: Self) -> Self {
        Self(intrinsics!(vfmaq_f32(vnegq_f32(p.0), a.0, b.0)))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        Self(intrinsics!(vbslq_f32(vcltq_f32(b.0, self.0), b.0, self.0)))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self(intrinsics!(vbslq_f32(vcgtq_f32(b.0, self.0), b.0, self.0)))
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(intrinsics!(vrndnq_f32(self.0)))
    }
    #[inline(always)]
    fn scale2(self, n: Self) -> Self {
        Self(intrinsics!({
            // Two factors, since one alone may be below the normal range.
            let n = vcvtq_s32_f32(n.0);
            let (half, one) = (vshrq_n_s32::<1>(n), vdupq_n_s32(127));
            let rest = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), one));
            let half = vshlq_n_s32::<23>(vaddq_s32(half, one));
            let x = vmulq_f32(self.0, vreinterpretq_f32_s32(half));
            vmulq_f32(x, vreinterpretq_f32_s32(rest))
        }))
    }
    #[inline(always)]
    fn exceeds(self, b: Self) -> bool {
        // All ones where it is not.
        intrinsics!(vminvq_u32(vcleq_f32(self.0, b.0))) == 0
    }
    #[inline(always)]
    fn less(self, b: Self, yes: Self, no: Self) -> Self {
        Self(intrinsics!(vbslq_f32(vcltq_f32(self.0, b.0), yes.0, no.0)))
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        Self(intrinsics!(vreinterpretq_f32_u32(vshlq_n_u32::<23>(
            vreinterpretq_u32_f32(self.0)
        ))))
    }
    #[inline(always)]
    fn swap_pairs(self) -> Self {
        Self(intrinsics!(vrev64q_f32(self.0)))
    }
    #[inline(always)]
    fn halves(self) -> [Self; 2] {
        intrinsics!({
            let bits = vreinterpretq_u32_f32(self.0);
            [
                Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits))),
                Self(vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(UPPER)))),
            ]
        })
    }
    #[inline(always)]
    fn in_turns(a: Self, b: Self) -> [Self; 2] {
        intrinsics!([Self(vzip1q_f32(a.0, b.0)), Self(vzip2q_f32(a.0, b.0))])
    }
    #[inline(always)]
    fn transpose([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        intrinsics!({
            let (ab, cd) = (vtrn1q_f32(a.0, b.0), vtrn1q_f32(c.0, d.0));
            let (ab, cd) = (vreinterpretq_f64_f32(ab), vreinterpretq_f64_f32(cd));
            let (x, z) = (vtrn1q_f64(ab, cd), vtrn2q_f64(ab, cd));
            let (ab, cd) = (vtrn2q_f32(a.0, b.0), vtrn2q_f32(c.0, d.0));
            let (ab, cd) = (vreinterpretq_f64_f32(ab), vreinterpretq_f64_f32(cd));
            let (y, w) = (vtrn1q_f64(ab, cd), vtrn2q_f64(ab, cd));
            [
                Self(vreinterpretq_f32_f64(x)),
                Self(vreinterpretq_f32_f64(y)),
                Self(vreinterpretq_f32_f64(z)),
                Self(vreinterpretq_f32_f64(w)),
            ]
        })
    }
    #[inline(always)]
    unsafe fn load_fours(from: *const f32, _step: usize) -> Self {
        Self(intrinsics!(vld1q_f32(from)))
    }
    #[inline(always)]
    unsafe fn store_fours(self, to: *mut f32, _step: usize) {
        intrinsics!(vst1q_f32(to, self.0))
    }
    #[inline(always)]
    unsafe fn store_folded(self, to: *mut f32) {
        intrinsics!(vst1q_f32(to, self.0))
    }
    #[inline(always)]
    fn prefetch(at: *const u8, _far: bool) {
        // The intrinsic is not in stable Rust.
        intrinsics!(asm!("prfm pldl1keep, [{0}]", in(reg) at, options(nostack, readonly)))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        intrinsics!(vaddvq_f32(self.0))
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        intrinsics!(vmaxvq_f32(self.0))
    }
}
