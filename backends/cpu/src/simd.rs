//! Vector arithmetic of each instruction set, as types that generic kernels are compiled for.
//!
//! A kernel is written once over [`Arith`], as [`Work`] that [`Arith::enter`] compiles for its instruction set; [`run`] chooses
//! the arithmetic. All of a work is `#[inline(always)]`, so that the intrinsics land in a function that has their feature.

/// Methods that are one expression of intrinsics.
macro_rules! simd {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $out:ty = $body:expr;)*) => {
        $(#[inline(always)]
        unsafe fn $name($($arg: $type),*) -> $out {
            // SAFETY: the caller promised the instruction set, and memory for a whole vector.
            unsafe { $body }
        })*
    };
}

/// Asks for the cache line at `at`, into the second-level cache if `far`. Never faults; does nothing where nobody measured it.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8, far: bool) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and any address will do.
        unsafe {
            match far {
                true => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
                false => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, far);
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod convert;
mod formats;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod tiles;

use hal::WeightFormat;

use crate::isa::{Isa, Level, Vectors};

pub(crate) use convert::{Float, Rows, load_f32, store_f32};
pub(crate) use formats::{BF16, F16, Format, I4, I8, Native};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::widen_f16;
use tiles::NoTiles;
pub(crate) use tiles::{Shape, TILE_ROWS, TILE_STEPS, Tiles};

/// Multiply-accumulate over vectors of `LANES` f32 sums, `STEP` products per sum and instruction.
///
/// # Safety
/// Of every method: the CPU has the instruction set, and `at` may be read (or written) for a whole vector,
/// at any alignment.
pub(crate) trait Arith: Copy + 'static {
    /// `LANES` sums.
    type Sum: Copy;
    /// Sums while a stretch is added up: the same, or integers.
    type Acc: Copy;
    /// Sums of a part of a stretch: the same again, or shorter integers.
    type Part: Copy;
    /// `LANES · STEP` factors.
    type Operand: Copy;
    /// `STEP` values of x, as they are packed.
    type Scalar: bytemuck::Pod;
    /// Tiles of such operands, for where [`Path::has_tiles`].
    type Tiles: Tiles<Self>;

    const LANES: usize;
    const STEP: usize;
    /// Whether x is integers.
    const ROUNDED: bool = false;
    /// After how many steps, a power of two, a part has to join the sums of its stretch; else a stretch is one part.
    const PART_STEPS: Option<usize> = None;
    /// Bytes of an operand in memory.
    const OPERAND_BYTES: usize = Self::LANES * size_of::<Self::Scalar>();

    unsafe fn zero() -> Self::Sum;
    /// No products yet; of integers, less what their offset adds.
    unsafe fn start(x: *const Quantised) -> Self::Acc;
    /// The part that goes on from `acc`, or starts anew.
    unsafe fn part(acc: Self::Acc) -> Self::Part;
    /// The sums so far, of which `part` is the last.
    unsafe fn join(acc: Self::Acc, part: Self::Part) -> Self::Acc;
    /// The sums of a stretch.
    unsafe fn sums(acc: Self::Acc) -> Self::Sum;
    /// `old` and the sums of a part of x, which of integers are worth its scale.
    unsafe fn merge(sum: Self::Sum, x: *const Quantised, old: Self::Sum) -> Self::Sum;
    unsafe fn load(at: *const f32) -> Self::Sum;
    unsafe fn store(at: *mut f32, sum: Self::Sum);
    unsafe fn load_f16(at: *const u16) -> Self::Sum;
    /// `a · b + c`, rounded once where the instruction set can.
    unsafe fn mul_add(a: Self::Sum, b: Self::Sum, c: Self::Sum) -> Self::Sum;
    unsafe fn add(a: Self::Sum, b: Self::Sum) -> Self::Sum;

    unsafe fn operand(at: *const u8) -> Self::Operand;
    unsafe fn store_operand(at: *mut u8, operand: Self::Operand);
    /// The same `STEP` values in every lane.
    unsafe fn splat(x: Self::Scalar) -> Self::Operand;
    /// `part + w · x`.
    unsafe fn dot(part: Self::Part, w: Self::Operand, x: Self::Operand) -> Self::Part;

    /// Does `work` in a function that has the instruction set, and nothing else in it.
    unsafe fn enter<W: Work<Self>>(work: &W);
}

