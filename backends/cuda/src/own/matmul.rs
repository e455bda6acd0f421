//! Products with a weight by the matrix units: few rows of `x` straight from memory, many by tiles.

use std::sync::Arc;

use backend_simt::kit::{
    ACTIVATE, Chip, DIALECT, EPILOGUE, Kernel, Layout, Planned, matmul_arguments, pack_rows,
    weighted,
};
use backend_simt::{SimtDriver, Source};
use hal::{DType, Result, WeightFormat};
use ops::Matmul;

use super::{is_aligned, resident, x_is};

/// A source of products.
macro_rules! source {
    ($name:literal) => {
        Source {
            name: concat!("cuda_", $name),
            parts: &[
                DIALECT,
                include_str!("../../kernels/eight.cuh"),
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

/// Rows of a packed weight begin at multiples of this many bytes, which the kernels take at a time.
const CHUNK_BYTES: usize = 64;

/// Columns that a scale is of, or a multiple.
const UNIT: usize = 32;

/// Work-items of a group of `matmul_few`. How sums are cut up depends on it, so it is one number for all.
const FEW_GROUP: usize = 256;

/// Chunks that a lane of `matmul_few` asks for before it needs them: more where there are fewer groups than this on a
/// multiprocessor, which must keep its memory busy alone.
const AHEAD: usize = 4;
const FAR_AHEAD: usize = 8;
const FEW_GROUPS: usize = 4;

/// A kernel for few rows of `x`.
#[derive(Clone, Copy, Debug)]
struct Few {
    /// Rows of `x` in eights.
    x_tiles: usize,
    /// Rows of the weight in sixteens.
    row_tiles: usize,
    /// Groups on a multiprocessor for which there are registers.
    resident: usize,
}

const FEW: [Few; 3] = [
    Few {
        x_tiles: 1,
        row_tiles: 1,
        resident: 4,
    },
    Few {
        x_tiles: 2,
        row_tiles: 1,
        resident: 2,
    },
    Few {
        x_tiles: 8,
        row_tiles: 2,
        resident: 1,
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
    few: [(usize, Kernel<D>); 3],
    small: Kernel<D>,
    large: Kernel<D>,
    large_tile: Many,
}

impl<D: SimtDriver> Kernels<D> {
    fn new(chip: &Chip<D>, op: &Matmul, reading: Reading) -> Result<Self> {
        let common = vec![
            ("X", op.x.to_string()),
            x_is(op.x),
            ("FORMAT", reading.format.to_string()),
            ("SCALED", reading.scaled.to_string()),
            ("WEIGHT_GROUP", op.weight.group().unwrap_or(0).to_string()),
        ];
        let few = |shape: Few| {
            let groups = op.n.div_ceil(16 * shape.row_tiles);
            let scarce = groups <= FEW_GROUPS * chip.driver().limits().parallelism;
            // More rows, more memory for each chunk.
            let ahead = match scarce && shape.row_tiles == 1 {
                true => FAR_AHEAD,
                false => AHEAD,
            };
            // The chunks under way; in the end, sums.
            let chunks = ahead * 2 * shape.row_tiles * 16 * FEW_GROUP;
            let columns = 16 * shape.row_tiles + 1;
            let sums = 4 * FEW_GROUP / 32 * 8 * shape.x_tiles.min(2) * columns;
            let bytes = chunks.max(sums);
            let whole = op.k.is_multiple_of(UNIT * reading.units);
            let mut defines = common.clone();
            defines.extend([
                ("X_TILES", shape.x_tiles.to_string()),
                ("ROW_TILES", shape.row_tiles.to_string()),
                ("AHEAD", ahead.to_string()),
                ("WHOLE", u8::from(whole).to_string()),
                resident(shape.resident),
                ("LOCAL_BYTES", bytes.to_string()),
            ]);
            chip.kernel_with_local(&FEW_SOURCE, "matmul_few", FEW_GROUP, bytes, &defines)
        };
        let many = |shape: Many| {
            // The stages; in the end, the sums.
            let bytes = reading.stages * CHUNK_BYTES * (shape.n + reading.units * shape.m);
            let bytes = bytes.max(4 * shape.m * (shape.n + 1));
            let mut defines = common.clone();
            defines.extend([
                ("BN", shape.n.to_string()),
                ("BM", shape.m.to_string()),
                ("WARPS_N", shape.warps_n.to_string()),
                resident(1),
                ("STAGES", reading.stages.to_string()),
                ("LOCAL_BYTES", bytes.to_string()),
            ]);
            chip.kernel_with_local(&MANY_SOURCE, "matmul_many", shape.group, bytes, &defines)
        };
        let large_tile = match reading.scaled {
            2 => LARGE_GROUPED,
            _ => LARGE,
        };
        let [a, b, c] = FEW;
        Ok(Self {
            few: [
                (8 * a.x_tiles, few(a)?),
                (8 * b.x_tiles, few(b)?),
                (8 * c.x_tiles, few(c)?),
            ],
            small: many(SMALL)?,
            large: many(large_tile)?,
            large_tile,
        })
    }

    /// The kernel for few rows of `x`, and its groups.
    fn few(&self, m: usize, n: usize) -> Option<(&Kernel<D>, usize)> {
        let (_, kernel, shape) = (self.few.iter().zip(FEW))
            .map(|((rows, kernel), shape)| (*rows, kernel, shape))
            .find(|(rows, ..)| m <= *rows)?;
        Some((kernel, n.div_ceil(16 * shape.row_tiles)))
    }

    /// The kernel for many rows of `x`, and its groups.
    fn many(&self, m: usize, n: usize, units: usize) -> (&Kernel<D>, usize) {
        let tiles = |shape: Many| n.div_ceil(shape.n) * m.div_ceil(shape.m);
        // Two large tiles for each multiprocessor, else smaller ones.
        let large = tiles(self.large_tile);
        match large >= 2 * units {
            true => (&self.large, large),
            false => (&self.small, tiles(SMALL)),
        }
    }
}

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Matmul) -> Planned {
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
    let wanted = (op.weight, op.n, op.k);
    let pack = move |chip: &Arc<Chip<D>>, weight: &ops::HostWeight<'_>| {
        pack_rows(chip, weight, wanted, CHUNK_BYTES, reading.arrange)
    };
    let units = chip.driver().limits().parallelism;
    let op = op.clone();
    weighted(chip, pack, move |queue, args| {
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
    })
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
