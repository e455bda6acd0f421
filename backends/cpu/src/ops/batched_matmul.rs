//! Matrix products of activations, with any strides; products and sums in f32.
//!
//! Blocks of both operands are gathered into the tiles of [`super::matmul`], so that strides cost one pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{DType, Result, Stream, View};
use half::{bf16, f16};
use ops::{BatchedMatmul, Launch};

use super::matmul::tile::{Columns, MAX_ROWS, Span, tile};
use super::native::Planned;
use crate::device::Cpu;
use crate::memory::address;
use crate::simd::{F32Arith, Float, Native, Path, Task, Work, run};

/// Columns of k that are gathered at once.
const BLOCK_K: usize = 64;

/// Rows of `a` and panels of `b` of one piece of work: its sums, 192 KiB, stay in a second-level cache.
const BLOCK_ROWS: usize = 32 * MAX_ROWS;
const BLOCK_PANELS: usize = 4;

/// Fewer products than this stay on the calling thread.
const ALONE_PRODUCTS: usize = 1 << 16;

/// Plans a product: every specification has a kernel.
pub(super) fn plan(cpu: &Cpu, op: &BatchedMatmul) -> Planned {
    Ok(Some(Arc::new(Kernel {
        cpu: cpu.clone(),
        alpha: op.alpha,
    })))
}

struct Kernel {
    cpu: Cpu,
    alpha: f32,
}

/// Floats of one thread's scratch: a block of `a`, a block of `b`, the sums.
fn scratch(panel: usize, m: usize, n: usize) -> [usize; 3] {
    let rows = m.min(BLOCK_ROWS);
    let panels = n.div_ceil(panel).min(BLOCK_PANELS);
    [rows * BLOCK_K, panel * BLOCK_K, rows * panels * panel]
}

impl Launch for Kernel {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let panel = Path::f32(self.cpu.isa).panel();
        let floats: usize = scratch(panel, shapes[0][2], shapes[0][3]).iter().sum();
        64 + floats * 4 * self.cpu.pool.threads()
    }

    unsafe fn launch(
        &self,
        _stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let [out, a, b] = args else {
            unreachable!("counted by check_args")
        };
        let base: *mut u8 = address(workspace);
        let call = Call {
            out: Matrices::of(out),
            a: Matrices::of(a),
            b: Matrices::of(b),
            k: a.dim(3),
            alpha: self.alpha,
            workspace: base.wrapping_add(base.align_offset(64)).cast(),
            next: AtomicUsize::new(0),
        };
        let path = Path::f32(self.cpu.isa);
        let share = |thread| {
            run(
                path,
                &Share {
                    call: &call,
                    thread,
                },
            )
        };
        if out.len() * call.k < ALONE_PRODUCTS {
            share(0);
        } else {
            self.cpu.pool.run(|thread, _| share(thread));
        }
        Ok(())
    }
}

/// A view of four dimensions.
struct Matrices {
    at: *mut u8,
    dtype: DType,
    shape: [usize; 4],
    strides: [usize; 4],
}

impl Matrices {
    fn of(view: &View<'_>) -> Self {
        let four = |dims: &[usize]| [dims[0], dims[1], dims[2], dims[3]];
        Self {
            at: address(view),
            dtype: view.dtype(),
            shape: four(view.shape()),
            strides: four(view.strides()),
        }
    }

    /// Element `[batch / b1, batch % b1, row, col]`.
    #[inline(always)]
    fn element<T>(&self, batch: usize, row: usize, col: usize) -> *mut T {
        let index = [batch / self.shape[1], batch % self.shape[1], row, col];
        let offset: usize = index.iter().zip(self.strides).map(|(i, s)| i * s).sum();
        self.at.cast::<T>().wrapping_add(offset)
    }
}

struct Call {
    out: Matrices,
    a: Matrices,
    b: Matrices,
    k: usize,
    alpha: f32,
    workspace: *mut f32,
    next: AtomicUsize,
}

