//! Vectors of f32: one small set of operations per instruction set, and kernels written once over them.
//!
//! A [`Kernel`] is generic over [`Lanes`]; [`Isa::run`] instantiates it inside a function that has the instruction
//! set switched on. What touches lanes must end up in that function: it is `#[inline(always)]`, and **not in a
//! closure**, which the compiler may keep outside, where every intrinsic is a call. Hence loops and macros here.
//! The vector types are private to this module: nothing but `Isa::run` can name one, which makes their methods safe.

use std::ops::{Add, Div, Mul, Sub};

use half::{bf16, f16};

use crate::isa::{Isa, Vectors};

/// The most lanes that any instruction set has.
pub(crate) const MAX_LANES: usize = 16;

/// The upper half of a lane.
const UPPER: u32 = 0xffff_0000;

/// What is run once per instruction set.
pub(crate) trait Kernel {
    /// The work, in `#[inline(always)]` code.
    fn run<V: Lanes>(self);
}

impl Isa {
    /// Runs `kernel` with the vectors of this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.vectors() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level is the proof that the CPU has it.
            Vectors::Avx512 => unsafe { x86::run_avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Vectors::Avx2 => unsafe { x86::run_avx2(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Vectors::Neon => unsafe { neon::run(kernel) },
            Vectors::Scalar => run_scalar(kernel),
        }
    }

    /// [`Lanes::N`] of these vectors.
    pub(crate) fn lanes(self) -> usize {
        struct Count<'a>(&'a mut usize);
        impl Kernel for Count<'_> {
            #[inline(always)]
            fn run<V: Lanes>(self) {
                *self.0 = V::N;
            }
        }
        let mut lanes = 0;
        self.run(Count(&mut lanes));
        lanes
    }

    /// Whether [`Self::run_with_pairs`] has [`Lanes::PAIRS`].
    pub(crate) fn has_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let has = self.level() == crate::isa::Level::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        let has = false;
        has
    }

    /// As [`Self::run`], with [`Lanes::PAIRS`] where the level has them.
    pub(crate) fn run_with_pairs<K: Kernel>(self, kernel: K) {
        match self.level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level is the proof that the CPU has it.
            crate::isa::Level::Avx512Bf16 => unsafe { x86::run_avx512_bf16(kernel) },
            _ => self.run(kernel),
        }
    }
}

