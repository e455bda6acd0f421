//! One launch: x packed into tiles, then panels of the weight handed out to threads.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{DType, WeightFormat};
use ops::{ACTIVATION_BLOCK, Act};

use super::layout::Layout;
use super::quantise::quantise;
use super::span::{BLOCK_STEPS, MAX_SPANS, Spans, decode};
use super::tile::{ASKED_BYTES, Columns, Span, pair, tile, whole_tile};
use super::tiling::{BLOCK_ROWS, FEW_ROWS, Tiling};
use crate::isa::Isa;
use crate::ops::activation::with_act;
use crate::ops::native::with_float;
use crate::ops::tensor::Row;
use crate::ops::vector::{Kernel, Lanes};
use crate::simd::{
    Arith, BF16, F16, F32Arith, Float, FloatArith, Format, I4, I8, IntArith, MAX_PANEL, Native,
    Path, Quantised, Rows, Shape, TILE_ROWS, TILE_STEPS, Task, Tiles, Work, load_f32, prefetch,
    store_f32,
};

/// Everything starts on a cache line.
const ALIGN: usize = 64;

/// The workspace of a launch with `m` rows: a counter for each thread, packed x, how it was rounded, scratch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workspace {
    tiling: Tiling,
    x_bytes: usize,
    /// How each part of each row of x was rounded.
    quantised_bytes: usize,
    /// A decoded block, sums, and those of tiles, for each thread.
    scratch_bytes: usize,
    threads: usize,
}

impl Workspace {
    pub(super) fn new(layout: &Layout, m: usize, threads: usize) -> Self {
        let tiling = Tiling::new(layout, m);
        let rows = m.min(BLOCK_ROWS);
        let (of_tiles, behind_x) = match tiling.by_registers {
            true => (layout.block_parts * TILE_ROWS, BLOCK_STEPS),
            false => (0, 0),
        };
        let scratch = (BLOCK_STEPS + rows + of_tiles) * layout.panel * Path::SCALAR_BYTES;
        Self {
            tiling,
            // A tile may have a row less than its register, which reads one all the same.
            x_bytes: ((m * layout.steps + behind_x) * Path::SCALAR_BYTES).next_multiple_of(ALIGN),
            quantised_bytes: (m * layout.parts_of_x() * size_of::<Quantised>())
                .next_multiple_of(ALIGN),
            scratch_bytes: if tiling.few { 0 } else { scratch },
            threads,
        }
    }

    /// In all, with room to start on a cache line.
    pub(super) fn bytes(&self) -> usize {
        ALIGN
            + self.threads * (size_of::<Counter>() + self.scratch_bytes)
            + self.x_bytes
            + self.quantised_bytes
    }
}

/// A thread's own part of the items: the next one and the end, on a cache line of their own.
#[repr(align(64))]
struct Counter {
    next: AtomicUsize,
    end: usize,
}

/// One launch, shared by all threads.
pub(super) struct Call<'a> {
    pub(super) layout: &'a Layout,
    pub(super) m: usize,
    pub(super) weight: *const u8,
    pub(super) x: Rows,
    pub(super) out: Rows,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Option<Act>,
    pub(super) isa: Isa,
    pub(super) residual: Option<Rows>,
    /// As [`Workspace`] tells; starts on a cache line.
    pub(super) workspace: *mut u8,
    pub(super) sizes: Workspace,
}

/// The two passes of a launch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// x into tiles of scalars, step by step.
    PackX,
    /// Tiles by panels into `out`.
    Multiply,
}

/// One thread's share of one pass.
pub(super) struct Share<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) pass: Pass,
    pub(super) thread: usize,
}

// SAFETY: threads write different tiles of x, different panels of `out`, and their own scratch.
unsafe impl Sync for Call<'_> {}

