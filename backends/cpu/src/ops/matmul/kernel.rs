//! One launch: x packed into tiles, then panels of the weight handed out to threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{DType, WeightFormat};
use ops::{ACTIVATION_BLOCK, Act};

use super::layout::Layout;
use super::quantise::quantise;
use super::tile::{MAX_ROWS, Stretch, tile};
use crate::isa::Isa;
use crate::ops::activation::with_act;
use crate::ops::native::with_float;
use crate::ops::tensor::Row;
use crate::ops::vector::{Kernel, Lanes};
use crate::simd::{
    Arith, BF16, F16, F32Arith, Float, FloatArith, Format, I4, I8, IntArith, MAX_PANEL, Native,
    Path, Quantised, Rows, Task, load_f32, store_f32,
};

/// The most rows of x for which a weight is read as it lies, not decoded first: two tiles.
const FEW_ROWS: usize = 2 * MAX_ROWS;

/// Steps of weights that are decoded at once, to be used by many tiles: 16 KiB, half of a first-level cache.
const BLOCK_STEPS: usize = 64;

/// Steps of the shortest run: a group of 32 columns, four at a time.
const MIN_RUN_STEPS: usize = 8;

/// The most stretches of one block.
const MAX_PARTS: usize = BLOCK_STEPS / MIN_RUN_STEPS;

/// Tiles that share one decoded block. Their sums, 96 KiB, stay in a second-level cache.
const BLOCK_TILES: usize = 64;

/// Columns of a small part of x: the smallest group.
const SMALL_PART: usize = 32;

/// Everything starts on a cache line.
const ALIGN: usize = 64;

/// The workspace of a launch with `m` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workspace {
    x_bytes: usize,
    /// How each part of each row of x was rounded.
    quantised_bytes: usize,
    /// Sums and a decoded block, for each thread.
    scratch_bytes: usize,
    threads: usize,
}

impl Workspace {
    pub(super) fn new(layout: &Layout, m: usize, threads: usize) -> Self {
        let rows = m.min(BLOCK_TILES * MAX_ROWS);
        let scratch = (rows + BLOCK_STEPS) * layout.panel * Path::SCALAR_BYTES;
        Self {
            x_bytes: (m * layout.steps() * Path::SCALAR_BYTES).next_multiple_of(ALIGN),
            quantised_bytes: (m * layout.parts_of_x() * size_of::<Quantised>())
                .next_multiple_of(ALIGN),
            scratch_bytes: if m > FEW_ROWS { scratch } else { 0 },
            threads,
        }
    }

