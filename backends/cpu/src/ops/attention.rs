//! Attention by tiles: online softmax over blocks of the cache, so that no matrix of rows times slots exists.
//!
//! A tile is up to [`TILE`] query rows, tokens times the heads that share one key-value head, so that each key and
//! value is read once for all of them. **The vector lanes of scores are query rows**, `[slots, rows]`: maximum and sum
//! of the softmax need no horizontal step, and any head size fits. With enough rows to fill vectors, scores `K · Qᵀ`
//! and results `[dim, rows] += Vᵀ · P` are products of one small kernel. With fewer, scores are dot products along
//! the head and results are `[rows, dim] += Pᵀ · V`, by the same kernel.
//!
//! A sequence of few tokens is a single tile; its cache is cut into chunks, by its length alone, that run in parallel
//! and are combined in order. So results depend on neither threads nor neighbours in the batch.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{Result, Stream, View};
use ops::{Attention, Launch};

use super::native::{Planned, with_float};
use super::softmax::visible;
use super::tensor::{Row, Tensor};
use super::vector::{Element, Kernel, Lanes, MAX_LANES};
use crate::device::Cpu;
use crate::memory::address;

/// Query rows of one tile.
const TILE: usize = 64;
/// Slots of one block of the online softmax.
const BLOCK: usize = 64;
/// The least slots of one chunk, and the most chunks of a sequence.
const CHUNK: usize = 512;
const MAX_CHUNKS: usize = 32;
/// With fewer products than this, one thread does everything.
const ALONE_PRODUCTS: usize = 1 << 17;

pub(super) fn plan(cpu: &Cpu, op: &Attention) -> Planned {
    let launch = |run: Run| -> Arc<dyn Launch> {
        Arc::new(Native {
            cpu: cpu.clone(),
            op: op.clone(),
            run,
        })
    };
    Ok(with_float!(op.dtype, T => with_float!(op.kv, Kv => launch(run::<T, Kv>))).flatten())
}

type Run = fn(&Cpu, &Attention, &[View<'_>], &View<'_>);

struct Native {
    cpu: Cpu,
    op: Attention,
    run: Run,
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
        (self.run)(&self.cpu, &self.op, args, workspace);
        Ok(())
    }
}

/// What follows from the specification.
#[derive(Clone, Copy)]
struct Sizes {
    /// Query heads per key-value head.
    group: usize,
    /// Elements per head, rounded up so that vectors and blocks of rows divide it.
    dim: usize,
}

impl Sizes {
    fn new(op: &Attention) -> Self {
        Self {
            group: (op.heads / op.kv_heads.max(1)).max(1),
            dim: op.head_dim.max(1).next_multiple_of(16),
        }
    }

    /// Floats that one thread works in.
    fn scratch(self) -> usize {
        // queries and results, scores, a block of keys or values, four vectors of a row's state
        2 * self.dim * TILE + BLOCK * TILE + BLOCK * self.dim + 4 * TILE
    }

    /// Floats of one row's result over one chunk: maximum, sum, elements.
    fn partial(self) -> usize {
        2 + self.dim
    }
}

fn chunk_slots(kv_len: usize) -> usize {
    CHUNK.max(kv_len.div_ceil(MAX_CHUNKS).next_multiple_of(BLOCK))
}

/// The most chunks of any sequence of up to `slots` slots.
fn max_chunks(slots: usize) -> usize {
    slots.div_ceil(CHUNK).min(MAX_CHUNKS)
}

