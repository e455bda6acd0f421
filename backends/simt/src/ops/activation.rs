//! Activation functions.

use std::sync::Arc;

use ops::Activation;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::{ELEMENTS, activation_code};

const SOURCE: Source = source!("activation", "activate.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Activation) -> Planned {
    let group = chip.group(ELEMENTS);
    let kernel = chip.kernel(&SOURCE, "activation", group, &defines!["X": op.dtype])?;
    let act = activation_code(Some(op.act));
    native(chip, move |queue, args| {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(x)
            .long(x.dim(0))
            .long(x.dim(1))
            .long(out.strides()[0])
            .long(x.strides()[0])
            .int(act)
            .run(&kernel, [groups(x.len(), group), 1, 1])
    })
}
