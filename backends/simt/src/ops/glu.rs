//! Gated linear units.

use std::sync::Arc;

use ops::Glu;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::{ELEMENTS, activation_code};

const SOURCE: Source = source!("glu", "activate.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Glu) -> Planned {
    let group = chip.group(ELEMENTS);
    let kernel = chip.kernel(&SOURCE, "glu", group, &defines!["X": op.dtype])?;
    let act = activation_code(Some(op.act));
    let [gate, up] = op.halves().map(|half| half.start);
    let limit = op.limit;
    native(chip, move |queue, args| {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(x)
            .long(out.dim(0))
            .long(out.dim(1))
            .long(out.strides()[0])
            .long(x.strides()[0])
            .long(gate)
            .long(up)
            .int(act)
            .int(usize::from(limit.is_some()))
            .float(limit.unwrap_or(0.0))
            .run(&kernel, [groups(out.len(), group), 1, 1])
    })
}