impl Task for Share<'_> {
    unsafe fn with_f32<A: F32Arith, const NV: usize>(&self) {
        // SAFETY: the CPU has `A`, and the planner laid the weight out for it.
        unsafe {
            match (self.pass, self.call.layout.format) {
                (Pass::PackX, _) => A::enter(&PackX(self)),
                (_, WeightFormat::Dense(DType::F32)) => self.multiply::<A, Native, NV>(),
                (_, WeightFormat::Dense(DType::F16)) => self.multiply::<A, F16, NV>(),
                (_, WeightFormat::Dense(_)) => self.multiply::<A, BF16, NV>(),
                (_, WeightFormat::Int8Row | WeightFormat::Int8Group(_)) => {
                    self.multiply::<A, I8, NV>()
                }
                _ => self.multiply::<A, I4, NV>(),
            }
        }
    }

    #[cfg(any(test, target_arch = "x86_64", target_arch = "aarch64"))]
    unsafe fn with_bf16<A: FloatArith, const NV: usize>(&self)
    where
        I8: Format<A>,
        I4: Format<A>,
    {
        // SAFETY: as above; the planner takes this way for bf16, int8 and int4 only.
        unsafe {
            match (self.pass, self.call.layout.format) {
                (Pass::PackX, _) => A::enter(&PackX(self)),
                (_, WeightFormat::Dense(_)) => self.multiply::<A, Native, NV>(),
                (_, WeightFormat::Int8Row | WeightFormat::Int8Group(_)) => {
                    self.multiply::<A, I8, NV>()
                }
                _ => self.multiply::<A, I4, NV>(),
            }
        }
    }

    unsafe fn with_integers<A: IntArith, F: Format<A>, const NV: usize>(&self) {
        // SAFETY: as above; the planner takes this way for int8 and int4 only.
        unsafe {
            match self.pass {
                Pass::PackX => A::enter(&QuantiseX(self)),
                Pass::Multiply => self.multiply::<A, F, NV>(),
            }
        }
    }
}

/// [`Pass::PackX`] of x as it is.
struct PackX<'s>(&'s Share<'s>);

impl<A: FloatArith> Work<A> for PackX<'_> {
    #[inline(always)]
    unsafe fn run(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.pack_x::<A>() }
    }
}

/// [`Pass::PackX`] of x as integers.
struct QuantiseX<'s>(&'s Share<'s>);

impl<A: IntArith> Work<A> for QuantiseX<'_> {
    #[inline(always)]
    unsafe fn run(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.quantise_x::<A>() }
    }
}

/// [`Pass::Multiply`] of few rows, or of many, by a weight of format `F` in panels of `NV` vectors.
struct Multiply<'s, F, const NV: usize, const FEW: bool>(&'s Share<'s>, PhantomData<F>);

impl<A: Arith, F: Format<A>, const NV: usize, const FEW: bool> Work<A>
    for Multiply<'_, F, NV, FEW>
{
    #[inline(always)]
    unsafe fn run(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            match FEW {
                true => self.0.multiply_few::<A, F, NV>(),
                false => self.0.multiply_many::<A, F, NV>(),
            }
        }
    }
}

/// A block of a panel, as operands, to be multiplied by the rows of all its tiles.
struct Block<'b> {
    call: &'b Call<'b>,
    tiles: Range<usize>,
    /// Its first step.
    step: usize,
    /// Its spans: the step and the part of x where each starts.
    spans: &'b [(usize, usize, Span)],
    /// The weight of the next block.
    next: Range<*const u8>,
    /// A panel for each row of the tiles.
    sums: *mut f32,
    /// Room for the sums of the registers of tiles.
    of_tiles: *mut f32,
}

impl Block<'_> {
    /// The tiles' rows and their sums.
    #[inline(always)]
    fn rows(&self) -> impl Iterator<Item = (Range<usize>, *mut f32)> {
        let (tiling, panel) = (self.call.sizes.tiling, self.call.layout.panel);
        let first_row = tiling.rows(self.tiles.start).start;
        self.tiles.clone().map(move |t| {
            let rows = tiling.rows(t);
            let sums = self.sums.wrapping_add((rows.start - first_row) * panel);
            (rows, sums)
        })
    }
}

/// A block by vectors: a few rows at a time.
struct ByLanes<'b, const NV: usize>(Block<'b>);

impl<A: Arith, const NV: usize> Work<A> for ByLanes<'_, NV> {
    #[inline(always)]
    unsafe fn run(&self) {
        let block = &self.0;
        for (i, (rows, sums)) in block.rows().enumerate() {
            // While this block is used, the next one comes: each tile asks for some of it.
            let ask = (block.next.start).wrapping_add(i * ASKED_BYTES * BLOCK_STEPS);
            for &(step, part, mut span) in block.spans {
                if block.next.contains(&ask) {
                    span.ask = ask.wrapping_add(ASKED_BYTES * (step - block.step));
                }
                let x = block.call.columns::<A>(&rows, step, part);
                // SAFETY: the caller's promise: the block has these steps, x too, and `sums` a panel for each row.
                unsafe { tile::<A, Native, NV, false>(rows.len(), span, x, sums) };
            }
        }
    }
}

