//! Plain Rust, in vectors of four that a compiler may turn into whatever it has.

use half::f16;

use super::{
    Arith, F32Arith, Float, FloatArith, Format, I4, IntArith, NoTiles, Quantised, enter,
    float_sums, whole_parts,
};

/// f32 products.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

/// Products of fours of integers, summed in i32.
#[derive(Clone, Copy)]
pub(super) struct ScalarInt8;

/// `$e` for `$i` from 0 to 3, written out: thousands of loops of four, unrolled one by one, took minutes to compile.
macro_rules! lanes {
    ($i:ident => $e:expr) => {
        [
            lanes!(@ $i 0 => $e),
            lanes!(@ $i 1 => $e),
            lanes!(@ $i 2 => $e),
            lanes!(@ $i 3 => $e),
        ]
    };
    (@ $i:ident $at:literal => $e:expr) => {{
        let $i: usize = $at;
        $e
    }};
}

/// What both kinds do with their sums.
macro_rules! sums {
    () => {
        type Sum = [f32; 4];
        const LANES: usize = 4;

        #[inline(always)]
        unsafe fn zero() -> [f32; 4] {
            [0.0; 4]
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> [f32; 4] {
            // SAFETY: the caller's promise.
            unsafe { lanes!(i => at.add(i).read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn store(at: *mut f32, sum: [f32; 4]) {
            // SAFETY: good for four elements, as the caller promised.
            unsafe { at.cast::<[f32; 4]>().write_unaligned(sum) }
        }

        #[inline(always)]
        unsafe fn load_f16(at: *const u16) -> [f32; 4] {
            // SAFETY: the caller's promise.
            unsafe { lanes!(i => Float::to_f32(f16::from_bits(at.add(i).read_unaligned()))) }
        }

        // Two roundings: a fused product would be a library call on CPUs without one.
        #[inline(always)]
        unsafe fn mul_add(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
            lanes!(i => a[i] * b[i] + c[i])
        }

        #[inline(always)]
        unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            lanes!(i => a[i] + b[i])
        }
    };
}

impl Arith for Scalar {
    type Operand = [f32; 4];
    type Scalar = f32;
    type Tiles = NoTiles;
    const STEP: usize = 1;

    enter! {}
    sums! {}

    #[inline(always)]
    unsafe fn operand(at: *const u8) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { Self::load(at.cast()) }
    }

    #[inline(always)]
    unsafe fn store_operand(at: *mut u8, operand: [f32; 4]) {
        // SAFETY: the caller's promise.
        unsafe { Self::store(at.cast(), operand) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn dot(sum: [f32; 4], w: [f32; 4], x: [f32; 4]) -> [f32; 4] {
        lanes!(i => w[i] * x[i] + sum[i])
    }

    float_sums! {}
}

impl FloatArith for Scalar {
    #[inline(always)]
    fn pack(x: [f32; 2]) -> f32 {
        x[0]
    }
}

impl F32Arith for Scalar {
    type Words = [u32; 4];

    #[inline(always)]
    unsafe fn load_bf16(at: *const u16) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { lanes!(i => f32::from_bits(u32::from(at.add(i).read_unaligned()) << 16)) }
    }

    #[inline(always)]
    unsafe fn load_i8(at: *const i8) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { lanes!(i => f32::from(*at.add(i))) }
    }

    #[inline(always)]
    unsafe fn words(at: *const u8) -> [u32; 4] {
        // SAFETY: good for four words, as the caller promised.
        unsafe { at.cast::<[u32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn lowest(words: [u32; 4]) -> [f32; 4] {
        lanes!(i => ((words[i] << 28) as i32 >> 28) as f32)
    }

    #[inline(always)]
    unsafe fn shift(words: [u32; 4]) -> [u32; 4] {
        lanes!(i => words[i] >> 4)
    }
}

impl Arith for ScalarInt8 {
    type Acc = [i32; 4];
    type Operand = [u32; 4];
    type Scalar = u32;
    #[cfg(not(test))]
    type Tiles = NoTiles;
    #[cfg(test)]
    type Tiles = super::tiles::Emulated;
    const STEP: usize = 4;
    const ROUNDED: bool = true;

    enter! {}
    sums! {}
    whole_parts! {}

    #[inline(always)]
    unsafe fn start(x: *const Quantised) -> [i32; 4] {
        // SAFETY: the caller's promise.
        [unsafe { (*x).start }; 4]
    }

    #[inline(always)]
    unsafe fn sums(acc: [i32; 4]) -> [f32; 4] {
        lanes!(i => acc[i] as f32)
    }

    #[inline(always)]
    unsafe fn merge(sum: [f32; 4], x: *const Quantised, old: [f32; 4]) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { lanes!(i => sum[i] * (*x).scale + old[i]) }
    }

    #[inline(always)]
    unsafe fn operand(at: *const u8) -> [u32; 4] {
        // SAFETY: good for four words, as the caller promised.
        unsafe { at.cast::<[u32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_operand(at: *mut u8, operand: [u32; 4]) {
        // SAFETY: as above.
        unsafe { at.cast::<[u32; 4]>().write_unaligned(operand) }
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> [u32; 4] {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn dot(acc: [i32; 4], w: [u32; 4], x: [u32; 4]) -> [i32; 4] {
        lanes!(i => {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            let products = lanes!(b => i32::from(w[b]) * i32::from(x[b] as i8));
            acc[i] + products[0] + products[1] + products[2] + products[3]
        })
    }
}

impl IntArith for ScalarInt8 {}

impl Format<ScalarInt8> for I4 {
    type Raw = [u32; 4];
    const STEPS: usize = 2;
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [u32; 4] {
        // SAFETY: the caller's promise.
        unsafe { ScalarInt8::operand(at) }
    }

    #[inline(always)]
    unsafe fn operand(raw: [u32; 4]) -> [u32; 4] {
        lanes!(i => raw[i] & 0x0f0f_0f0f)
    }

    #[inline(always)]
    unsafe fn next(raw: [u32; 4]) -> [u32; 4] {
        lanes!(i => raw[i] >> 4)
    }
}

/// Products of bf16 pairs, to test what is done with them where no CPU has them.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct ScalarBf16;

#[cfg(test)]
impl Arith for ScalarBf16 {
    type Operand = [u32; 4];
    type Scalar = u32;
    type Tiles = super::tiles::Emulated;
    const STEP: usize = 2;

    enter! {}
    sums! {}
    float_sums! {}

    unsafe fn operand(at: *const u8) -> [u32; 4] {
        // SAFETY: the caller's promise.
        unsafe { ScalarInt8::operand(at) }
    }

    unsafe fn store_operand(at: *mut u8, operand: [u32; 4]) {
        // SAFETY: the caller's promise.
        unsafe { ScalarInt8::store_operand(at, operand) }
    }

    unsafe fn splat(x: u32) -> [u32; 4] {
        [x; 4]
    }

    unsafe fn dot(sum: [f32; 4], w: [u32; 4], x: [u32; 4]) -> [f32; 4] {
        lanes!(i => add_bf16_products(sum[i], w[i], x[i]))
    }
}

/// `sum` and the products of two pairs of bf16.
#[cfg(test)]
pub(super) fn add_bf16_products(sum: f32, a: u32, b: u32) -> f32 {
    [16, 0].into_iter().fold(sum, |sum, up| {
        let [a, b] = [a, b].map(|pair| f32::from_bits(pair << up & 0xffff_0000));
        sum + a * b
    })
}

#[cfg(test)]
impl FloatArith for ScalarBf16 {
    fn pack(x: [f32; 2]) -> u32 {
        super::bf16_pair(x)
    }
}

#[cfg(test)]
impl Format<ScalarBf16> for super::I8 {
    type Raw = [[i8; 2]; 4];
    const STEPS: usize = 1;
    const BYTES: usize = 8;

    unsafe fn load(at: *const u8) -> [[i8; 2]; 4] {
        // SAFETY: good for eight bytes, as the caller promised.
        unsafe { at.cast::<[[i8; 2]; 4]>().read_unaligned() }
    }

    unsafe fn operand(raw: [[i8; 2]; 4]) -> [u32; 4] {
        raw.map(|pair| super::bf16_pair(pair.map(f32::from)))
    }
}

#[cfg(test)]
impl Format<ScalarBf16> for I4 {
    type Raw = [u32; 4];
    const STEPS: usize = 4;
    const BYTES: usize = 16;

    unsafe fn load(at: *const u8) -> [u32; 4] {
        // SAFETY: the caller's promise.
        unsafe { ScalarInt8::operand(at) }
    }

    // The columns of a pair lie in the two halves of a word.
    unsafe fn operand(raw: [u32; 4]) -> [u32; 4] {
        raw.map(|word| super::bf16_pair([28, 12].map(|up| ((word << up) as i32 >> 28) as f32)))
    }

    unsafe fn next(raw: [u32; 4]) -> [u32; 4] {
        raw.map(|word| word >> 4)
    }
}
