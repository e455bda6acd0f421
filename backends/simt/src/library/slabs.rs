//! Products of many rows by a library of dense products.
//!
//! - A quantised weight is brought to the type of `x` first, a slab at a time, in scratch memory. Its elements are rounded by
//!   that, as in the official code of ChatGLM; [`hal::Numerics::rounds_weights`] says so.
//! - What the library does not do with a sum, a kernel does with sums in f32, which are scratch memory too.

use std::ops::Range;
use std::sync::Arc;

use hal::{DType, Result, View};
use ops::Matmul;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{DIALECT, Kernel, Queue, code, is_aligned};
use crate::ops::activation_code;
use crate::ops::weight::Layout;

use super::{Library, Product, Shape, Types};

const EPILOGUE: Source = Source {
    name: "sums_epilogue",
    parts: &[
        DIALECT,
        include_str!("../../kernels/eight.h"),
        include_str!("../../kernels/activate.h"),
        include_str!("../../kernels/sums_epilogue.h"),
    ],
    begins_early: false,
};

/// Work-items of a group.
const GROUP: usize = 256;

/// How many rows of `x` kernels are through with before a library is.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// With a dense weight.
    pub dense: usize,
    /// Bytes above which a dense weight goes by the library for any number of rows.
    pub dense_bytes: usize,
    /// With a quantised weight, which costs a pass over the weight more.
    pub quantised: usize,
    /// With a weight that has scales of groups.
    pub grouped: usize,
}

/// What a planner has around a library's product.
pub struct Around<D: SimtDriver> {
    /// How the weight lies.
    pub layout: Layout,
    /// Elements from one row of the dense weight to the next.
    pub weight_stride: usize,
    /// Of a quantised weight: the kernel that brings rows of it to the type of `x`, with groups of [`Around::GROUP`], and the
    /// work-items that a row takes. Its arguments: the dense rows, the packed weight; the first row, how many, bytes of a packed
    /// row, where scales begin, columns.
    pub dequantise: Option<(Kernel<D>, usize)>,
    /// When it is the library's turn.
    pub rows: Rows,
}

impl<D: SimtDriver> Around<D> {
    /// Work-items of a group of the kernel that dequantises.
    pub const GROUP: usize = GROUP;
}

/// Slabs are a multiple of so many rows, which is one of every tile.
const TILE: usize = 128;

/// Parts of the workspace begin at multiples of this.
const ALIGN: usize = 256;

/// Bytes of scratch memory, but for a slab of 128 rows that needs more.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// For a slab of the weight.
    pub weight_bytes: usize,
    /// For sums.
    pub sums_bytes: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            weight_bytes: 64 << 20,
            sums_bytes: 64 << 20,
        }
    }
}

/// The rows that there is room for, in whole tiles.
fn most(row_bytes: usize, room: usize) -> usize {
    (room / row_bytes.max(1) / TILE).max(1) * TILE
}

/// `rows` in as few and as equal slabs of whole tiles as there is room for: the rows of each but the last.
fn slab(rows: usize, row_bytes: usize, room: usize) -> usize {
    let slabs = rows.div_ceil(most(row_bytes, room)).max(1);
    rows.div_ceil(slabs).next_multiple_of(TILE).min(rows)
}

/// Ranges of `step` that cover `0..end`.
fn steps(end: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..end)
        .step_by(step.max(1))
        .map(move |start| start..end.min(start + step))
}

/// The kernels, and the library's product, of one specification.
pub struct Slabs<D: SimtDriver> {
    op: Matmul,
    around: Around<D>,
    cut: Cut,
    library_bytes: usize,
    product: Box<dyn Product<D>>,
    /// Where the library does not do all.
    epilogue: Option<Kernel<D>>,
}

/// Where a launch has what in its workspace, in bytes: a slab of the weight comes first.
#[derive(Clone, Copy, Debug)]
struct Areas {
    sums_at: usize,
    library_at: usize,
    /// Bytes of all, whatever the rows of `x` up to these.
    most: usize,
    /// Rows of the weight, and of `x`, at a time.
    slab: [usize; 2],
}

