//! Products with a weight: few rows of `x` by groups along k, many by tiles.

use std::sync::Arc;

use ops::Matmul;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, code, source, weighted};

use super::activation_code;
use super::weight::{self, Layout};

const SOURCE: Source = source!("matmul", "reduce.h", "activate.h", "weight.h");

/// Rows of `x` up to which each has its own groups.
const FEW: usize = 4;

/// Rows and columns of a tile per work-item.
const EACH: usize = 4;

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Matmul) -> Planned {
    let (Some(format), Some(layout)) = (
        weight::defines(op.weight),
        Layout::packed(op.weight, op.n, op.k),
    ) else {
        return Ok(None);
    };
    let limits = chip.driver.limits();
    // A tile of 64 x 64 keeps many small cores busy, one of 32 x 32 fits a large one's registers.
    let side = match limits.wide_items {
        false if limits.max_group >= 256 && limits.local_bytes >= 16 << 10 => 16,
        _ if limits.max_group >= 64 => 8,
        _ => return Ok(None),
    };
    let mut defines = vec![
        ("X", op.x.to_string()),
        ("ROWS", String::from("1")),
        ("TILE", String::from("1")),
        ("SIDE", side.to_string()),
        ("RM", EACH.to_string()),
        ("RN", EACH.to_string()),
    ];
    defines.extend(format);
    let kernel = |name| chip.kernel(&SOURCE, name, side * side, &defines);
    let (row, tile) = (kernel("matmul_row")?, kernel("matmul_tile")?);
    let wanted = (op.weight, op.n, op.k);
    let pack = move |chip: &Arc<Chip<D>>, w: &ops::HostWeight<'_>| weight::pack(chip, w, wanted);
    let (n, k, has_bias, has_residual) = (op.n, op.k, op.bias, op.residual);
    let act = activation_code(op.activation);
    let out_code = code(op.out);
    weighted(chip, pack, move |queue, args| {
        let (out, x, packed) = (&args[0], &args[1], &args[2]);
        // What the specification does not have is not read.
        let bias = if has_bias { &args[3] } else { x };
        let residual = match has_residual {
            true => &args[3 + usize::from(has_bias)],
            false => x,
        };
        let m = x.dim(0);
        let side = side * EACH;
        let (kernel, grid) = match m <= FEW {
            true => (&row, [n, m, 1]),
            false => (&tile, [n.div_ceil(side) * m.div_ceil(side), 1, 1]),
        };
        queue
            .call()
            .view(out)
            .view(x)
            .view(packed)
            .view(bias)
            .view(residual)
            .long(m)
            .long(n)
            .long(k)
            .long(layout.row_bytes)
            .long(layout.scales_at)
            .long(out.strides()[0])
            .long(x.strides()[0])
            .long(residual.strides()[0])
            .int(out_code)
            .int(usize::from(has_bias))
            .int(act)
            .int(usize::from(has_residual))
            .run(kernel, grid)
    })
}
