//! One launch: x packed into tiles, then panels of the weight handed out to threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{DType, WeightFormat};
use half::{bf16, f16};
use ops::Act;

use super::layout::Layout;
use super::tile::{MAX_ROWS, Stretch, tile};
use crate::simd::{
    Arith, BF16, F16, F32Arith, Float, Format, I4, I8, MAX_PANEL, Native, Path, Rows, Task,
    load_f32, store_f32,
};

/// Steps of weights that are decoded at once, to be used by many tiles: 16 KiB, half of a first-level cache.
const BLOCK_STEPS: usize = 64;

/// Steps of the shortest run: a group of 32 columns, two at a time.
const MIN_RUN_STEPS: usize = 16;

/// Tiles that share one decoded block. Their sums, 96 KiB, stay in a second-level cache.
const BLOCK_TILES: usize = 64;

/// Everything starts on a cache line.
const ALIGN: usize = 64;

/// The workspace of a launch with `m` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workspace {
    x_bytes: usize,
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
            scratch_bytes: if m > MAX_ROWS { scratch } else { 0 },
            threads,
        }
    }

    /// In all, with room to start on a cache line.
    pub(super) fn bytes(&self) -> usize {
        ALIGN + self.x_bytes + self.threads * self.scratch_bytes
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
    pub(super) residual: Option<Rows>,
    /// Packed x, then the threads' scratch; starts on a cache line.
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
                (_, WeightFormat::Int8Row) => self.multiply::<A, I8, NV>(),
                _ => self.multiply::<A, I4, NV>(),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn with_bf16<A: Arith, const NV: usize>(&self)
    where
        I8: Format<A>,
        I4: Format<A>,
    {
        // SAFETY: as above; the planner takes this way for bf16, int8 and int4 only.
        unsafe {
            match (self.pass, self.call.layout.format) {
                (Pass::PackX, _) => self.pack_x::<A>(),
                (_, WeightFormat::Dense(_)) => self.multiply::<A, Native, NV>(),
                (_, WeightFormat::Int8Row) => self.multiply::<A, I8, NV>(),
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

    fn take(&self, items: usize) -> Option<usize> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        (i < items).then_some(i)
    }
}

impl Share<'_> {
    /// # Safety
    /// As [`Task::with_f32`].
    #[inline(always)]
    unsafe fn pack_x<A: Arith>(&self) {
        let call = self.call;
        while let Some(t) = call.take(call.tiles()) {
            // SAFETY: the tile is this thread's; `x` was checked by `ops`.
            unsafe {
                match call.x.dtype {
                    DType::F32 => self.pack_tile::<A, f32>(t),
                    DType::F16 => self.pack_tile::<A, f16>(t),
                    _ => self.pack_tile::<A, bf16>(t),
                }
            }
        }
    }

    /// # Safety
    /// As [`Task::with_f32`]; no other thread has this tile, and the elements of `x` are of type `T`.
    #[inline(always)]
    unsafe fn pack_tile<A: Arith, T: Float>(&self, t: usize) {
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
    /// As [`Task::with_f32`]; the weight is of format `F`.
    #[inline(always)]
    unsafe fn multiply<A: Arith, F: Format<A>, const NV: usize>(&self) {
        let call = self.call;
        let panels = call.layout.panels();
        let blocks = call.tiles().div_ceil(BLOCK_TILES);
        while let Some(item) = call.take(panels * blocks) {
            let (block, panel) = (item / panels, item % panels);
            // SAFETY: the caller's promise; one thread has this panel of this block.
            unsafe {
                if call.m <= MAX_ROWS {
                    self.few_rows::<A, F, NV>(panel);
                } else {
                    self.many_rows::<A, F, NV>(block, panel);
                }
            }
        }
    }

    /// One tile: the panel is read once, straight from memory.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn few_rows<A: Arith, F: Format<A>, const NV: usize>(&self, panel: usize) {
        let (call, layout) = (self.call, self.call.layout);
        let weight = call.weight.wrapping_add(panel * layout.panel_bytes());
        let mut sums = [0.0f32; MAX_ROWS * MAX_PANEL];
        for run in 0..layout.runs() {
            let stretch = self.stretch::<A, F>(weight, run, 0, layout.run_steps());
            let x = call.packed_x::<A>(0, call.m, run * layout.run_steps());
            // SAFETY: the run lies in the panel, x has its steps.
            unsafe { tile::<A, F, NV>(call.m, stretch, x, sums.as_mut_ptr()) };
        }
        for row in 0..call.m {
            // SAFETY: `sums` holds a panel for each row.
            unsafe { self.finish(row, panel, &sums[row * layout.panel..]) };
        }
    }

    /// Many tiles: stretches of the panel are decoded once and stay in the cache for all of them.
    ///
    /// # Safety
    /// As [`Self::multiply`].
    #[inline(always)]
    unsafe fn many_rows<A: Arith, F: Format<A>, const NV: usize>(
        &self,
        block: usize,
        panel: usize,
    ) {
        let (call, layout) = (self.call, self.call.layout);
        let tiles = block * BLOCK_TILES..((block + 1) * BLOCK_TILES).min(call.tiles());
        let (first_row, end_row) = (call.tile_row(tiles.start), call.tile_row(tiles.end));
        let weight = call.weight.wrapping_add(panel * layout.panel_bytes());
        let decoded = call
            .workspace
            .wrapping_add(call.sizes.x_bytes + self.thread * call.sizes.scratch_bytes);
        let sums: *mut f32 = decoded
            .wrapping_add(BLOCK_STEPS * layout.panel * Path::SCALAR_BYTES)
            .cast();
        // SAFETY: this thread's scratch: a block, then a panel of sums for each row.
        let sums = unsafe {
            sums.write_bytes(0, (end_row - first_row) * layout.panel);
            std::slice::from_raw_parts_mut(sums, (end_row - first_row) * layout.panel)
        };
        let all = layout.steps();
        for block in (0..all).step_by(BLOCK_STEPS) {
            let end = (block + BLOCK_STEPS).min(all);
            // The parts of runs in this block.
            let mut parts = [(0, Stretch::EMPTY); BLOCK_STEPS / MIN_RUN_STEPS];
            let (mut count, mut step) = (0, block);
            while step < end {
                let (run, from) = (step / layout.run_steps(), step % layout.run_steps());
                let steps = (layout.run_steps() - from).min(end - step);
                let stretch = self.stretch::<A, F>(weight, run, from, steps);
                let to = decoded.wrapping_add((step - block) * NV * A::OPERAND_BYTES);
                // SAFETY: the scratch has room for a block.
                parts[count] = (step, unsafe { decode::<A, F, NV>(stretch, to) });
                (count, step) = (count + 1, step + steps);
            }
            for t in tiles.clone() {
                let (row, end) = (call.tile_row(t), call.tile_row(t + 1));
                let sums = &mut sums[(row - first_row) * layout.panel..];
                for &(step, stretch) in &parts[..count] {
                    let x = call.packed_x::<A>(row, end - row, step);
                    // SAFETY: the block has these steps, x too, and `sums` holds a panel for each row.
                    unsafe { tile::<A, Native, NV>(end - row, stretch, x, sums.as_mut_ptr()) };
                }
            }
        }
        for row in first_row..end_row {
            // SAFETY: as above.
            unsafe { self.finish(row, panel, &sums[(row - first_row) * layout.panel..]) };
        }
    }

    /// `steps` steps from `step` of a run; both are whole units.
    #[inline(always)]
    fn stretch<A: Arith, F: Format<A>>(
        &self,
        panel: *const u8,
        run: usize,
        step: usize,
        steps: usize,
    ) -> Stretch {
        let layout = self.call.layout;
        let run = panel.wrapping_add(run * layout.run_bytes());
        let unit_bytes = F::BYTES * (layout.panel / A::LANES);
        Stretch {
            weight: run.wrapping_add(step / F::STEPS * unit_bytes),
            units: steps / F::STEPS,
            scales: if layout.has_group_scales() {
                run.wrapping_add(layout.run_data_bytes()).cast()
            } else {
                std::ptr::null()
            },
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
            for y in &mut y[..n] {
                *y = activate(act, *y);
            }
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

/// The activation in f64: it is rare here, and then exact to the last bit of an f32.
fn activate(act: Act, x: f32) -> f32 {
    act.reference(f64::from(x)) as f32
}
