//! Products with a weight by the matrix units: few rows of `x` straight from memory, many by tiles, or by a library.

use std::sync::Arc;

use backend_simt::kit::{
    ACTIVATE, Chip, DIALECT, EIGHT, EPILOGUE, Kernel, Layout, Planned, Wanted, is_aligned,
    matmul_arguments, pack_rows, weighted_with,
};
use backend_simt::library::{Around, Cut, Library, Rows, Slabs};
use backend_simt::{SimtDriver, Source};
use hal::{DType, Result, WeightFormat};
use ops::Matmul;

use super::{resident, x_is};

/// A source of products.
macro_rules! source {
    ($name:literal) => {
        Source {
            name: concat!("cuda_", $name),
            parts: &[
                DIALECT,
                EIGHT,
                include_str!("../../kernels/mma.cuh"),
                ACTIVATE,
                EPILOGUE,
                include_str!("../../kernels/weight.cuh"),
                include_str!(concat!("../../kernels/", $name, ".cuh")),
            ],
            begins_early: true,
        }
    };
}
const FEW_SOURCE: Source = source!("matmul_few");
const MANY_SOURCE: Source = source!("matmul_many");
const DEQUANTISE: Source = Source {
    name: "cuda_dequantise",
    parts: &[
        DIALECT,
        EIGHT,
        include_str!("../../kernels/mma.cuh"),
        include_str!("../../kernels/weight.cuh"),
        include_str!("../../kernels/dequantise.cuh"),
    ],
    begins_early: false,
};

/// Rows of `x` above which a library is faster, as measured on an H100.
const LIBRARY_ROWS: Rows = Rows {
    dense: 8,
    dense_bytes: 48 << 20,
    quantised: 64,
    grouped: 48,
};

/// Rows of a packed weight begin at multiples of this many bytes, which the kernels take at a time.
const CHUNK_BYTES: usize = 64;

/// Columns that a scale is of, or a multiple.
const UNIT: usize = 32;

/// Work-items of a group of `matmul_few`; where there are at most so many groups for a multiprocessor, all of which run at once, x is
/// one tile or two, and registers are enough. How sums are cut up depends on it, so up to two tiles it depends on the weight alone.
const FEW_GROUP: usize = 256;
const SCARCE_GROUP: usize = 512;
const SCARCE: usize = 2;

/// Chunks that a lane of `matmul_few` asks for before it needs them.
const AHEAD: usize = 4;

/// A kernel for few rows of `x`.
#[derive(Clone, Copy, Debug)]
struct Few {
    /// Rows of `x` in eights.
    x_tiles: usize,
    /// Rows of the weight in sixteens.
    row_tiles: usize,
    /// Work-items on a multiprocessor for which there are registers.
    resident: usize,
}

const FEW: [Few; 3] = [
    Few {
        x_tiles: 1,
        row_tiles: 1,
        resident: 1024,
    },
    Few {
        x_tiles: 2,
        row_tiles: 1,
        resident: 512,
    },
    Few {
        x_tiles: 8,
        row_tiles: 2,
        resident: 256,
    },
];

/// A kernel for many rows of `x`: a group's tile of `out`.
#[derive(Clone, Copy, Debug)]
struct Many {
    n: usize,
    m: usize,
    group: usize,
    /// Warps along n.
    warps_n: usize,
}

const SMALL: Many = Many {
    n: 64,
    m: 64,
    group: 128,
    warps_n: 2,
};
const LARGE: Many = Many {
    n: 128,
    m: 128,
    group: 256,
    warps_n: 2,
};
/// In place of [`LARGE`] for scales of groups, which take more registers.
const LARGE_GROUPED: Many = Many {
    n: 128,
    m: 64,
    group: 256,
    warps_n: 4,
};

/// Puts a packed row in the kernels' order.
type Arrange = fn(&mut [u8]);

