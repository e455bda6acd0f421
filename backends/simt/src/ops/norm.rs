//! What the four normalisations share: a group per row.

use std::sync::Arc;

use hal::DType;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native};

use super::ROW;

/// The kernel of `source` that is named like it. It takes all arguments, the length of a row, how far the rows of each
/// matrix lie apart, and `floats`.
pub(super) fn plan<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    source: &Source,
    dtype: DType,
    floats: &[f32],
) -> Planned {
    let kernel = chip.kernel(source, source.name, chip.group(ROW), &defines!["X": dtype])?;
    let floats = floats.to_vec();
    native(chip, move |queue, args| {
        let [rows, dim] = [args[0].dim(0), args[0].dim(1)];
        let call = args.iter().fold(queue.call(), |call, view| call.view(view));
        let matrices = args.iter().filter(|view| view.rank() == 2);
        let call = matrices.fold(call.long(dim), |call, view| call.long(view.strides()[0]));
        let call = floats.iter().fold(call, |call, &x| call.float(x));
        call.run(&kernel, [rows, 1, 1])
    })
}
