//! Layer normalisation.

use std::sync::Arc;

use ops::LayerNorm;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native, source};

use super::ROW;

const SOURCE: Source = source!("layer_norm", "reduce.h", "norm.h");

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &LayerNorm) -> Planned {
    let kernel = chip.kernel(
        &SOURCE,
        "layer_norm",
        chip.group(ROW),
        &defines!["X": op.dtype],
    )?;
    let eps = op.eps;
    native(chip, move |queue, args| {
        let [out, x, weight, bias] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(x)
            .view(weight)
            .view(bias)
            .long(x.dim(1))
            .long(out.strides()[0])
            .long(x.strides()[0])
            .float(eps)
            .run(&kernel, [x.dim(0), 1, 1])
    })
}
