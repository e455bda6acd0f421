//! Products with a weight: few rows of `x` by groups along k, many by tiles. Which, and how large, a rule says, or what
//! was measured on this device (`tune`).

use std::fmt;
use std::sync::Arc;

use hal::{Result, View};
use ops::Matmul;

use crate::device::Chip;
use crate::driver::{Limits, SimtDriver, Source};
use crate::launch::{Call, Kernel, Planned, code, resident, source, weighted};
use crate::tune;

use super::activation_code;
use super::weight::{self, Layout};

pub(crate) const SOURCE: Source =
    source!("matmul", "reduce.h", "activate.h", "epilogue.h", "weight.h");

/// Columns of k that a tile holds at a time, as in the kernel.
const DEPTH: usize = 16;

/// How products are cut up for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of `x` up to which each has its own groups, one per element of `out`.
    pub few: usize,
    /// Work-items of such a group.
    pub row_group: usize,
    /// Work-items along each side of a tile.
    pub side: usize,
    /// Rows, and columns, that each of them computes.
    pub each: usize,
}

impl Tiling {
    /// What is used where nothing was measured: tiles of 64 x 64 by many work-items that share them, or by few that
    /// each do more (a CPU's core); smaller ones for devices with small groups.
    pub(crate) fn rule(limits: &Limits) -> Option<Self> {
        let (side, each) = match (limits.max_group, limits.wide_items) {
            (256.., false) => (16, 4),
            (64.., true) => (8, 8),
            (64.., false) => (8, 4),
            (16.., _) => (4, 4),
            _ => return None,
        };
        // Where the groups of a tile run one after the other, the rows that a tile has too many cost more than the weight
        // read once more for each row.
        let few = if limits.wide_items { 16 } else { 4 };
        Some(Self {
            few,
            row_group: side * side,
            side,
            each,
        })
    }

    /// Whether a device of these limits can run it.
    pub(crate) fn fits(self, limits: &Limits) -> bool {
        let Self {
            row_group,
            side,
            each,
            ..
        } = self;
        let powers = [row_group, side, each].iter().all(|n| n.is_power_of_two());
        // Bounds first: numbers may come from a file.
        powers
            && side <= 32
            && each <= 16
            && side * side <= limits.max_group
            && row_group <= limits.max_group
            && 4 * 2 * DEPTH * side * each <= limits.local_bytes
    }
}

impl fmt::Display for Tiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            few,
            row_group,
            side,
            each,
        } = self;
        write!(
            f,
            "up to {few} rows by groups of {row_group}; tiles of {side}x{side} items, {each}x{each} each"
        )
    }
}

pub(crate) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Matmul) -> Planned {
    match tune::stored(chip, op).or_else(|| Tiling::rule(chip.driver.limits())) {
        Some(tiling) => plan_with(chip, op, tiling, &[]),
        None => Ok(None),
    }
}

/// `op` cut up by `tiling`; `defines` take the place of the planner's own.
pub(crate) fn plan_with<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    op: &Matmul,
    tiling: Tiling,
    defines: &[(&'static str, String)],
) -> Planned {
    let (Some(format), Some(layout)) = (
        weight::defines(op.weight),
        Layout::packed(op.weight, op.n, op.k),
    ) else {
        return Ok(None);
    };
    let Tiling {
        few,
        row_group,
        side,
        each,
    } = tiling;
    let mut all = vec![
        ("X", op.x.to_string()),
        ("SIDE", side.to_string()),
        ("RM", each.to_string()),
        ("RN", each.to_string()),
    ];
    all.extend(format);
    for (name, value) in defines {
        all.retain(|(known, _)| known != name);
        all.push((*name, value.clone()));
    }
    let kernel = |name, group| -> Result<Kernel<D>> {
        let resident = ("RESIDENT", resident(group).to_string());
        chip.kernel(
            &SOURCE,
            name,
            group,
            &[all.as_slice(), &[resident]].concat(),
        )
    };
    let row = kernel("matmul_row", row_group)?;
    let tile = kernel("matmul_tile", side * side)?;
    let wanted = (op.weight, op.n, op.k);
    let pack = move |chip: &Arc<Chip<D>>, w: &ops::HostWeight<'_>| weight::pack(chip, w, wanted);
    let op = op.clone();
    weighted(chip, pack, move |queue, args| {
        let (n, m) = (op.n, args[1].dim(0));
        let side = side * each;
        let (kernel, grid) = match m <= few {
            true => (&row, [n, m, 1]),
            false => (&tile, [n.div_ceil(side) * m.div_ceil(side), 1, 1]),
        };
        arguments(queue.call(), &op, layout, args).run(kernel, grid)
    })
}

/// The arguments that every kernel of a product begins with: `args` as the operation has them, and how the weight lies.
pub fn arguments<'a, D: SimtDriver>(
    call: Call<'a, D>,
    op: &Matmul,
    layout: Layout,
    args: &[View<'a>],
) -> Call<'a, D> {
    let (out, x, packed) = (&args[0], &args[1], &args[2]);
    // What the specification does not have is not read.
    let bias = if op.bias { &args[3] } else { x };
    let residual = match op.residual {
        true => &args[3 + usize::from(op.bias)],
        false => x,
    };
    call.view(out)
        .view(x)
        .view(packed)
        .view(bias)
        .view(residual)
        .long(x.dim(0))
        .long(op.n)
        .long(op.k)
        .long(layout.row_bytes)
        .long(layout.scales_at)
        .long(out.strides()[0])
        .long(x.strides()[0])
        .long(residual.strides()[0])
        .int(code(op.out))
        .int(usize::from(op.bias))
        .int(activation_code(op.activation))
        .int(usize::from(op.residual))
}