// SAFETY: threads write different parts of `out`, and their own scratch.
unsafe impl Sync for Call {}

struct Share<'a> {
    call: &'a Call,
    thread: usize,
}

impl Task for Share<'_> {
    unsafe fn with_f32<A: F32Arith, const NV: usize>(&self) {
        // SAFETY: the caller's promise.
        unsafe { A::enter(&Blocks::<NV>(self)) }
    }
}

/// Blocks of `out`, in panels of `NV` vectors, until there are none.
struct Blocks<'s, const NV: usize>(&'s Share<'s>);

impl<A: F32Arith, const NV: usize> Work<A> for Blocks<'_, NV> {
    #[inline(always)]
    unsafe fn run(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.blocks::<A, NV>() }
    }
}

impl Share<'_> {
    /// # Safety
    /// As [`Task::with_f32`].
    #[inline(always)]
    unsafe fn blocks<A: F32Arith, const NV: usize>(&self) {
        let [b0, b1, m, n] = self.call.out.shape;
        let panel = NV * A::LANES;
        let (row_blocks, col_blocks) = (m.div_ceil(BLOCK_ROWS), n.div_ceil(BLOCK_PANELS * panel));
        let items = b0 * b1 * row_blocks * col_blocks;
        loop {
            let item = self.call.next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            let (rest, col) = (item / col_blocks, item % col_blocks);
            let (batch, row) = (rest / row_blocks, rest % row_blocks);
            // SAFETY: the CPU has `A`; one thread has this item.
            unsafe {
                self.block::<A, NV>(batch, row * BLOCK_ROWS, col * BLOCK_PANELS * panel);
            }
        }
    }

    /// The block of `out` that starts at `row`, `col`.
    ///
    /// # Safety
    /// As [`Task::with_f32`]; no other thread writes this block.
    #[inline(always)]
    unsafe fn block<A: F32Arith, const NV: usize>(&self, batch: usize, row: usize, col: usize) {
        let call = self.call;
        let [_, _, m, n] = call.out.shape;
        let panel = NV * A::LANES;
        let rows = (m - row).min(BLOCK_ROWS);
        let cols = (n - col).min(BLOCK_PANELS * panel);
        let sizes = scratch(panel, m, n);
        let a: *mut f32 = call
            .workspace
            .wrapping_add(self.thread * sizes.iter().sum::<usize>());
        let b = a.wrapping_add(sizes[0]);
        let sums = b.wrapping_add(sizes[1]);
        // SAFETY: this thread's scratch holds the sums of a block.
        unsafe { sums.write_bytes(0, sizes[2]) };
        for k in (0..call.k).step_by(BLOCK_K) {
            let ks = BLOCK_K.min(call.k - k);
            for r in (0..rows).step_by(MAX_ROWS) {
                let tile_rows = MAX_ROWS.min(rows - r);
                // SAFETY: the tile lies in the block of `a`, and these elements in the view.
                unsafe {
                    let to = a.add(r * BLOCK_K);
                    gather(&call.a, batch, row + r, tile_rows, k, ks, tile_rows, to);
                }
            }
            for p in 0..cols.div_ceil(panel) {
                let first = col + p * panel;
                let lanes = panel.min(n - first);
                // SAFETY: the panel lies in the block of `b`, and these elements in the view.
                unsafe { gather(&call.b, batch, first, lanes, k, ks, panel, b) };
                let span = Span::plain(b.cast(), ks);
                for r in (0..rows).step_by(MAX_ROWS) {
                    let tile_rows = MAX_ROWS.min(rows - r);
                    // SAFETY: both blocks hold `ks` steps, and `sums` a panel for each row.
                    unsafe {
                        let (x, to) = (a.add(r * BLOCK_K), sums.add((p * rows + r) * panel));
                        let x = Columns {
                            scalars: x,
                            quantised: std::ptr::null(),
                            quantised_step: 0,
                        };
                        tile::<A, Native, NV, false>(tile_rows, span, x, to);
                    }
                }
            }
        }
        for r in 0..rows {
            for c in 0..cols {
                // SAFETY: the element lies in the view and is ours; `sums` holds its sum.
                unsafe {
                    let y = *sums.add((c / panel * rows + r) * panel + c % panel) * call.alpha;
                    match call.out.dtype {
                        DType::F32 => *call.out.element(batch, row + r, col + c) = y,
                        DType::F16 => {
                            *call.out.element(batch, row + r, col + c) = <f16 as Float>::from_f32(y)
                        }
                        _ => {
                            *call.out.element(batch, row + r, col + c) =
                                <bf16 as Float>::from_f32(y)
                        }
                    }
                }
            }
        }
    }
}