/// A block by the registers of tiles.
struct WholeTiles<'b, const NV: usize>(Block<'b>);

impl<A: Arith, const NV: usize> Work<A> for WholeTiles<'_, NV> {
    #[inline(always)]
    unsafe fn run(&self) {
        let Block { call, next, .. } = &self.0;
        let next_bytes = next.end.addr() - next.start.addr();
        for (i, (rows, sums)) in self.0.rows().enumerate() {
            // While this block is used, the next one comes: each tile asks for its share.
            let share = |i: usize| i * next_bytes / self.0.tiles.len();
            for line in (share(i)..share(i + 1)).step_by(ALIGN) {
                prefetch(next.start.wrapping_add(line), true);
            }
            let x_step = call
                .packed_x::<A>(rows.start, rows.len(), self.0.step)
                .row_step;
            for &(step, part, span) in self.0.spans {
                let x = call.columns::<A>(&rows, step, part);
                let of_tiles = self.0.of_tiles;
                // SAFETY: the caller's promise: the block has these steps, x too, and `sums` a panel for each row.
                unsafe { whole_tile::<A, NV>(rows.len(), span, x, x_step, sums, of_tiles) };
            }
        }
    }
}

/// Where the scalars of packed x lie, from one on.
#[derive(Clone, Copy)]
struct PackedX<S> {
    at: *mut S,
    row_step: usize,
    step_step: usize,
}

impl<S> PackedX<S> {
    #[inline(always)]
    fn scalar(&self, row: usize, step: usize) -> *mut S {
        (self.at).wrapping_add(row * self.row_step + step * self.step_step)
    }
}

impl Call<'_> {
    /// Packed x from row `row` and step `step` of a tile of `rows` rows that starts there.
    ///
    /// Blocks of steps follow each other, in each block tiles, in each tile steps, or rows for the registers of tiles: what one
    /// decoded block of weights meets lies together.
    fn packed_x<A: Arith>(&self, row: usize, rows: usize, step: usize) -> PackedX<A::Scalar> {
        let block = step - step % BLOCK_STEPS;
        let steps = BLOCK_STEPS.min(self.layout.steps - block);
        let (row_step, step_step) = match self.sizes.tiling.by_registers {
            true => (steps, 1),
            false => (1, rows),
        };
        let at = block * self.m + row * steps + (step - block) * step_step;
        PackedX {
            at: self.after_counters().cast::<A::Scalar>().wrapping_add(at),
            row_step,
            step_step,
        }
    }

    fn after_counters(&self) -> *mut u8 {
        let counters = self.sizes.threads * size_of::<Counter>();
        self.workspace.wrapping_add(counters)
    }

    /// How part `part` of x was rounded, from row `row` on.
    fn quantised(&self, row: usize, part: usize) -> *mut Quantised {
        let all = self.after_counters().wrapping_add(self.sizes.x_bytes);
        all.cast::<Quantised>().wrapping_add(part * self.m + row)
    }

    /// The rows of one tile from step `step` on, which starts part `part` or lies in it.
    fn columns<A: Arith>(
        &self,
        rows: &Range<usize>,
        step: usize,
        part: usize,
    ) -> Columns<A::Scalar> {
        Columns {
            scalars: self.packed_x::<A>(rows.start, rows.len(), step).at,
            quantised: self.quantised(rows.start, part),
            quantised_step: self.m,
        }
    }

    /// This thread's memory for sums and a decoded block.
    fn scratch(&self, thread: usize) -> *mut u8 {
        self.after_counters()
            .wrapping_add(self.sizes.x_bytes + self.sizes.quantised_bytes)
            .wrapping_add(thread * self.sizes.scratch_bytes)
    }

    /// What `pass` hands out: tiles of x, or panels of the weight for each group of tiles.
    pub(super) fn items(&self, pass: Pass) -> usize {
        match pass {
            Pass::PackX => self.sizes.tiling.tiles,
            Pass::Multiply => {
                self.layout.panels().div_ceil(self.together()) * self.sizes.tiling.blocks()
            }
        }
    }

    /// Panels that are multiplied at once.
    fn together(&self) -> usize {
        match self.m {
            1 => self.layout.together,
            _ => 1,
        }
    }

    /// Deals the items of `pass` to the threads, to each some that follow each other in memory; before it starts.
    pub(super) fn deal(&self, pass: Pass) {
        let (items, threads) = (self.items(pass), self.sizes.threads);
        for thread in 0..threads {
            let counter = self.workspace.cast::<Counter>().wrapping_add(thread);
            let part = Counter {
                next: AtomicUsize::new(items * thread / threads),
                end: items * (thread + 1) / threads,
            };
            // SAFETY: the workspace starts with a counter for each thread, and no thread counts yet.
            unsafe { counter.write(part) };
        }
    }

    /// The next item for `thread`: of its own part, then of what others have left.
    ///
    /// A thread reads on where it was, as hardware prefetchers expect it to.
    fn take(&self, thread: usize) -> Option<usize> {
        let threads = self.sizes.threads;
        (thread..threads).chain(0..thread).find_map(|owner| {
            let counter = self.workspace.cast::<Counter>().wrapping_add(owner);
            // SAFETY: dealt before the pass started.
            let part = unsafe { &*counter };
            let item = part.next.fetch_add(1, Ordering::Relaxed);
            (item < part.end).then_some(item)
        })
    }
}

