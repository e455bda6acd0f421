//! Attention over a paged cache.

use std::sync::Arc;

use ops::{Attention, Mask};

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Kernel, Planned, defines, native, source};

const SOURCE: Source = source!("attention");

/// Bytes that a shape of the kernel leaves of the local memory, for what the compiler adds.
const SPARE_BYTES: usize = 1 << 10;

/// What a group of the kernel holds in local memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    /// Rows of queries.
    rows: usize,
    /// Cached slots at a time.
    slots: usize,
}

impl Block {
    fn bytes(self, dim: usize) -> usize {
        let Self { rows, slots } = self;
        4 * (rows * dim + slots * (dim + 1) + rows * slots + 3 * rows)
    }
}

/// The largest of these blocks that fits `local_bytes` with heads of `dim` elements.
fn fitting(blocks: &[Block], dim: usize, local_bytes: usize) -> Option<Block> {
    let fits = |block: &&Block| block.bytes(dim) + SPARE_BYTES <= local_bytes;
    blocks.iter().find(fits).copied()
}

const fn block(rows: usize, slots: usize) -> Block {
    Block { rows, slots }
}

/// For sequences with many rows, and with few.
const MANY: [Block; 4] = [block(16, 32), block(16, 16), block(8, 16), block(4, 8)];
const FEW: [Block; 3] = [block(1, 32), block(1, 16), block(1, 8)];

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Attention) -> Planned {
    let local_bytes = chip.driver.limits().local_bytes;
    let dim = op.head_dim.next_power_of_two().max(64);
    let (Some(many), Some(few)) = (
        fitting(&MANY, dim, local_bytes),
        fitting(&FEW, dim, local_bytes),
    ) else {
        return Ok(None);
    };
    if op.kv_heads == 0 || op.page_size == 0 || !op.dtype.is_float() || !op.kv.is_float() {
        return Ok(None);
    }
    let kernel = |block: Block| {
        let group = chip.group(128.min(block.rows * dim));
        let defines = defines![
            "X": op.dtype, "Y": op.kv, "HD": dim, "BR": block.rows, "BC": block.slots
        ];
        let kernel: Kernel<D> = chip.kernel(&SOURCE, "attention", group, &defines)?;
        Ok::<_, hal::Error>((kernel, block.rows))
    };
    let (many, few) = (kernel(many)?, kernel(few)?);
    let op = op.clone();
    let share = op.heads / op.kv_heads;
    let mask = match op.mask {
        Mask::Causal => 0,
        Mask::Prefix => 1,
        Mask::Full => 2,
    };
    native(chip, move |queue, args| {
        let (out, q, table) = (&args[0], &args[1], &args[4]);
        let (tokens, sequences) = (q.dim(0), table.dim(0));
        if tokens == 0 {
            return Ok(());
        }
        // Rows of an average sequence; a group of few rows reads the cache for each of them.
        let mean = tokens * share / sequences.max(1);
        let (kernel, rows) = if mean > 2 { &many } else { &few };
        // Each sequence may leave one tile unfilled, and so may tokens before and after all of them.
        let tiles = (tokens * share).div_ceil(*rows) + sequences + 2;
        queue
            .call()
            .view(out)
            .view(q)
            .view(&args[2])
            .view(&args[3])
            .view(table)
            .view(&args[5])
            .view(&args[6])
            .view(args.get(7).unwrap_or(&args[6]))
            .int(tokens)
            .int(op.heads)
            .int(op.kv_heads)
            .int(op.head_dim)
            .long(op.pages)
            .long(op.page_size)
            .int(sequences)
            .long(table.dim(1))
            .long(out.strides()[0])
            .long(out.strides()[1])
            .long(q.strides()[0])
            .long(q.strides()[1])
            .float(op.scale)
            .int(mask)
            .run(kernel, [tiles, op.kv_heads, 1])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_small_local_memory() {
        for dim in [64, 128, 256] {
            for local in [16 << 10, 32 << 10, 48 << 10, 64 << 10] {
                let (many, few) = (fitting(&MANY, dim, local), fitting(&FEW, dim, local));
                assert!(many.is_some() && few.is_some(), "{dim} in {local} B");
            }
        }
    }
}
