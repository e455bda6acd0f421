//! Attention by tiles: online softmax over blocks of the cache, so that no matrix of rows times slots exists.
//!
//! A tile is up to [`TILE`] query rows, tokens times the heads that share one key-value head, so that each key and
//! value is read once for all of them. A tile of [`few`] rows is bound by reading, one of [`many`] by its products.
//!
//! A sequence of few tokens is a single tile; its cache is cut into chunks, by its length alone, that run in parallel
//! and are combined in order ([`combine`]). So results depend on neither threads nor neighbours in the batch.

mod combine;
mod few;
mod many;
mod product;

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{DType, Result, Stream, View};
use half::bf16;
use ops::kv_cache::row_elements;
use ops::{Attention, Launch};

use super::kv_cache::{Cached, with_cache};
use super::native::{Planned, with_float};
use super::softmax::visible;
use super::tensor::{Row, Tensor};
use super::vector::{Element, Kernel, Lanes, MAX_LANES};
use crate::Isa;
use crate::device::Cpu;
use crate::memory::address;

/// Query rows of one tile.
const TILE: usize = 96;
/// Slots of one block of the online softmax.
const BLOCK: usize = 64;
/// Chunks are multiples of so many slots, and a sequence has at most so many chunks: a chunk is read as a stream, which takes time to
/// begin.
const CHUNK: usize = 512;
const MAX_CHUNKS: usize = 16;
/// With fewer tasks of single heads than this for each thread, heads that share tokens are tasks of their own.
const TASKS: usize = 4;
/// With fewer products than this, one thread does everything.
const ALONE_PRODUCTS: usize = 1 << 15;

pub(super) fn plan(cpu: &Cpu, op: &Attention) -> Planned {
    if !op.dtype.is_float() || with_cache!(op.kv, Kv => Kv::SCALED).is_none() {
        return Ok(None);
    }
    let (cpu, op) = (cpu.clone(), op.clone());
    Ok(Some(Arc::new(Native { cpu, op })))
}

struct Native {
    cpu: Cpu,
    op: Attention,
}

impl Launch for Native {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let (tokens, table) = (shapes[1][0], shapes[4]);
        let sizes = Sizes::new(&self.op);
        let cut_tokens = tokens.min(table[0] * (TILE / sizes.group));
        let partials = cut_tokens * self.op.heads * max_chunks(table[1] * self.op.page_size);
        let scratch = self.cpu.pool.threads() * sizes.scratch();
        // 64 more, to start on a cache line.
        64 + 4 * (scratch + partials * sizes.partial())
    }

    unsafe fn launch(
        &self,
        _stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        run(&self.cpu, &self.op, args, workspace);
        Ok(())
    }
}

/// What follows from the specification.
#[derive(Clone, Copy)]
struct Sizes {
    /// Query heads per key-value head.
    group: usize,
    /// Elements per head, rounded up to whole vectors.
    dim: usize,
    /// Whether queries and keys, probabilities and values are pairs of bf16, in whole vectors.
    pairs: bool,
}

impl Sizes {
    fn new(op: &Attention) -> Self {
        Self {
            group: (op.heads / op.kv_heads.max(1)).max(1),
            dim: op.head_dim.max(1).next_multiple_of(MAX_LANES),
            pairs: op.dtype == DType::BF16
                && matches!(op.kv, DType::BF16 | DType::I8)
                && op.head_dim.is_multiple_of(2 * MAX_LANES),
        }
    }

    /// Scalars of a query or key as they are multiplied: elements, or pairs of them.
    #[inline(always)]
    fn width<V: Lanes>(self) -> usize {
        if V::PAIRS { self.dim / 2 } else { self.dim }
    }

    /// Floats that one thread works in.
    fn scratch(self) -> usize {
        // queries and results, scores, a block of keys and one of values, four vectors of a row's state
        2 * self.dim * TILE + BLOCK * TILE + 2 * BLOCK * self.dim + 4 * TILE
    }

    /// Floats of one row's result over one chunk: maximum, sum, elements.
    fn partial(self) -> usize {
        2 + self.dim
    }
}

fn chunk_slots(kv_len: usize) -> usize {
    kv_len.max(1).div_ceil(MAX_CHUNKS).next_multiple_of(CHUNK)
}

