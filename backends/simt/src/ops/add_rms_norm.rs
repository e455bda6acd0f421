//! Residual sum and RMS normalisation.

use std::sync::Arc;

use ops::AddRmsNorm;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native, source};

use super::ROW;

const SOURCE: Source = source!("add_rms_norm", "reduce.h", "norm.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &AddRmsNorm) -> Planned {
    let kernel = chip.kernel(
        &SOURCE,
        "add_rms_norm",
        chip.group(ROW),
        &defines!["X": op.dtype],
    )?;
    let (alpha, eps) = (op.alpha, op.eps);
    native(chip, move |queue, args| {
        let [out, sum, x, residual, weight] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(sum)
            .view(x)
            .view(residual)
            .view(weight)
            .long(x.dim(1))
            .long(out.strides()[0])
            .long(sum.strides()[0])
            .long(x.strides()[0])
            .long(residual.strides()[0])
            .float(alpha)
            .float(eps)
            .run(&kernel, [x.dim(0), 1, 1])
    })
}