/// `to[k · width + r] = from[batch, row + r, first + k]` for `rows` rows, zeros up to `width`.
///
/// # Safety
/// The elements lie in the view; `to` holds `ks · width` values.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a block has that many sides")]
unsafe fn gather(
    from: &Matrices,
    batch: usize,
    row: usize,
    rows: usize,
    first: usize,
    ks: usize,
    width: usize,
    to: *mut f32,
) {
    #[inline(always)]
    unsafe fn of<T: Float>(
        from: *const T,
        strides: [usize; 2],
        rows: usize,
        ks: usize,
        width: usize,
        to: *mut f32,
    ) {
        if rows < width {
            // SAFETY: the block is that large.
            unsafe { to.write_bytes(0, ks * width) };
        }
        for r in 0..rows {
            for k in 0..ks {
                // SAFETY: inside the view, and inside the block.
                unsafe {
                    *to.add(k * width + r) = (*from.add(r * strides[0] + k * strides[1])).to_f32();
                }
            }
        }
    }
    let strides = [from.strides[2], from.strides[3]];
    // SAFETY: the caller's promise, for the view's own type.
    unsafe {
        match from.dtype {
            DType::F32 => of::<f32>(
                from.element(batch, row, first),
                strides,
                rows,
                ks,
                width,
                to,
            ),
            DType::F16 => of::<f16>(
                from.element(batch, row, first),
                strides,
                rows,
                ks,
                width,
                to,
            ),
            _ => of::<bf16>(
                from.element(batch, row, first),
                strides,
                rows,
                ks,
                width,
                to,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use ops::reference::Tensor;
    use ops::{BatchedMatmulArgs, Op};

    use super::*;
    use crate::testing::{Random, contexts, decode, encode};

    const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Strides of `shape` when memory holds the dimensions in the order `order`, with a gap after the innermost.
    fn strides(shape: [usize; 4], order: [usize; 4]) -> ([usize; 4], usize) {
        let (mut strides, mut next) = ([0; 4], 1);
        for (i, &dim) in order.iter().rev().enumerate() {
            strides[dim] = next;
            next *= (shape[dim] + usize::from(i == 0)).max(1);
        }
        (strides, next)
    }

    #[test]
    fn every_type_and_any_strides_stay_within_the_bound() {
        // b0, b1, m, n, k
        let shapes = [
            [1, 1, 1, 1, 1],
            [2, 3, 5, 7, 0],
            [1, 2, 0, 4, 3],
            [2, 2, 1, 130, 64],
            [1, 3, 7, 17, 129],
            [1, 1, 195, 66, 65],
            [1, 2, 13, 300, 20],
        ];
        let orders = [[0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 1, 3], [3, 1, 0, 2]];
        let mut random = Random::new(5);
        for context in contexts() {
            let device = context.device();
            let mut stream = device.stream().unwrap();
            for (i, [b0, b1, m, n, k]) in shapes.into_iter().enumerate() {
                for (j, order) in orders.into_iter().enumerate() {
                    let [a, b, out] = [FLOATS[(i + j) % 3], FLOATS[(i + 2 * j) % 3], FLOATS[j % 3]];
                    let op = BatchedMatmul {
                        a,
                        b,
                        out,
                        alpha: 0.37,
                    };
                    let mut make =
                        |dtype, shape: [usize; 4], order, fill: &mut dyn FnMut() -> f32| {
                            let (strides, len) = strides(shape, order);
                            let bytes: Vec<u8> =
                                (0..len).flat_map(|_| encode(dtype, fill())).collect();
                            let buffer = device.alloc(bytes.len()).unwrap();
                            stream.upload(&View::of_bytes(&buffer), &bytes).unwrap();
                            (buffer, strides, bytes)
                        };
                    let a_shape = [b0, b1, m, k];
                    let b_shape = [b0, b1, n, k];
                    let out_shape = [b0, b1, m, n];
                    let (a_buffer, a_strides, a_bytes) =
                        make(a, a_shape, order, &mut || random.normal());
                    let (b_buffer, mut b_strides, b_bytes) =
                        make(b, b_shape, orders[3 - j], &mut || random.normal());
                    let (out_buffer, out_strides, mut got) =
                        make(out, out_shape, order, &mut || f32::NAN);
                    // Keys that a group of heads shares.
                    if j == 2 {
                        b_strides[1] = 0;
                    }
                    let plan = context.plan(op.clone()).unwrap();
                    let args = BatchedMatmulArgs {
                        out: View::strided(&out_buffer, 0, out, &out_shape, &out_strides).unwrap(),
                        a: View::strided(&a_buffer, 0, a, &a_shape, &a_strides).unwrap(),
                        b: View::strided(&b_buffer, 0, b, &b_shape, &b_strides).unwrap(),
                    };
                    let bytes = plan.workspace_bytes(&[&out_shape, &a_shape, &b_shape]);
                    let workspace = device.alloc(bytes).unwrap();
                    plan.run(&mut *stream, args, &View::of_bytes(&workspace))
                        .unwrap();
                    stream
                        .download(&mut got, &View::of_bytes(&out_buffer))
                        .unwrap();

                    let dense =
                        |dtype: DType, bytes: &[u8], shape: [usize; 4], strides: [usize; 4]| {
                            let mut tensor = Tensor::zeros(&shape);
                            for i in 0..tensor.data.len() {
                                let mut rest = i;
                                let mut at = 0;
                                for d in (0..4).rev() {
                                    at += rest % shape[d] * strides[d];
                                    rest /= shape[d];
                                }
                                tensor.data[i] = decode(dtype, &bytes[at * dtype.bytes()..]);
                            }
                            tensor
                        };
                    let inputs = [
                        dense(a, &a_bytes, a_shape, a_strides),
                        dense(b, &b_bytes, b_shape, b_strides),
                    ];
                    let magnitudes = inputs.each_ref().map(|t| t.map(f64::abs));
                    let want = &op.reference(&[&out_shape], &inputs)[0];
                    let s = &op.reference(&[&out_shape], &magnitudes)[0];
                    let values = dense(out, &got, out_shape, out_strides);
                    let g = (k as f64).min(8.0 * (k as f64).sqrt()) + 2.0;
                    let u = out.unit_roundoff();
                    for ((&got, &want), &s) in values.data.iter().zip(&want.data).zip(&s.data) {
                        let bound = u * want.abs() + (1.0 + u) * g * DType::F32.unit_roundoff() * s;
                        let bound = bound + if out == DType::F16 { 6e-8 } else { 0.0 };
                        assert!(
                            (got - want).abs() <= bound,
                            "{op:?} {out_shape:?} k {k}: {got} for {want}"
                        );
                    }
                    let written = got
                        .chunks_exact(out.bytes())
                        .filter(|x| !decode(out, x).is_nan());
                    assert_eq!(written.count(), b0 * b1 * m * n, "wrote beside the view");
                }
            }
        }
    }
}
