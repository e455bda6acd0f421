//! The innermost loops: a few rows of x by one panel of weights, sums in registers.

use crate::simd::{Arith, Format, Quantised, TILE_ROWS, TILE_STEPS, Tiles, prefetch};

/// The most rows of x in one tile: with the panel's vectors, their sums fill the registers.
pub(crate) const MAX_ROWS: usize = 6;

/// Rows whose sums of a second kind stay in registers beside those of a stretch.
pub(crate) const KEPT_ROWS: usize = MAX_ROWS / 2;

/// The most stretches that share a scale of x and are whole tiles: those of groups of 64.
pub(crate) const MAX_SHARING: usize = 2;

/// Bytes of other memory that are asked for in each step of a product with a weight in a cache.
pub(crate) const ASKED_BYTES: usize = 128;

/// Stretches of columns of a panel, of the same length: what is added up before it meets other sums and its scales.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    /// How many there are.
    pub(crate) stretches: usize,
    /// The elements of the first.
    pub(crate) weight: *const u8,
    /// Bytes from all of this to the same of the next panel.
    pub(crate) panel_step: usize,
    /// Bytes from one's elements to the next's.
    pub(crate) weight_step: usize,
    /// Units of its format in each.
    pub(crate) units: usize,
    /// How many of them share a scale of x, where it is integers: the first starts such a block.
    pub(crate) block: usize,
    /// What is asked for while it is multiplied: of a stream, itself from here on, as fast as it is read; of what lies in
    /// a cache, other memory, [`ASKED_BYTES`] for each unit.
    pub(crate) ask: *const u8,
    /// f16 scales of the panel's rows for the first, or null.
    pub(crate) scales: *const u16,
    /// Bytes from one's scales to the next's.
    pub(crate) scales_step: usize,
}

impl Span {
    /// One stretch without scales, in a cache.
    pub(crate) fn plain(weight: *const u8, units: usize) -> Self {
        Self {
            stretches: 1,
            weight,
            panel_step: 0,
            weight_step: 0,
            units,
            block: 1,
            ask: weight,
            scales: std::ptr::null(),
            scales_step: 0,
        }
    }
}

/// Rows of packed x, from the first step of a span on.
#[derive(Clone, Copy)]
pub(crate) struct Columns<S> {
    /// Step by step, a scalar for each row.
    pub(crate) scalars: *const S,
    /// How each row was rounded for the first stretch, where x is integers.
    pub(crate) quantised: *const Quantised,
    /// From one stretch to the next.
    pub(crate) quantised_step: usize,
}

/// `sums[r, lane] += scale[lane] · Σ_k w[lane, k] · x[k, r]` for `rows` rows of x, one stretch after the other.
///
/// # Safety
/// The CPU has `A`; the stretches are of format `F` in panels of `NV` vectors, and come from memory if they are
/// a `STREAM`, else lie in a cache; x holds `rows` scalars for each of their steps, and `sums` `rows` panels. Where x is integers,
/// it says how each row was rounded, there are at most [`KEPT_ROWS`] if stretches share a scale of x, and each stretch lies
/// in one part of it.
#[inline(always)]
pub(crate) unsafe fn tile<A: Arith, F: Format<A>, const NV: usize, const STREAM: bool>(
    rows: usize,
    span: Span,
    x: Columns<A::Scalar>,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => rows_or_short::<A, F, 1, NV, STREAM>(span, x, sums),
            2 => rows_or_short::<A, F, 2, NV, STREAM>(span, x, sums),
            3 => rows_or_short::<A, F, 3, NV, STREAM>(span, x, sums),
            4 => rows_or_short::<A, F, 4, NV, STREAM>(span, x, sums),
            5 => rows_or_short::<A, F, 5, NV, STREAM>(span, x, sums),
            _ => rows_or_short::<A, F, MAX_ROWS, NV, STREAM>(span, x, sums),
        }
    }
}

