//! Softmax of rows.

use std::sync::Arc;

use ops::{Mask, Softmax};

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native, source};

use super::ROW;

const SOURCE: Source = source!("softmax", "reduce.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Softmax) -> Planned {
    let kernel = chip.kernel(
        &SOURCE,
        "softmax",
        chip.group(ROW),
        &defines!["X": op.dtype],
    )?;
    let scale = op.scale;
    let masked = match op.mask {
        None => 0,
        Some(Mask::Causal) => 1,
        Some(Mask::Prefix) => 2,
        Some(Mask::Full) => 3,
    };
    native(chip, move |queue, args| {
        let (out, x) = (&args[0], &args[1]);
        let rows = x.dim(1);
        // What the mask does not have is not read.
        let optional = |i: usize| args.get(i).unwrap_or(x);
        queue
            .call()
            .view(out)
            .view(x)
            .view(optional(2))
            .view(optional(3))
            .view(optional(4))
            .long(rows)
            .long(x.dim(2))
            .long(out.strides()[0])
            .long(out.strides()[1])
            .long(x.strides()[0])
            .long(x.strides()[1])
            .float(scale)
            .int(masked)
            .run(&kernel, [x.dim(0) * rows, 1, 1])
    })
}