    /// In all, with room to start on a cache line.
    pub(super) fn bytes(&self) -> usize {
        ALIGN + self.x_bytes + self.quantised_bytes + self.threads * self.scratch_bytes
    }
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
    /// Packed x, how it was rounded, the threads' scratch; starts on a cache line.
    pub(super) workspace: *mut u8,
    pub(super) sizes: Workspace,
    /// The next tile to pack, or the next panel to multiply.
    pub(super) next: AtomicUsize,
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
    #[inline(always)]
    unsafe fn with_f32<A: F32Arith, const NV: usize>(&self) {
        // SAFETY: the CPU has `A`, and the planner laid the weight out for it.
        unsafe {
            match (self.pass, self.call.layout.format) {
                (Pass::PackX, _) => self.pack_x::<A>(),
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

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    unsafe fn with_bf16<A: FloatArith, const NV: usize>(&self)
    where
        I8: Format<A>,
        I4: Format<A>,
    {
        // SAFETY: as above; the planner takes this way for bf16, int8 and int4 only.
        unsafe {
            match (self.pass, self.call.layout.format) {
                (Pass::PackX, _) => self.pack_x::<A>(),
                (_, WeightFormat::Dense(_)) => self.multiply::<A, Native, NV>(),
                (_, WeightFormat::Int8Row | WeightFormat::Int8Group(_)) => {
                    self.multiply::<A, I8, NV>()
                }
                _ => self.multiply::<A, I4, NV>(),
            }
        }
    }

    #[inline(always)]
    unsafe fn with_int8<A: IntArith, const NV: usize>(&self)
    where
        I4: Format<A>,
    {
        // SAFETY: as above; the planner takes this way for int8 and int4 only.
        unsafe {
            match (self.pass, self.call.layout.format) {
                (Pass::PackX, _) => self.quantise_x::<A>(),
                (_, WeightFormat::Int8Row | WeightFormat::Int8Group(_)) => {
                    self.multiply::<A, Native, NV>()
                }
                _ => self.multiply::<A, I4, NV>(),
            }
        }
    }
}

impl Call<'_> {
    /// Number of tiles: as few as the registers allow, of rows as equal as can be.
    pub(super) fn tiles(&self) -> usize {
        self.m.div_ceil(MAX_ROWS)
    }

    /// First row of tile `t`.
    fn tile_row(&self, t: usize) -> usize {
        self.m * t / self.tiles()
    }

    /// Packed x from row `row` and step `step` of a tile of `rows` rows that starts there.
    ///
    /// Blocks of steps follow each other, in each block tiles, in each tile steps: what one decoded block of weights
    /// meets lies together.
    fn packed_x<A: Arith>(&self, row: usize, rows: usize, step: usize) -> *mut A::Scalar {
        let block = step - step % BLOCK_STEPS;
        let steps = BLOCK_STEPS.min(self.layout.steps() - block);
        let at = block * self.m + row * steps + (step - block) * rows;
        self.workspace.cast::<A::Scalar>().wrapping_add(at)
    }

    /// How the part of x that `step` lies in was rounded, from row `row` on.
    fn quantised(&self, row: usize, step: usize) -> *mut Quantised {
        let at = step / self.layout.part_steps() * self.m + row;
        let all = self.workspace.wrapping_add(self.sizes.x_bytes);
        all.cast::<Quantised>().wrapping_add(at)
    }

    fn take(&self, items: usize) -> Option<usize> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        (i < items).then_some(i)
    }
}

impl Share<'_> {
    /// # Safety
    /// As [`Task::with_f32`].
    #[inline(always)]
    unsafe fn pack_x<A: FloatArith>(&self) {
        let call = self.call;
        while let Some(t) = call.take(call.tiles()) {
            // SAFETY: the tile is this thread's; `x` was checked by `ops`.
            with_float!(call.x.dtype, T => unsafe { self.pack_tile::<A, T>(t) });
        }
    }