/// Units of the shortest group: 32 columns, four at a time.
const SHORT: usize = 8;

/// [`tile`] of `MR` rows. Where a part joins the sums of its stretch at its end, short stretches that are one part have a loop of
/// their own, written out, without registers for sums that nothing joins before.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn rows_or_short<
    A: Arith,
    F: Format<A>,
    const MR: usize,
    const NV: usize,
    const STREAM: bool,
>(
    span: Span,
    x: Columns<A::Scalar>,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let short = span.units == SHORT && A::PART_STEPS == Some(SHORT * F::STEPS);
        if !STREAM && MR <= KEPT_ROWS && short {
            rows_of::<A, F, MR, NV, NV, SHORT, STREAM>(span, x, sums);
        } else {
            rows_of::<A, F, MR, NV, NV, 0, STREAM>(span, x, sums);
        }
    }
}

/// [`tile`] of one row by two panels of two vectors, that of `span` and the next: the sums of one panel are too few to hide how
/// long each takes. `sums` are those of one panel, then of the other.
///
/// # Safety
/// As [`tile`], of both panels; they come from memory.
#[inline(always)]
pub(crate) unsafe fn pair<A: Arith, F: Format<A>>(
    span: Span,
    x: Columns<A::Scalar>,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe { rows_of::<A, F, 1, 4, 2, 0, true>(span, x, sums) }
}

/// `$body` for each `$i` of `0..$n`, up to eight, written out. A long body in a loop leaves it a loop, and what it indexes lies in
/// memory: all sums were stored at every step.
macro_rules! each {
    ($i:ident in $n:expr => $body:block) => {
        each!(@ $i in $n => $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident in $n:expr => $body:block, $($at:literal)*) => {
        $(if $at < $n {
            let $i: usize = $at;
            $body
        })*
    };
}

/// [`tile`] of up to [`TILE_ROWS`] rows by registers of tiles. Rows of x lie `x_step` scalars apart, step by step. Stretches that share
/// a scale of x are multiplied one after the other into `of_tiles`, and meet there.
///
/// # Safety
/// As [`tile`], of operands that lie in a cache; tiles of at least these rows were set up, with short ones for stretches that are not
/// whole tiles. `of_tiles` holds [`TILE_ROWS`] panels for each stretch that shares a scale of x: [`MAX_SHARING`] at most.
#[inline(always)]
pub(crate) unsafe fn whole_tile<A: Arith, const NV: usize>(
    rows: usize,
    mut span: Span,
    mut x: Columns<A::Scalar>,
    x_step: usize,
    sums: *mut f32,
    of_tiles: *mut f32,
) {
    for first in (0..span.stretches).step_by(span.block) {
        let stretches = span.block.min(span.stretches - first);
        for stretch in 0..stretches {
            let weight = span.weight.wrapping_add(stretch * span.weight_step);
            let to = of_tiles.wrapping_add(stretch * TILE_ROWS * NV * A::LANES);
            // SAFETY: the caller's promise; `x` and `weight` have the units of each stretch.
            unsafe {
                A::Tiles::clear();
                for unit in (0..span.units).step_by(TILE_STEPS) {
                    A::Tiles::multiply::<NV>(
                        x.scalars.wrapping_add(unit).cast(),
                        x_step * size_of::<A::Scalar>(),
                        weight.wrapping_add(unit * NV * A::OPERAND_BYTES),
                        span.units - unit < TILE_STEPS,
                    );
                }
                A::Tiles::store::<NV>(to.cast());
            }
            x.scalars = x.scalars.wrapping_add(span.units);
        }
        // SAFETY: the caller's promise; the sums of these stretches were just stored.
        unsafe {
            match (span.scales.is_null(), stretches) {
                (true, _) => meet_tiles::<A, NV, 1, false>(rows, &span, x, of_tiles, sums),
                (_, 1) => meet_tiles::<A, NV, 1, true>(rows, &span, x, of_tiles, sums),
                _ => meet_tiles::<A, NV, MAX_SHARING, true>(rows, &span, x, of_tiles, sums),
            }
        }
        span.weight = span.weight.wrapping_add(stretches * span.weight_step);
        span.scales = (span.scales).wrapping_byte_add(stretches * span.scales_step);
        x.quantised = x.quantised.wrapping_add(stretches * x.quantised_step);
    }
}

/// [`tile`] of `MR` rows by `NV` vectors of weights, of which each panel has `PANEL`; of stretches of `UNITS` units, one part each,
/// unless that is 0.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "iterators would put closures between the intrinsics and their target features"
)]
unsafe fn rows_of<
    A: Arith,
    F: Format<A>,
    const MR: usize,
    const NV: usize,
    const PANEL: usize,
    const UNITS: usize,
    const STREAM: bool,
