//! AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use super::{Arith, F32Arith, FloatArith, Format, I4, IntArith, Quantised, Task, float_sums};

/// f32 products.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Products of fours of integers, summed in i32: `vpmaddwd` of the even and of the odd ones. (`vpmaddubsw` would saturate.)
#[derive(Clone, Copy)]
pub(super) struct Avx2Int8;

/// The same by `vpdpbusd`.
#[derive(Clone, Copy)]
pub(super) struct Avx2Vnni;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<T: Task>(task: &T) {
    // SAFETY: the features of this function.
    unsafe { task.with_f32::<Avx2, 2>() }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_int8<T: Task>(task: &T) {
    // SAFETY: the features of this function.
    unsafe { task.with_int8::<Avx2Int8, 2>() }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_vnni<T: Task>(task: &T) {
    // SAFETY: the features of this function.
    unsafe { task.with_int8::<Avx2Vnni, 2>() }
}

/// What all kinds do with their sums.
macro_rules! sums {
    () => {
        type Sum = __m256;
        const LANES: usize = 8;

        simd! {
            fn zero() -> __m256 = _mm256_setzero_ps();
            fn load(at: *const f32) -> __m256 = _mm256_loadu_ps(at);
            fn store(at: *mut f32, sum: __m256) -> () = _mm256_storeu_ps(at, sum);
            fn load_f16(at: *const u16) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
            fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        }
    };
}

impl Arith for Avx2 {
    type Operand = __m256;
    type Scalar = f32;
    const STEP: usize = 1;

    sums! {}

    simd! {
        fn operand(at: *const u8) -> __m256 = _mm256_loadu_ps(at.cast());
        fn store_operand(at: *mut u8, operand: __m256) -> () = _mm256_storeu_ps(at.cast(), operand);
        fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        fn dot(sum: __m256, w: __m256, x: __m256) -> __m256 = _mm256_fmadd_ps(w, x, sum);
    }

    float_sums! {}
}

impl FloatArith for Avx2 {
    #[inline(always)]
    fn pack(x: [f32; 2]) -> f32 {
        x[0]
    }
}

impl F32Arith for Avx2 {
    type Words = __m256i;

    simd! {
        fn load_bf16(at: *const u16) -> __m256 = {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        };
        fn load_i8(at: *const i8) -> __m256 =
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())));
        fn words(at: *const u8) -> __m256i = _mm256_loadu_si256(at.cast());
        fn lowest(words: __m256i) -> __m256 =
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(_mm256_slli_epi32::<28>(words)));
        fn shift(words: __m256i) -> __m256i = _mm256_srli_epi32::<4>(words);
    }
}

/// Arithmetic on integers, by the products of fours given.
macro_rules! integers {
    ($arith:ident, $($dot:tt)*) => {
        impl Arith for $arith {
            type Acc = __m256i;
            type Operand = __m256i;
            type Scalar = u32;
            const STEP: usize = 4;
            const ROUNDED: bool = true;

            sums! {}

            simd! {
                fn start(x: *const Quantised) -> __m256i = _mm256_set1_epi32((*x).start);
                fn sums(acc: __m256i) -> __m256 = _mm256_cvtepi32_ps(acc);
                fn merge(sum: __m256, x: *const Quantised, old: __m256) -> __m256 =
                    _mm256_fmadd_ps(sum, _mm256_set1_ps((*x).scale), old);
                fn operand(at: *const u8) -> __m256i = _mm256_loadu_si256(at.cast());
                fn store_operand(at: *mut u8, operand: __m256i) -> () =
                    _mm256_storeu_si256(at.cast(), operand);
                fn splat(x: u32) -> __m256i = _mm256_set1_epi32(x as i32);
                $($dot)*
            }
        }

        impl IntArith for $arith {}

        impl Format<$arith> for I4 {
            type Raw = __m256i;
            const STEPS: usize = 2;
            const BYTES: usize = 32;

            simd! {
                fn load(at: *const u8) -> __m256i = _mm256_loadu_si256(at.cast());
                fn operand(raw: __m256i) -> __m256i = _mm256_and_si256(raw, _mm256_set1_epi8(15));
                fn next(raw: __m256i) -> __m256i = _mm256_srli_epi16::<4>(raw);
            }
        }
    };
}

integers! { Avx2Int8,
    fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i = {
        let even = _mm256_madd_epi16(
            _mm256_and_si256(w, _mm256_set1_epi16(255)),
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)),
        );
        let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(w), _mm256_srai_epi16::<8>(x));
        _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
    };
}

integers! { Avx2Vnni,
    fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i = _mm256_dpbusd_avx_epi32(acc, w, x);
}
