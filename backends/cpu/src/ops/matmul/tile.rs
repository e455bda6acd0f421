//! The innermost loops: a few rows of x by one panel of weights, sums in registers.

use crate::simd::{Arith, Format, Quantised};

/// The most rows of x in one tile: with the panel's vectors, their sums fill the registers.
pub(crate) const MAX_ROWS: usize = 6;

/// How far ahead of its use a weight is asked for: beyond what hardware prefetchers reach within one page.
const AHEAD_BYTES: usize = 4096;

/// One stretch of columns of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Stretch {
    /// Its elements.
    pub(crate) weight: *const u8,
    /// Units of its format.
    pub(crate) units: usize,
    /// f16 scales of the panel's rows, or null.
    pub(crate) scales: *const u16,
}

impl Stretch {
    /// No columns.
    pub(crate) const EMPTY: Self = Self {
        weight: std::ptr::null(),
        units: 0,
        scales: std::ptr::null(),
    };
}

/// `sums[r, lane] += scale[lane] · Σ_k w[lane, k] · x[k, r]` for `rows` rows of packed x.
///
/// # Safety
/// The CPU has `A`; the stretch is one of format `F` in panels of `NV` vectors; `x` holds `rows` scalars for each of
/// its steps, and `sums` `rows` panels. Where x is integers, `quantised` holds how each row was rounded, and the stretch
/// lies in one part of it.
#[inline(always)]
pub(crate) unsafe fn tile<A: Arith, F: Format<A>, const NV: usize>(
    rows: usize,
    stretch: Stretch,
    x: *const A::Scalar,
    quantised: *const Quantised,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => rows_of::<A, F, 1, NV>(stretch, x, quantised, sums),
            2 => rows_of::<A, F, 2, NV>(stretch, x, quantised, sums),
            3 => rows_of::<A, F, 3, NV>(stretch, x, quantised, sums),
            4 => rows_of::<A, F, 4, NV>(stretch, x, quantised, sums),
            5 => rows_of::<A, F, 5, NV>(stretch, x, quantised, sums),
            _ => rows_of::<A, F, MAX_ROWS, NV>(stretch, x, quantised, sums),
        }
    }
}

/// `$body` for each `$i` of `0..$n`, up to six, written out. A long body in a loop leaves it a loop, and what it indexes lies in
/// memory: all sums were stored at every step.
macro_rules! each {
    ($i:ident in $n:expr => $body:block) => {
        each!(@ $i in $n => $body, 0 1 2 3 4 5)
    };
    (@ $i:ident in $n:expr => $body:block, $($at:literal)*) => {
        $(if $at < $n {
            let $i: usize = $at;
            $body
        })*
    };
}

/// [`tile`] of `MR` rows.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "iterators would put closures between the intrinsics and their target features"
)]
unsafe fn rows_of<A: Arith, F: Format<A>, const MR: usize, const NV: usize>(
    stretch: Stretch,
    mut x: *const A::Scalar,
    quantised: *const Quantised,
    out: *mut f32,
) {
    // SAFETY: the pointers stay inside what the caller promised: `units` units of weights, their steps of x,
    // `MR` panels of sums. Prefetches may leave it: they never fault.
    unsafe {
        let mut w = stretch.weight;
        let mut sums = [[A::start(quantised); NV]; MR];
        for r in 1..MR {
            sums[r] = [A::start(quantised.wrapping_add(r)); NV];
        }
        for _ in 0..stretch.units {
            let mut raw = [F::load(w); NV];
            for v in 1..NV {
                raw[v] = F::load(w.add(v * F::BYTES));
            }
            if !F::NATIVE || MR < MAX_ROWS {
                let mut line = 0;
                while line < NV * F::BYTES {
                    A::prefetch(w.wrapping_add(AHEAD_BYTES + line));
                    line += 64;
                }
            }
            w = w.add(NV * F::BYTES);
            for _ in 0..F::STEPS {
                let mut operands = [F::operand(raw[0]); NV];
                raw[0] = F::next(raw[0]);
                for v in 1..NV {
                    operands[v] = F::operand(raw[v]);
                    raw[v] = F::next(raw[v]);
                }
                for r in 0..MR {
                    let x = A::splat(x.add(r).read());
                    for v in 0..NV {
                        sums[r][v] = A::dot(sums[r][v], operands[v], x);
                    }
                }
                x = x.add(MR);
            }
        }
        let mut scales = [A::zero(); NV];
        if !stretch.scales.is_null() {
            for v in 0..NV {
                scales[v] = A::load_f16(stretch.scales.add(v * A::LANES));
            }
        }
        each!(r in MR => {
            each!(v in NV => {
                let out = out.add((r * NV + v) * A::LANES);
                let old = A::load(out);
                let sum = A::finish(sums[r][v], quantised.wrapping_add(r));
                let new = if stretch.scales.is_null() {
                    A::add(old, sum)
                } else {
                    A::mul_add(scales[v], sum, old)
                };
                A::store(out, new);
            });
        });
    }
}
