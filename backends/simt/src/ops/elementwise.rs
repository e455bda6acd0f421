//! Sum, difference or product of two tensors.

use std::sync::Arc;

use ops::{Binary, Elementwise};

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("elementwise");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Elementwise) -> Planned {
    let group = chip.group(ELEMENTS);
    let kernel = chip.kernel(&SOURCE, "elementwise", group, &defines!["X": op.dtype])?;
    let kind = match op.kind {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
    };
    let alpha = op.alpha;
    native(chip, move |queue, args| {
        let [out, a, b] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(a)
            .view(b)
            .shape4(out)
            .strides4(out)
            .strides4(a)
            .strides4(b)
            .int(kind)
            .float(alpha)
            .run(&kernel, [groups(out.len(), group), 1, 1])
    })
}