/// A piece of `out`.
#[derive(Clone, Debug)]
struct Piece {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<D: SimtDriver> Slabs<D> {
    /// For `op`.
    ///
    /// # Errors
    /// `CompileFailed` with the compiler's log.
    pub fn new(
        chip: &Arc<Chip<D>>,
        op: &Matmul,
        around: Around<D>,
        library: &dyn Library<D>,
        cut: Cut,
    ) -> Result<Self> {
        let adds = op.bias || op.activation.is_some();
        let done = !adds && (op.out == op.x || (op.out == DType::F32 && !op.residual));
        let epilogue = match done {
            true => None,
            false => {
                let act = activation_code(op.activation).to_string();
                let x_is = match op.x {
                    DType::BF16 => "X_IS_bf16",
                    DType::F32 => "X_IS_f32",
                    _ => "X_IS_f16",
                };
                let defines = [("X", op.x.to_string()), (x_is, "1".into()), ("ACT", act)];
                Some(chip.kernel(&EPILOGUE, "sums_epilogue", GROUP, &defines)?)
            }
        };
        let out = if done { op.out } else { DType::F32 };
        Ok(Self {
            op: op.clone(),
            around,
            cut,
            library_bytes: library.workspace_bytes(),
            product: library.product(Types { x: op.x, out }),
            epilogue,
        })
    }

    /// Whether it is for `m` rows of `x`.
    fn takes(&self, m: usize) -> bool {
        let (rows, bytes) = (self.around.rows, self.op.n.saturating_mul(self.row_bytes()));
        let few = match self.around.dequantise {
            Some(_) if self.op.weight.group().is_some() => rows.grouped,
            Some(_) => rows.quantised,
            None if bytes <= rows.dense_bytes => rows.dense,
            None => 0,
        };
        m > few
    }

    /// Bytes from one row of the dense weight to the next.
    fn row_bytes(&self) -> usize {
        self.op.x.bytes() * self.around.weight_stride
    }

    /// Elements from one row of the sums to the next.
    fn sums_stride(&self, columns: usize) -> usize {
        columns.next_multiple_of(8)
    }

    fn areas(&self, m: usize) -> Areas {
        let (n, weight_row) = (self.op.n, self.row_bytes());
        let columns = match self.around.dequantise {
            Some(_) => slab(n, weight_row, self.cut.weight_bytes),
            None => n,
        };
        let sums_row = 4 * self.sums_stride(columns);
        let rows = match self.epilogue {
            Some(_) => slab(m, sums_row, self.cut.sums_bytes),
            None => m,
        };
        let area = |there: bool, bytes: usize| {
            let bytes = if there { bytes } else { 0 };
            bytes.next_multiple_of(ALIGN)
        };
        let sums_at = area(self.around.dequantise.is_some(), columns * weight_row);
        let sums = |rows: usize| area(self.epilogue.is_some(), rows * sums_row);
        let library_at = sums_at + sums(rows);
        let room = m.min(most(sums_row, self.cut.sums_bytes));
        Areas {
            sums_at,
            library_at,
            most: sums_at + sums(room) + self.library_bytes,
            slab: [columns, rows],
        }
    }

    /// Bytes of scratch memory for `m` rows of `x`; never less for more rows.
    pub fn workspace_bytes(&self, m: usize) -> usize {
        match self.takes(m) {
            // Though they may be cut into smaller slabs.
            true => self.areas(m).most + ALIGN,
            false => 0,
        }
    }

    /// Queues the product; `false`: it is for others, nothing in `out` was changed.
    ///
    /// # Errors
    /// What the library and the driver report.
    pub fn run(
        &self,
        queue: &mut Queue<'_, D>,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<bool> {
        let m = args[1].dim(0);
        if !self.takes(m) {
            return Ok(false);
        }
        let areas = self.areas(m);
        let [columns, rows] = areas.slab;
        // All of it or nothing, because a piece of `out` may lie over the residual.
        for queues in [false, true] {
            for columns in steps(self.op.n, columns) {
                if queues {
                    self.dequantise(queue, &columns, &args[2], workspace)?;
                }
                for rows in steps(m, rows) {
                    let columns = columns.clone();
                    let piece = Piece { rows, columns };
                    if !self.multiply(queue, &piece, args, workspace, areas, queues)? {
                        return Ok(false);
                    }
                    if queues && let Some(kernel) = &self.epilogue {
                        self.finish(queue, kernel, &piece, args, workspace, areas)?;
                    }
                }
            }
        }
        Ok(true)
    }

    fn dequantise(
        &self,
        queue: &mut Queue<'_, D>,
        columns: &Range<usize>,
        packed: &View<'_>,
        workspace: &View<'_>,
    ) -> Result<()> {
        let Some((kernel, each)) = &self.around.dequantise else {
            return Ok(());
        };
        let (items, layout) = (columns.len() * each, self.around.layout);
        queue
            .call()
            .view_from(workspace, start(workspace))
            .view(packed)
            .long(columns.start)
            .long(columns.len())
            .long(layout.row_bytes)
            .long(layout.scales_at)
            .long(self.op.k)
            .run(kernel, [items.div_ceil(GROUP), 1, 1])
    }

