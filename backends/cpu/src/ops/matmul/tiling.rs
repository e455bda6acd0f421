//! How the rows of x are cut into tiles.

use std::ops::Range;

use super::layout::Layout;
use super::tile::{KEPT_ROWS, MAX_ROWS};
use crate::simd::TILE_ROWS;

/// The most rows of a tile that decodes int4 to integers: more leave no registers for it.
const INT4_ROWS: usize = MAX_ROWS - 1;

/// The most rows that may be few: two tiles.
pub(super) const FEW_ROWS: usize = 2 * MAX_ROWS;

/// Rows that share one decoded block. Their sums, 96 KiB, stay in a second-level cache.
pub(super) const BLOCK_ROWS: usize = 64 * MAX_ROWS;

/// Rows of x in tiles: as few as can be, as equal as can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    /// Whether the weight is multiplied as it is read. With more rows, blocks of it are decoded first, and asked for before.
    pub(super) few: bool,
    /// Whether x is multiplied by the registers of tiles.
    pub(super) by_registers: bool,
    pub(super) tiles: usize,
    /// Tiles that share one decoded block.
    block: usize,
    /// Rows of each tile, and how many of the first have one more.
    rows: usize,
    longer: usize,
}

impl Tiling {
    /// Of `m` rows.
    pub(super) fn new(layout: &Layout, m: usize) -> Self {
        let few = match layout.activation_block {
            // As many as keep their sums in registers: those of even and of odd products are two.
            None if layout.tiled => m <= KEPT_ROWS,
            // To decode once more costs less than to store what was decoded.
            _ if layout.is_decoded() => m <= 2 * most_rows(layout, true),
            _ => m <= MAX_ROWS,
        };
        let by_registers = layout.tiled && !few;
        let most = if by_registers {
            TILE_ROWS
        } else {
            most_rows(layout, few)
        };
        let tiles = m.div_ceil(most).max(1);
        Self {
            few,
            by_registers,
            tiles,
            block: BLOCK_ROWS / most,
            rows: m / tiles,
            longer: m % tiles,
        }
    }

    /// The rows of tile `t`; behind the last one, none.
    pub(super) fn rows(&self, t: usize) -> Range<usize> {
        let first = |t: usize| t * self.rows + t.min(self.longer);
        first(t)..first((t + 1).min(self.tiles))
    }

    /// The rows of the first tile: no other has more.
    pub(super) fn most_rows(&self) -> usize {
        self.rows(0).len()
    }

    /// Groups of tiles that share decoded blocks.
    pub(super) fn blocks(&self) -> usize {
        self.tiles.div_ceil(self.block)
    }

    /// The tiles of group `i`.
    pub(super) fn block(&self, i: usize) -> Range<usize> {
        i * self.block..((i + 1) * self.block).min(self.tiles)
    }
}

/// The most rows of a tile.
fn most_rows(layout: &Layout, few: bool) -> usize {
    match layout.activation_block {
        // Sums of two kinds need registers.
        Some(_) if layout.block_parts > 1 => KEPT_ROWS,
        Some(_) if few && layout.is_decoded() => INT4_ROWS,
        None if layout.tiled => KEPT_ROWS,
        _ => MAX_ROWS,
    }
}
