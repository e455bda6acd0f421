//! AVX-512: f32 products, `vdpbf16ps`, and `vpdpbusd`.

use std::arch::x86_64::*;

use super::amx::{AmxBf16, AmxInt8};
use super::{
    Arith, F32Arith, FloatArith, Format, I4, I8, IntArith, NoTiles, Quantised, TILE_STEPS,
    bf16_pair, enter, float_sums, whole_parts,
};

/// f32 products.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Products of bf16 pairs, summed in f32. The instruction rounds to nearest and flushes subnormals.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16;

/// The same products in f32, in the order of [`AmxBf16`]: even and odd ones of sixteen pairs apart.
#[derive(Clone, Copy)]
pub(super) struct Avx512Pairs;

/// Products of fours of integers, summed in i32: `vpmaddwd` of the even and of the odd ones. (`vpmaddubsw` would saturate.)
#[derive(Clone, Copy)]
pub(super) struct Avx512Int8;

/// The same by `vpdpbusd`.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni;

/// What all kinds do with their sums.
macro_rules! sums {
    () => {
        type Sum = __m512;
        const LANES: usize = 16;

        simd! {
            fn zero() -> __m512 = _mm512_setzero_ps();
            fn load(at: *const f32) -> __m512 = _mm512_loadu_ps(at);
            fn store(at: *mut f32, sum: __m512) -> () = _mm512_storeu_ps(at, sum);
            fn load_f16(at: *const u16) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
            fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        }
    };
}

/// What all do with operands of several columns.
macro_rules! operands {
    () => {
        type Operand = __m512i;
        type Scalar = u32;

        simd! {
            fn operand(at: *const u8) -> __m512i = _mm512_loadu_si512(at.cast());
            fn store_operand(at: *mut u8, operand: __m512i) -> () =
                _mm512_storeu_si512(at.cast(), operand);
            fn splat(x: u32) -> __m512i = _mm512_set1_epi32(x as i32);
        }
    };
}

impl Arith for Avx512 {
    type Operand = __m512;
    type Scalar = f32;
    type Tiles = NoTiles;
    const STEP: usize = 1;

    enter! { "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c" }
    sums! {}

    simd! {
        fn operand(at: *const u8) -> __m512 = _mm512_loadu_ps(at.cast());
        fn store_operand(at: *mut u8, operand: __m512) -> () = _mm512_storeu_ps(at.cast(), operand);
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn dot(sum: __m512, w: __m512, x: __m512) -> __m512 = _mm512_fmadd_ps(w, x, sum);
    }

    float_sums! {}
}

impl FloatArith for Avx512 {
    #[inline(always)]
    fn pack(x: [f32; 2]) -> f32 {
        x[0]
    }
}

impl F32Arith for Avx512 {
    type Words = __m512i;

    simd! {
        fn load_bf16(at: *const u16) -> __m512 = {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        };
        fn load_i8(at: *const i8) -> __m512 =
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast())));
        fn words(at: *const u8) -> __m512i = _mm512_loadu_si512(at.cast());
        // The lookup reads the low four bits of each lane and ignores the others.
        fn lowest(words: __m512i) -> __m512 = _mm512_permutexvar_ps(
            words,
            _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0,
            ),
        );
        fn shift(words: __m512i) -> __m512i = _mm512_srli_epi32::<4>(words);
    }
}

impl Arith for Avx512Bf16 {
    type Tiles = NoTiles;
    const STEP: usize = 2;

    enter! { "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c" }
    sums! {}
    operands! {}

    simd! {
        // SAFETY of the transmutes: 64 bytes each, any bits are valid.
        fn dot(sum: __m512, w: __m512i, x: __m512i) -> __m512 = _mm512_dpbf16_ps(
            sum,
            std::mem::transmute::<__m512i, __m512bh>(w),
            std::mem::transmute::<__m512i, __m512bh>(x),
        );
    }

    float_sums! {}
}

impl Arith for Avx512Pairs {
    type Acc = __m512;
    type Part = [__m512; 2];
    type Tiles = AmxBf16;
    const STEP: usize = 2;
    const PART_STEPS: Option<usize> = Some(TILE_STEPS);

    // With the conversion of integers to bf16, not the products of it.
    enter! { "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c" }
    sums! {}
    operands! {}

    simd! {
        fn start(_x: *const Quantised) -> __m512 = _mm512_setzero_ps();
        fn part(_acc: __m512) -> [__m512; 2] = [_mm512_setzero_ps(); 2];
        fn join(acc: __m512, part: [__m512; 2]) -> __m512 =
            _mm512_add_ps(acc, _mm512_add_ps(part[0], part[1]));
        fn merge(sum: __m512, _x: *const Quantised, old: __m512) -> __m512 = _mm512_add_ps(old, sum);
        fn dot(part: [__m512; 2], w: __m512i, x: __m512i) -> [__m512; 2] = [
            _mm512_fmadd_ps(first(w), first(x), part[0]),
            _mm512_fmadd_ps(second(w), second(x), part[1]),
        ];
    }

