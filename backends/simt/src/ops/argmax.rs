//! Index of the largest element of each row.

use std::sync::Arc;

use ops::Argmax;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, defines, native_with, source};

use super::ROW;

const SOURCE: Source = source!("argmax", "rank.h");

/// Elements of a row for each group, at most: a vocabulary would keep one busy for long.
const SPAN: usize = 2048;

/// A place for each span of a long row.
fn workspace_bytes(shapes: &[&[usize]]) -> usize {
    match shapes[1] {
        [rows, cols] if *cols > SPAN => rows * cols.div_ceil(SPAN) * size_of::<u64>(),
        _ => 0,
    }
}

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Argmax) -> Planned {
    let group = chip.group(ROW);
    let defines = defines!["X": op.dtype];
    let kernel = |name| chip.kernel(&SOURCE, name, group, &defines);
    let (whole, spans_of_rows) = (kernel("argmax")?, kernel("argmax_spans")?);
    let of_spans = kernel("argmax_of_spans")?;
    native_with(chip, workspace_bytes, move |queue, args, places| {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        let (rows, cols) = (x.dim(0), x.dim(1));
        if cols <= SPAN {
            let call = queue.call().view(out).view(x);
            return (call.long(cols).long(x.strides()[0])).run(&whole, [rows, 1, 1]);
        }
        let spans = cols.div_ceil(SPAN);
        queue
            .call()
            .view(places)
            .view(x)
            .long(cols)
            .long(x.strides()[0])
            .long(spans)
            .long(SPAN)
            .run(&spans_of_rows, [rows * spans, 1, 1])?;
        (queue.call().view(out).view(places).long(spans)).run(&of_spans, [rows, 1, 1])
    })
}
