//! RMS normalisation.

use std::sync::Arc;

use ops::RmsNorm;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native, source};

use super::ROW;

const SOURCE: Source = source!("rms_norm", "reduce.h", "norm.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &RmsNorm) -> Planned {
    let kernel = chip.kernel(
        &SOURCE,
        "rms_norm",
        chip.group(ROW),
        &defines!["X": op.dtype],
    )?;
    let eps = op.eps;
    native(chip, move |queue, args| {
        let [out, x, weight] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(x)
            .view(weight)
            .long(x.dim(1))
            .long(out.strides()[0])
            .long(x.strides()[0])
            .float(eps)
            .run(&kernel, [x.dim(0), 1, 1])
    })
}