>(
    mut span: Span,
    mut x: Columns<A::Scalar>,
    out: *mut f32,
) {
    // SAFETY: the pointers stay inside what the caller promised: for each stretch its units of weights, their steps of x,
    // `MR` panels of sums. Prefetches may leave it: they never fault.
    unsafe {
        // Those that are kept, or those of a block of x so far, without its scale.
        let mut sums = [[A::zero(); NV]; MR];
        if kept::<A, MR>() {
            for r in 0..MR {
                for v in 0..NV {
                    sums[r][v] = A::load(out.add((r * NV + v) * A::LANES));
                }
            }
        }
        let ahead = span.ask.addr().wrapping_sub(span.weight.addr());
        let asks = ahead != 0;
        let mut left_of_block = span.block;
        for stretch in 1..=span.stretches {
            let mut w = span.weight;
            let mut acc = starts::<A, MR, NV>(x.quantised);
            let mut left = if UNITS > 0 { UNITS } else { span.units };
            if UNITS > 0 && asks {
                for _ in 0..UNITS * ASKED_BYTES / 64 {
                    prefetch(span.ask, true);
                    span.ask = span.ask.wrapping_add(64);
                }
            }
            loop {
                let units = match A::PART_STEPS {
                    _ if UNITS > 0 => UNITS,
                    Some(steps) => left.min(steps / F::STEPS),
                    None => left,
                };
                left -= units;
                let mut part = [[A::part(acc[0][0]); NV]; MR];
                for r in 0..MR {
                    for v in 0..NV {
                        part[r][v] = A::part(acc[r][v]);
                    }
                }
                for _ in 0..units {
                    let mut raw = [F::load(w); NV];
                    for v in 1..NV {
                        raw[v] = F::load(w.add(at::<PANEL>(v, F::BYTES, span.panel_step)));
                    }
                    if STREAM {
                        let mut panel = 0;
                        while panel < NV / PANEL {
                            let ask = w.wrapping_add(ahead + panel * span.panel_step);
                            let mut line = 0;
                            while line < PANEL * F::BYTES {
                                prefetch(ask.wrapping_add(line), false);
                                line += 64;
                            }
                            panel += 1;
                        }
                    } else if UNITS == 0 {
                        prefetch(span.ask, true);
                        prefetch(span.ask.wrapping_add(64), true);
                        span.ask = span.ask.wrapping_add(ASKED_BYTES);
                    }
                    w = w.add(PANEL * F::BYTES);
                    if F::WRITTEN_OUT {
                        each!(s in F::STEPS => {
                            step::<A, F, MR, NV>(&mut raw, x.scalars.add(s * MR), &mut part);
                        });
                    } else {
                        for s in 0..F::STEPS {
                            step::<A, F, MR, NV>(&mut raw, x.scalars.add(s * MR), &mut part);
                        }
                    }
                    x.scalars = x.scalars.add(F::STEPS * MR);
                }
                if UNITS > 0 {
                    // A part starts anew: until here these took no registers.
                    acc = starts::<A, MR, NV>(x.quantised);
                }
                each!(r in MR => {
                    each!(v in NV => {
                        acc[r][v] = A::join(acc[r][v], part[r][v]);
                    });
                });
                if UNITS > 0 || A::PART_STEPS.is_none() || left == 0 {
                    break;
                }
            }
            // Asked once, not for every sum.
            if span.scales.is_null() {
                meet::<A, MR, NV, PANEL, false>(acc, &mut sums, &span, x.quantised, out);
            } else if !A::ROUNDED || span.block == 1 {
                meet::<A, MR, NV, PANEL, true>(acc, &mut sums, &span, x.quantised, out);
            } else if MR <= KEPT_ROWS {
                left_of_block -= 1;
                let ends = left_of_block == 0 || stretch == span.stretches;
                if ends {
                    left_of_block = span.block;
                }
                let out = ends.then_some(out);
                gather::<A, MR, NV, PANEL>(acc, &mut sums, &span, x.quantised, out);
            }
            span.weight = span.weight.wrapping_add(span.weight_step);
            span.scales = span.scales.wrapping_byte_add(span.scales_step);
            x.quantised = x.quantised.wrapping_add(x.quantised_step);
        }
        if kept::<A, MR>() {
            each!(r in MR => {
                each!(v in NV => {
                    A::store(out.add((r * NV + v) * A::LANES), sums[r][v]);
                });
            });
        }
    }
}