/// What is compiled for `A` in a function of its own: many short ones compile many times faster than a long one.
pub(crate) trait Work<A: Arith> {
    /// Does it, in `#[inline(always)]` code.
    ///
    /// # Safety
    /// The CPU has `A`; and what who made this promised.
    unsafe fn run(&self);
}

/// [`Arith::enter`] with these features.
macro_rules! enter {
    ($($features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        #[inline(never)]
        unsafe fn enter<W: crate::simd::Work<Self>>(work: &W) {
            // SAFETY: the features of this function, and the caller's promise.
            unsafe { work.run() }
        }
    };
}
use enter;

/// A stretch is one part.
macro_rules! whole_parts {
    () => {
        type Part = Self::Acc;

        #[inline(always)]
        unsafe fn part(acc: Self::Acc) -> Self::Acc {
            acc
        }

        #[inline(always)]
        unsafe fn join(_: Self::Acc, part: Self::Acc) -> Self::Acc {
            part
        }
    };
}
use whole_parts;

/// Arithmetic on floats: a stretch's sums are sums as they are.
macro_rules! float_sums {
    () => {
        type Acc = Self::Sum;
        crate::simd::whole_parts! {}

        #[inline(always)]
        unsafe fn start(_: *const crate::simd::Quantised) -> Self::Sum {
            // SAFETY: the caller's promise.
            unsafe { Self::zero() }
        }

        #[inline(always)]
        unsafe fn sums(acc: Self::Sum) -> Self::Sum {
            acc
        }

        #[inline(always)]
        unsafe fn merge(
            sum: Self::Sum,
            _: *const crate::simd::Quantised,
            old: Self::Sum,
        ) -> Self::Sum {
            // SAFETY: the caller's promise.
            unsafe { Self::add(old, sum) }
        }
    };
}
use float_sums;

/// Arithmetic on values of x as they are.
pub(crate) trait FloatArith: Arith {
    /// The values of x that make one [`Arith::Scalar`], zeros past the end.
    fn pack(x: [f32; 2]) -> Self::Scalar;
}

/// Two values of x as they lie in a lane of bf16 pairs, the first in the low half. Exact: they come from bf16.
#[cfg(any(test, target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn bf16_pair(x: [f32; 2]) -> u32 {
    x[0].to_bits() >> 16 | x[1].to_bits() & 0xffff_0000
}

/// Arithmetic on x rounded to eight bits, -127 to 127; weights are integers moved up by [`Path::offset`].
pub(crate) trait IntArith: Arith<Scalar = u32> {
    /// [`Arith::STEP`] values of x: four bytes, the first lowest, unless it says otherwise.
    #[inline(always)]
    fn pack(x: &[i8]) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|i| x[i] as u8))
    }
}

/// One row of a part of x that was rounded to eight bits. Parts of one block have the same scale.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quantised {
    /// What one unit is worth.
    pub(crate) scale: f32,
    /// The sum of its integers, times the offset of the weight's, negative.
    pub(crate) start: i32,
}

