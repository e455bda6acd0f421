//! Writes to the paged cache.

use std::sync::Arc;

use hal::View;
use ops::KvWrite;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Call, Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("kv_write");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &KvWrite) -> Planned {
    if !op.dtype.is_float() || !op.kv.is_float() {
        return Ok(None);
    }
    let group = chip.group(ELEMENTS);
    let types = defines!["X": op.dtype, "Y": op.kv];
    let kernel = chip.kernel(&SOURCE, "kv_write", group, &types)?;
    let op = op.clone();
    native(chip, move |queue, args| {
        let groups = groups(args[2].len(), group);
        arguments(queue.call(), &op, args).run(&kernel, [groups, 1, 1])
    })
}

/// `args`, and the sizes and strides that every kernel of this operation begins with.
pub fn arguments<'a, D: SimtDriver>(
    call: Call<'a, D>,
    op: &KvWrite,
    args: &[View<'a>],
) -> Call<'a, D> {
    let (k, v) = (&args[2], &args[3]);
    let call = args.iter().fold(call, |call, view| call.view(view));
    let sizes = k.shape().iter().chain([&op.pages, &op.page_size]);
    let strides = k.strides()[..2].iter().chain(&v.strides()[..2]);
    sizes.chain(strides).fold(call, |call, &n| call.long(n))
}
