//! Rows of a table, plain or packed as the products' weights are.

use std::sync::Arc;

use ops::Embedding;

use crate::device::Chip;
use crate::driver::{SimtDriver, Source};
use crate::launch::{Planned, code, source, weighted};

use super::ROW;
use super::weight::{self, Layout};

const SOURCE: Source = source!("embedding", "weight.h");

/// Columns of a row for each group, at most: a decoding step looks up one row.
const SPAN: usize = 512;

pub(super) fn plan<D: SimtDriver>(chip: &Arc<Chip<D>>, op: &Embedding) -> Planned {
    let layout = match op.plain() {
        Some(dtype) => Some(Layout::plain(dtype, op.dim)),
        None => Layout::packed(op.table, op.vocab, op.dim),
    };
    let (Some(format), Some(layout)) = (weight::defines(op.table), layout) else {
        return Ok(None);
    };
    let kernel = chip.kernel(&SOURCE, "embedding", chip.group(ROW), &format)?;
    let wanted = (op.table, op.vocab, op.dim);
    let pack = move |chip: &Arc<Chip<D>>, w: &ops::HostWeight<'_>| weight::pack(chip, w, wanted);
    let (vocab, dim, out_code) = (op.vocab, op.dim, code(op.out));
    let spans = dim.div_ceil(SPAN);
    weighted(chip, pack, move |queue, args| {
        let [out, ids, table] = args else {
            unreachable!("counted by check_args")
        };
        queue
            .call()
            .view(out)
            .view(ids)
            .view(table)
            .long(vocab)
            .long(dim)
            .long(out.strides()[0])
            .long(layout.row_bytes)
            .long(layout.scales_at)
            .int(out_code)
            .long(spans)
            .long(SPAN)
            .run(&kernel, [ids.dim(0) * spans, 1, 1])
    })
}
