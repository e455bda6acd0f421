//! Attention over the paged cache: a workgroup per token and head for few tokens, one per tile of tokens and head for
//! many.

use std::sync::Arc;

use hal::{DType, Result, View};
use ops::Attention;

use super::softmax::{VISIBLE, number};
use crate::gpu::Gpu;
use crate::kernel::{
    Kernel, Params, Planned, Program, REDUCE_BYTES, Slot, Text, bind_all, native, slots,
};
use crate::stream::WgpuStream;

const COMMON: &str = include_str!("../../kernels/attention.wgsl");
const ROW: &str = include_str!("../../kernels/attention_row.wgsl");
const TILE: &str = include_str!("../../kernels/attention_tile.wgsl");

/// The longest head that the kernels have room for; others are composed.
const HEAD: usize = 256;

/// Tokens of a tile, at most: more would leave too few workgroups.
const MOST_ROWS: usize = 16;

pub(super) fn plan(gpu: &Arc<Gpu>, op: &Attention) -> Planned {
    let Some(mut slots) = slots(op) else {
        return Ok(None);
    };
    if op.head_dim > HEAD {
        return Ok(None);
    }
    // The program is the same with and without prefixes; what is missing is bound to something and not read.
    if slots.len() < 8 {
        slots.push(Slot::input("prefix", DType::I32));
    }
    let program = |name, kernel: &str, constants: &[(&str, u32)]| {
        let body = [VISIBLE, COMMON, kernel].concat();
        gpu.program(Text::new(gpu, name, &body, &slots, constants))
    };
    let local_bytes = gpu.limits.max_compute_workgroup_storage_size as usize;
    let tile = match tile_rows(op.head_dim, local_bytes) {
        Some(rows) => {
            let constants = [
                ("HEAD", op.head_dim.div_ceil(4) as u32),
                ("ROWS", rows as u32),
                ("SLOTS", 2 * rows as u32),
            ];
            Some((program("attention of many tokens", TILE, &constants)?, rows))
        }
        None => None,
    };
    native(Native {
        row: program("attention", ROW, &[])?,
        tile,
        op: op.clone(),
    })
}

/// Tokens of a tile of heads of `head_dim` elements, whose workgroup has `local_bytes` bytes of memory; `None` when not
/// even a small one fits.
fn tile_rows(head_dim: usize, local_bytes: usize) -> Option<usize> {
    let fits = |&rows: &usize| {
        let (slots, row_bytes) = (2 * rows, 16 * (head_dim.div_ceil(4) + 1));
        let tiles = (rows + slots) * row_bytes;
        let numbers = 4 * (rows * slots + slots + 4 * rows);
        tiles + numbers + REDUCE_BYTES <= local_bytes
    };
    [MOST_ROWS, 8, 4].into_iter().find(fits)
}

struct Native {
    row: Arc<Program>,
    /// And the tokens of a tile.
    tile: Option<(Arc<Program>, usize)>,
    op: Attention,
}

impl Kernel for Native {
    fn queue(&self, stream: &mut WgpuStream, args: &[View<'_>], _: &View<'_>) -> Result<()> {
        let (out, q, block_table) = (&args[0], &args[1], &args[4]);
        if out.is_empty() {
            return Ok(());
        }
        let mut bound = bind_all(&stream.gpu, args)?;
        if bound.len() < 8 {
            bound.push(bound[6].clone());
        }
        let op = &self.op;
        let mut params = Params::new()
            .word(q.dim(0))
            .word(op.heads)
            .word(op.heads / op.kv_heads)
            .word(op.kv_heads)
            .word(op.head_dim)
            .word(op.pages)
            .word(op.page_size)
            .float(op.scale)
            .word(number(op.mask))
            .word(block_table.dim(0))
            .word(block_table.dim(1));
        for (bound, view) in [(&bound[0], out), (&bound[1], q)] {
            params = params
                .first(bound)
                .word(view.strides()[0])
                .word(view.strides()[1]);
        }
        for bound in &bound[2..] {
            params = params.first(bound);
        }
        let tokens = q.dim(0);
        match &self.tile {
            Some((tile, rows)) if tokens >= *rows => {
                stream.dispatch(tile, &bound, &params, tokens.div_ceil(*rows) * op.heads)
            }
            _ => stream.dispatch(&self.row, &bound, &params, tokens * op.heads),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_their_memory() {
        // What every adapter has, and what most have.
        let cases = [(64, 16), (128, 8), (256, 4), (7, 16)];
        for (head_dim, rows) in cases {
            assert_eq!(tile_rows(head_dim, 16 << 10), Some(rows), "{head_dim}");
        }
        assert_eq!(tile_rows(128, 32 << 10), Some(16));
        assert_eq!(tile_rows(256, 8 << 10), None);
    }
}