    fn multiply(
        &self,
        queue: &mut Queue<'_, D>,
        piece: &Piece,
        args: &[View<'_>],
        workspace: &View<'_>,
        areas: Areas,
        queues: bool,
    ) -> Result<bool> {
        let (out, x, packed) = (&args[0], &args[1], &args[2]);
        let first = start(workspace);
        let residual = self.residual(args).filter(|_| self.epilogue.is_none());
        let call = queue.call();
        let (call, out_stride) = match self.epilogue {
            Some(_) => (
                call.view_from(workspace, first + areas.sums_at),
                self.sums_stride(piece.columns.len()),
            ),
            None => (call.view_from(out, piece.at(out)), out.strides()[0]),
        };
        let call = call.view_from(x, piece.rows.start * x.strides()[0] * x.dtype().bytes());
        let call = match self.around.dequantise {
            Some(_) => call.view_from(workspace, first),
            None => call.view(packed),
        };
        let call = match residual {
            Some(residual) => call.view_from(residual, piece.at(residual)),
            None => call.view(x),
        };
        let shape = Shape {
            m: piece.rows.len(),
            n: piece.columns.len(),
            k: self.op.k,
            out_stride,
            x_stride: x.strides()[0],
            weight_stride: self.around.weight_stride,
            residual_stride: residual.map(|residual| residual.strides()[0]),
        };
        let call = call.view_from(workspace, first + areas.library_at);
        self.product.multiply(call, &shape, queues)
    }

    fn finish(
        &self,
        queue: &mut Queue<'_, D>,
        kernel: &Kernel<D>,
        piece: &Piece,
        args: &[View<'_>],
        workspace: &View<'_>,
        areas: Areas,
    ) -> Result<()> {
        let (out, x) = (&args[0], &args[1]);
        // What the specification does not have is not read.
        let call = queue
            .call()
            .view_from(out, piece.at(out))
            .view_from(workspace, start(workspace) + areas.sums_at);
        let call = match self.op.bias {
            true => call.view_from(&args[3], 4 * piece.columns.start),
            false => call.view(x),
        };
        let (call, residual) = match self.residual(args) {
            Some(residual) => (call.view_from(residual, piece.at(residual)), residual),
            None => (call.view(x), x),
        };
        let aligned = is_aligned(out) && (!self.op.residual || is_aligned(residual));
        let [rows, columns] = [piece.rows.len(), piece.columns.len()];
        call.long(rows)
            .long(columns)
            .long(self.sums_stride(columns))
            .long(out.strides()[0])
            .long(residual.strides()[0])
            .int(code(self.op.out))
            .int(usize::from(self.op.bias))
            .int(usize::from(self.op.residual))
            .int(usize::from(aligned))
            .run(kernel, [(rows * columns.div_ceil(8)).div_ceil(GROUP), 1, 1])
    }

    fn residual<'a, 'b>(&self, args: &'a [View<'b>]) -> Option<&'a View<'b>> {
        let at = 3 + usize::from(self.op.bias);
        self.op.residual.then(|| &args[at])
    }
}

impl Piece {
    /// Where it begins in `matrix`, in bytes.
    fn at(&self, matrix: &View<'_>) -> usize {
        let elements = self.rows.start * matrix.strides()[0] + self.columns.start;
        elements * matrix.dtype().bytes()
    }
}

/// Bytes from the start of the workspace to its first aligned byte; memory itself begins at one.
fn start(workspace: &View<'_>) -> usize {
    let at = workspace.offset_bytes();
    at.next_multiple_of(ALIGN) - at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_whole_tiles_as_equal_as_can_be_and_cover_all() {
        const MIB: usize = 1 << 20;
        for (rows, row_bytes, room, each) in [
            (27392, 8192, 64 * MIB, 6912),
            (4608, 8192, 64 * MIB, 4608),
            (64, 8192, 64 * MIB, 64),
            (1000, MIB, 1, 128),
            (8192, 8192, 64 * MIB, 8192),
            (8193, 8192, 64 * MIB, 4224),
        ] {
            assert_eq!(slab(rows, row_bytes, room), each, "{rows} {row_bytes}");
            let covered: Vec<usize> = steps(rows, each).flatten().collect();
            assert!(covered.into_iter().eq(0..rows));
        }
        assert_eq!(steps(0, 0).count(), 0);
    }
}
