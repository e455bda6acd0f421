//! Attention over a paged cache; where its rows would leave the device idle, several groups share a long cache.

use std::sync::Arc;

use hal::Result;
use ops::{Attention, Mask};

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Kernel, Planned, defines, native_with, source};

const SOURCE: Source = source!("attention", "attention_tiles.h", "attention_parts.h");

/// Bytes that a shape of the kernel leaves of the local memory, for what the compiler adds.
const SPARE_BYTES: usize = 1 << 10;

/// Slots of a part: what a group takes of a cache that several share. A multiple of every block's slots; fixed, so that
/// a sequence's result depends on nothing but its own length.
const PART: usize = 256;

/// Groups that a multiprocessor is to have registers for, where a kernel can say so: few, because each work-item keeps up to
/// two times 32 sums.
const RESIDENT: usize = 3;

/// Groups of a kernel for each that the device runs at once, up to which groups share a cache.
const GROUPS_EACH: usize = 4;

/// Scratch memory beyond which groups do not share: so many rows have work enough.
const MOST_BYTES: usize = 32 << 20;

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
        4 * (rows * dim + slots * (dim + 1) + rows * slots + 7 * rows) + 8 * slots
    }
}

/// The largest of the blocks that fits `local_bytes` with heads of `dim` elements.
fn fitting(dim: usize, local_bytes: usize) -> Option<Block> {
    let fits = |block: &&Block| block.bytes(dim) + SPARE_BYTES <= local_bytes;
    BLOCKS.iter().find(fits).copied()
}

const fn block(rows: usize, slots: usize) -> Block {
    Block { rows, slots }
}

const BLOCKS: [Block; 4] = [block(16, 32), block(16, 16), block(8, 16), block(4, 8)];

/// Kernels that give a group a tile of so many rows.
struct Tiles<D: SimtDriver> {
    /// For groups that have a tile's cache alone.
    alone: Kernel<D>,
    /// For groups that share one.
    sharing: Kernel<D>,
    /// `attention_merge` of attention_parts.h.
    merge: Kernel<D>,
    /// Rows of a tile.
    rows: usize,
}

/// How the caches of a launch are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shared {
    /// Parts of the longest cache that the table has room for.
    parts: usize,
    /// Groups that share the parts of one tile; 1: none do.
    groups: usize,
}

/// What decides it: the heads, and the device.
#[derive(Clone, Copy, Debug)]
struct Sharing {
    heads: usize,
    head_dim: usize,
    page_size: usize,
    /// Groups that keep the device busy.
    enough: usize,
    /// Rows of the largest tile.
    tile: usize,
}

impl Sharing {
    /// Bytes of one row's parts: their number; then maximum, sum and values of each.
    fn row_bytes(self, parts: usize) -> usize {
        4 * (1 + parts * (2 + self.head_dim))
    }

    fn parts(self, max_pages: usize) -> usize {
        (max_pages * self.page_size).div_ceil(PART)
    }

    /// Of a launch with `tokens` tokens in `tiles` tiles of rows and heads.
    fn of(self, tokens: usize, tiles: usize, max_pages: usize) -> Shared {
        let parts = self.parts(max_pages);
        let bytes = tokens * self.heads * self.row_bytes(parts);
        let few = tiles < self.enough && tokens * self.heads <= self.most_rows();
        let groups = match few && bytes <= MOST_BYTES {
            true => parts.clamp(1, self.enough.div_ceil(tiles.max(1))),
            false => 1,
        };
        Shared { parts, groups }
    }

    /// Rows of all tiles in a launch that shares.
    fn most_rows(self) -> usize {
        self.enough * self.tile
    }

