//! The k largest elements of each row.

use std::sync::Arc;

use ops::TopK;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native, source};

use super::ROW;

const SOURCE: Source = source!("top_k", "rank.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &TopK) -> Planned {
    let kernel = chip.kernel(&SOURCE, "top_k", chip.group(ROW), &defines!["X": op.dtype])?;
    let k = op.k;
    native(chip, move |queue, args| {
        let [values, indices, x] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(values)
            .view(indices)
            .view(x)
            .long(k)
            .long(x.dim(1))
            .long(x.strides()[0])
            .run(&kernel, [x.dim(0), 1, 1])
    })
}
