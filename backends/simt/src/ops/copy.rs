//! Strided copies.

use std::sync::Arc;

use ops::StridedCopy;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("copy");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &StridedCopy) -> Planned {
    let unit = match op.dtype.bytes() {
        4 => "uint",
        2 => "ushort",
        1 => "uchar",
        _ => return Ok(None),
    };
    let group = chip.group(ELEMENTS);
    let kernel = chip.kernel(&SOURCE, "copy", group, &defines!["UNIT": unit])?;
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
