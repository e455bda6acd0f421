//! Products with a weight, which lies as the portable kernels want it: few rows of `x` by dot products of two f16, many by matrix
//! units or a library, and by the portable kernels where there are none.

use std::sync::Arc;

use backend_simt::kit::{
    ACTIVATE, Chip, DIALECT, EIGHT, EPILOGUE, Kernel, Layout, Planned, Queue, WEIGHT, before,
    is_aligned, matmul_arguments, weight_defines,
};
use backend_simt::library::{Around, Cut, Library, Rows, Slabs};
use backend_simt::{SimtDriver, Source};
use hal::{DType, Result, View, WeightFormat};
use ops::{Launch, Matmul};

use super::units::Units;

/// A source of products by units that `$unit` has.
macro_rules! source {
    ($name:literal, $unit:literal) => {
        Source {
            name: concat!("hip_", $name),
            parts: &[
                DIALECT,
                EIGHT,
                include_str!(concat!("../../kernels/", $unit)),
                ACTIVATE,
                EPILOGUE,
                WEIGHT,
                include_str!("../../kernels/weight_eight.h"),
                include_str!(concat!("../../kernels/", $name, ".h")),
            ],
            begins_early: false,
        }
    };
}
const DOT: Source = source!("matmul_dot", "dot.h");
const MATRIX: Source = source!("matmul_mfma", "mfma.h");
const DEQUANTISE: Source = Source {
    name: "hip_dequantise",
    parts: &[DIALECT, WEIGHT, include_str!("../../kernels/dequantise.h")],
    begins_early: false,
};

/// Rows of `x` above which a library multiplies: those of CUDA's, unmeasured on chips of HIP, and no dense weight for fewer.
const LIBRARY_ROWS: Rows = Rows {
    dense: 8,
    dense_bytes: usize::MAX,
    quantised: 64,
    grouped: 48,
};

/// Work-items of a group.
const GROUP: usize = 256;

/// Columns that kernels take at a time.
const COLUMNS: usize = 8;

/// Columns that matrix units have under one scale.
const DEPTH: usize = 32;

/// Rows of `x` up to which they are few, one or more; above, a tile of matrix units is worth its rows that are not there
/// (unmeasured).
const FEW: [usize; 2] = [1, 4];

/// Tiles along each side of a wave's part of `out`: few for small products, else many.
const TILES: [usize; 2] = [2, 4];

/// What there is for products.
pub(super) struct Has<'a, D: SimtDriver> {
    pub(super) units: Units,
    pub(super) library: Option<&'a dyn Library<D>>,
    pub(super) cut: Cut,
}

/// `op`, by `portable` where there is nothing better.
pub(super) fn plan<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    op: &Matmul,
    portable: Arc<dyn Launch>,
    has: Has<'_, D>,
) -> Planned {
    let Some(packed) = Packed::of(op) else {
        return Ok(Some(portable));
    };
    let slabs = match has.library {
        Some(library) => Some(packed.slabs(chip, op, library, has.cut)?),
        None => None,
    };
    let kernels = Kernels::new(chip, op, &packed, has.units)?;
    if slabs.is_none() && kernels.are_none() {
        return Ok(Some(portable));
    }
    let slabs = Arc::new(slabs);
    let of_launch = Arc::clone(&slabs);
    let workspace_bytes = move |shapes: &[&[usize]]| {
        let slabs = slabs.as_ref().as_ref();
        slabs.map_or(0, |slabs| slabs.workspace_bytes(shapes[1][0]))
    };
    let (op, layout) = (op.clone(), packed.layout);
    before(
        chip,
        portable,
        workspace_bytes,
        move |queue, args, workspace| {
            if let Some(slabs) = of_launch.as_ref()
                && slabs.run(queue, args, workspace)?
            {
                return Ok(true);
            }
            kernels.run(queue, &op, layout, args)
        },
    )
}

/// A weight in the portable kernels' order.
struct Packed {
    layout: Layout,
    /// Elements from one row to the next, padding included.
    stride: usize,
    defines: Vec<(&'static str, String)>,
}

impl Packed {
    /// `None` for a dense weight of another type than `x`.
    fn of(op: &Matmul) -> Option<Self> {
        let bits = match op.weight {
            WeightFormat::Dense(dtype) if dtype == op.x => 8 * dtype.bytes(),
            WeightFormat::Int8Row | WeightFormat::Int8Group(_) => 8,
            WeightFormat::Int4Row | WeightFormat::Int4Group(_) => 4,
            _ => return None,
        };
        let layout = Layout::packed(op.weight, op.n, op.k)?;
        let mut defines = vec![("X", op.x.to_string())];
        defines.extend(weight_defines(op.weight)?);
        Some(Self {
            layout,
            stride: layout.row_bytes * 8 / bits,
            defines,
        })
    }