/// The sums of `MR` rows before their first product.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "iterators would put closures between the intrinsics and their target features"
)]
unsafe fn starts<A: Arith, const MR: usize, const NV: usize>(
    quantised: *const Quantised,
) -> [[A::Acc; NV]; MR] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[A::start(quantised); NV]; MR];
        for r in 1..MR {
            acc[r] = [A::start(quantised.wrapping_add(r)); NV];
        }
        acc
    }
}

/// Where vector `v` lies, from the first on, of so many bytes each: in a panel of `PANEL` vectors or the next.
#[inline(always)]
const fn at<const PANEL: usize>(v: usize, bytes: usize, panel_step: usize) -> usize {
    v % PANEL * bytes + v / PANEL * panel_step
}

/// The next step of `NV` units by that of `MR` rows of x.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "iterators would put closures between the intrinsics and their target features"
)]
unsafe fn step<A: Arith, F: Format<A>, const MR: usize, const NV: usize>(
    raw: &mut [F::Raw; NV],
    x: *const A::Scalar,
    part: &mut [[A::Part; NV]; MR],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut operands = [F::operand(raw[0]); NV];
        raw[0] = F::next(raw[0]);
        for v in 1..NV {
            operands[v] = F::operand(raw[v]);
            raw[v] = F::next(raw[v]);
        }
        for r in 0..MR {
            let x = A::splat(x.add(r).read());
            for v in 0..NV {
                part[r][v] = A::dot(part[r][v], operands[v], x);
            }
        }
    }
}

/// Whether sums stay in registers from stretch to stretch.
const fn kept<A: Arith, const MR: usize>() -> bool {
    !A::ROUNDED && MR <= KEPT_ROWS
}

/// The sums of one stretch, all that shares a scale of x, meet those before it: in `sums` where these are kept, else in `out`.
///
/// # Safety
/// As [`tile`], where `SCALED` says whether there are scales.
#[inline(always)]
unsafe fn meet<
    A: Arith,
    const MR: usize,
    const NV: usize,
    const PANEL: usize,
    const SCALED: bool,
>(
    acc: [[A::Acc; NV]; MR],
    sums: &mut [[A::Sum; NV]; MR],
    span: &Span,
    quantised: *const Quantised,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut scale = [A::zero(); NV];
        if SCALED {
            scale = load_scales::<A, NV, PANEL>(span);
        }
        each!(r in MR => {
            each!(v in NV => {
                let out = out.add((r * NV + v) * A::LANES);
                let old = if kept::<A, MR>() { sums[r][v] } else { A::load(out) };
                let (sum, x) = (A::sums(acc[r][v]), quantised.wrapping_add(r));
                let new = match (SCALED, A::ROUNDED) {
                    (true, true) => A::merge(A::mul_add(scale[v], sum, A::zero()), x, old),
                    (true, false) => A::mul_add(scale[v], sum, old),
                    (false, _) => A::merge(sum, x, old),
                };
                if kept::<A, MR>() {
                    sums[r][v] = new;
                } else {
                    A::store(out, new);
                }
            });
        });
    }
}

