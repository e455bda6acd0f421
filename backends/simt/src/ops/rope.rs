//! Rotary position embedding.

use std::sync::Arc;

use ops::{Rope, RopeLayout};

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("rope");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Rope) -> Planned {
    let group = chip.group(ELEMENTS);
    let kernel = chip.kernel(&SOURCE, "rope", group, &defines!["X": op.dtype])?;
    let op = op.clone();
    native(chip, move |queue, args| {
        let [out, x, positions, cos, sin] = args else {
            unreachable!("counted by check_args")
        };
        let pairs = op.rotary_dim / 2;
        let items = op.head_dim - pairs * op.streams;
        let n = x.dim(0) * x.dim(1) * items;
        queue
            .call()
            .view(out)
            .view(x)
            .view(positions)
            .view(cos)
            .view(sin)
            .long(x.dim(0))
            .long(x.dim(1))
            .int(op.head_dim)
            .int(pairs)
            .int(op.streams)
            .int(usize::from(op.layout == RopeLayout::HalfSplit))
            .long(cos.dim(0))
            .long(out.strides()[0])
            .long(out.strides()[1])
            .long(x.strides()[0])
            .long(x.strides()[1])
            .long(positions.strides()[0])
            .long(positions.strides()[1])
            .run(&kernel, [groups(n, group), 1, 1])
    })
}
