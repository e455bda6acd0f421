//! Rows of a table: one operator for floats; ids that name no row are moved into the table before it, and give zeros after it.

use hal::Result;
use ops::{Embedding, Op};

use super::matmul::dequantised;
use super::weight::{Layout, has_products};
use crate::arguments::Scalar;
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
            embedding(run, out, ids, table, None)
        });
    }
    if op.tied {
        has_products(npu, Embedding::NAME, kind)?;
    }
    // As the product whose weight it may be packs it.
    let Some(layout) = Layout::new(npu.generation, kind, op.table, vocab, dim) else {
        return Ok(None);
    };
    let pack = layout.packer(op.table);
    let example = [rows, one, &[layout.bytes]];
    npu.plan_with(op, &example, Some(pack), move |run, args| {
        let [out, ids, table] = args.try_into().expect("counted by check_args");
        run.require(table, layout.bytes)?;
        embedding(run, out, ids, layout.elements(table), layout.scales(table))
    })
}

fn embedding(
    run: &mut Run<'_>,
    out: Tensor,
    ids: Tensor,
    table: Tensor,
    scales: Option<Tensor>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let (n, dim, vocab) = (out.dim(0), out.dim(1), table.dim(0));
    if vocab == 0 {
        return run.fill(out, Scalar::F32(0.0));
    }
    let (inside, none) = bounded(run, ids, vocab)?;
    let apart = run.piece(table.kind, &[n, dim]);
    let mut rows = match out.is_contiguous() && out.kind == table.kind {
        true => out,
        false => apart,
    };
    call!(run, Embedding(table, inside, rows))?;
    if let Some(scales) = scales {
        let of_rows = run.piece(Kind::F32, &[n, scales.dim(1)]);
        call!(run, Embedding(scales, inside, of_rows))?;
        rows = dequantised(run, rows, of_rows, Kind::F32)?;
    }
    let zero = Scalar::F32(0.0);
    call!(run, InplaceMaskedFillScalar(rows, none.unsqueeze(1), zero))?;
    match rows.address == out.address {
        true => Ok(()),
        false => run.cast(out, rows),
    }
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