/// A vector of f32.
pub(crate) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Number of lanes: a power of two up to [`MAX_LANES`].
    const N: usize;
    /// Whether there are 32 vector registers rather than 16.
    const MANY_REGISTERS: bool;
    /// Whether there are products of bf16 pairs.
    const PAIRS: bool = false;

    /// `c` and both products of the pairs of bf16 in the lanes of `self` and `b`, subnormals taken as 0.
    ///
    /// # Panics
    /// Without [`Self::PAIRS`].
    fn dot_pairs(self, _b: Self, _c: Self) -> Self {
        unreachable!("no products of bf16 pairs")
    }
    /// The elements of both as pairs of bf16, rounded to nearest.
    ///
    /// # Panics
    /// Without [`Self::PAIRS`].
    fn pairs(_lower: Self, _upper: Self) -> Self {
        unreachable!("no products of bf16 pairs")
    }
    /// Lane by lane, the elements of both as a pair of bf16, rounded to nearest.
    ///
    /// # Panics
    /// Without [`Self::PAIRS`].
    fn pair_lanes(_lower: Self, _upper: Self) -> Self {
        unreachable!("no products of bf16 pairs")
    }
    /// The bf16 of both as pairs of those at the same place, in an order that [`Self::ordered_pairs`] knows.
    ///
    /// # Panics
    /// Without [`Self::PAIRS`].
    fn in_pairs(_lower: Self, _upper: Self) -> [Self; 2] {
        unreachable!("no products of bf16 pairs")
    }
    /// Lanes in the order that [`Self::in_pairs`] gives them, in the order of what was paired.
    ///
    /// # Panics
    /// Without [`Self::PAIRS`].
    fn ordered_pairs(_x: [Self; 2]) -> [Self; 2] {
        unreachable!("no products of bf16 pairs")
    }
    fn splat(x: f32) -> Self;
    /// # Safety
    /// `N` elements can be read at `from`, of any alignment; so for the other loads.
    unsafe fn load_f32(from: *const f32) -> Self;
    /// # Safety
    /// As `load_f32`.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// # Safety
    /// As `load_f32`.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// # Safety
    /// As `load_f32`.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// # Safety
    /// `N` elements can be written at `to`; so for the other stores.
    unsafe fn store_f32(self, to: *mut f32);
    /// Rounds to nearest even.
    /// # Safety
    /// As `store_f32`.
    unsafe fn store_f16(self, to: *mut f16);
    /// Rounds to nearest even.
    /// # Safety
    /// As `store_f32`.
    unsafe fn store_bf16(self, to: *mut bf16);
    /// Rounds to nearest even, into the type's range; NaN becomes 0.
    /// # Safety
    /// As `store_f32`.
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: there are `MAX_LANES` elements; `N` can be written at `to`.
        unsafe {
            self.store_f32(lanes.as_mut_ptr());
            for (i, &x) in lanes[..Self::N].iter().enumerate() {
                to.add(i).write(i8::narrow(x));
            }
        }
    }
    /// `self · b + c`, rounded once where the CPU can.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `a · b − p`, exact when `p` is the rounded product.
    fn residue(a: Self, b: Self, p: Self) -> Self;
    /// The smaller; NaN where `self` is NaN.
    fn min(self, b: Self) -> Self;
    /// The larger; NaN where `self` is NaN.
    fn max(self, b: Self) -> Self;
    /// Whether any lane is above that of `b`, or one of them NaN.
    fn exceeds(self, b: Self) -> bool;
    /// To the nearest integer.
    fn round(self) -> Self;
    /// `self · 2^n` for integers n in [-200, 200], rounded as if the exponent had no limits until the end.
    fn scale2(self, n: Self) -> Self;
    /// `yes` where `self < b`, else `no`.
    fn less(self, b: Self, yes: Self, no: Self) -> Self;
    /// The lowest eight bits of each lane as the exponent of a power of two, of which 0 means the number 0.
    fn exponent(self) -> Self;
    /// Lanes 0 and 1 exchanged, 2 and 3, and so on.
    fn swap_pairs(self) -> Self;
    /// The bf16 in the lower halves of the lanes, and those in the upper halves.
    fn halves(self) -> [Self; 2];
    /// The lanes of both, taken in turns.
    fn in_turns(a: Self, b: Self) -> [Self; 2];
    /// Blocks of four lanes of four vectors, transposed: lane `4g + i` of result `j` is lane `4g + j` of `x[i]`.
    fn transpose(x: [Self; 4]) -> [Self; 4];
    /// Lanes from groups of four elements that are `step` apart.
    /// # Safety
    /// `N / 4` groups can be read at `from`.
    unsafe fn load_fours(from: *const f32, step: usize) -> Self;
    /// Writes groups of four lanes `step` apart.
    /// # Safety
    /// `N / 4` groups can be written at `to`.
    unsafe fn store_fours(self, to: *mut f32, step: usize);
    /// Writes the sums of lanes 0, 4, 8, …, of lanes 1, 5, 9, …, and so on, always added in the same order.
    /// # Safety
    /// Four elements can be written at `to`.
    unsafe fn store_folded(self, to: *mut f32);
    /// Asks for the cache line at `at`, which may be any address: into the second-level cache, if `far`.
    fn prefetch(at: *const u8, far: bool);
    /// Sum of the lanes, always in the same order.
    fn sum(self) -> f32;
    /// The largest lane; which one counts with a NaN among them is not defined.
    fn largest(self) -> f32;

    /// Writes the sum of the lanes of each vector times the lanes of `scale`, which are all the same.
    /// # Safety
    /// Four elements can be written at `to`.
    #[inline(always)]
    unsafe fn store_sums(x: [Self; 4], scale: Self, to: *mut f32) {
        let x = Self::transpose(x);
        // SAFETY: the caller's promise.
        unsafe { (((x[0] + x[1]) + (x[2] + x[3])) * scale).store_folded(to) }
    }

    /// `yes` in the first `n` lanes, else `no`.
    #[inline(always)]
    fn first(n: usize, yes: Self, no: Self) -> Self {
        const COUNT: [f32; MAX_LANES] = [
            0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
        ];
        // SAFETY: there are `MAX_LANES` elements.
        let count = unsafe { Self::load_f32(COUNT.as_ptr()) };
        count.less(Self::splat(n.min(MAX_LANES) as f32), yes, no)
    }

    /// `|self|`
    #[inline(always)]
    fn abs(self) -> Self {
        self.max(Self::splat(-0.0) - self)
    }

    /// `e^self` within 2 units in the last place: −∞ gives 0, overflow ∞, NaN stays.
    ///
    /// Source: the range reduction and polynomial of Cephes `expf` (Moshier, 1987).
    #[inline(always)]
    fn exp(self) -> Self {
        let c = Self::splat;
        let x = self.min(c(89.0)).max(c(-104.0));
        let n = (x * c(std::f32::consts::LOG2_E)).round();
        // ln 2 in two parts; n times the first is exact.
        let r = n.mul_add(c(-0.693_359_4), x);
        let r = n.mul_add(c(2.121_944_4e-4), r);
        let p = c(1.987_569_2e-4).mul_add(r, c(1.398_199_9e-3));
        let p = p.mul_add(r, c(8.333_452e-3));
        let p = p.mul_add(r, c(4.166_579_6e-2));
        let p = p.mul_add(r, c(1.666_666_5e-1));
        let p = p.mul_add(r, c(5e-1));
        ((p * r).mul_add(r, r) + c(1.0)).scale2(n)
    }

    /// `e^self` for numbers up to 88, within 2 units in the last place: what would be below the normal range is 0, so
    /// that few later products are of subnormal numbers, which many CPUs compute a hundred times slower. NaN stays.
    ///
    /// `e^r = 1 + r · q(r)`: q interpolates at the six Chebyshev nodes of ±½ ln 2, 0.2 · 2⁻²⁴ from the exact value.
    #[inline(always)]
    fn exp_normal(self) -> Self {
        // The least whose exponential is normal: 2⁻¹²⁶.
        const LEAST: f32 = -87.336_54;
        // The sum has no fraction bits: it is n, and its lowest bits are n as an exponent.
        const WHOLE: f32 = 12_582_912.0 + 127.0;
        let c = Self::splat;
        let x = self.max(c(LEAST));
        let sum = x.mul_add(c(std::f32::consts::LOG2_E), c(WHOLE));
        let n = sum - c(WHOLE);
        // ln 2 in two parts; n times the first is exact.
        let r = n.mul_add(c(-0.693_359_4), x);
        let r = n.mul_add(c(2.121_944_4e-4), r);
        let q = c(1.393_364_2e-3).mul_add(r, c(8.369_149e-3));
        let q = q.mul_add(r, c(4.166_646_7e-2));
        let q = q.mul_add(r, c(1.666_650_5e-1));
        let q = q.mul_add(r, c(0.5));
        let q = q.mul_add(r, c(1.0));
        let y = q.mul_add(r, c(1.0)) * sum.exponent();
        self.less(c(LEAST), c(0.0), y)
    }
}