    /// Enough for [`Sharing::of`] any number of tokens up to `tokens`.
    fn workspace_bytes(self, tokens: usize, max_pages: usize) -> usize {
        let parts = self.parts(max_pages);
        if parts < 2 {
            return 0;
        }
        let rows = (tokens * self.heads).min(self.most_rows());
        (rows * self.row_bytes(parts)).min(MOST_BYTES)
    }
}

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Attention) -> Planned {
    let dim = op.head_dim.next_power_of_two().max(64);
    let Some(many) = fitting(dim, chip.driver.limits().local_bytes) else {
        return Ok(None);
    };
    if op.kv_heads == 0 || op.page_size == 0 || !op.dtype.is_float() || !op.kv.is_float() {
        return Ok(None);
    }
    // Of as many slots at a time: a row's result does not depend on which of the two it is given to.
    let few = Block { rows: 1, ..many };
    let tiles = |block: Block| -> Result<Tiles<D>> {
        let group = chip.group(128.min(block.rows * dim));
        let kernel = |name, shared: bool| {
            let defines = defines![
                "X": op.dtype, "Y": op.kv, "HD": dim, "BR": block.rows, "BC": block.slots,
                "PART": PART, "SHARED": u8::from(shared), "RESIDENT": RESIDENT
            ];
            chip.kernel(&SOURCE, name, group, &defines)
        };
        Ok(Tiles {
            alone: kernel("attention", false)?,
            sharing: kernel("attention", true)?,
            merge: kernel("attention_merge", true)?,
            rows: block.rows,
        })
    };
    let [few, many] = [tiles(few)?, tiles(many)?];
    let sharing = Sharing {
        heads: op.heads,
        head_dim: op.head_dim,
        page_size: op.page_size,
        enough: GROUPS_EACH * chip.driver.limits().parallelism.max(1),
        tile: many.rows,
    };
    let workspace_bytes =
        move |shapes: &[&[usize]]| sharing.workspace_bytes(shapes[1][0], shapes[4][1]);
    let op = op.clone();
    let share = op.heads / op.kv_heads;
    let mask = mask_code(op.mask);
    native_with(chip, workspace_bytes, move |queue, args, workspace| {
        let (out, q, table) = (&args[0], &args[1], &args[4]);
        let (tokens, sequences) = (q.dim(0), table.dim(0));
        if tokens == 0 {
            return Ok(());
        }
        // Rows of an average sequence; a group of few rows reads the cache for each of them.
        let mean = tokens * share / sequences.max(1);
        let kernels = match mean > 2 * few.rows {
            true => &many,
            false => &few,
        };
        let full = (tokens * share).div_ceil(kernels.rows);
        let Shared { parts, groups } = sharing.of(tokens, full * op.kv_heads, table.dim(1));
        // Each sequence may leave one tile unfilled, and so may tokens before and after all of them.
        let tiles = full + sequences + 2;
        let call = queue.call();
        let (call, kernel) = match groups {
            1 => {
                let [token, head] = [out.strides()[0], out.strides()[1]];
                (call.view(out).long(token).long(head), &kernels.alone)
            }
            _ => (
                call.view(workspace).long(parts).int(groups),
                &kernels.sharing,
            ),
        };
        call.view(q)
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
            .long(q.strides()[0])
            .long(q.strides()[1])
            .float(op.scale)
            .int(mask)
            .run(kernel, [tiles, op.kv_heads, groups])?;
        if groups == 1 {
            return Ok(());
        }
        queue
            .call()
            .view(out)
            .view(workspace)
            .int(tokens)
            .int(op.heads)
            .int(op.head_dim)
            .long(parts)
            .long(out.strides()[0])
            .long(out.strides()[1])
            .run(&kernels.merge, [tokens * op.heads, 1, 1])
    })
}

/// The number of a mask in the kernels.
pub fn mask_code(mask: Mask) -> usize {
    match mask {
        Mask::Causal => 0,
        Mask::Prefix => 1,
        Mask::Full => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_small_local_memory() {
        for dim in [64, 128, 256] {
            for local in [16 << 10, 32 << 10, 48 << 10, 64 << 10] {
                let block = fitting(dim, local);
                assert!(block.is_some(), "{dim} in {local} B");
            }
        }
        assert!(BLOCKS.iter().all(|block| PART.is_multiple_of(block.slots)));
    }

    /// 32 heads of 128 elements in pages of 16, on a device that runs `units` groups at once.
    fn sharing(units: usize) -> Sharing {
        Sharing {
            heads: 32,
            head_dim: 128,
            page_size: 16,
            enough: GROUPS_EACH * units,
            tile: 16,
        }
    }

    #[test]
    fn long_caches_are_shared_where_rows_are_few() {
        // Tokens, tiles, pages: groups.
        for (units, tokens, tiles, max_pages, groups) in [
            // Two key-value heads of a decoding step over 4096 slots: 16 parts.
            (132, 1, 2, 256, 16),
            (132, 1, 2, 2048, 128),
            (132, 8, 16, 2048, 33),
            (2, 1, 2, 256, 4),
            // A short cache, a long prompt, and heads enough.
            (132, 1, 2, 16, 1),
            (132, 512, 1024, 256, 1),
            (2, 1, 32, 256, 1),
        ] {
            let shared = sharing(units).of(tokens, tiles, max_pages);
            let parts = (max_pages * 16).div_ceil(PART);
            assert_eq!(shared, Shared { parts, groups }, "{units} {tokens}");
        }
    }

    #[test]
    fn the_workspace_is_enough_and_never_less_for_more() {
        for units in [1, 2, 132] {
            let sharing = sharing(units);
            for max_pages in [1, 16, 17, 256, 1 << 14] {
                let mut before = 0;
                for tokens in 0..700 {
                    let bytes = sharing.workspace_bytes(tokens, max_pages);
                    assert!(bytes >= before && bytes <= MOST_BYTES);
                    assert!(bytes <= sharing.workspace_bytes(tokens, max_pages + 1));
                    before = bytes;
                    let shared = sharing.of(tokens, 2 * tokens, max_pages);
                    let needed = tokens * sharing.heads * sharing.row_bytes(shared.parts);
                    assert!(shared.groups == 1 || needed <= bytes, "{units} {tokens}");
                }
            }
        }
    }
}
