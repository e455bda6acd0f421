//! AVX-512 and AVX2.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::*;
use crate::simd::prefetch;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn run_avx512<K: Kernel>(kernel: K) {
    kernel.run::<Avx512<false>>();
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) fn run_avx512_bf16<K: Kernel>(kernel: K) {
    kernel.run::<Avx512<true>>();
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run_avx2<K: Kernel>(kernel: K) {
    kernel.run::<Avx2>();
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Blocks of four lanes of four vectors, transposed, by the instructions of their width.
macro_rules! transpose {
    ($x:expr, $low:ident, $high:ident, $shuffle:ident) => {{
        let [a, b, c, d] = $x;
        intrinsics!({
            let (ab, cd) = ($low(a.0, b.0), $low(c.0, d.0));
            let (x, y) = (
                $shuffle::<0b0100_0100>(ab, cd),
                $shuffle::<0b1110_1110>(ab, cd),
            );
            let (ab, cd) = ($high(a.0, b.0), $high(c.0, d.0));
            let (z, w) = (
                $shuffle::<0b0100_0100>(ab, cd),
                $shuffle::<0b1110_1110>(ab, cd),
            );
            [Self(x), Self(y), Self(z), Self(w)]
        })
    }};
}

/// With or without products of bf16 pairs.
#[derive(Clone, Copy)]
struct Avx512<const PAIRS: bool>(__m512);

operators! { [const PAIRS: bool] Avx512<PAIRS>, a, b:
    Add add intrinsics!(_mm512_add_ps(a.0, b.0));
    Sub sub intrinsics!(_mm512_sub_ps(a.0, b.0));
    Mul mul intrinsics!(_mm512_mul_ps(a.0, b.0));
    Div div intrinsics!(_mm512_div_ps(a.0, b.0));
}

impl<const PAIRS: bool> Lanes for Avx512<PAIRS> {
    const N: usize = 16;
    const MANY_REGISTERS: bool = true;
    const PAIRS: bool = PAIRS;

    #[inline(always)]
    fn dot_pairs(self, b: Self, c: Self) -> Self {
        // The transmutes: 64 bytes each, any bits are valid.
        Self(intrinsics!(_mm512_dpbf16_ps(
            c.0,
            std::mem::transmute::<__m512, __m512bh>(self.0),
            std::mem::transmute::<__m512, __m512bh>(b.0),
        )))
    }
    #[inline(always)]
    fn pairs(lower: Self, upper: Self) -> Self {
        // The transmute: as above.
        Self(intrinsics!(std::mem::transmute::<__m512bh, __m512>(
            _mm512_cvtne2ps_pbh(upper.0, lower.0)
        )))
    }
    #[inline(always)]
    fn pair_lanes(lower: Self, upper: Self) -> Self {
        const IN_TURNS: [u16; 32] = {
            let mut to = [0; 32];
            let mut i = 0;
            while i < 32 {
                to[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            to
        };
        let pairs = Self::pairs(lower, upper);
        Self(intrinsics!(_mm512_castsi512_ps(_mm512_permutexvar_epi16(
            _mm512_loadu_si512(IN_TURNS.as_ptr().cast()),
            _mm512_castps_si512(pairs.0),
        ))))
    }
    #[inline(always)]
    fn in_pairs(lower: Self, upper: Self) -> [Self; 2] {
        let [a, b] = [lower, upper].map(|x| intrinsics!(_mm512_castps_si512(x.0)));
        [
            Self(intrinsics!(_mm512_castsi512_ps(_mm512_unpacklo_epi16(
                a, b
            )))),
            Self(intrinsics!(_mm512_castsi512_ps(_mm512_unpackhi_epi16(
                a, b
            )))),
        ]
    }
    #[inline(always)]
    fn ordered_pairs([a, b]: [Self; 2]) -> [Self; 2] {
        // Blocks of 128 bits in turns.
        [
            Self(intrinsics!(_mm512_permutex2var_ps(
                a.0,
                _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23),
                b.0
            ))),
            Self(intrinsics!(_mm512_permutex2var_ps(
                a.0,
                _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31),
                b.0
            ))),
        ]
    }
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(intrinsics!(_mm512_set1_ps(x)))
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        Self(intrinsics!(_mm512_loadu_ps(from)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(intrinsics!(_mm512_cvtph_ps(_mm256_loadu_si256(
            from.cast()
        ))))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self(intrinsics!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))
        ))))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(intrinsics!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
            _mm_loadu_si128(from.cast())
        ))))
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        intrinsics!(_mm512_storeu_ps(to, self.0))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        intrinsics!(_mm256_storeu_si256(
            to.cast(),
            _mm512_cvtps_ph::<NEAREST>(self.0)
        ))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // Not `vcvtneps2bf16`: it flushes subnormals.
        intrinsics!({
            let bits = _mm512_castps_si512(self.0);
            let high = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm512_set1_epi32(0x40);
            let out = _mm512_mask_or_epi32(rounded, nan, high, quiet);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(out))
        })
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(intrinsics!(_mm512_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn residue(a: Self, b: Self, p: Self) -> Self {
        Self(intrinsics!(_mm512_fmsub_ps(a.0, b.0, p.0)))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        Self(intrinsics!(_mm512_min_ps(b.0, self.0)))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self(intrinsics!(_mm512_max_ps(b.0, self.0)))
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(intrinsics!(_mm512_roundscale_ps::<NEAREST>(self.0)))
    }
    #[inline(always)]
    fn scale2(self, n: Self) -> Self {
        Self(intrinsics!(_mm512_scalef_ps(self.0, n.0)))
    }
    #[inline(always)]
    fn exceeds(self, b: Self) -> bool {
        intrinsics!(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(self.0, b.0)) != 0
    }
    #[inline(always)]
    fn less(self, b: Self, yes: Self, no: Self) -> Self {
        Self(intrinsics!({
            let mask = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0);
            _mm512_mask_blend_ps(mask, no.0, yes.0)
        }))
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        Self(intrinsics!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(
            _mm512_castps_si512(self.0)
        ))))
    }
    #[inline(always)]
    fn swap_pairs(self) -> Self {
        Self(intrinsics!(_mm512_permute_ps::<0b1011_0001>(self.0)))
    }
    #[inline(always)]
    fn halves(self) -> [Self; 2] {
        intrinsics!({
            let bits = _mm512_castps_si512(self.0);
            let lower = _mm512_slli_epi32::<16>(bits);
            let upper = _mm512_and_si512(bits, _mm512_set1_epi32(UPPER as i32));
            [
                Self(_mm512_castsi512_ps(lower)),
                Self(_mm512_castsi512_ps(upper)),
            ]
        })
    }
    #[inline(always)]
    fn in_turns(a: Self, b: Self) -> [Self; 2] {
        intrinsics!({
            let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let last = _mm512_add_epi32(first, _mm512_set1_epi32(8));
            [
                Self(_mm512_permutex2var_ps(a.0, first, b.0)),
                Self(_mm512_permutex2var_ps(a.0, last, b.0)),
            ]
        })
    }
    #[inline(always)]
    fn transpose(x: [Self; 4]) -> [Self; 4] {
        transpose!(x, _mm512_unpacklo_ps, _mm512_unpackhi_ps, _mm512_shuffle_ps)
    }
    #[inline(always)]
    unsafe fn load_fours(from: *const f32, step: usize) -> Self {
        Self(intrinsics!({
            let x = _mm512_castps128_ps512(_mm_loadu_ps(from));
            let x = _mm512_insertf32x4::<1>(x, _mm_loadu_ps(from.add(step)));
            let x = _mm512_insertf32x4::<2>(x, _mm_loadu_ps(from.add(2 * step)));
            _mm512_insertf32x4::<3>(x, _mm_loadu_ps(from.add(3 * step)))
        }))
    }
    #[inline(always)]
    unsafe fn store_fours(self, to: *mut f32, step: usize) {
        intrinsics!({
            _mm_storeu_ps(to, _mm512_castps512_ps128(self.0));
            _mm_storeu_ps(to.add(step), _mm512_extractf32x4_ps::<1>(self.0));
            _mm_storeu_ps(to.add(2 * step), _mm512_extractf32x4_ps::<2>(self.0));
            _mm_storeu_ps(to.add(3 * step), _mm512_extractf32x4_ps::<3>(self.0));
        })
    }
    #[inline(always)]
    unsafe fn store_folded(self, to: *mut f32) {
        intrinsics!({
            let high = _mm512_extractf32x8_ps::<1>(self.0);
            let x = _mm256_add_ps(_mm512_castps512_ps256(self.0), high);
            let high = _mm256_extractf128_ps::<1>(x);
            _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(x), high));
        })
    }
    #[inline(always)]
    fn prefetch(at: *const u8, far: bool) {
        prefetch(at, far);
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        intrinsics!(_mm512_reduce_add_ps(self.0))
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        intrinsics!(_mm512_reduce_max_ps(self.0))
    }
}