/// A type of number in memory.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// # Safety
    /// `V::N` elements can be read at `from`.
    unsafe fn load<V: Lanes>(from: *const Self) -> V;
    /// # Safety
    /// `V::N` elements can be written at `to`.
    unsafe fn store<V: Lanes>(v: V, to: *mut Self);
    /// Twice as many, in the order that loads fastest.
    /// # Safety
    /// `2 · V::N` elements can be read at `from`.
    #[inline(always)]
    unsafe fn load_two<V: Lanes>(from: *const Self) -> [V; 2] {
        // SAFETY: the caller's promise.
        unsafe { [Self::load(from), Self::load(from.add(V::N))] }
    }
    /// What lies as [`Self::load_two`] loads it, in the order of memory.
    #[inline(always)]
    fn ordered<V: Lanes>(x: [V; 2]) -> [V; 2] {
        x
    }
    /// Puts `2 · V::N` numbers in the order of memory into that of [`Self::load_two`].
    #[inline(always)]
    fn as_loaded<V: Lanes>(_x: &mut [f32]) {}
    fn widen(self) -> f32;
    /// Rounded to nearest even.
    fn narrow(x: f32) -> Self;
}

macro_rules! element {
    ($type:ty, $load:ident, $store:ident, $widen:expr, $narrow:expr $(, $more:item)*) => {
        impl Element for $type {
            #[inline(always)]
            unsafe fn load<V: Lanes>(from: *const Self) -> V {
                // SAFETY: the caller's promise.
                unsafe { V::$load(from) }
            }
            #[inline(always)]
            unsafe fn store<V: Lanes>(v: V, to: *mut Self) {
                // SAFETY: the caller's promise.
                unsafe { v.$store(to) }
            }
            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self)
            }
            #[inline(always)]
            fn narrow(x: f32) -> Self {
                $narrow(x)
            }
            $($more)*
        }
    };
}