fn run<T: Element, Kv: Element>(
    cpu: &Cpu,
    op: &Attention,
    args: &[View<'_>],
    workspace: &View<'_>,
) {
    // SAFETY: only read.
    let ints = |i: usize| unsafe { Tensor::<i32>::new(&args[i]) };
    let sizes = Sizes::new(op);
    let slots = args[4].dim(1) * op.page_size;
    let base: *mut u8 = address(workspace);
    let base: *mut f32 = base.wrapping_add(base.align_offset(64)).cast();
    let problem = Problem {
        op,
        sizes,
        // SAFETY: each row of `out` is written by one task, and by another only after all tasks.
        out: unsafe { Tensor::<T>::new(&args[0]) },
        // SAFETY: only read.
        q: unsafe { Tensor::<T>::new(&args[1]) },
        // SAFETY: only read.
        pages: [2, 3].map(|i| unsafe { Tensor::<Kv>::new(&args[i]) }),
        table: ints(4),
        q_start: ints(5),
        kv_len: ints(6),
        prefix: args.get(7).map(|_| ints(7)),
        slots: if op.pages == 0 { 0 } else { slots },
        chunks: max_chunks(slots),
        scratch: Shared(base),
        partials: Shared(base.wrapping_add(cpu.pool.threads() * sizes.scratch())),
    };
    let next = AtomicUsize::new(0);
    let tasks = |thread| {
        cpu.isa.run(Tasks {
            problem: &problem,
            thread,
            next: &next,
        });
    };
    let products: usize = problem.sequences().map(|s| problem.products(&s)).sum();
    if products < ALONE_PRODUCTS {
        tasks(0);
    } else {
        cpu.pool.run(|thread, _| tasks(thread));
    }
    let cut: usize = problem.sequences().map(|s| s.cut_rows(op.heads)).sum();
    cpu.rows(cut, problem.chunks * op.head_dim, |rows| {
        cpu.isa.run(Combine {
            problem: &problem,
            rows,
        });
    });
    problem.zero_the_rest();
}

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

/// One launch.
struct Problem<'a, T, Kv> {
    op: &'a Attention,
    sizes: Sizes,
    out: Tensor<'a, T>,
    q: Tensor<'a, T>,
    /// keys, values
    pages: [Tensor<'a, Kv>; 2],
    table: Tensor<'a, i32>,
    q_start: Tensor<'a, i32>,
    kv_len: Tensor<'a, i32>,
    prefix: Option<Tensor<'a, i32>>,
    /// Slots that the tables can name.
    slots: usize,
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
struct Task<'s> {
    sequence: &'s Sequence,
    kv_head: usize,
    /// Of the sequence's `tokens · group` rows.
    rows: Range<usize>,
    chunk: usize,
}

impl<T: Element, Kv: Element> Problem<'_, T, Kv> {
    fn sequences(&self) -> impl Iterator<Item = Sequence> {
        let tokens = self.q.dim(0);
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
        let tokens = self.out.dim(0);
        for t in (0..start.min(tokens)).chain(end..tokens) {
            for h in 0..self.op.heads {
                self.out
                    .row([t, h])
                    .0
                    .iter()
                    .for_each(|x| x.set(T::narrow(0.0)));
            }
        }
    }
}

/// Takes tasks until there are none.
struct Tasks<'p, 'a, T, Kv> {
    problem: &'p Problem<'a, T, Kv>,
    thread: usize,
    next: &'p AtomicUsize,
}

impl<T: Element, Kv: Element> Kernel for Tasks<'_, '_, T, Kv> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let problem = self.problem;
        let size = problem.sizes.scratch();
        // SAFETY: each thread has its own part.
        let scratch = unsafe { problem.scratch.part(self.thread * size, size) };
        let mut first = 0;
        let mut task = self.next.fetch_add(1, Ordering::Relaxed);
        for sequence in problem.sequences() {
            let (tiles, chunks) = (sequence.tiles, sequence.chunks);
            let tasks = problem.op.kv_heads * tiles * chunks;
            while task < first + tasks {
                let i = task - first;
                // Later tiles see more slots: they come first, so that the last tasks are short.
                let tile = tiles - 1 - i / chunks % tiles;
                let rows = sequence.tokens.len() * problem.sizes.group;
                problem.tile::<V>(
                    &Task {
                        sequence: &sequence,
                        kv_head: i / chunks / tiles,
                        rows: tile * TILE..rows.min((tile + 1) * TILE),
                        chunk: i % chunks,
                    },
                    scratch,
                );
                task = self.next.fetch_add(1, Ordering::Relaxed);
            }
            first += tasks;
        }
    }
}

