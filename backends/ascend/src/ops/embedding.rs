//! Rows of a table: one operator for floats, two for those in fractals; ids that name no row are moved into the table before it,
//! and give zeros after it.

use hal::Result;
use ops::{Embedding, Op};

use super::matmul::dequantised;
use super::weight::{Layout, has_products};
use crate::arguments::{FRACTAL, Scalar};
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

pub(crate) fn plan(npu: &Npu, op: &Embedding) -> Planned {
    let Embedding { vocab, dim, .. } = *op;
    let Some(kind) = Kind::of(op.out) else {
        return Ok(None);
    };
    let (rows, one, table): (&[usize], &[usize], &[usize]) = (&[1, dim], &[1], &[vocab, dim]);
    if op.plain().is_some() {
        return npu.plan(op, &[rows, one, table], move |run, args| {
            let [out, ids, table] = args.try_into().expect("counted by check_args");
            embedding(run, out, ids, Table::Rows(table, None))
        });
    }
    if op.tied {
        has_products(npu, Embedding::NAME, kind)?;
    }
    // As the product whose weight it may be packs it.
    let Some(layout) = Layout::new(npu, kind, op.table, vocab, dim) else {
        return Ok(None);
    };
    let pack = layout.packer(npu, op.table);
    let example = [rows, one, &[layout.bytes]];
    npu.plan_with(op, &example, Some(pack), move |run, args| {
        let [out, ids, table] = args.try_into().expect("counted by check_args");
        run.require(table, layout.bytes)?;
        let (elements, scales) = (layout.elements(table), layout.scales(table));
        let table = match layout.is_folded {
            true => Table::Folded(elements),
            false => Table::Rows(elements, scales),
        };
        embedding(run, out, ids, table)
    })
}

enum Table {
    /// Rows without gaps, and their scales.
    Rows(Tensor, Option<Tensor>),
    /// A weight in fractals.
    Folded(Tensor),
}

fn embedding(run: &mut Run<'_>, out: Tensor, ids: Tensor, table: Table) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let (Table::Rows(elements, _) | Table::Folded(elements)) = table;
    let (n, dim, vocab) = (out.dim(0), out.dim(1), elements.dim(0));
    if vocab == 0 {
        return run.fill(out, Scalar::F32(0.0));
    }
    let (inside, none) = bounded(run, ids, vocab)?;
    let rows = match table {
        Table::Folded(table) => unfolded(run, table, inside)?,
        Table::Rows(table, scales) => {
            let apart = run.piece(table.kind, &[n, dim]);
            let rows = match out.is_contiguous() && out.kind == table.kind {
                true => out,
                false => apart,
            };
            call!(run, Embedding(table, inside, rows))?;
            match scales {
                None => rows,
                Some(scales) => {
                    let of_rows = run.piece(Kind::F32, &[n, scales.dim(1)]);
                    call!(run, Embedding(scales, inside, of_rows))?;
                    dequantised(run, rows, of_rows, Kind::F32)?
                }
            }
        }
    };
    let zero = Scalar::F32(0.0);
    call!(run, InplaceMaskedFillScalar(rows, none.unsqueeze(1), zero))?;
    match rows.address == out.address {
        true => Ok(()),
        false => run.cast(out, rows),
    }
}

/// Rows of a weight in fractals: of each 16 columns those rows, put beside each other.
fn unfolded(run: &mut Run<'_>, table: Tensor, ids: Tensor) -> Result<Tensor> {
    let (n, [vocab, dim]) = (ids.dim(0), [0, 1].map(|i| table.dim(i)));
    let (strips, high) = (dim.div_ceil(FRACTAL), vocab.next_multiple_of(FRACTAL));
    let folded = Tensor::new(table.address, table.kind, &[strips, high, FRACTAL]);
    let taken = run.piece(table.kind, &[strips, n, FRACTAL]);
    call!(run, IndexSelect(folded, 1, ids, taken))?;
    let rows = run.piece(table.kind, &[n, strips, FRACTAL]);
    run.cast(rows, taken.exchanged(0, 1))?;
    Ok(rows.reshape(&[n, strips * FRACTAL]).slice(1, 0, dim))
}

/// Numbers that name one of `n` > 0 things: those that do as they are, others some; and which do not.
pub(crate) fn bounded(run: &mut Run<'_>, ids: Tensor, n: usize) -> Result<(Tensor, Tensor)> {
    let inside = clamped(run, ids, n)?;
    let none = run.piece(Kind::Bool, &[ids.dim(0)]);
    call!(run, NeTensor(ids, inside, none))?;
    Ok((inside, none))
}

/// Numbers, each moved to the nearest of `0..n`.
pub(crate) fn clamped(run: &mut Run<'_>, ids: Tensor, n: usize) -> Result<Tensor> {
    let inside = run.piece(Kind::I32, &[ids.dim(0)]);
    let last = Scalar::I32(i32::try_from(n - 1).unwrap_or(i32::MAX));
    call!(run, Clamp(ids, Scalar::I32(0), last, inside))?;
    Ok(inside)
}