    /// Products by `library`.
    fn slabs<D: SimtDriver>(
        &self,
        chip: &Arc<Chip<D>>,
        op: &Matmul,
        library: &dyn Library<D>,
        cut: Cut,
    ) -> Result<Slabs<D>> {
        let dequantise = match op.weight {
            WeightFormat::Dense(_) => None,
            _ => {
                let group = Around::<D>::GROUP;
                let kernel = chip.kernel(&DEQUANTISE, "dequantise", group, &self.defines)?;
                Some((kernel, self.stride / COLUMNS))
            }
        };
        let around = Around {
            layout: self.layout,
            weight_stride: self.stride,
            dequantise,
            rows: LIBRARY_ROWS,
        };
        Slabs::new(chip, op, around, library, cut)
    }
}

/// The kernels of one specification; none where the chip lacks their unit.
struct Kernels<D: SimtDriver> {
    /// For each of [`FEW`].
    dot: Option<[Kernel<D>; 2]>,
    /// For each of [`TILES`].
    matrix: Option<[Kernel<D>; 2]>,
    /// Waves of a group of few.
    waves: usize,
    /// Groups that keep the device busy.
    enough: usize,
}

impl<D: SimtDriver> Kernels<D> {
    fn new(chip: &Chip<D>, op: &Matmul, packed: &Packed, units: Units) -> Result<Self> {
        let limits = chip.driver().limits();
        let is_f16 = op.x == DType::F16;
        let has_matrices = match op.x {
            DType::F16 => units.matrix_f16,
            DType::BF16 => units.matrix_bf16,
            _ => false,
        };
        // Kernels take whole eights, and rows of x are as long as those of the weight.
        let suits = op.k.is_multiple_of(COLUMNS) && op.k > 0 && limits.max_group >= GROUP;
        let under_one_scale = op.weight.group().unwrap_or(DEPTH).is_multiple_of(DEPTH);
        let x_is = if is_f16 { "X_IS_f16" } else { "X_IS_bf16" };
        let make = |source: &Source, name, define: (&'static str, usize)| {
            let mut defines = packed.defines.clone();
            defines.push((x_is, "1".into()));
            defines.push((define.0, define.1.to_string()));
            chip.kernel(source, name, GROUP, &defines)
        };
        let dot = match suits && is_f16 && units.dot {
            true => Some([
                make(&DOT, "matmul_dot", ("ROWS", FEW[0]))?,
                make(&DOT, "matmul_dot", ("ROWS", FEW[1]))?,
            ]),
            false => None,
        };
        let matrix = match suits && under_one_scale && has_matrices {
            true => Some([
                make(&MATRIX, "matmul_mfma", ("TILES", TILES[0]))?,
                make(&MATRIX, "matmul_mfma", ("TILES", TILES[1]))?,
            ]),
            false => None,
        };
        Ok(Self {
            dot,
            matrix,
            waves: GROUP / limits.wave.max(1),
            enough: 2 * limits.parallelism,
        })
    }

    fn are_none(&self) -> bool {
        self.dot.is_none() && self.matrix.is_none()
    }

    /// Queues the product; `false`: it is for others.
    fn run(
        &self,
        queue: &mut Queue<'_, D>,
        op: &Matmul,
        layout: Layout,
        args: &[View<'_>],
    ) -> Result<bool> {
        let (x, n) = (&args[1], op.n);
        let m = x.dim(0);
        if !is_aligned(x) {
            return Ok(false);
        }
        let (kernel, groups) = if m <= FEW[1] {
            let Some(kernels) = &self.dot else {
                return Ok(false);
            };
            let kernel = &kernels[usize::from(m > FEW[0])];
            (kernel, if m > 0 { n.div_ceil(self.waves) } else { 0 })
        } else {
            let Some(kernels) = &self.matrix else {
                return Ok(false);
            };
            let groups = TILES.map(|tiles| {
                let side = 32 * tiles;
                n.div_ceil(side) * m.div_ceil(side)
            });
            let large = usize::from(groups[1] >= self.enough);
            (&kernels[large], groups[large])
        };
        matmul_arguments(queue.call(), op, layout, args).run(kernel, [groups, 1, 1])?;
        Ok(true)
    }
}