impl<T: Element, Kv: Element> Problem<'_, T, Kv> {
    /// Attention of one tile over its chunk of the cache.
    #[inline(always)]
    fn tile<V: Lanes>(&self, task: &Task<'_>, scratch: &mut [f32]) {
        let (dim, sequence) = (self.sizes.dim, task.sequence);
        let rows = task.rows.len();
        // Whole vectors.
        let lanes = rows.next_multiple_of(V::N);
        let narrow = 2 * rows <= V::N;
        let (q, rest) = scratch.split_at_mut(dim * lanes);
        let (results, rest) = rest.split_at_mut(dim * lanes);
        let (scores, rest) = rest.split_at_mut(BLOCK * lanes);
        let (block, rest) = rest.split_at_mut(BLOCK * dim);
        let (seen, rest) = rest.split_at_mut(lanes);
        let (max, rest) = rest.split_at_mut(lanes);
        let (sum, rest) = rest.split_at_mut(lanes);
        let rescale = &mut rest[..lanes];
        // Distances between rows and between elements of queries and results.
        let [row_step, step] = if narrow { [dim, 1] } else { [1, lanes] };

        q.fill(0.0);
        results.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        seen.fill(0.0);
        let chunk = match sequence.chunks {
            1 => 0..sequence.kv_len,
            _ => {
                let slots = chunk_slots(sequence.kv_len);
                task.chunk * slots..(task.chunk + 1) * slots
            }
        };
        let (mut least, mut most) = (usize::MAX, 0);
        for (r, row) in task.rows.clone().enumerate() {
            let place = self.place(task, row);
            for (d, x) in self.q.row(place).0.iter().enumerate() {
                q[r * row_step + d * step] = x.get().widen();
            }
            let n = self.visible(sequence, place[0]);
            seen[r] = n as f32;
            (least, most) = (least.min(n), most.max(n));
        }

        let end = most.min(chunk.end);
        for start in (chunk.start..end).step_by(BLOCK) {
            let slots = start..end.min(start + BLOCK);
            let n = slots.len();
            self.gather::<V>(0, task, slots.clone(), block);
            scores.fill(0.0);
            if narrow {
                dots::<V>(scores, lanes, &block[..n * dim], q, rows, dim);
            } else {
                product::<V>(scores, (block, [dim, 1]), n, q, dim, lanes);
            }
            let hidden = (slots.end > least).then_some(Row::of(seen));
            let state = State { max, sum, rescale };
            softmax::<V>(scores, slots.clone(), self.op.scale, hidden, state);
            self.gather::<V>(1, task, slots, block);
            if rescale[..rows].iter().any(|&factor| factor != 1.0) {
                for (r, &factor) in rescale
                    .iter()
                    .enumerate()
                    .take(if narrow { rows } else { 0 })
                {
                    multiply::<V>(&mut results[r * dim..(r + 1) * dim], &[factor; MAX_LANES]);
                }
                for row in results
                    .chunks_exact_mut(lanes)
                    .take(if narrow { 0 } else { dim })
                {
                    multiply::<V>(row, rescale);
                }
            }
            if narrow {
                product::<V>(results, (scores, [1, lanes]), rows, block, n, dim);
            } else {
                product::<V>(results, (block, [1, dim]), dim, scores, n, lanes);
            }
        }

        for (r, row) in task.rows.clone().enumerate() {
            let place = self.place(task, row);
            let result = results[r * row_step..].iter().step_by(step);
            if sequence.chunks == 1 {
                let factor = inverse(sum[r]);
                for (out, x) in self.out.row(place).0.iter().zip(result) {
                    out.set(T::narrow(x * factor));
                }
            } else {
                let at = self.partial(sequence, place, task.chunk);
                // SAFETY: this row and chunk are this task's alone.
                let partial = unsafe { self.partials.part(at, self.sizes.partial()) };
                (partial[0], partial[1]) = (max[r], sum[r]);
                for (to, x) in partial[2..].iter_mut().zip(result) {
                    *to = *x;
                }
            }
        }
    }

    /// Keys (0) or values (1) of `slots` as f32 `[slots, dim]`.
    #[inline(always)]
    fn gather<V: Lanes>(&self, which: usize, task: &Task<'_>, slots: Range<usize>, to: &mut [f32]) {
        let page_size = self.op.page_size;
        let table = self.table.row([task.sequence.index]);
        for (j, row) in slots.zip(to.chunks_exact_mut(self.sizes.dim)) {
            let page = table.get(j / page_size).max(0) as usize;
            let page = page.min(self.op.pages - 1);
            let x = self.pages[which].row([page, task.kv_head, j % page_size]);
            Row::of(row).copy_from::<V, Kv>(x);
        }
    }
}

