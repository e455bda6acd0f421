//! Attention by the matrix units: one warp to a group for a decoding step, several that share the cache for a prompt.

use std::sync::Arc;

use backend_simt::kit::{ATTENTION_PARTS, Chip, DIALECT, PART, Planned, Tiles, plan_attention};
use backend_simt::{SimtDriver, Source};
use hal::{DType, Result};
use ops::Attention;

use super::{resident, x_is};

const SOURCE: Source = Source {
    name: "cuda_attention",
    parts: &[
        DIALECT,
        include_str!("../../kernels/eight.cuh"),
        include_str!("../../kernels/mma.cuh"),
        ATTENTION_PARTS,
        include_str!("../../kernels/attention.cuh"),
    ],
    begins_early: false,
};

/// Slots of the cache in local memory at a time, twice.
const SLOTS: usize = 32;

/// Warps of a group, with sixteen rows each.
const FEW: usize = 1;
const MANY: usize = 8;

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Attention) -> Planned {
    let known = matches!(op.dtype, DType::F16 | DType::BF16) && op.kv == op.dtype;
    // Slots and pages are numbered by 31 bits.
    let sizes = i32::try_from(op.page_size).is_ok_and(|n| n > 0) && op.kv_heads > 0;
    if !known || !sizes || !matches!(op.head_dim, 64 | 128) {
        return Ok(None);
    }
    let tiles = |warps: usize| -> Result<Tiles<D>> {
        let (group, rows) = (32 * warps, 16 * warps);
        let local_bytes = 2 * op.head_dim * (rows + 4 * SLOTS);
        let defines = |shared: bool| {
            [
                ("X", op.dtype.to_string()),
                x_is(op.dtype),
                ("HD", op.head_dim.to_string()),
                ("BC", SLOTS.to_string()),
                ("PART", PART.to_string()),
                resident(1),
                ("SHARED", u8::from(shared).to_string()),
                ("LOCAL_BYTES", local_bytes.to_string()),
            ]
        };
        let kernel = |shared| {
            let defines = defines(shared);
            chip.kernel_with_local(&SOURCE, "flash_attention", group, local_bytes, &defines)
        };
        Ok(Tiles {
            alone: kernel(false)?,
            sharing: kernel(true)?,
            merge: chip.kernel(&SOURCE, "attention_merge", group, &defines(true))?,
            rows,
        })
    };
    plan_attention(chip, op, [tiles(FEW)?, tiles(MANY)?])
}