/// How a weight is read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// As in weight.cuh.
    format: usize,
    scaled: usize,
    /// Units of [`UNIT`] columns in [`CHUNK_BYTES`].
    units: usize,
    /// Chunks of k in local memory, as many as every chip from sm_80 on has room for with [`LARGE`].
    stages: usize,
    /// The order of a packed row.
    arrange: Option<Arrange>,
}

impl Reading {
    /// The kernels for few rows of `x`: scales of groups leave no registers for two tiles of the weight and eight of `x`.
    fn few(&self) -> [Few; 3] {
        let row_tiles = |shape: &Few| match self.scaled {
            2 => 1,
            _ => shape.row_tiles,
        };
        FEW.map(|shape| Few {
            row_tiles: row_tiles(&shape),
            ..shape
        })
    }

    /// `None` for what the kernels don't know.
    fn of(op: &Matmul) -> Option<Self> {
        let (format, units, stages, arrange): (_, _, _, Option<Arrange>) = match op.weight {
            WeightFormat::Dense(dtype) if dtype == op.x => (0, 1, 4, None),
            WeightFormat::Int8Row | WeightFormat::Int8Group(_) => (3, 2, 3, Some(arrange_int8)),
            WeightFormat::Int4Row | WeightFormat::Int4Group(_) => (4, 4, 2, Some(arrange_int4)),
            _ => return None,
        };
        let scaled = match op.weight {
            WeightFormat::Dense(_) => 0,
            WeightFormat::Int8Row | WeightFormat::Int4Row => 1,
            _ => 2,
        };
        let grouped = op.weight.group().unwrap_or(UNIT);
        grouped.is_multiple_of(UNIT).then_some(Self {
            format,
            scaled,
            units,
            stages,
            arrange,
        })
    }