/// The state of the online softmax, a number per row each.
struct State<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    /// Out: what earlier results are to be multiplied with.
    rescale: &'a mut [f32],
}

/// Turns scores `[slots, rows]` into the exponentials of their distances to the running maximum.
/// A row sees the first `seen` slots.
#[inline(always)]
fn softmax<V: Lanes>(
    scores: &mut [f32],
    slots: Range<usize>,
    scale: f32,
    seen: Option<Row<'_, f32>>,
    state: State<'_>,
) {
    let lanes = state.max.len();
    let scores = Row::of(&mut scores[..slots.len() * lanes]);
    let [old, sum, rescale] = [state.max, state.sum, state.rescale].map(Row::of);
    let scale = V::splat(scale);
    let hidden = V::splat(f32::NEG_INFINITY);
    for lane in (0..lanes).step_by(V::N) {
        let mut max = old.load::<V>(lane);
        let last = old.load::<V>(lane);
        for (i, slot) in slots.clone().enumerate() {
            let at = i * lanes + lane;
            let mut x = scores.load::<V>(at) * scale;
            if let Some(seen) = seen {
                let seen = seen.load::<V>(lane);
                x = V::splat(slot as f32).less(seen, x, hidden);
            }
            scores.store(at, x);
            max = max.max(x);
        }
        old.store(lane, max);
        // While a row has seen nothing its maximum is −∞, and the exponentials must be 0 all the same.
        let shift = max.less(V::splat(f32::MIN), V::splat(0.0), max);
        let factor = (last - shift).exp();
        let mut total = sum.load::<V>(lane) * factor;
        for i in 0..slots.len() {
            let at = i * lanes + lane;
            let x = (scores.load::<V>(at) - shift).exp();
            scores.store(at, x);
            total = total + x;
        }
        sum.store(lane, total);
        rescale.store(lane, factor);
    }
}

/// `row[i] *= factors[i]`, the factors repeated when there are fewer.
#[inline(always)]
fn multiply<V: Lanes>(row: &mut [f32], factors: &[f32]) {
    let (row, n) = (Row::of(row), factors.len());
    for i in (0..row.len()).step_by(V::N) {
        // SAFETY: factors come in whole vectors, as many as are used or one.
        let factor = unsafe { V::load_f32(factors[i % n..][..V::N].as_ptr()) };
        row.store(i, row.load::<V>(i) * factor);
    }
}

/// `scores[j, r] = keys[j, ..] · q[r, ..]` for a few rows; rows of scores have `lanes` elements, the others `dim`.
#[inline(always)]
fn dots<V: Lanes>(
    scores: &mut [f32],
    lanes: usize,
    keys: &[f32],
    q: &[f32],
    rows: usize,
    dim: usize,
) {
    assert!(dim.is_multiple_of(V::N) && q.len() >= rows * dim);
    for (key, scores) in keys.chunks_exact(dim).zip(scores.chunks_exact_mut(lanes)) {
        let mut r = 0;
        while r < rows {
            let (q, scores) = (&q[r * dim..], &mut scores[r..]);
            // SAFETY: as many rows of q are left, and a key has `dim` elements, whole vectors.
            r += unsafe {
                match rows - r {
                    4.. => dot::<V, 4>(scores, key, q),
                    2.. => dot::<V, 2>(scores, key, q),
                    _ => dot::<V, 1>(scores, key, q),
                }
            };
        }
    }
}

