//! Matrix product with a weight: one operator; integers become floats of the type of `x` before, and scales, bias, activation and
//! residual come after it, in f32. Where it is asked for, the library's own product with integers, which rounds them times their
//! scales to the type of `x`.

use hal::Result;
use ops::{Matmul, Op};

use super::activation::activate;
use super::weight::{Layout, has_products, product_kind};
use crate::arguments::{Absent, Folded, KeepType, Scalar, WholeRows};
use crate::find::Generation;
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

/// Integers that become floats at a time: what they take of the workspace must not grow with the vocabulary.
const BLOCK: usize = 1 << 24;

pub(crate) fn plan(npu: &Npu, op: &Matmul) -> Planned {
    let generation = npu.generation;
    let Some(x) = Kind::of(op.x) else {
        return Ok(None);
    };
    let Some(layout) = Layout::new(npu, x, op.weight, op.n, op.k) else {
        return Ok(None);
    };
    has_products(npu, Matmul::NAME, x)?;
    let layout = match npu.weight_quant && op.out == op.x {
        true => layout.with_half_scales(x),
        false => layout,
    };
    let (rows, ins, bytes): (&[usize], &[usize], &[usize]) =
        (&[1, op.n], &[1, op.k], &[layout.bytes]);
    let mut example = vec![rows, ins, bytes];
    let n = [op.n];
    example.extend(op.bias.then_some(&n[..]));
    example.extend(op.residual.then_some(rows));
    let (pack, op_) = (layout.packer(npu, op.weight), op.clone());
    npu.plan_with(op, &example, Some(pack), move |run, args| {
        matmul(run, &op_, generation, &layout, args)
    })
}

fn matmul(
    run: &mut Run<'_>,
    op: &Matmul,
    generation: Generation,
    layout: &Layout,
    args: &[Tensor],
) -> Result<()> {
    let (out, x, mut more) = (args[0], args[1], args[3..].iter());
    if out.is_empty() {
        return Ok(());
    }
    run.require(args[2], layout.bytes)?;
    let bias = op.bias.then(|| more.next()).flatten();
    let residual = op.residual.then(|| more.next()).flatten();
    let plain = bias.is_none() && residual.is_none() && op.activation.is_none();
    let (elements, scales) = (layout.elements(args[2]), layout.scales(args[2]));
    // It takes no workspace of ours. How much there must be does not depend on it, for arguments may have gaps.
    let dense = x.is_contiguous() && out.is_contiguous() && !run.measures();
    let whole = plain && dense && !x.is_empty();
    if let Some(half) = layout.half_scales(args[2]).filter(|_| whole) {
        let weight = elements.transposed();
        return call!(
            run,
            WeightQuantBatchMatmulV2(
                x, weight, half, Absent, Absent, Absent, Absent, WholeRows, out
            )
        );
    }
    let per_row = scales.filter(|scales| scales.dim(1) == 1);
    let kind = match scales {
        None => elements.kind,
        // Integers are exact in any float type; products with scales of their groups are in f32 alone.
        Some(_) => product_kind(
            generation,
            x.kind,
            if per_row.is_some() { x.kind } else { Kind::F32 },
        ),
    };
    let direct = plain && per_row.is_none() && (out.kind == kind || out.kind == Kind::F32);
    let apart = run.piece(
        if direct { out.kind } else { Kind::F32 },
        &[out.dim(0), op.n],
    );
    let to = match out.is_contiguous() && out.kind == apart.kind && residual.is_none() {
        true => out,
        false => apart,
    };
    match op.k {
        0 => run.fill(to, Scalar::F32(0.0))?,
        _ => run.scope(|run| {
            let x = run.as_kind(x, kind)?;
            let Some(scales) = scales else {
                return match layout.is_folded {
                    true => call!(run, MatmulWeightNz(x, Folded(elements), to, KeepType)),
                    false => call!(run, Matmul(x, elements.transposed(), to, KeepType)),
                };
            };
            let block = (BLOCK / op.k).clamp(1, op.n);
            for at in (0..op.n).step_by(block) {
                let n = block.min(op.n - at);
                let of_block = |x: Tensor| x.slice(0, at, n);
                run.scope(|run| {
                    let weight = match per_row {
                        Some(_) => run.as_kind(of_block(elements), kind)?,
                        None => dequantised(run, of_block(elements), of_block(scales), kind)?,
                    };
                    if n == op.n {
                        return call!(run, Matmul(x, weight.transposed(), to, KeepType));
                    }
                    let part = run.piece(to.kind, &[out.dim(0), n]);
                    call!(run, Matmul(x, weight.transposed(), part, KeepType))?;
                    run.cast(to.slice(1, at, n), part)
                })?;
            }
            Ok(())
        })?,
    }
    if let Some(scales) = per_row {
        call!(run, Mul(to, scales.transposed(), to))?;
    }
    if let Some(bias) = bias {
        call!(run, Add(to, *bias, Scalar::F32(1.0), to))?;
    }
    if let Some(act) = op.activation {
        activate(run, act, to, to)?;
    }
    if let Some(residual) = residual {
        let residual = run.as_kind(*residual, Kind::F32)?;
        call!(run, Add(to, residual, Scalar::F32(1.0), to))?;
    }
    match to.address == out.address {
        true => Ok(()),
        false => run.cast(out, to),
    }
}

/// A weight of integers with scales for groups of its columns, as floats.
pub(crate) fn dequantised(
    run: &mut Run<'_>,
    elements: Tensor,
    scales: Tensor,
    kind: Kind,
) -> Result<Tensor> {
    let (rows, cols, groups) = (elements.dim(0), elements.dim(1), scales.dim(1));
    let wide = run.piece(Kind::F32, &[rows, cols]);
    run.cast(wide, elements)?;
    if !wide.is_empty() {
        let grouped = wide.split(1, groups, cols / groups);
        call!(run, Mul(grouped, scales.unsqueeze(2), grouped))?;
    }
    run.as_kind(wide, kind)
}
