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

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Matmul) -> Planned {
    let (Some(format), Some(layout)) = (
        weight::defines(op.weight),
        Layout::packed(op.weight, op.n, op.k),
    ) else {
        return Ok(None);
    };
    let limits = chip.driver.limits();
    // Tiles of 64 x 64 in all: by many work-items that share them, or by few that each do more (a CPU's core). Smaller
    // ones for devices with small groups.
    let (side, each) = match (limits.max_group, limits.wide_items) {
        (256.., false) => (16, 4),
        (64.., true) => (8, 8),
        (64.., false) => (8, 4),
        (16.., _) => (4, 4),
        _ => return Ok(None),
    };
    let mut defines = vec![
        ("X", op.x.to_string()),
        ("SIDE", side.to_string()),
        ("RM", each.to_string()),
        ("RN", each.to_string()),
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
        let side = side * each;
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
