//! AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use super::{
    Arith, F32Arith, FloatArith, Format, I4, I8, IntArith, NoTiles, Quantised, enter, float_sums,
    whole_parts,
};

/// f32 products.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Products of pairs of integers, both made sixteen bits long, summed in i32: `vpmaddwd`. (`vpmaddubsw` would saturate.)
#[derive(Clone, Copy)]
pub(super) struct Avx2Int8;

/// Products of fours of integers, those of the weight 0 to 15: `vpmaddubsw`, summed in i16 for as long as these hold.
#[derive(Clone, Copy)]
pub(super) struct Avx2Int4;

/// Products of fours of integers, summed in i32: `vpdpbusd`.
#[derive(Clone, Copy)]
pub(super) struct Avx2Vnni;

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
    type Tiles = NoTiles;
    const STEP: usize = 1;

    enter! { "avx2,fma,f16c" }
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
    type Words = Words;
    const COLUMNS_DIFFER: bool = true;

    simd! {
        fn load_bf16(at: *const u16) -> __m256 = {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        };
        fn load_i8(at: *const i8) -> __m256 =
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())));
        // The lower halves of the words of four rows, then their upper halves: so two columns of a row come to lie in a lane.
        fn words(at: *const u8) -> Words = {
            let halves = twice([0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15]);
            Words::at(_mm256_shuffle_epi8(_mm256_loadu_si256(at.cast()), halves), 0)
        };
        fn lowest(words: Words) -> __m256 = words.lowest();
        fn shift(words: Words) -> Words = words.shift();
    }
}

/// Words of int4, on their way to f32.
#[derive(Clone, Copy)]
pub(super) struct Words {
    words: __m256i,
    /// The two bytes of the bf16 of each int4 in the lower halves of bytes, four columns of them.
    low: __m256i,
    high: __m256i,
    /// Columns dropped.
    dropped: usize,
}

impl Words {
    simd! {
        // Columns four apart share a byte.
        fn at(words: __m256i, dropped: usize) -> Self = {
            let columns = _mm256_and_si256(words, _mm256_set1_epi8(15));
            Self {
                words,
                low: _mm256_shuffle_epi8(twice(const { int4_as_bf16(0) }), columns),
                high: _mm256_shuffle_epi8(twice(const { int4_as_bf16(1) }), columns),
                dropped,
            }
        };
    }

    #[inline(always)]
    unsafe fn lowest(self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let pairs = match self.dropped % 4 {
                0 | 1 => _mm256_unpacklo_epi8(self.low, self.high),
                _ => _mm256_unpackhi_epi8(self.low, self.high),
            };
            _mm256_castsi256_ps(match self.dropped % 2 {
                0 => _mm256_slli_epi32::<16>(pairs),
                _ => _mm256_and_si256(pairs, _mm256_set1_epi32(-1 << 16)),
            })
        }
    }

    #[inline(always)]
    unsafe fn shift(self) -> Self {
        match self.dropped {
            // SAFETY: the caller's promise.
            3 => unsafe { Self::at(_mm256_srli_epi16::<4>(self.words), 4) },
            dropped => Self {
                dropped: dropped + 1,
                ..self
            },
        }
    }
}

/// The same in both halves.
#[inline(always)]
unsafe fn twice(bytes: [u8; 16]) -> __m256i {
    // SAFETY: the array is 16 bytes long, and the caller has AVX2.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())) }
}

/// Byte `byte` of the bf16 of every int4, by its bits.
const fn int4_as_bf16(byte: usize) -> [u8; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        let q = ((i as i8) << 4) >> 4;
        table[i] = ((q as f32).to_bits() >> (16 + 8 * byte)) as u8;
        i += 1;
    }
    table
}

/// Arithmetic on integers, `STEP` of them in each lane; features, parts and products as given.
macro_rules! integers {
    ($arith:ident, $features:literal, $step:expr, { $($parts:tt)* }, $($dot:tt)*) => {
        impl Arith for $arith {
            type Acc = __m256i;
            type Operand = __m256i;
            type Scalar = u32;
            type Tiles = NoTiles;
            const STEP: usize = $step;
            const ROUNDED: bool = true;

            enter! { $features }
            sums! {}
            $($parts)*

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
    };
}

/// Integers of four bits, without a sign, in the lower and the upper halves of bytes.
macro_rules! nibbles {
    ($arith:ident) => {
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

integers! { Avx2Int8, "avx2,fma,f16c", 2, { whole_parts! {} },
    fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i =
        _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
}

impl IntArith for Avx2Int8 {
    #[inline(always)]
    fn pack(x: &[i8]) -> u32 {
        u32::from(i16::from(x[0]) as u16) | u32::from(i16::from(x[1]) as u16) << 16
    }
}

impl Format<Avx2Int8> for I8 {
    type Raw = __m256i;
    const STEPS: usize = 1;
    const BYTES: usize = 16;

    simd! {
        fn load(at: *const u8) -> __m256i = _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast()));
    }

    #[inline(always)]
    unsafe fn operand(raw: __m256i) -> __m256i {
        raw
    }
}

integers! { Avx2Int4, "avx2,fma,f16c", 4,
    {
        type Part = __m256i;
        // Sixteen products of at most 15 · 127 in size: 30480.
        const PART_STEPS: Option<usize> = Some(8);

        simd! {
            fn part(_acc: __m256i) -> __m256i = _mm256_setzero_si256();
            fn join(acc: __m256i, part: __m256i) -> __m256i =
                _mm256_add_epi32(acc, _mm256_madd_epi16(part, _mm256_set1_epi16(1)));
        }
    },
    fn dot(part: __m256i, w: __m256i, x: __m256i) -> __m256i =
        _mm256_add_epi16(part, _mm256_maddubs_epi16(w, x));
}

impl IntArith for Avx2Int4 {}
nibbles! { Avx2Int4 }

integers! { Avx2Vnni, "avx2,fma,f16c,avxvnni", 4, { whole_parts! {} },
    fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i = _mm256_dpbusd_avx_epi32(acc, w, x);
}

impl IntArith for Avx2Vnni {}
nibbles! { Avx2Vnni }