element!(f32, load_f32, store_f32, |x| x, |x| x);
element!(f16, load_f16, store_f16, f16::to_f32, f16::from_f32);
element!(
    i8,
    load_i8,
    store_i8,
    f32::from,
    |x: f32| x.round_ties_even() as i8
);
element!(
    bf16,
    load_bf16,
    store_bf16,
    bf16::to_f32,
    bf16::from_f32,
    #[inline(always)]
    unsafe fn load_two<V: Lanes>(from: *const Self) -> [V; 2] {
        // SAFETY: the caller's promise.
        unsafe { V::load_f32(from.cast()).halves() }
    },
    #[inline(always)]
    fn ordered<V: Lanes>([lower, upper]: [V; 2]) -> [V; 2] {
        V::in_turns(lower, upper)
    },
    #[inline(always)]
    fn as_loaded<V: Lanes>(x: &mut [f32]) {
        let mut turns = [0.0; 2 * MAX_LANES];
        let turns = &mut turns[..2 * V::N];
        turns.copy_from_slice(x);
        for (i, turn) in turns.as_chunks::<2>().0.iter().enumerate() {
            [x[i], x[V::N + i]] = *turn;
        }
    }
);

/// Plain Rust, in groups that any compiler can vectorise.
#[derive(Clone, Copy)]
struct Scalar([f32; 8]);

/// Like that of every instruction set, a function of its own.
#[inline(never)]
fn run_scalar<K: Kernel>(kernel: K) {
    kernel.run::<Scalar>();
}

/// `$e` for `$i` from 0 to 7, written out: loops of eight, unrolled one by one, take long to compile.
macro_rules! eight {
    ($i:ident => $e:expr) => {
        eight!(@ $i => $e, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident => $e:expr, $($at:literal)*) => {
        [$({
            let $i: usize = $at;
            $e
        }),*]
    };
}

impl Scalar {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(eight!(i => f(self.0[i], b.0[i])))
    }

    #[inline(always)]
    fn fold(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let x = self.0;
        f(
            f(f(x[0], x[4]), f(x[2], x[6])),
            f(f(x[1], x[5]), f(x[3], x[7])),
        )
    }
}

/// Operators of a type with the generics in brackets.
macro_rules! operators {
    (@ [$($generics:tt)*] $type:ty, $a:ident, $b:ident: $trait:ident $method:ident $value:expr) => {
        impl<$($generics)*> $trait for $type {
            type Output = Self;
            #[inline(always)]
            fn $method(self, $b: Self) -> Self {
                let $a = self;
                Self($value)
            }
        }
    };
    ($generics:tt $type:ty, $a:ident, $b:ident: $($trait:ident $method:ident $value:expr;)*) => {
        $(operators!(@ $generics $type, $a, $b: $trait $method $value);)*
    };
}

operators! { [] Scalar, a, b:
    Add add a.zip(b, |a, b| a + b).0;
    Sub sub a.zip(b, |a, b| a - b).0;
    Mul mul a.zip(b, |a, b| a * b).0;
    Div div a.zip(b, |a, b| a / b).0;
}

macro_rules! scalar_memory {
    ($($load:ident $store:ident $type:ty;)*) => {
        $(
            #[inline(always)]
            unsafe fn $load(from: *const $type) -> Self {
                // SAFETY: the caller's promise.
                let x = unsafe { from.cast::<[$type; 8]>().read_unaligned() };
                Self(eight!(i => x[i].widen()))
            }
            #[inline(always)]
            unsafe fn $store(self, to: *mut $type) {
                // SAFETY: the caller's promise.
                unsafe { *to.cast::<[$type; 8]>() = eight!(i => <$type>::narrow(self.0[i])) }
            }
        )*
    };
}

impl Lanes for Scalar {
    const N: usize = 8;
    const MANY_REGISTERS: bool = false;