/// The most chunks of any sequence of up to `slots` slots.
fn max_chunks(slots: usize) -> usize {
    slots.div_ceil(CHUNK).min(MAX_CHUNKS)
}

fn run(cpu: &Cpu, op: &Attention, args: &[View<'_>], workspace: &View<'_>) {
    // SAFETY: only read.
    let ints = |i: usize| unsafe { Tensor::<i32>::new(&args[i]) };
    let sizes = Sizes::new(op);
    let slots = args[4].dim(1) * op.page_size;
    let base: *mut u8 = address(workspace);
    let base: *mut f32 = base.wrapping_add(base.align_offset(64)).cast();
    let mut problem = Problem {
        op,
        isa: cpu.isa,
        sizes,
        few: few::most(cpu.isa, sizes.pairs),
        args,
        table: ints(4),
        q_start: ints(5),
        kv_len: ints(6),
        prefix: args.get(7).map(|_| ints(7)),
        slots: if op.pages == 0 { 0 } else { slots },
        heads: 1,
        chunks: max_chunks(slots),
        scratch: Shared(base),
        partials: Shared(base.wrapping_add(cpu.pool.threads() * sizes.scratch())),
    };
    let single: usize = problem.sequences().map(|s| s.tiles * s.chunks).sum();
    problem.heads = (single * op.kv_heads / (TASKS * cpu.pool.threads())).max(1);
    let next = AtomicUsize::new(0);
    let tasks = |thread| problem.take_tasks(thread, &next);
    let products: usize = problem.sequences().map(|s| problem.products(&s)).sum();
    if products < ALONE_PRODUCTS {
        tasks(0);
    } else {
        cpu.pool.run(|thread, _| tasks(thread));
    }
    let cut: usize = problem.sequences().map(|s| s.cut_rows(op.heads)).sum();
    cpu.rows(cut, problem.chunks * op.head_dim, |rows| {
        cpu.isa.run(combine::Combine {
            problem: &problem,
            rows,
        });
    });
    problem.zero_the_rest();
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Where the keys or values of a block's slots lie.
type Places = [*const u8; BLOCK];

/// Memory that threads take disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: who takes which part is decided where it is taken.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// The part lies in the workspace and nothing else touches it while the slice lives.
    unsafe fn part<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// One launch. Few places know the types of numbers: every kernel is compiled once per instruction set and type of
/// cache, not for each pair of types.
struct Problem<'a> {
    op: &'a Attention,
    isa: Isa,
    sizes: Sizes,
    /// The most rows of a tile of few.
    few: usize,
    args: &'a [View<'a>],
    table: Tensor<'a, i32>,
    q_start: Tensor<'a, i32>,
    kv_len: Tensor<'a, i32>,
    prefix: Option<Tensor<'a, i32>>,
    /// Slots that the tables can name.
    slots: usize,
    /// The most key-value heads of one task.
    heads: usize,
    /// Partials per row.
    chunks: usize,
    scratch: Shared,
    partials: Shared,
}

/// One sequence, with everything that was read from memory brought inside its bounds.
struct Sequence {
    index: usize,
    tokens: Range<usize>,
    kv_len: usize,
    prefix: i64,
    /// Tiles, and chunks of the cache. One of them is 1.
    tiles: usize,
    chunks: usize,
    /// Tokens of earlier sequences that were cut into chunks: where the partials are.
    cut_before: usize,
}

impl Sequence {
    /// Rows whose result is combined from chunks.
    fn cut_rows(&self, heads: usize) -> usize {
        if self.chunks > 1 {
            self.tokens.len() * heads
        } else {
            0
        }
    }
}

/// One tile over one range of slots.
#[derive(Clone)]
struct Task<'s> {
    sequence: &'s Sequence,
    kv_head: usize,
    /// Of the sequence's `tokens · group` rows.
    rows: Range<usize>,
    chunk: usize,
}

impl Task<'_> {
    /// The same of another head.
    fn of_head(&self, kv_head: usize) -> Self {
        Self {
            kv_head,
            ..self.clone()
        }
    }
}