#[derive(Clone, Copy)]
struct Avx2(__m256);

operators! { [] Avx2, a, b:
    Add add intrinsics!(_mm256_add_ps(a.0, b.0));
    Sub sub intrinsics!(_mm256_sub_ps(a.0, b.0));
    Mul mul intrinsics!(_mm256_mul_ps(a.0, b.0));
    Div div intrinsics!(_mm256_div_ps(a.0, b.0));
}

/// Folds the upper half onto the lower one, three times.
macro_rules! fold {
    ($x:expr, $f:ident) => {
        intrinsics!({
            let (low, high) = (_mm256_castps256_ps128($x), _mm256_extractf128_ps::<1>($x));
            let x = $f(low, high);
            let x = $f(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32($f(x, _mm_movehdup_ps(x)))
        })
    };
}

impl Lanes for Avx2 {
    const N: usize = 8;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(intrinsics!(_mm256_set1_ps(x)))
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        Self(intrinsics!(_mm256_loadu_ps(from)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(intrinsics!(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        Self(intrinsics!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(
            _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))
        ))))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(intrinsics!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
            _mm_loadl_epi64(from.cast())
        ))))
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        intrinsics!(_mm256_storeu_ps(to, self.0))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        intrinsics!(_mm_storeu_si128(
            to.cast(),
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)
        ))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        intrinsics!({
            let bits = _mm256_castps_si256(self.0);
            let high = _mm256_srli_epi32::<16>(bits);
            let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
            let out = _mm256_blendv_epi8(rounded, quiet, nan);
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(out, out));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed))
        })
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(intrinsics!(_mm256_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn residue(a: Self, b: Self, p: Self) -> Self {
        Self(intrinsics!(_mm256_fmsub_ps(a.0, b.0, p.0)))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        Self(intrinsics!(_mm256_min_ps(b.0, self.0)))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self(intrinsics!(_mm256_max_ps(b.0, self.0)))
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(intrinsics!(_mm256_round_ps::<NEAREST>(self.0)))
    }
    #[inline(always)]
    fn scale2(self, n: Self) -> Self {
        Self(intrinsics!({
            // Two factors, since one alone may be below the normal range.
            let n = _mm256_cvtps_epi32(n.0);
            let (half, one) = (_mm256_srai_epi32::<1>(n), _mm256_set1_epi32(127));
            let rest = _mm256_sub_epi32(n, half);
            let half = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, one));
            let rest = _mm256_slli_epi32::<23>(_mm256_add_epi32(rest, one));
            let x = _mm256_mul_ps(self.0, _mm256_castsi256_ps(half));
            _mm256_mul_ps(x, _mm256_castsi256_ps(rest))
        }))
    }
    #[inline(always)]
    fn exceeds(self, b: Self) -> bool {
        intrinsics!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(
            self.0, b.0
        ))) != 0
    }
    #[inline(always)]
    fn less(self, b: Self, yes: Self, no: Self) -> Self {
        Self(intrinsics!({
            let mask = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0);
            _mm256_blendv_ps(no.0, yes.0, mask)
        }))
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        Self(intrinsics!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(
            _mm256_castps_si256(self.0)
        ))))
    }
    #[inline(always)]
    fn swap_pairs(self) -> Self {
        Self(intrinsics!(_mm256_permute_ps::<0b1011_0001>(self.0)))
    }
    #[inline(always)]
    fn halves(self) -> [Self; 2] {
        intrinsics!({
            let bits = _mm256_castps_si256(self.0);
            let lower = _mm256_slli_epi32::<16>(bits);
            let upper = _mm256_and_si256(bits, _mm256_set1_epi32(UPPER as i32));
            [
                Self(_mm256_castsi256_ps(lower)),
                Self(_mm256_castsi256_ps(upper)),
            ]
        })
    }
    #[inline(always)]
    fn in_turns(a: Self, b: Self) -> [Self; 2] {
        intrinsics!({
            let (x, y) = (_mm256_unpacklo_ps(a.0, b.0), _mm256_unpackhi_ps(a.0, b.0));
            [
                Self(_mm256_permute2f128_ps::<0x20>(x, y)),
                Self(_mm256_permute2f128_ps::<0x31>(x, y)),
            ]
        })
    }
    #[inline(always)]
    fn transpose(x: [Self; 4]) -> [Self; 4] {
        transpose!(x, _mm256_unpacklo_ps, _mm256_unpackhi_ps, _mm256_shuffle_ps)
    }
    #[inline(always)]
    unsafe fn load_fours(from: *const f32, step: usize) -> Self {
        Self(intrinsics!(_mm256_loadu2_m128(from.add(step), from)))
    }
    #[inline(always)]
    unsafe fn store_fours(self, to: *mut f32, step: usize) {
        intrinsics!(_mm256_storeu2_m128(to.add(step), to, self.0))
    }
    #[inline(always)]
    unsafe fn store_folded(self, to: *mut f32) {
        intrinsics!({
            let high = _mm256_extractf128_ps::<1>(self.0);
            _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(self.0), high));
        })
    }
    #[inline(always)]
    fn prefetch(at: *const u8, far: bool) {
        prefetch(at, far);
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        fold!(self.0, _mm_add_ps)
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        fold!(self.0, _mm_max_ps)
    }
}