    scalar_memory! { load_f32 store_f32 f32; load_f16 store_f16 f16; load_bf16 store_bf16 bf16; load_i8 store_i8 i8; }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // Not `f32::mul_add`, which is a slow call where the CPU lacks the instruction.
        self * b + c
    }
    #[inline(always)]
    fn residue(a: Self, b: Self, p: Self) -> Self {
        Self(eight!(i => (f64::from(a.0[i]) * f64::from(b.0[i]) - f64::from(p.0[i])) as f32))
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.zip(b, |a, b| if b < a { b } else { a })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    fn round(self) -> Self {
        // Adding 1.5·2²³ leaves no fraction bits; enough for |x| < 2²².
        let magic = Self::splat(12_582_912.0);
        self + magic - magic
    }
    #[inline(always)]
    fn scale2(self, n: Self) -> Self {
        self.zip(n, |x, n| {
            let n = n as i32;
            let pow2 = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
            x * pow2(n >> 1) * pow2(n - (n >> 1))
        })
    }
    #[inline(always)]
    fn exceeds(self, b: Self) -> bool {
        (self.0.iter().zip(b.0)).any(|(x, b)| *x > b || x.is_nan() || b.is_nan())
    }
    #[inline(always)]
    fn less(self, b: Self, yes: Self, no: Self) -> Self {
        Self(eight!(i => if self.0[i] < b.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        Self(eight!(i => f32::from_bits(self.0[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn swap_pairs(self) -> Self {
        Self(eight!(i => self.0[i ^ 1]))
    }
    #[inline(always)]
    fn halves(self) -> [Self; 2] {
        let lower = eight!(i => f32::from_bits(self.0[i].to_bits() << 16));
        let upper = eight!(i => f32::from_bits(self.0[i].to_bits() & UPPER));
        [Self(lower), Self(upper)]
    }
    #[inline(always)]
    fn in_turns(a: Self, b: Self) -> [Self; 2] {
        let lane = |i: usize| [a, b][i % 2].0[i / 2];
        [Self(eight!(i => lane(i))), Self(eight!(i => lane(i + 8)))]
    }
    #[inline(always)]
    fn transpose(x: [Self; 4]) -> [Self; 4] {
        let lanes = |j| Self(eight!(lane => x[lane % 4].0[lane / 4 * 4 + j]));
        [lanes(0), lanes(1), lanes(2), lanes(3)]
    }
    #[inline(always)]
    unsafe fn load_fours(from: *const f32, step: usize) -> Self {
        // SAFETY: the caller's promise.
        Self(eight!(i => unsafe { *from.add(i / 4 * step + i % 4) }))
    }
    #[inline(always)]
    unsafe fn store_fours(self, to: *mut f32, step: usize) {
        // SAFETY: the caller's promise.
        eight!(i => unsafe { *to.add(i / 4 * step + i % 4) = self.0[i] });
    }
    #[inline(always)]
    unsafe fn store_folded(self, to: *mut f32) {
        let x = self.0;
        let sums = [x[0] + x[4], x[1] + x[5], x[2] + x[6], x[3] + x[7]];
        // SAFETY: the caller's promise.
        unsafe { *to.cast::<[f32; 4]>() = sums }
    }
    #[inline(always)]
    fn prefetch(_at: *const u8, _far: bool) {}
    #[inline(always)]
    fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        self.fold(f32::max)
    }
}

/// Wraps intrinsics: `intrinsics!(expression)`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! intrinsics {
    ($($body:tt)*) => {
        // SAFETY: a vector of this type exists only inside `Isa::run`, which has checked the instruction set;
        // what memory is touched, the caller has promised.
        unsafe { $($body)* }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(test)]
mod tests {
    use super::*;

    /// [`Lanes::exp`], or [`Lanes::exp_normal`].
    struct Exp<'a> {
        normal: bool,
        x: &'a [f32],
        y: &'a mut [f32],
    }

    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<V: Lanes>(self) {
            for (x, y) in (self.x.chunks_exact(V::N)).zip(self.y.chunks_exact_mut(V::N)) {
                // SAFETY: chunks of whole vectors.
                let x = unsafe { V::load_f32(x.as_ptr()) };
                let e = if self.normal { x.exp_normal() } else { x.exp() };
                // SAFETY: as above.
                unsafe { e.store_f32(y.as_mut_ptr()) };
            }
        }
    }

    fn levels() -> impl Iterator<Item = Isa> {
        (crate::testing::levels().into_iter())
            .map(|level| Isa::at(level).expect("the level is available"))
    }

    fn exp(isa: Isa, normal: bool, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        let y = &mut out;
        isa.run(Exp { normal, x, y });
        out
    }

    /// [`Lanes::exceeds`].
    struct Exceeds<'a> {
        a: &'a [f32; MAX_LANES],
        b: &'a [f32; MAX_LANES],
        does: &'a mut bool,
    }

    impl Kernel for Exceeds<'_> {
        #[inline(always)]
        fn run<V: Lanes>(self) {
            // SAFETY: there are `MAX_LANES` elements.
            let [a, b] = unsafe { [self.a, self.b].map(|x| V::load_f32(x.as_ptr())) };
            *self.does = a.exceeds(b);
        }
    }

    #[test]
    fn a_lane_above_another_or_not_a_number_exceeds() {
        const LOW: f32 = f32::NEG_INFINITY;
        for isa in levels() {
            let lanes = isa.lanes();
            for (a, b, wanted) in [
                (1.0, 0.5, true),
                (0.5, 1.0, false),
                (1.0, 1.0, false),
                (-0.0, 0.0, false),
                (LOW, LOW, false),
                (0.0, LOW, true),
                (f32::NAN, 1.0, true),
                (1.0, f32::NAN, true),
            ] {
                for lane in [0, lanes / 2, lanes - 1] {
                    let (mut x, mut y, mut does) = ([0.0; MAX_LANES], [0.0; MAX_LANES], false);
                    (x[lane], y[lane]) = (a, b);
                    let (a, b) = (&x, &y);
                    isa.run(Exceeds {
                        a,
                        b,
                        does: &mut does,
                    });
                    assert_eq!(does, wanted, "{isa}: {a:?} above {b:?}");
                }
            }
        }
    }

    /// The largest error over every `step`-th f32 and its negative up to `most` in size, in units of the last place.
    fn worst(isa: Isa, normal: bool, most: f32, step: usize) -> f64 {
        let mut worst = 0.0f64;
        let mut bits = (0..=most.to_bits()).step_by(step).peekable();
        while bits.peek().is_some() {
            let some = bits.by_ref().take(1 << 16).map(f32::from_bits);
            let mut x: Vec<f32> = some.flat_map(|x| [x, -x]).collect();
            x.resize(x.len().next_multiple_of(MAX_LANES), 0.0);
            for (&x, y) in x.iter().zip(exp(isa, normal, &x)) {
                let exact = f64::from(x).exp();
                if exact > f64::from(f32::MAX) * (1.0 + 2f64.powi(-25)) {
                    assert_eq!(y, f32::INFINITY, "{isa}: exp({x})");
                    continue;
                }
                if normal && exact < f64::from(f32::MIN_POSITIVE) {
                    assert_eq!(y, 0.0, "{isa}: exp({x})");
                    continue;
                }
                let exponent = exact.log2().floor().max(-126.0);
                let units = (f64::from(y) - exact).abs() / (exponent - 23.0).exp2();
                assert!(units <= 2.0, "{isa}: exp({x}) is {y}, off by {units} units");
                worst = worst.max(units);
            }
        }
        worst
    }

    /// Every 977th f32 where the result is neither 0 nor ∞.
    #[test]
    fn exponentials_are_within_two_units() {
        for isa in levels() {
            worst(isa, false, 104.5, 977);
            worst(isa, true, 88.0, 977);
        }
    }

    #[test]
    #[ignore = "some minutes: every f32 where the result is neither 0 nor ∞"]
    fn all_exponentials_are_within_two_units() {
        for isa in levels() {
            let plain = worst(isa, false, 104.5, 1);
            let normal = worst(isa, true, 88.0, 1);
            println!("{isa}: exp within {plain:.3} units, exp_normal within {normal:.3}");
        }
    }

    #[test]
    fn normal_exponentials_of_special_values() {
        let low = f32::NEG_INFINITY;
        let x = [
            0.0,
            -0.0,
            1e-45,
            -1e-45,
            -87.34,
            -88.0,
            -104.0,
            -1e30,
            f32::MIN,
            low,
            low,
            low,
            f32::NAN,
            -f32::NAN,
            f32::NAN,
            f32::NAN,
        ];
        for isa in levels() {
            let y = exp(isa, true, &x);
            assert_eq!(y[..4], [1.0; 4], "{isa}");
            assert_eq!(y[4..12], [0.0; 8], "{isa}");
            assert!(y[12..].iter().all(|y| y.is_nan()), "{isa}");
        }
    }

    #[test]
    fn exp_of_special_values() {
        let x = [
            0.0,
            -0.0,
            1e-45,
            89.0,
            1e30,
            f32::INFINITY,
            -103.0,
            -104.0,
            -105.0,
            -1e30,
            f32::NEG_INFINITY,
            f32::NAN,
            1.0,
            1.0,
            1.0,
            1.0,
        ];
        for isa in levels() {
            let y = exp(isa, false, &x);
            assert_eq!(
                y[..6],
                [1.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY]
            );
            assert_eq!(y[6], 1.4e-45, "{isa}");
            assert_eq!(y[7..11], [0.0; 4]);
            assert!(y[11].is_nan(), "{isa}");
        }
    }
}