/// The sums of one stretch of integers join those of its block of x, which meet `out` where the block ends.
///
/// # Safety
/// As [`tile`]; there are scales.
#[inline(always)]
unsafe fn gather<A: Arith, const MR: usize, const NV: usize, const PANEL: usize>(
    acc: [[A::Acc; NV]; MR],
    sums: &mut [[A::Sum; NV]; MR],
    span: &Span,
    quantised: *const Quantised,
    out: Option<*mut f32>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = load_scales::<A, NV, PANEL>(span);
        each!(r in MR => {
            each!(v in NV => {
                sums[r][v] = A::mul_add(scale[v], A::sums(acc[r][v]), sums[r][v]);
            });
        });
        let Some(out) = out else { return };
        each!(r in MR => {
            each!(v in NV => {
                let out = out.add((r * NV + v) * A::LANES);
                A::store(out, A::merge(sums[r][v], quantised.wrapping_add(r), A::load(out)));
                sums[r][v] = A::zero();
            });
        });
    }
}

/// The sums of `STRETCHES` stretches that tiles stored, all that share a scale of x, meet `out`: in the same order as those of
/// [`meet`] and [`gather`].
///
/// # Safety
/// As [`whole_tile`], where `SCALED` says whether there are scales; without, there is one stretch.
#[inline(always)]
unsafe fn meet_tiles<A: Arith, const NV: usize, const STRETCHES: usize, const SCALED: bool>(
    rows: usize,
    span: &Span,
    x: Columns<A::Scalar>,
    of_tiles: *const f32,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut span = *span;
        let mut scale = [[A::zero(); NV]; STRETCHES];
        if SCALED {
            for scale in &mut scale {
                *scale = load_scales::<A, NV, NV>(&span);
                span.scales = span.scales.wrapping_byte_add(span.scales_step);
            }
        }
        for r in 0..rows {
            let quantised = x.quantised.wrapping_add(r);
            each!(v in NV => {
                let at = (r * NV + v) * A::LANES;
                let (from, out) = (of_tiles.add(at), out.add(at));
                let old = A::load(out);
                let mut sum = A::Tiles::sums(from.cast(), quantised);
                let new = match (SCALED, A::ROUNDED) {
                    (true, true) => {
                        sum = A::mul_add(scale[0][v], sum, A::zero());
                        if STRETCHES > 1 {
                            let from = from.add(TILE_ROWS * NV * A::LANES);
                            let next = quantised.wrapping_add(x.quantised_step);
                            let next = A::Tiles::sums(from.cast(), next);
                            sum = A::mul_add(scale[STRETCHES - 1][v], next, sum);
                        }
                        A::merge(sum, quantised, old)
                    }
                    (true, false) => A::mul_add(scale[0][v], sum, old),
                    (false, _) => A::merge(sum, quantised, old),
                };
                A::store(out, new);
            });
        }
    }
}

/// The scales of the first stretch.
///
/// # Safety
/// The CPU has `A`, and there are `NV` vectors of them.
#[inline(always)]
unsafe fn load_scales<A: Arith, const NV: usize, const PANEL: usize>(span: &Span) -> [A::Sum; NV] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut scale = [A::zero(); NV];
        for (v, scale) in scale.iter_mut().enumerate() {
            let at = at::<PANEL>(v, A::LANES * size_of::<u16>(), span.panel_step);
            *scale = A::load_f16(span.scales.byte_add(at));
        }
        scale
    }
}
