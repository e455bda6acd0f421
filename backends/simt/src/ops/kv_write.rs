//! Writes to the paged cache.

use std::sync::Arc;

use ops::KvWrite;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("kv_write");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &KvWrite) -> Planned {
    if !op.dtype.is_float() || !op.kv.is_float() {
        return Ok(None);
    }
    let group = chip.group(ELEMENTS);
    let types = defines!["X": op.dtype, "Y": op.kv];
    let kernel = chip.kernel(&SOURCE, "kv_write", group, &types)?;
    let (pages, page_size) = (op.pages, op.page_size);
    native(chip, move |queue, args| {
        let [k_pages, v_pages, k, v, slots] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(k_pages)
            .view(v_pages)
            .view(k)
            .view(v)
            .view(slots)
            .long(k.dim(0))
            .long(k.dim(1))
            .long(k.dim(2))
            .long(pages)
            .long(page_size)
            .long(k.strides()[0])
            .long(k.strides()[1])
            .long(v.strides()[0])
            .long(v.strides()[1])
            .run(&kernel, [groups(k.len(), group), 1, 1])
    })
}