impl Share<'_> {
    /// # Safety
    /// As [`Task::with_f32`].
    #[inline(always)]
    unsafe fn pack_x<A: FloatArith>(&self) {
        let call = self.call;
        while let Some(t) = call.take(self.thread) {
            // SAFETY: the tile is this thread's; `x` was checked by `ops`.
            with_float!(call.x.dtype, T => unsafe { self.pack_tile::<A, T>(t) });
        }
    }

    /// # Safety
    /// As [`Task::with_f32`]; no other thread has this tile, and the elements of `x` are of type `T`.
    #[inline(always)]
    unsafe fn pack_tile<A: FloatArith, T: Float>(&self, t: usize) {
        let call = self.call;
        let Range { start: row, end } = call.sizes.tiling.rows(t);
        let (rows, k) = (end - row, call.layout.k);
        // Pairs of bf16 are packed as they lie.
        let as_they_lie = A::STEP == 2 && call.x.dtype == DType::BF16;
        for block in (0..call.layout.steps).step_by(BLOCK_STEPS) {
            let steps = BLOCK_STEPS.min(call.layout.steps - block);
            let whole = steps.min((k / A::STEP).saturating_sub(block));
            let to = call.packed_x::<A>(row, rows, block);
            for r in 0..rows {
                let from = call.x.element(row + r, block * A::STEP).cast::<T>();
                // SAFETY: `whole` steps lie in the row, `steps` in the tile; so does a last column without a partner.
                unsafe {
                    let copied = if as_they_lie { whole } else { 0 };
                    for s in 0..copied {
                        let pair = from.add(2 * s).cast::<A::Scalar>();
                        *to.scalar(r, s) = pair.read_unaligned();
                    }
                    for s in copied..whole {
                        let first = (*from.add(s * A::STEP)).to_f32();
                        let last = (*from.add(s * A::STEP + A::STEP - 1)).to_f32();
                        *to.scalar(r, s) = A::pack([first, last]);
                    }
                    for s in whole..steps {
                        let rest = if (block + s) * A::STEP < k {
                            (*from.add(s * A::STEP)).to_f32()
                        } else {
                            0.0
                        };
                        *to.scalar(r, s) = A::pack([rest, 0.0]);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Task::with_f32`].
    #[inline(always)]
    unsafe fn quantise_x<A: IntArith>(&self) {
        let call = self.call;
        while let Some(t) = call.take(self.thread) {
            // SAFETY: the tile is this thread's; `x` was checked by `ops`.
            with_float!(call.x.dtype, T => unsafe { self.quantise_tile::<A, T>(t) });
        }
    }

    /// # Safety
    /// As [`Self::pack_tile`].
    #[inline(always)]
    unsafe fn quantise_tile<A: IntArith, T: Float>(&self, t: usize) {
        let (call, layout) = (self.call, self.call.layout);
        let Range { start: row, end } = call.sizes.tiling.rows(t);
        let rows = end - row;
        let part_cols = layout.part_steps * A::STEP;
        let block_steps = layout.part_steps * layout.block_parts;
        for (b, step) in (0..layout.steps).step_by(block_steps).enumerate() {
            let steps = block_steps.min(layout.steps - step);
            let cols = (steps * A::STEP).min(layout.k - step * A::STEP);
            let to = call.packed_x::<A>(row, rows, step);
            for r in 0..rows {
                let from = call.x.element(row + r, step * A::STEP).cast::<T>();
                // SAFETY: the columns lie in the row of x; a block of x lies in one block of packed x, which has its steps.
                unsafe {
                    let from = std::slice::from_raw_parts(from, cols);
                    let mut block = [0; ACTIVATION_BLOCK];
                    let scale = quantise(from, &mut block);
                    let used = &block[..steps * A::STEP];
                    for (p, part) in used.chunks(part_cols).enumerate() {
                        let sum: i32 = part.iter().map(|&q| i32::from(q)).sum();
                        let start = -layout.offset * sum;
                        let to = call.quantised(row + r, b * layout.block_parts + p);
                        to.write(Quantised { scale, start });
                    }
                    for (s, values) in used.chunks_exact(A::STEP).enumerate() {
                        *to.scalar(r, s) = A::pack(values);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Task::with_f32`]; the weight is of format `F`.
    unsafe fn multiply<A: Arith, F: Format<A>, const NV: usize>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.call.sizes.tiling.few {
                true => A::enter(&Multiply::<F, NV, true>(self, PhantomData)),
                false => A::enter(&Multiply::<F, NV, false>(self, PhantomData)),
            }
        }
    }

    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn multiply_few<A: Arith, F: Format<A>, const NV: usize>(&self) {
        let call = self.call;
        while let Some(item) = call.take(self.thread) {
            let first = item * call.together();
            let count = call.together().min(call.layout.panels() - first);
            // SAFETY: the caller's promise; one thread has these panels.
            unsafe { self.few_rows::<A, F, NV>(first, count) };
        }
    }

    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn multiply_many<A: Arith, F: Format<A>, const NV: usize>(&self) {
        let (call, panels) = (self.call, self.call.layout.panels());
        let by_registers = call.sizes.tiling.by_registers;
        if by_registers {
            let shape = Shape {
                rows: call.sizes.tiling.most_rows(),
                rest: call.layout.steps % TILE_STEPS,
            };
            // SAFETY: the level has them.
            unsafe { A::Tiles::set_up(&shape) };
        }
        while let Some(item) = call.take(self.thread) {
            let (tiles, panel) = (call.sizes.tiling.block(item / panels), item % panels);
            // SAFETY: the caller's promise; one thread has this panel for these tiles.
            unsafe { self.many_rows::<A, F, NV>(tiles, panel) };
        }
        if by_registers {
            // SAFETY: set up above.
            unsafe { A::Tiles::release() };
        }
    }

    /// One or two tiles: the panel is read once, straight from memory; a second tile finds each span in the first-level
    /// cache. Or one row by two panels.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn few_rows<A: Arith, F: Format<A>, const NV: usize>(&self, panel: usize, count: usize) {
        let (call, layout) = (self.call, self.call.layout);
        let mut space = [MaybeUninit::<f32>::uninit(); FEW_ROWS * MAX_PANEL];
        let space = &mut space[..call.m * count * layout.panel];
        // SAFETY: what is made a slice was just set to zeros.
        let sums = unsafe {
            let sums: *mut f32 = space.as_mut_ptr().cast();
            // A vector at a time: for so few a call takes longer.
            for at in (0..space.len()).step_by(A::LANES) {
                A::store(sums.add(at), A::zero());
            }
            std::slice::from_raw_parts_mut(sums, space.len())
        };
        // One tile's x lies step by step, past the ends of blocks too.
        let mut spans = Spans::new::<A, F>(call, panel, call.sizes.tiling.tiles == 1);
        while let Some((step, span)) = spans.next(layout.steps) {
            let part = step / layout.part_steps;
            if NV == 2 && count == 2 {
                let x = call.columns::<A>(&(0..1), step, part);
                // SAFETY: the span lies in the panel and alike in the next, x has its steps, `sums` both panels.
                unsafe { pair::<A, F>(span, x, sums.as_mut_ptr()) };
                continue;
            }
            for t in 0..call.sizes.tiling.tiles {
                let rows = call.sizes.tiling.rows(t);
                let x = call.columns::<A>(&rows, step, part);
                let sums = &mut sums[rows.start * layout.panel..];
                // SAFETY: the span lies in the panel, x has its steps, `sums` a panel for each row.
                unsafe { tile::<A, F, NV, true>(rows.len(), span, x, sums.as_mut_ptr()) };
            }
        }
        for (i, sums) in sums.chunks_exact_mut(layout.panel).enumerate() {
            // SAFETY: `sums` holds a panel for each row, or two for the only one.
            unsafe { self.finish(i / count, panel + i % count, sums) };
        }
    }

    /// Many tiles: blocks of steps are decoded once and stay in the first-level cache for all of them.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn many_rows<A: Arith, F: Format<A>, const NV: usize>(
        &self,
        tiles: Range<usize>,
        panel: usize,
    ) {
        let (call, layout) = (self.call, self.call.layout);
        let first_row = call.sizes.tiling.rows(tiles.start).start;
        let rows = call.sizes.tiling.rows(tiles.end).start - first_row;
        let decoded = call.scratch(self.thread);
        let sums: *mut f32 = decoded
            .wrapping_add(BLOCK_STEPS * layout.panel * Path::SCALAR_BYTES)
            .cast();
        let of_tiles = sums.wrapping_add(rows * layout.panel);
        // SAFETY: this thread's scratch: a block, then a panel of sums for each row.
        let sums = unsafe {
            sums.write_bytes(0, rows * layout.panel);
            std::slice::from_raw_parts_mut(sums, rows * layout.panel)
        };
        let mut spans = Spans::new::<A, F>(call, panel, false);
        for block in (0..layout.steps).step_by(BLOCK_STEPS) {
            let mut decoded_spans = [(0, 0, Span::plain(std::ptr::null(), 0)); MAX_SPANS];
            let mut count = 0;
            while let Some((step, span)) = spans.next(block + BLOCK_STEPS) {
                let to = decoded.wrapping_add((step - block) * NV * A::OPERAND_BYTES);
                // SAFETY: the span is one of format `F`, and the scratch has room for a block's operands.
                let span = unsafe { decode::<A, F, NV>(span, to) };
                decoded_spans[count] = (step, step / layout.part_steps, span);
                count += 1;
            }
            let block = Block {
                call,
                tiles: tiles.clone(),
                step: block,
                spans: &decoded_spans[..count],
                next: spans.block(),
                sums: sums.as_mut_ptr(),
                of_tiles,
            };
            // SAFETY: the block has these steps, x too, and `sums` holds a panel for each row; behind them is room for those of
            // tiles, which were set up.
            unsafe {
                match A::Tiles::EXIST && call.sizes.tiling.by_registers {
                    true => A::enter(&WholeTiles::<NV>(block)),
                    false => A::enter(&ByLanes::<NV>(block)),
                }
            }
        }
        for (row, sums) in sums.chunks_exact_mut(layout.panel).enumerate() {
            // SAFETY: as above.
            unsafe { self.finish(first_row + row, panel, sums) };
        }
    }

    /// `out[row, panel] = act(sums · scale + bias) + residual`, worked out where the sums are.
    ///
    /// # Safety
    /// `sums` starts with this row's panel of sums, and no other thread writes this part of `out`.
    #[inline(always)]
    unsafe fn finish(&self, row: usize, panel: usize, sums: &mut [f32]) {
        let (call, layout) = (self.call, self.call.layout);
        let first = panel * layout.panel;
        let n = layout.panel.min(layout.n - first);
        let y = &mut sums[..n];
        if layout.has_row_scales() {
            let at = panel * layout.panel_bytes() + layout.runs_bytes();
            let scales: *const f32 = call.weight.wrapping_add(at).cast();
            for (i, y) in y.iter_mut().enumerate() {
                // SAFETY: the panel ends with a scale for each of its rows.
                *y *= unsafe { scales.add(i).read_unaligned() };
            }
        }
        if let Some(bias) = call.bias {
            for (y, b) in y.iter_mut().zip(&bias[first..first + n]) {
                *y += b;
            }
        }
        if let Some(act) = call.activation {
            call.isa.run(Activate { y, act });
        }
        if let Some(residual) = call.residual {
            let mut add = [0.0f32; MAX_PANEL];
            let from = residual.element(row, first);
            // SAFETY: `ops` checked the shape of the residual.
            unsafe { load_f32(residual.dtype, from, add.as_mut_ptr(), n) };
            for (y, add) in y.iter_mut().zip(&add) {
                *y += add;
            }
        }
        // SAFETY: `ops` checked the shape of `out`; this part is ours.
        unsafe { store_f32(call.out.dtype, y.as_ptr(), call.out.element(row, first), n) };
    }
}

/// An activation in place.
struct Activate<'a> {
    y: &'a mut [f32],
    act: Act,
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let y = Row::of(self.y);
        with_act!(self.act, F => for i in (0..y.len()).step_by(V::N) {
            y.store(i, F::of(y.load::<V>(i)));
        });
    }
}