/// `R` dot products with one key; returns `R`.
///
/// # Safety
/// `q` has `R` rows as long as the key, which is whole vectors.
#[inline(always)]
unsafe fn dot<V: Lanes, const R: usize>(scores: &mut [f32], key: &[f32], q: &[f32]) -> usize {
    let mut sums = [V::splat(0.0); R];
    for d in (0..key.len()).step_by(V::N) {
        // SAFETY: the caller's promise.
        let k = unsafe { V::load_f32(key.as_ptr().add(d)) };
        for (r, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let q = unsafe { V::load_f32(q.as_ptr().add(r * key.len() + d)) };
            *sum = k.mul_add(q, *sum);
        }
    }
    for (score, sum) in scores.iter_mut().zip(sums) {
        *score = sum.sum();
    }
    R
}

/// `c[m, ..] += Σ_k a(m, k) · b[k, ..]`, `a(m, k)` at `m · steps[0] + k · steps[1]`. Rows of b and c have `lanes`
/// elements, whole vectors.
#[inline(always)]
fn product<V: Lanes>(
    c: &mut [f32],
    a: (&[f32], [usize; 2]),
    rows: usize,
    b: &[f32],
    depth: usize,
    lanes: usize,
) {
    assert!(lanes.is_multiple_of(V::N) && rows > 0 && depth > 0);
    assert!(c.len() >= rows * lanes && b.len() >= depth * lanes);
    assert!(a.0.len() > (rows - 1) * a.1[0] + (depth - 1) * a.1[1]);
    let call = Product {
        c: c.as_mut_ptr(),
        a: a.0.as_ptr(),
        steps: a.1,
        b: b.as_ptr(),
        depth,
        lanes,
    };
    for lane in (0..lanes).step_by(2 * V::N) {
        let wide = lane + 2 * V::N <= lanes;
        let mut row = 0;
        while row < rows {
            // SAFETY: checked above for every row and lane.
            row += unsafe {
                match (rows - row, wide) {
                    (8.., true) if V::MANY_REGISTERS => call.block::<V, 8, true>(row, lane),
                    (4.., true) => call.block::<V, 4, true>(row, lane),
                    (2.., true) => call.block::<V, 2, true>(row, lane),
                    (_, true) => call.block::<V, 1, true>(row, lane),
                    (8.., false) => call.block::<V, 8, false>(row, lane),
                    (2.., false) => call.block::<V, 2, false>(row, lane),
                    (_, false) => call.block::<V, 1, false>(row, lane),
                }
            };
        }
    }
}

struct Product {
    c: *mut f32,
    a: *const f32,
    steps: [usize; 2],
    b: *const f32,
    depth: usize,
    lanes: usize,
}

impl Product {
    /// `M` rows of one vector, or of two, in registers. Returns `M`.
    ///
    /// # Safety
    /// The block lies inside.
    #[inline(always)]
    unsafe fn block<V: Lanes, const M: usize, const WIDE: bool>(
        &self,
        row: usize,
        lane: usize,
    ) -> usize {
        let Self { lanes, steps, .. } = *self;
        let (mut left, mut right) = ([V::splat(0.0); M], [V::splat(0.0); M]);
        // SAFETY: the caller's promise.
        let mut a = unsafe { self.a.add(row * steps[0]) };
        // SAFETY: as above.
        let mut b = unsafe { self.b.add(lane) };
        for _ in 0..self.depth {
            // SAFETY: as above.
            let b0 = unsafe { V::load_f32(b) };
            let mut b1 = b0;
            if WIDE {
                // SAFETY: as above.
                b1 = unsafe { V::load_f32(b.add(V::N)) };
            }
            for m in 0..M {
                // SAFETY: as above.
                let a = V::splat(unsafe { *a.add(m * steps[0]) });
                left[m] = a.mul_add(b0, left[m]);
                if WIDE {
                    right[m] = a.mul_add(b1, right[m]);
                }
            }
            (a, b) = (a.wrapping_add(steps[1]), b.wrapping_add(lanes));
        }
        for m in 0..M {
            // SAFETY: as above.
            unsafe {
                let c = self.c.add((row + m) * lanes + lane);
                (V::load_f32(c) + left[m]).store_f32(c);
                if WIDE {
                    let c = c.add(V::N);
                    (V::load_f32(c) + right[m]).store_f32(c);
                }
            }
        }
        M
    }
}