    /// The definitions by which kernels know it.
    fn defines(&self, op: &Matmul) -> [(&'static str, String); 3] {
        [
            ("FORMAT", self.format.to_string()),
            ("SCALED", self.scaled.to_string()),
            ("WEIGHT_GROUP", op.weight.group().unwrap_or(0).to_string()),
        ]
    }

    /// Columns in [`CHUNK_BYTES`].
    fn columns(&self) -> usize {
        UNIT * self.units
    }
}

/// Pieces of eight bytes, (unit, part) to (part, unit).
fn arrange_int8(row: &mut [u8]) {
    for chunk in row.chunks_exact_mut(CHUNK_BYTES) {
        let mut new = [0; CHUNK_BYTES];
        for (i, piece) in chunk.chunks_exact(8).enumerate() {
            let (unit, part) = (i / 4, i % 4);
            new[8 * (2 * part + unit)..][..8].copy_from_slice(piece);
        }
        chunk.copy_from_slice(&new);
    }
}

/// Words of four bytes, (unit, part) to (part, unit); nibbles as weight.cuh says.
fn arrange_int4(row: &mut [u8]) {
    for chunk in row.chunks_exact_mut(CHUNK_BYTES) {
        let mut new = [0; CHUNK_BYTES];
        for (i, word) in chunk.chunks_exact(4).enumerate() {
            let (unit, part) = (i / 4, i % 4);
            let nibbles = word.iter().enumerate().map(|(at, byte)| {
                let (even, odd) = (u32::from(byte >> 4), u32::from(byte & 15));
                (even | odd << 16) << (4 * at)
            });
            let arranged = nibbles.fold(0, |all, pair| all | pair) ^ 0x8888_8888;
            new[4 * (4 * part + unit)..][..4].copy_from_slice(&arranged.to_le_bytes());
        }
        chunk.copy_from_slice(&new);
    }
}

/// The kernels of one specification.
struct Kernels<D: SimtDriver> {
    few: Vec<Kernel<D>>,
    /// Of each of these.
    few_shapes: [Few; 3],
    /// With small and with large tiles.
    many: Vec<Kernel<D>>,
    large_tile: Many,
}

impl<D: SimtDriver> Kernels<D> {
    fn new(chip: &Chip<D>, op: &Matmul, reading: Reading) -> Result<Self> {
        let mut common = vec![("X", op.x.to_string()), x_is(op.x)];
        common.extend(reading.defines(op));
        let few = |shape: Few| {
            let units = chip.driver().limits().parallelism;
            let scarce = op.n.div_ceil(16) <= SCARCE * units;
            let group = match scarce && shape.x_tiles <= 2 && reading.scaled < 2 {
                true => SCARCE_GROUP,
                false => FEW_GROUP,
            };
            // The chunks under way; in the end, sums.
            let chunks = AHEAD * 2 * shape.row_tiles * 16 * group;
            let columns = 16 * shape.row_tiles + 1;
            let sums = 4 * group / 32 * 8 * shape.x_tiles.min(2) * columns;
            let local_bytes = chunks.max(sums);
            let whole = op.k.is_multiple_of(UNIT * reading.units);
            // Scales of groups take more.
            let registers_of = match reading.scaled {
                2 => shape.resident * 3 / 4,
                _ => shape.resident,
            };
            let mut defines = common.clone();
            defines.extend([
                ("X_TILES", shape.x_tiles.to_string()),
                ("ROW_TILES", shape.row_tiles.to_string()),
                ("AHEAD", AHEAD.to_string()),
                ("WHOLE", u8::from(whole).to_string()),
                resident((registers_of / group).max(1)),
                ("LOCAL_BYTES", local_bytes.to_string()),
            ]);
            Wanted {
                source: &FEW_SOURCE,
                name: "matmul_few",
                group,
                local_bytes,
                defines,
            }
        };
        let many = |shape: Many| {
            // The stages; in the end, the sums.
            let stages = reading.stages * CHUNK_BYTES * (shape.n + reading.units * shape.m);
            let local_bytes = stages.max(4 * shape.m * (shape.n + 1));
            let mut defines = common.clone();
            defines.extend([
                ("BN", shape.n.to_string()),
                ("BM", shape.m.to_string()),
                ("WARPS_N", shape.warps_n.to_string()),
                resident(1),
                ("STAGES", reading.stages.to_string()),
                ("LOCAL_BYTES", local_bytes.to_string()),
            ]);
            Wanted {
                source: &MANY_SOURCE,
                name: "matmul_many",
                group: shape.group,
                local_bytes,
                defines,
            }
        };
        let large_tile = match reading.scaled {
            2 => LARGE_GROUPED,
            _ => LARGE,
        };
        let few_shapes = reading.few();
        let mut wanted: Vec<_> = few_shapes.map(few).into();
        wanted.extend([SMALL, large_tile].map(many));
        let mut few = chip.kernels(&wanted)?;
        let many = few.split_off(few_shapes.len());
        Ok(Self {
            few,
            few_shapes,
            many,
            large_tile,
        })
    }

    /// The kernel for few rows of `x`, and its groups.
    fn few(&self, m: usize, n: usize) -> Option<(&Kernel<D>, usize)> {
        let mut all = self.few.iter().zip(self.few_shapes);
        let (kernel, shape) = all.find(|(_, shape)| m <= 8 * shape.x_tiles)?;
        Some((kernel, n.div_ceil(16 * shape.row_tiles)))
    }