/// Arithmetic whose operands are f32 vectors too: one product per sum and instruction.
///
/// # Safety
/// As [`Arith`].
pub(crate) trait F32Arith:
    FloatArith + Arith<Operand = <Self as Arith>::Sum, Scalar = f32>
{
    /// `LANES` packed words of eight int4.
    type Words: Copy;
    /// Whether the columns of a word become f32 in different ways.
    const COLUMNS_DIFFER: bool = false;

    unsafe fn load_bf16(at: *const u16) -> Self::Sum;
    unsafe fn load_i8(at: *const i8) -> Self::Sum;
    unsafe fn words(at: *const u8) -> Self::Words;
    /// The lowest int4 of each word.
    unsafe fn lowest(words: Self::Words) -> Self::Sum;
    /// Drops the lowest int4 of each word.
    unsafe fn shift(words: Self::Words) -> Self::Words;
}

/// What [`run`] chooses an arithmetic for: it enters its works.
pub(crate) trait Task {
    /// Runs with `A`, in panels of `NV` vectors.
    ///
    /// # Safety
    /// The CPU has the instruction set of `A`.
    unsafe fn with_f32<A: F32Arith, const NV: usize>(&self);

    /// Runs with products of bf16 pairs; for tasks that ask for such a [`Path`].
    ///
    /// # Safety
    /// As [`Self::with_f32`].
    #[cfg(any(test, target_arch = "x86_64", target_arch = "aarch64"))]
    unsafe fn with_bf16<A: FloatArith, const NV: usize>(&self)
    where
        I8: Format<A>,
        I4: Format<A>,
    {
        unreachable!("planned in f32")
    }

    /// Runs with products of integers, of weights that lie as `F`; for tasks that ask for such a [`Path`].
    ///
    /// # Safety
    /// As [`Self::with_f32`].
    unsafe fn with_integers<A: IntArith, F: Format<A>, const NV: usize>(&self) {
        unreachable!("planned in f32")
    }
}

/// The arithmetic that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    isa: Isa,
    products: Products,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Products {
    F32,
    /// Pairs of bf16.
    Bf16,
    /// Integers of eight bits.
    Int8,
    /// Integers of eight bits by some of four.
    Int4,
}

impl Path {
    /// Products in f32.
    pub(crate) fn f32(isa: Isa) -> Self {
        Self {
            isa,
            products: Products::F32,
        }
    }

    /// Products of bf16 pairs, where they are used.
    pub(crate) fn bf16(isa: Isa) -> Option<Self> {
        isa.has_bf16().then_some(Self {
            isa,
            products: Products::Bf16,
        })
    }

    /// Products of integers, by weights of four bits or of eight.
    pub(crate) fn integers(isa: Isa, weight: WeightFormat) -> Self {
        let products = match weight {
            WeightFormat::Int4Row | WeightFormat::Int4Group(_) => Products::Int4,
            _ => Products::Int8,
        };
        Self { isa, products }
    }

    /// Whether its products are those of tiles, where there are rows enough.
    pub(crate) fn has_tiles(self) -> bool {
        self.isa.has_tiles() && self.products != Products::F32
    }

    /// Whether x is rounded to eight bits.
    pub(crate) fn has_integers(self) -> bool {
        matches!(self.products, Products::Int8 | Products::Int4)
    }

    /// What integers of a weight are moved up by in memory: where x is integers too, those of four bits, to be read
    /// without a sign, and those of eight for instructions that take them so.
    pub(crate) fn offset(self) -> i32 {
        match (self.products, self.isa.vectors()) {
            (Products::Int4, _) => 8,
            #[cfg(target_arch = "aarch64")]
            (Products::Int8, Vectors::Neon) => 0,
            (Products::Int8, _) if self.isa.level() == Level::Avx2 => 0,
            (Products::Int8, _) => 128,
            _ => 0,
        }
    }

    /// Rows of one panel: the lanes of its `NV` vectors.
    pub(crate) fn panel(self) -> usize {
        match self.isa.vectors() {
            Vectors::Scalar => 8,
            #[cfg(target_arch = "aarch64")]
            Vectors::Neon => 16,
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => 16,
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => 64,
        }
    }

