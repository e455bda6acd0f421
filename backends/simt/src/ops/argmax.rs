//! Index of the largest element of each row.

use std::sync::Arc;

use ops::Argmax;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native, source};

use super::ROW;

const SOURCE: Source = source!("argmax", "rank.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Argmax) -> Planned {
    let kernel = chip.kernel(&SOURCE, "argmax", chip.group(ROW), &defines!["X": op.dtype])?;
    native(chip, move |queue, args| {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(x)
            .long(x.dim(1))
            .long(x.strides()[0])
            .run(&kernel, [x.dim(0), 1, 1])
    })
}