impl Problem<'_> {
    fn sequences(&self) -> impl Iterator<Item = Sequence> {
        let tokens = self.args[0].dim(0);
        let int = |t: &Tensor<'_, i32>, i| t.flat().get(i).max(0) as usize;
        let mut start = int(&self.q_start, 0).min(tokens);
        let mut cut_before = 0;
        (0..self.table.dim(0)).map(move |index| {
            let end = int(&self.q_start, index + 1).clamp(start, tokens);
            let kv_len = int(&self.kv_len, index).min(self.slots);
            let tiles = ((end - start) * self.sizes.group).div_ceil(TILE);
            let chunks = match tiles {
                1 => kv_len.div_ceil(chunk_slots(kv_len)).max(1),
                _ => 1,
            };
            let sequence = Sequence {
                index,
                tokens: start..end,
                kv_len,
                prefix: self.prefix.map_or(0, |p| i64::from(p.flat().get(index))),
                tiles,
                chunks,
                cut_before,
            };
            if chunks > 1 {
                cut_before += sequence.tokens.len();
            }
            start = end;
            sequence
        })
    }

    /// About how much work a sequence is.
    fn products(&self, s: &Sequence) -> usize {
        s.tokens.len() * self.op.heads * s.kv_len * self.op.head_dim
    }

    /// How many key-value heads one task of a sequence is for. The heads of a page lie side by side: where pages are short, they are
    /// one stream in one task.
    fn heads(&self, s: &Sequence) -> usize {
        match s.tokens.len() * self.sizes.group {
            rows if (1..=self.few).contains(&rows) && self.asks_ahead() => {
                self.heads.min(TILE / rows).min(self.op.kv_heads)
            }
            _ => 1,
        }
    }

    fn visible(&self, s: &Sequence, token: usize) -> usize {
        let position = s.kv_len as i64 - (s.tokens.end - token) as i64;
        visible(self.op.mask, position, s.kv_len as i64, s.prefix)
    }

    /// Token and head of a row of a tile.
    fn place(&self, task: &Task<'_>, row: usize) -> [usize; 2] {
        let group = self.sizes.group;
        [
            task.sequence.tokens.start + row / group,
            task.kv_head * group + row % group,
        ]
    }

    fn partial(&self, s: &Sequence, [token, head]: [usize; 2], chunk: usize) -> usize {
        let row = (s.cut_before + token - s.tokens.start) * self.op.heads + head;
        (row * self.chunks + chunk) * self.sizes.partial()
    }

    /// Tokens of no sequence.
    fn zero_the_rest(&self) {
        let start = self.q_start.flat().get(0).max(0) as usize;
        let end = self.sequences().last().map_or(0, |s| s.tokens.end);
        let tokens = self.args[0].dim(0);
        for t in (0..start.min(tokens)).chain(end..tokens) {
            for h in 0..self.op.heads {
                with_float!(self.op.dtype, T => {
                    let zero = |x: &Cell<T>| x.set(T::narrow(0.0));
                    self.out::<T>().row([t, h]).0.iter().for_each(zero);
                });
            }
        }
    }
}

