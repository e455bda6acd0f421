//! Rotary positions and the write to the cache.

use std::sync::Arc;

use hal::View;
use ops::{RopeKvWrite, RopeLayout};

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Call, Planned, defines, groups, native, source};

use super::ELEMENTS;

const SOURCE: Source = source!("rope_kv_write");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &RopeKvWrite) -> Planned {
    if !op.dtype.is_float() || !op.kv.is_float() {
        return Ok(None);
    }
    let group = chip.group(ELEMENTS);
    let types = defines!["X": op.dtype, "Y": op.kv];
    let kernel = chip.kernel(&SOURCE, "rope_kv_write", group, &types)?;
    let op = op.clone();
    native(chip, move |queue, args| {
        let pairs = op.rotary_dim / 2;
        let n = args[0].dim(0) * args[0].dim(1) * (op.head_dim - pairs * op.streams);
        arguments(queue.call(), &op, args)
            .long(args[0].dim(0))
            .int(op.head_dim)
            .int(pairs)
            .int(op.streams)
            .int(usize::from(op.layout == RopeLayout::HalfSplit))
            .run(&kernel, [groups(n, group), 1, 1])
    })
}

/// `args`, and the sizes and strides that every kernel of this operation begins with.
pub fn arguments<'a, D: SimtDriver>(
    call: Call<'a, D>,
    op: &RopeKvWrite,
    args: &[View<'a>],
) -> Call<'a, D> {
    let (qkv, positions, cos) = (&args[0], &args[4], &args[5]);
    args.iter()
        .fold(call, |call, view| call.view(view))
        .int(op.heads)
        .int(op.kv_heads)
        .long(op.pages)
        .long(op.page_size)
        .long(cos.dim(0))
        .long(qkv.strides()[0])
        .long(qkv.strides()[1])
        .long(positions.strides()[0])
        .long(positions.strides()[1])
}
