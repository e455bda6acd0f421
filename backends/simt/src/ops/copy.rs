//! Strided copies.

use std::sync::Arc;

use hal::View;
use ops::StridedCopy;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("copy");

/// Words that a work-item copies at a time, as in the kernel.
const WORDS: usize = 4;

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &StridedCopy) -> Planned {
    let unit = match op.dtype.bytes() {
        4 => "uint",
        2 => "ushort",
        1 => "uchar",
        _ => return Ok(None),
    };
    let group = chip.group(ELEMENTS);
    let defines = defines!["UNIT": unit];
    let strided = chip.kernel(&SOURCE, "copy", group, &defines)?;
    let words = chip.kernel(&SOURCE, "copy_words", group, &defines)?;
    native(chip, move |queue, args| {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        let in_words = |view: &View<'_>| {
            view.is_contiguous()
                && view.offset_bytes().is_multiple_of(4)
                && view.bytes().is_multiple_of(4)
        };
        if in_words(out) && in_words(x) {
            let n = out.bytes() / 4;
            return queue
                .call()
                .view(out)
                .view(x)
                .long(n)
                .run(&words, [groups(n.div_ceil(WORDS), group), 1, 1]);
        }
        queue
            .call()
            .view(out)
            .view(x)
            .shape4(out)
            .strides4(out)
            .strides4(x)
            .run(&strided, [groups(out.len(), group), 1, 1])
    })
}
