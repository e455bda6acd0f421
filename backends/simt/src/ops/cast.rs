//! Change of float type.

use std::sync::Arc;

use ops::Cast;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("cast");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Cast) -> Planned {
    if !op.from.is_float() || !op.to.is_float() {
        return Ok(None);
    }
    let group = chip.group(ELEMENTS);
    let types = defines!["X": op.from, "Y": op.to];
    let kernel = chip.kernel(&SOURCE, "cast", group, &types)?;
    native(chip, move |queue, args| {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(x)
            .shape4(out)
            .strides4(out)
            .strides4(x)
            .run(&kernel, [groups(out.len(), group), 1, 1])
    })
}