    /// The kernel for many rows of `x`, and its groups.
    fn many(&self, m: usize, n: usize, units: usize) -> (&Kernel<D>, usize) {
        let tiles = |shape: Many| n.div_ceil(shape.n) * m.div_ceil(shape.m);
        // Two large tiles for each multiprocessor, else smaller ones.
        let large = tiles(self.large_tile);
        match large >= 2 * units {
            true => (&self.many[1], large),
            false => (&self.many[0], tiles(SMALL)),
        }
    }
}

pub(super) fn plan<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    op: &Matmul,
    library: Option<&dyn Library<D>>,
    cut: Cut,
) -> Planned {
    let (Some(reading), Some(layout)) = (
        Reading::of(op),
        Layout::aligned(op.weight, op.n, op.k, CHUNK_BYTES),
    ) else {
        return Ok(None);
    };
    // Columns and chunks are numbered by 31 bits.
    let sizes = op.n > 0 && op.k > 0 && i32::try_from(op.k).is_ok();
    if !matches!(op.x, DType::F16 | DType::BF16) || !sizes {
        return Ok(None);
    }
    let kernels = Kernels::new(chip, op, reading)?;
    let slabs = match library {
        Some(library) => Some(slabs(chip, op, reading, layout, library, cut)?),
        None => None,
    };
    let slabs = Arc::new(slabs);
    let of_launch = Arc::clone(&slabs);
    let workspace_bytes = move |shapes: &[&[usize]]| {
        let slabs = slabs.as_ref().as_ref();
        slabs.map_or(0, |slabs| slabs.workspace_bytes(shapes[1][0]))
    };
    let wanted = (op.weight, op.n, op.k);
    let pack = move |chip: &Arc<Chip<D>>, weight: &ops::HostWeight<'_>| {
        pack_rows(chip, weight, wanted, CHUNK_BYTES, reading.arrange)
    };
    let units = chip.driver().limits().parallelism;
    let op = op.clone();
    weighted_with(
        chip,
        pack,
        workspace_bytes,
        move |queue, args, workspace| {
            if let Some(slabs) = of_launch.as_ref()
                && slabs.run(queue, args, workspace)?
            {
                return Ok(());
            }
            let x = &args[1];
            let (m, aligned) = (x.dim(0), is_aligned(x));
            let second = usize::from(m > 0);
            let call = matmul_arguments(queue.call(), &op, layout, args);
            match kernels.few(m, op.n) {
                Some((kernel, groups)) if aligned && op.k.is_multiple_of(8) => {
                    call.run(kernel, [groups, second, 1])
                }
                _ => {
                    let (kernel, groups) = kernels.many(m, op.n, units);
                    let aligned = usize::from(aligned);
                    call.int(aligned).run(kernel, [groups, second, 1])
                }
            }
        },
    )
}

/// Products by `library`.
fn slabs<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    op: &Matmul,
    reading: Reading,
    layout: Layout,
    library: &dyn Library<D>,
    cut: Cut,
) -> Result<Slabs<D>> {
    let dequantise = match op.weight {
        WeightFormat::Dense(_) => None,
        _ => {
            let mut defines = vec![("X", op.x.to_string()), x_is(op.x)];
            defines.extend(reading.defines(op));
            let group = Around::<D>::GROUP;
            let kernel = chip.kernel(&DEQUANTISE, "dequantise", group, &defines)?;
            Some((kernel, layout.row_bytes / 16))
        }
    };
    let around = Around {
        layout,
        weight_stride: layout.row_bytes * reading.columns() / CHUNK_BYTES,
        dequantise,
        rows: LIBRARY_ROWS,
    };
    Slabs::new(chip, op, around, library, cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arranged_rows_hold_each_number_once_where_the_kernels_look() {
        // Column c of unit u and part p: 32u + 8p + e.
        let bytes: Vec<u8> = (0..64).collect();
        let mut row = bytes.clone();
        arrange_int8(&mut row);
        for (at, &column) in row.iter().enumerate() {
            let (part, unit, e) = (at / 16, at % 16 / 8, at % 8);
            assert_eq!(usize::from(column), 32 * unit + 8 * part + e);
        }
        for column in 0..128usize {
            // A three where the column is, zeros elsewhere.
            let mut row = [0; CHUNK_BYTES];
            row[column / 2] = 3 << (4 * (1 - column % 2));
            arrange_int4(&mut row);
            let (unit, part, e) = (column / 32, column / 8 % 4, column % 8);
            let words = row
                .chunks_exact(4)
                .map(|w| u32::from_le_bytes(w.try_into().unwrap()));
            for (at, word) in words.enumerate() {
                let mut wanted = 0x8888_8888u32;
                if at == 4 * part + unit {
                    let nibble = e / 2 + 4 * (e % 2);
                    wanted ^= 3 << (4 * nibble);
                }
                assert_eq!(word, wanted, "column {column}, word {at}");
            }
        }
    }
}
