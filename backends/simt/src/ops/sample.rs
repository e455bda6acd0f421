//! Draws the next token.

use std::sync::Arc;

use ops::Sample;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native_with, resident, source};

use super::ROW;

const SOURCE: Source = source!("sample", "reduce.h", "rank.h");

/// Work-items of a group, and their local memory each: a row has one group, and each item lists its share of it.
const MANY: usize = 512;
const LOCAL_BYTES: usize = 16 * 4 + 4 + 8;

/// Four words per logit: the score after the penalty, its weight, and places in two lists.
fn workspace_bytes(shapes: &[&[usize]]) -> usize {
    shapes[1].iter().product::<usize>() * 4 * size_of::<f32>()
}

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Sample) -> Planned {
    // Indices are 31 bits of a place in the order.
    if i32::try_from(op.vocab).is_err() {
        return Ok(None);
    }
    let limits = chip.driver().limits();
    let many = match limits.wide_items || MANY * LOCAL_BYTES > limits.local_bytes {
        true => ROW,
        false => MANY,
    };
    let group = chip.group(many);
    let defines = defines!["RESIDENT": resident(group)];
    let kernel = chip.kernel(&SOURCE, "sample", group, &defines)?;
    let bits = usize::BITS - op.vocab.saturating_sub(1).leading_zeros();
    let index_digits = bits.div_ceil(4).max(1) as usize;
    native_with(chip, workspace_bytes, move |queue, args, workspace| {
        let [out, logits, floats, ints, history, history_len] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(logits)
            .view(floats)
            .view(ints)
            .view(history)
            .view(history_len)
            .view(workspace)
            .long(logits.dim(1))
            .long(logits.strides()[0])
            .long(history.strides()[0])
            .long(history.dim(1))
            .int(index_digits)
            .run(&kernel, [logits.dim(0), 1, 1])
    })
}