impl<'a> Problem<'a> {
    fn out<T: Element>(&self) -> Tensor<'a, T> {
        // SAFETY: each row is written by one task, and by another only after all tasks.
        unsafe { Tensor::new(&self.args[0]) }
    }

    fn q<T: Element>(&self) -> Tensor<'a, T> {
        // SAFETY: only read.
        unsafe { Tensor::new(&self.args[1]) }
    }

    /// Keys (0) or values (1).
    fn pages<Kv: Element>(&self, which: usize) -> Tensor<'a, Kv> {
        // SAFETY: only read.
        unsafe { Tensor::new(&self.args[2 + which]) }
    }

    /// Takes tasks until there are none.
    fn take_tasks(&self, thread: usize, next: &AtomicUsize) {
        let size = self.sizes.scratch();
        // SAFETY: each thread has its own part.
        let scratch = unsafe { self.scratch.part(thread * size, size) };
        let mut first = 0;
        let mut taken = next.fetch_add(1, Ordering::Relaxed);
        for sequence in self.sequences() {
            let (tiles, chunks) = (sequence.tiles, sequence.chunks);
            let (kv_heads, heads) = (self.op.kv_heads, self.heads(&sequence));
            let tasks = kv_heads.div_ceil(heads) * tiles * chunks;
            while taken < first + tasks {
                let i = taken - first;
                let kv_head = i / chunks / tiles * heads;
                // Later tiles see more slots: they come first, so that the last tasks are short.
                let tile = tiles - 1 - i / chunks % tiles;
                let rows = sequence.tokens.len() * self.sizes.group;
                let task = Task {
                    sequence: &sequence,
                    kv_head,
                    rows: tile * TILE..rows.min((tile + 1) * TILE),
                    chunk: i % chunks,
                };
                self.attend(&task, heads.min(kv_heads - kv_head), scratch);
                taken = next.fetch_add(1, Ordering::Relaxed);
            }
            first += tasks;
        }
    }

    /// Attention of one tile, and of those of the `heads` from its own on, over its chunk of the cache. Of many rows there
    /// is one head.
    fn attend(&self, task: &Task<'_>, heads: usize, scratch: &mut [f32]) {
        let kv_len = task.sequence.kv_len;
        let slots = match task.sequence.chunks {
            1 => 0..kv_len,
            _ => {
                let slots = chunk_slots(kv_len);
                task.chunk * slots..(task.chunk + 1) * slots
            }
        };
        let problem = self;
        if task.rows.len() <= self.few {
            let few = few::Few {
                problem,
                task,
                heads,
                slots,
                scratch,
            };
            few.run();
        } else {
            self.run(many::Many {
                problem,
                task,
                slots,
                scratch,
            });
        }
    }

    fn run(&self, kernel: impl Kernel) {
        match self.sizes.pairs {
            true => self.isa.run_with_pairs(kernel),
            false => self.isa.run(kernel),
        }
    }

    /// Whether rows of the cache are whole vectors, so that few query rows read them where they lie.
    fn in_place(&self) -> bool {
        self.op.head_dim == self.sizes.dim
    }

    /// Elements of a row of the cache, its scale included.
    fn row(&self) -> usize {
        row_elements(self.op.kv, self.op.head_dim)
    }

    /// Bytes of such a row.
    #[inline(always)]
    fn row_bytes(&self) -> usize {
        self.row() * self.op.kv.bytes()
    }

    /// Keys (0) or values (1) of `slots`, in pieces that lie side by side.
    #[inline(always)]
    fn pieces<Kv: Element>(
        &self,
        which: usize,
        task: &Task<'_>,
        slots: Range<usize>,
    ) -> impl Iterator<Item = Row<'a, Kv>> {
        let (page_size, row, last) = (
            self.op.page_size,
            self.row(),
            self.op.pages.saturating_sub(1),
        );
        let (pages, table) = (self.pages(which), self.table.row([task.sequence.index]));
        let (head, mut start) = (task.kv_head, slots.start);
        std::iter::from_fn(move || {
            if start >= slots.end {
                return None;
            }
            let page = table.get(start / page_size).max(0) as usize;
            let first = start % page_size;
            let n = (page_size - first).min(slots.end - start);
            start += n;
            let page = pages.plane([page.min(last), head]);
            Some(page.part(first * row..(first + n) * row))
        })
    }

    /// Where the keys (0) or values (1) of `slots` lie. Behind the last slot that slot is repeated; without any, nothing
    /// changes.
    #[inline(always)]
    fn find(&self, which: usize, task: &Task<'_>, slots: Range<usize>, places: &mut Places) {
        let Some(last) = slots.len().checked_sub(1) else {
            return;
        };
        let (row, row_bytes) = (self.row().max(1), self.row_bytes());
        with_cache!(self.op.kv, Kv => {
            let mut free = places.iter_mut();
            for piece in self.pieces::<Kv>(which, task, slots) {
                let first: *const u8 = piece.0.as_ptr().cast();
                for (i, place) in free.by_ref().take(piece.len() / row).enumerate() {
                    *place = first.wrapping_add(i * row_bytes);
                }
            }
        });
        let last_place = places[last];
        places[last..].fill(last_place);
    }

    /// Asks for the keys or values at some of `places`: the `part`-th of `parts` equal parts of them, in the order of few rows
    /// (`Next::ask`).
    #[inline(always)]
    fn ask<V: Lanes>(&self, places: &Places, part: usize, parts: usize) {
        for i in part * BLOCK / parts..(part + 1) * BLOCK / parts {
            let far = self.isa.asks_far();
            let place = match far {
                true => places[i],
                false => places[i % 4 * (BLOCK / 4) + i / 4],
            };
            for byte in (0..self.row_bytes()).step_by(LINE) {
                V::prefetch(place.wrapping_add(byte), far);
            }
        }
    }

    /// Keys of `slots` as they are multiplied: f32 `[slots, dim]`, or pairs of bf16 and what their products are to be multiplied
    /// with.
    #[inline(always)]
    fn gather_keys<V: Lanes>(
        &self,
        task: &Task<'_>,
        slots: Range<usize>,
        to: &mut [f32],
        scales: &mut [f32; BLOCK],
    ) {
        if !V::PAIRS {
            return self.gather::<V>(0, task, slots, to);
        }
        let mut to = to.chunks_exact_mut(self.sizes.width::<V>()).zip(scales);
        let row = self.row();
        with_cache!(self.op.kv, Kv => {
            for piece in self.pieces::<Kv>(0, task, slots) {
                for start in (0..piece.len()).step_by(row) {
                    let Some((to, scale)) = to.next() else { return };
                    let key = piece.part(start..start + row);
                    *scale = Kv::scale(key);
                    let from: *const Kv = key.0.as_ptr().cast();
                    for (i, to) in to.chunks_exact_mut(V::N).enumerate() {
                        // SAFETY: the row has two elements for each of `width`, and `to` the room.
                        unsafe { Kv::load_pairs::<V>(from.add(2 * i * V::N)).store_f32(to.as_mut_ptr()) };
                    }
                }
            }
        });
    }

    /// Keys (0) or values (1) of `slots` as f32 `[slots, dim]`.
    #[inline(always)]
    fn gather<V: Lanes>(&self, which: usize, task: &Task<'_>, slots: Range<usize>, to: &mut [f32]) {
        let mut to = to.chunks_exact_mut(self.sizes.dim);
        let row = self.row();
        with_cache!(self.op.kv, Kv => {
            for piece in self.pieces::<Kv>(which, task, slots) {
                for start in (0..piece.len()).step_by(row.max(1)) {
                    let Some(to) = to.next() else { return };
                    Kv::read::<V>(piece.part(start..start + row), Row::of(to));
                }
            }
        });
    }

    /// A row of the sequence's queries as it is multiplied: f32, or pairs of bf16 as they lie.
    #[inline(always)]
    fn query<V: Lanes>(&self, task: &Task<'_>, row: usize, to: &mut [f32]) {
        let place = self.place(task, row);
        if V::PAIRS {
            let row = self.q::<bf16>().row(place);
            return row.copy_to(bytemuck::cast_slice_mut(to));
        }
        let to = Row::of(to);
        with_float!(self.op.dtype, T => to.copy_from::<V, T>(self.q::<T>().row(place)));
    }

    /// Puts the result of a row of the sequence where it belongs: exponentials times values, with their maximum and sum.
    #[inline(always)]
    fn finish<V: Lanes>(
        &self,
        task: &Task<'_>,
        row: usize,
        max: f32,
        sum: f32,
        result: Row<'_, f32>,
    ) {
        let place = self.place(task, row);
        if task.sequence.chunks == 1 {
            let factor = V::splat(inverse(sum));
            with_float!(self.op.dtype, T => {
                let out = self.out::<T>().row(place);
                for d in (0..out.len()).step_by(V::N) {
                    out.store(d, result.load::<V>(d) * factor);
                }
            });
        } else {
            let at = self.partial(task.sequence, place, task.chunk);
            // SAFETY: this row and chunk are this task's alone.
            let partial = unsafe { self.partials.part(at, self.sizes.partial()) };
            (partial[0], partial[1]) = (max, sum);
            Row::of(&mut partial[2..]).copy_from::<V, f32>(result);
        }
    }
}

/// `1/sum`, or 0 for a row that has seen nothing.
#[inline(always)]
fn inverse(sum: f32) -> f32 {
    if sum == 0.0 { 0.0 } else { 1.0 / sum }
}

/// `e^x`, and 0 below the normal range.
#[inline(always)]
fn exp_normal(x: f32) -> f32 {
    let y = x.exp();
    if y < f32::MIN_POSITIVE { 0.0 } else { y }
}

#[cfg(test)]
mod tests;