    /// Panels that one row of x is multiplied by at once: with two vectors each, so few sums of floats wait for each other.
    pub(crate) fn panels_together(self) -> usize {
        match (self.products, self.isa.vectors()) {
            #[cfg(target_arch = "x86_64")]
            (Products::F32, Vectors::Avx2) => 2,
            _ => 1,
        }
    }

    /// [`Arith::STEP`].
    pub(crate) fn step(self) -> usize {
        match self.products {
            Products::F32 => 1,
            Products::Bf16 => 2,
            Products::Int8 if self.isa.level() == Level::Avx2 => 2,
            Products::Int8 | Products::Int4 => 4,
        }
    }

    /// How many columns apart those are that share a byte of packed int4.
    pub(crate) fn nibble_step(self) -> usize {
        match (self.products, self.isa.vectors()) {
            #[cfg(target_arch = "x86_64")]
            (Products::F32, Vectors::Avx2) => 4,
            _ => self.step(),
        }
    }

    /// Size of [`Arith::Scalar`] and of one lane of an operand.
    pub(crate) const SCALAR_BYTES: usize = 4;
}

/// Runs a task with products of integers by weights that lie as `$format`, on all levels but AVX2.
macro_rules! run_integers {
    ($path:ident, $task:ident, $format:ty) => {
        match $path.isa.level() {
            #[cfg(target_arch = "aarch64")]
            Level::Neon => $task.with_integers::<neon::NeonInt8, $format, 4>(),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot | Level::NeonBf16 => {
                $task.with_integers::<neon::NeonDot, $format, 4>();
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni => $task.with_integers::<avx2::Avx2Vnni, $format, 2>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => $task.with_integers::<avx512::Avx512Int8, $format, 4>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx => {
                $task.with_integers::<avx512::Avx512Vnni, $format, 4>();
            }
            _ => $task.with_integers::<scalar::ScalarInt8, $format, 2>(),
        }
    };
}

/// The most rows of a panel on any instruction set.
pub(crate) const MAX_PANEL: usize = 64;

/// Runs `task` with the arithmetic of `path`.
pub(crate) fn run<T: Task>(path: Path, task: &T) {
    // SAFETY: a `Path` is made from an `Isa`, which is the proof that this CPU has it.
    unsafe {
        match path.products {
            Products::F32 => match path.isa.vectors() {
                Vectors::Scalar => task.with_f32::<scalar::Scalar, 2>(),
                #[cfg(target_arch = "aarch64")]
                Vectors::Neon => task.with_f32::<neon::Neon, 4>(),
                #[cfg(target_arch = "x86_64")]
                Vectors::Avx2 => task.with_f32::<avx2::Avx2, 2>(),
                #[cfg(target_arch = "x86_64")]
                Vectors::Avx512 => task.with_f32::<avx512::Avx512, 4>(),
            },
            Products::Bf16 => match path.isa.level() {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Bf16 => task.with_bf16::<avx512::Avx512Bf16, 4>(),
                #[cfg(target_arch = "x86_64")]
                Level::Amx => task.with_bf16::<avx512::Avx512Pairs, 4>(),
                #[cfg(target_arch = "aarch64")]
                Level::NeonBf16 => task.with_bf16::<neon::NeonBf16, 4>(),
                #[cfg(test)]
                Level::Scalar => task.with_bf16::<scalar::ScalarBf16, 2>(),
                level => unreachable!("{level} has no products of bf16"),
            },
            #[cfg(target_arch = "x86_64")]
            Products::Int8 if path.isa.level() == Level::Avx2 => {
                task.with_integers::<avx2::Avx2Int8, I8, 2>();
            }
            #[cfg(target_arch = "x86_64")]
            Products::Int4 if path.isa.level() == Level::Avx2 => {
                task.with_integers::<avx2::Avx2Int4, I4, 2>();
            }
            Products::Int8 => run_integers!(path, task, Native),
            Products::Int4 => run_integers!(path, task, I4),
        }
    }
}
