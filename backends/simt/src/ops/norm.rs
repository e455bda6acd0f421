//! What the four normalisations share: a group per row.

use std::sync::Arc;

use hal::{DType, View};

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Call, Planned, defines, native};

use super::ROW;

/// The kernel of `source` that is named like it. It takes what [`arguments`] gives.
pub(super) fn plan<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    source: &Source,
    dtype: DType,
    floats: &[f32],
) -> Planned {
    let kernel = chip.kernel(source, source.name, chip.group(ROW), &defines!["X": dtype])?;
    let floats = floats.to_vec();
    native(chip, move |queue, args| {
        let call = arguments(queue.call(), args, &floats);
        call.run(&kernel, [args[0].dim(0), 1, 1])
    })
}

/// All of `args`, the length of a row, how far the rows of each matrix lie apart, and `floats`.
pub fn arguments<'a, D: SimtDriver>(
    call: Call<'a, D>,
    args: &[View<'a>],
    floats: &[f32],
) -> Call<'a, D> {
    let call = args.iter().fold(call, |call, view| call.view(view));
    let matrices = args.iter().filter(|view| view.rank() == 2);
    let dim = args[0].dim(1);
    let call = matrices.fold(call.long(dim), |call, view| call.long(view.strides()[0]));
    floats.iter().fold(call, |call, &x| call.float(x))
}