/// `1/sum`, or 0 for a row that has seen nothing.
#[inline(always)]
fn inverse(sum: f32) -> f32 {
    if sum == 0.0 { 0.0 } else { 1.0 / sum }
}

/// Combines the chunks of rows, in order.
struct Combine<'p, 'a, T, Kv> {
    problem: &'p Problem<'a, T, Kv>,
    /// Of all rows that were cut: tokens times heads.
    rows: Range<usize>,
}

impl<T: Element, Kv: Element> Kernel for Combine<'_, '_, T, Kv> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let (problem, heads) = (self.problem, self.problem.op.heads);
        let cut = problem.sequences().filter(|s| s.chunks > 1);
        for sequence in cut {
            let first = sequence.cut_before * heads;
            let own = first..first + sequence.tokens.len() * heads;
            for row in self.rows.start.max(own.start)..self.rows.end.min(own.end) {
                let row = row - own.start;
                let place = [sequence.tokens.start + row / heads, row % heads];
                problem.combine::<V>(&sequence, place);
            }
        }
    }
}

impl<T: Element, Kv: Element> Problem<'_, T, Kv> {
    #[inline(always)]
    fn combine<V: Lanes>(&self, sequence: &Sequence, place: [usize; 2]) {
        let (chunks, size) = (sequence.chunks, self.sizes.partial());
        let start = self.partial(sequence, place, 0);
        // SAFETY: all chunks are done, and the row is this thread's.
        let partials = Row::of(unsafe { self.partials.part(start, chunks * size) });
        let partial = |c: usize| partials.part(c * size..(c + 1) * size);
        let max = (0..chunks).fold(f32::NEG_INFINITY, |max, c| max.max(partial(c).get(0)));
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sum = 0.0;
        for c in 0..chunks {
            let factor = (partial(c).get(0) - shift).exp();
            sum += partial(c).get(1) * factor;
            // From here on the place of the maximum holds the factor.
            partial(c).set(0, factor);
        }
        let factor = V::splat(inverse(sum));
        let out = self.out.row(place);
        for i in (0..out.len()).step_by(V::N) {
            let mut total = V::splat(0.0);
            for c in 0..chunks {
                let weight = V::splat(partial(c).get(0));
                total = partial(c).part(2..size).load::<V>(i).mul_add(weight, total);
            }
            out.store(i, total * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use hal::DType;
    use ops::{Mask, Op, reference};

    use super::*;
    use crate::ops::testing::{Arg, check, inputs};

    /// Tokens, slots in use, prefix.
    type Lengths = (usize, usize, i32);

    fn norm(rows: &reference::Tensor) -> f64 {
        let squares = |r| rows.row(r).iter().map(|x| x * x).sum::<f64>();
        (0..rows.rows()).map(squares).fold(0.0, f64::max).sqrt()
    }

    /// Sequences with `lead` tokens of none before them and one after, their pages scattered.
    fn keeps_its_bound(op: &Attention, lead: usize, sequences: &[Lengths]) {
        let tokens = lead + sequences.iter().map(|s| s.0).sum::<usize>() + 1;
        let most = sequences.iter().map(|s| s.1).max().unwrap_or(0);
        let max_pages = most.div_ceil(op.page_size).max(1);
        let page = |s: usize, i: usize| (7 * (s * max_pages + i) + 3) % op.pages;
        let table: Vec<i32> = (0..sequences.len())
            .flat_map(|s| (0..max_pages).map(move |i| page(s, i) as i32))
            .collect();
        let mut starts = vec![lead as i32];
        for s in sequences {
            starts.push(starts[starts.len() - 1] + s.0 as i32);
        }
        let lens: Vec<i32> = sequences.iter().map(|s| s.1 as i32).collect();
        let cache = [op.pages, op.kv_heads, op.page_size, op.head_dim];
        let shape = [tokens, op.heads, op.head_dim];
        let mut args = vec![
            Arg::out(&shape).padded(),
            Arg::random(&shape, 2.0, 1).padded(),
            Arg::random(&cache, 1.0, 2),
            Arg::random(&cache, 1.0, 3),
            Arg::ints(&[sequences.len(), max_pages], &table),
            Arg::ints(&[sequences.len() + 1], &starts),
            Arg::ints(&[sequences.len()], &lens),
        ];
        if op.mask == Mask::Prefix {
            let prefix: Vec<i32> = sequences.iter().map(|s| s.2).collect();
            args.push(Arg::ints(&[sequences.len()], &prefix));
        }
        // Scores err by at most `score`, exponentials by twice that; sums run over all slots.
        let u = 2f64.powi(-24);
        let mut inputs = inputs(op, &args);
        let scale = f64::from(op.scale).abs();
        let score = (op.head_dim + 3) as f64 * u * scale * norm(&inputs[0]) * norm(&inputs[1]);
        let relative = 2.0 * score + (2 * most + 40) as f64 * u;
        inputs[2] = inputs[2].map(f64::abs);
        let magnitude = op.reference(&[&shape], &inputs).remove(0);
        check(op, &args, |_, i, _| magnitude.data[i] * relative);
    }

    const OP: Attention = Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        pages: 97,
        page_size: 16,
        scale: 0.17,
        mask: Mask::Causal,
        dtype: DType::F32,
        kv: DType::F16,
    };

    #[test]
    fn every_mask_in_mixed_batches() {
        let batch = [
            (1, 40, 0),
            (5, 5, 3),
            (0, 9, 0),
            (37, 91, 17),
            (2, 64, 80),
            (3, 0, 1),
        ];
        for mask in [Mask::Causal, Mask::Prefix, Mask::Full] {
            keeps_its_bound(&Attention { mask, ..OP }, 2, &batch);
        }
        keeps_its_bound(&OP, 3, &[]);
    }

    #[test]
    fn every_head_size_group_and_type() {
        let batch = [(1, 70, 0), (21, 30, 0)];
        for (head_dim, heads, kv_heads) in [
            (1, 1, 1),
            (3, 2, 1),
            (33, 3, 3),
            (64, 8, 2),
            (80, 4, 4),
            (128, 16, 1),
            (256, 2, 2),
            (320, 2, 1),
        ] {
            let op = Attention {
                head_dim,
                heads,
                kv_heads,
                ..OP
            };
            keeps_its_bound(&op, 0, &batch);
        }
        for (dtype, kv) in [
            (DType::F16, DType::F16),
            (DType::BF16, DType::BF16),
            (DType::BF16, DType::F32),
            (DType::F32, DType::F32),
        ] {
            keeps_its_bound(
                &Attention {
                    dtype,
                    kv,
                    page_size: 5,
                    ..OP
                },
                0,
                &batch,
            );
        }
    }

    #[test]
    fn long_sequences_are_cut_and_combined() {
        let op = Attention {
            pages: 40,
            page_size: 100,
            ..OP
        };
        keeps_its_bound(
            &op,
            1,
            &[(1, 1300, 0), (2, 512, 0), (3, 1025, 0), (40, 1500, 0)],
        );
        keeps_its_bound(&Attention { heads: 2, ..op }, 0, &[(1, 3000, 0)]);
    }
}