    /// # Safety
    /// As [`Task::with_f32`]; no other thread has this tile, and the elements of `x` are of type `T`.
    #[inline(always)]
    unsafe fn pack_tile<A: FloatArith, T: Float>(&self, t: usize) {
        let call = self.call;
        let (row, end) = (call.tile_row(t), call.tile_row(t + 1));
        let (rows, k) = (end - row, call.layout.k);
        for block in (0..call.layout.steps()).step_by(BLOCK_STEPS) {
            let steps = BLOCK_STEPS.min(call.layout.steps() - block);
            let whole = steps.min((k / A::STEP).saturating_sub(block));
            let to = call.packed_x::<A>(row, rows, block);
            for r in 0..rows {
                let from = call.x.element(row + r, block * A::STEP).cast::<T>();
                // SAFETY: `whole` steps lie in the row, `steps` in the tile; so does a last column without a partner.
                unsafe {
                    for s in 0..whole {
                        let first = (*from.add(s * A::STEP)).to_f32();
                        let last = (*from.add(s * A::STEP + A::STEP - 1)).to_f32();
                        *to.add(s * rows + r) = A::pack([first, last]);
                    }
                    for s in whole..steps {
                        let rest = if (block + s) * A::STEP < k {
                            (*from.add(s * A::STEP)).to_f32()
                        } else {
                            0.0
                        };
                        *to.add(s * rows + r) = A::pack([rest, 0.0]);
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
        while let Some(t) = call.take(call.tiles()) {
            // SAFETY: the tile is this thread's; `x` was checked by `ops`.
            with_float!(call.x.dtype, T => unsafe { self.quantise_tile::<A, T>(t) });
        }
    }

    /// # Safety
    /// As [`Self::pack_tile`].
    #[inline(always)]
    unsafe fn quantise_tile<A: IntArith, T: Float>(&self, t: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.call.layout.part_steps() * A::STEP {
                ..=SMALL_PART => self.quantise_parts::<A, T, SMALL_PART>(t),
                _ => self.quantise_parts::<A, T, ACTIVATION_BLOCK>(t),
            }
        }
    }

    /// [`Self::quantise_tile`], with parts of at most `N` columns.
    ///
    /// # Safety
    /// As [`Self::pack_tile`].
    #[inline(always)]
    unsafe fn quantise_parts<A: IntArith, T: Float, const N: usize>(&self, t: usize) {
        let (call, layout) = (self.call, self.call.layout);
        let (row, end) = (call.tile_row(t), call.tile_row(t + 1));
        let rows = end - row;
        for step in (0..layout.steps()).step_by(layout.part_steps()) {
            let steps = layout.part_steps().min(layout.steps() - step);
            let cols = (steps * A::STEP).min(layout.k - step * A::STEP);
            let to = call.packed_x::<A>(row, rows, step);
            for r in 0..rows {
                let from = call.x.element(row + r, step * A::STEP).cast::<T>();
                // SAFETY: the columns lie in the row of x; a part lies in one block of packed x, which has its steps.
                unsafe {
                    let from = std::slice::from_raw_parts(from, cols);
                    let mut part = [0; N];
                    let quantised = quantise(from, &mut part, layout.offset);
                    call.quantised(row + r, step).write(quantised);
                    for (s, four) in part.as_chunks::<4>().0[..steps].iter().enumerate() {
                        *to.add(s * rows + r) = u32::from_le_bytes(four.map(|q| q as u8));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Task::with_f32`]; the weight is of format `F`.
    #[inline(always)]
    unsafe fn multiply<A: Arith, F: Format<A>, const NV: usize>(&self) {
        let call = self.call;
        let panels = call.layout.panels();
        if call.m <= FEW_ROWS {
            while let Some(panel) = call.take(panels) {
                // SAFETY: the caller's promise; one thread has this panel.
                unsafe { self.few_rows::<A, F, NV>(panel) };
            }
            return;
        }
        while let Some(item) = call.take(panels * call.tiles().div_ceil(BLOCK_TILES)) {
            let (first, panel) = (item / panels * BLOCK_TILES, item % panels);
            let tiles = first..(first + BLOCK_TILES).min(call.tiles());
            // SAFETY: the caller's promise; one thread has this panel for these tiles.
            unsafe { self.many_rows::<A, F, NV>(tiles, panel) };
        }
    }

    /// One or two tiles: the panel is read once, straight from memory; a second tile finds each stretch in the first-level
    /// cache.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn few_rows<A: Arith, F: Format<A>, const NV: usize>(&self, panel: usize) {
        let (call, layout) = (self.call, self.call.layout);
        let weight = call.weight.wrapping_add(panel * layout.panel_bytes());
        let mut sums = [0.0f32; FEW_ROWS * MAX_PANEL];
        let mut stretches = Stretches::new::<A, F>(layout, weight);
        while let Some((step, stretch)) = stretches.next(layout.steps()) {
            for t in 0..call.tiles() {
                let (row, end) = (call.tile_row(t), call.tile_row(t + 1));
                let x = call.packed_x::<A>(row, end - row, step);
                let sums = &mut sums[row * layout.panel..];
                let (rows, quantised) = (end - row, call.quantised(row, step));
                // SAFETY: the stretch lies in the panel, x has its steps, `sums` a panel for each row.
                unsafe { tile::<A, F, NV>(rows, stretch, x, quantised, sums.as_mut_ptr()) };
            }
        }
        for row in 0..call.m {
            // SAFETY: `sums` holds a panel for each row.
            unsafe { self.finish(row, panel, &sums[row * layout.panel..]) };
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
        let weight = call.weight.wrapping_add(panel * layout.panel_bytes());
        let first_row = call.tile_row(tiles.start);
        let rows = call.tile_row(tiles.end) - first_row;
        let decoded = call
            .workspace
            .wrapping_add(call.sizes.x_bytes + call.sizes.quantised_bytes)
            .wrapping_add(self.thread * call.sizes.scratch_bytes);
        let sums: *mut f32 = decoded
            .wrapping_add(BLOCK_STEPS * layout.panel * Path::SCALAR_BYTES)
            .cast();
        // SAFETY: this thread's scratch: a block, then a panel of sums for each row.
        let sums = unsafe {
            sums.write_bytes(0, rows * layout.panel);
            std::slice::from_raw_parts_mut(sums, rows * layout.panel)
        };
        let mut stretches = Stretches::new::<A, F>(layout, weight);
        for block in (0..layout.steps()).step_by(BLOCK_STEPS) {
            let mut parts = [(0, Stretch::EMPTY); MAX_PARTS];
            for part in &mut parts {
                let Some((step, stretch)) = stretches.next(block + BLOCK_STEPS) else {
                    break;
                };
                let to = decoded.wrapping_add((step - block) * NV * A::OPERAND_BYTES);
                // SAFETY: the stretch is one of format `F`, and the scratch has room for a block's operands.
                *part = (step, unsafe { decode::<A, F, NV>(stretch, to) });
            }
            for t in tiles.clone() {
                let (row, end) = (call.tile_row(t), call.tile_row(t + 1));
                let sums = &mut sums[(row - first_row) * layout.panel..];
                for (step, stretch) in parts {
                    if stretch.units == 0 {
                        break;
                    }
                    let x = call.packed_x::<A>(row, end - row, step);
                    let (rows, quantised) = (end - row, call.quantised(row, step));
                    let sums = sums.as_mut_ptr();
                    // SAFETY: the block has these steps, x too, and `sums` holds a panel for each row.
                    unsafe { tile::<A, Native, NV>(rows, stretch, x, quantised, sums) };
                }
            }
        }
        for (row, sums) in sums.chunks_exact(layout.panel).enumerate() {
            // SAFETY: as above.
            unsafe { self.finish(first_row + row, panel, sums) };
        }
    }

    /// `out[row, panel] = act(sums · scale + bias) + residual`.
    ///
    /// # Safety
    /// `sums` starts with this row's panel of sums, and no other thread writes this part of `out`.
    #[inline(always)]
    unsafe fn finish(&self, row: usize, panel: usize, sums: &[f32]) {
        let (call, layout) = (self.call, self.call.layout);
        let first = panel * layout.panel;
        let n = layout.panel.min(layout.n - first);
        let mut y = [0.0f32; MAX_PANEL];
        y[..n].copy_from_slice(&sums[..n]);
        if layout.has_row_scales() {
            let at = panel * layout.panel_bytes() + layout.runs_bytes();
            let scales: *const f32 = call.weight.wrapping_add(at).cast();
            for (i, y) in y[..n].iter_mut().enumerate() {
                // SAFETY: the panel ends with a scale for each of its rows.
                *y *= unsafe { scales.add(i).read_unaligned() };
            }
        }
        if let Some(bias) = call.bias {
            for (y, b) in y[..n].iter_mut().zip(&bias[first..first + n]) {
                *y += b;
            }
        }
        if let Some(act) = call.activation {
            call.isa.run(Activate {
                y: &mut y[..n],
                act,
            });
        }
        if let Some(residual) = call.residual {
            let mut add = [0.0f32; MAX_PANEL];
            let from = residual.element(row, first);
            // SAFETY: `ops` checked the shape of the residual.
            unsafe { load_f32(residual.dtype, from, add.as_mut_ptr(), n) };
            for (y, add) in y[..n].iter_mut().zip(&add) {
                *y += add;
            }
        }
        // SAFETY: `ops` checked the shape of `out`; this part is ours.
        unsafe { store_f32(call.out.dtype, y.as_ptr(), call.out.element(row, first), n) };
    }
}

/// Cuts a panel into what is added up before it meets other sums: nothing longer than a block, a run, or a part of x.
///
/// The cuts are the same for any number of rows, so that a row's results do not depend on its neighbours.
struct Stretches {
    /// Where the run starts, and its bytes.
    run: *const u8,
    run_bytes: usize,
    /// Where its scales are, from its start, if it has any.
    scales: Option<usize>,
    unit_steps: usize,
    unit_bytes: usize,
    steps: usize,
    run_steps: usize,
    part_steps: usize,
    /// The next step: of the panel, of its run, of its part.
    at: [usize; 3],
}

impl Stretches {
    /// Of the panel at `panel`, of format `F`.
    #[inline(always)]
    fn new<A: Arith, F: Format<A>>(layout: &Layout, panel: *const u8) -> Self {
        Self {
            run: panel,
            run_bytes: layout.run_bytes(),
            scales: layout.has_group_scales().then(|| layout.run_data_bytes()),
            unit_steps: F::STEPS,
            unit_bytes: F::BYTES * (layout.panel / A::LANES),
            steps: layout.steps(),
            run_steps: layout.run_steps(),
            part_steps: layout.part_steps(),
            at: [0; 3],
        }
    }

    /// The next one that starts before step `end`, with its first step.
    #[inline(always)]
    fn next(&mut self, end: usize) -> Option<(usize, Stretch)> {
        let [step, in_run, in_part] = self.at;
        if step >= end.min(self.steps) {
            return None;
        }
        let steps = (BLOCK_STEPS - step % BLOCK_STEPS)
            .min(self.run_steps - in_run)
            .min(self.part_steps - in_part);
        let stretch = Stretch {
            weight: self
                .run
                .wrapping_add(in_run / self.unit_steps * self.unit_bytes),
            units: steps / self.unit_steps,
            scales: match self.scales {
                Some(at) => self.run.wrapping_add(at).cast(),
                None => std::ptr::null(),
            },
        };
        self.at = [step + steps, in_run + steps, in_part + steps];
        if self.at[1] == self.run_steps {
            self.run = self.run.wrapping_add(self.run_bytes);
            self.at = [step + steps, 0, 0];
        } else if self.at[2] == self.part_steps {
            self.at[2] = 0;
        }
        Some((step, stretch))
    }
}

/// The stretch as operands: where it lies, or decoded to `to`.
///
/// # Safety
/// The CPU has `A`; the stretch is one of format `F`; `to` has room for its operands.
#[inline(always)]
unsafe fn decode<A: Arith, F: Format<A>, const NV: usize>(
    stretch: Stretch,
    to: *mut u8,
) -> Stretch {
    if F::NATIVE {
        return stretch;
    }
    let (mut from, mut at) = (stretch.weight, to);
    for _ in 0..stretch.units {
        for v in 0..NV {
            // SAFETY: inside the stretch and, operand by operand, inside `to`.
            unsafe {
                let mut raw = F::load(from);
                for s in 0..F::STEPS {
                    let operand = at.add((s * NV + v) * A::OPERAND_BYTES);
                    A::store_operand(operand, F::operand(raw));
                    raw = F::next(raw);
                }
                from = from.add(F::BYTES);
            }
        }
        at = at.wrapping_add(F::STEPS * NV * A::OPERAND_BYTES);
    }
    Stretch {
        weight: to,
        units: stretch.units * F::STEPS,
        scales: stretch.scales,
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