    #[inline(always)]
    unsafe fn sums(acc: __m512) -> __m512 {
        acc
    }
}

simd! {
    fn first(pairs: __m512i) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
    fn second(pairs: __m512i) -> __m512 =
        _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-1 << 16)));
}

/// Arithmetic on integers, by the features, the tiles and the products of fours given.
macro_rules! integers {
    ($arith:ident, $features:literal, $tiles:ty, $($dot:tt)*) => {
        impl Arith for $arith {
            type Acc = __m512i;
            type Tiles = $tiles;
            const STEP: usize = 4;
            const ROUNDED: bool = true;

            enter! { $features }
            sums! {}
            operands! {}
            whole_parts! {}

            simd! {
                fn start(x: *const Quantised) -> __m512i = _mm512_set1_epi32((*x).start);
                fn sums(acc: __m512i) -> __m512 = _mm512_cvtepi32_ps(acc);
                fn merge(sum: __m512, x: *const Quantised, old: __m512) -> __m512 =
                    _mm512_fmadd_ps(sum, _mm512_set1_ps((*x).scale), old);
                $($dot)*
            }
        }

        impl IntArith for $arith {}

        impl Format<$arith> for I4 {
            type Raw = __m512i;
            const STEPS: usize = 2;
            const BYTES: usize = 64;

            simd! {
                fn load(at: *const u8) -> __m512i = _mm512_loadu_si512(at.cast());
                fn operand(raw: __m512i) -> __m512i = _mm512_and_si512(raw, _mm512_set1_epi8(15));
                fn next(raw: __m512i) -> __m512i = _mm512_srli_epi16::<4>(raw);
            }
        }
    };
}

integers! { Avx512Int8, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", NoTiles,
    fn dot(acc: __m512i, w: __m512i, x: __m512i) -> __m512i = {
        let even = _mm512_madd_epi16(
            _mm512_and_si512(w, _mm512_set1_epi16(255)),
            _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x)),
        );
        let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(w), _mm512_srai_epi16::<8>(x));
        _mm512_add_epi32(acc, _mm512_add_epi32(even, odd))
    };
}

integers! { Avx512Vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", AmxInt8,
    fn dot(acc: __m512i, w: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(acc, w, x);
}

/// What both kinds of pairs of bf16 are made of.
macro_rules! pairs {
    ($arith:ident) => {
        impl FloatArith for $arith {
            #[inline(always)]
            fn pack(x: [f32; 2]) -> u32 {
                bf16_pair(x)
            }
        }

        impl Format<$arith> for I8 {
            type Raw = __m256i;
            const STEPS: usize = 1;
            const BYTES: usize = 32;

            simd! {
                fn load(at: *const u8) -> __m256i = _mm256_loadu_si256(at.cast());
                // Integers of eight bits are exact in bf16.
                fn operand(raw: __m256i) -> __m512i = {
                    let low = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(raw));
                    let high = _mm512_cvtepi8_epi32(_mm256_extracti128_si256::<1>(raw));
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(
                        _mm512_cvtepi32_ps(high),
                        _mm512_cvtepi32_ps(low),
                    ))
                };
            }
        }

        impl Format<$arith> for I4 {
            type Raw = __m512i;
            const STEPS: usize = 4;
            const BYTES: usize = 64;

            simd! {
                fn load(at: *const u8) -> __m512i = _mm512_loadu_si512(at.cast());
                // The lookup reads five bits; both halves of the table are alike, so the fifth does not matter.
                fn operand(raw: __m512i) -> __m512i = _mm512_permutexvar_epi16(raw, int4_as_bf16());
                fn next(raw: __m512i) -> __m512i = _mm512_srli_epi16::<4>(raw);
            }
        }
    };
}

pairs! { Avx512Bf16 }
pairs! { Avx512Pairs }

/// The bf16 of every int4, by its bits, twice.
#[inline(always)]
unsafe fn int4_as_bf16() -> __m512i {
    const TABLE: [u16; 32] = {
        let mut table = [0; 32];
        let mut i = 0;
        while i < 32 {
            let q = ((i as i8) << 4) >> 4;
            table[i] = ((q as f32).to_bits() >> 16) as u16;
            i += 1;
        }
        table
    };
    // SAFETY: the table is 64 bytes long, and the caller has AVX-512.
    unsafe { _mm512_loadu_si512(TABLE.as_ptr().cast()) }
}
