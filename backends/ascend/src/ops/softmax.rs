//! Softmax in f32. A mask is made on the device: of each row the number of columns that it sees, as all masks show the first ones.

use hal::Result;
use ops::{Mask, Op, Softmax};

use crate::arguments::{Integers, Scalar};
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

pub(crate) fn plan(npu: &Npu, op: &Softmax) -> Planned {
    let Softmax { scale, mask, .. } = *op;
    let rows: &[usize] = &[1, 1, 1];
    let example: [&[usize]; 5] = [rows, rows, &[2], &[1], &[1]];
    npu.plan(op, &example[..op.signature().len()], move |run, args| {
        let (out, x) = (args[0], args[1]);
        if out.is_empty() {
            return Ok(());
        }
        let [batch, rows, cols] = [0, 1, 2].map(|i| out.dim(i));
        let wide = run.piece(Kind::F32, &[batch, rows, cols]);
        run.cast(wide, x)?;
        if scale != 1.0 {
            call!(run, Muls(wide, Scalar::F32(scale), wide))?;
        }
        let hidden = match mask {
            Some(mask) => Some(hidden(run, mask, &args[2..], rows, cols)?),
            None => None,
        };
        let never = Scalar::F32(f32::NEG_INFINITY);
        if let Some(hidden) = hidden {
            call!(run, InplaceMaskedFillScalar(wide, hidden, never))?;
        }
        let result = run.piece(Kind::F32, &[batch, rows, cols]);
        call!(run, Softmax(wide, 2, result))?;
        // A row without anything above −∞ has become no number.
        let (most, nothing) = (
            run.piece(Kind::F32, &[batch, rows, 1]),
            run.piece(Kind::Bool, &[batch, rows, 1]),
        );
        call!(run, Amax(wide, Integers(&[2]), true, most))?;
        call!(run, EqScalar(most, never, nothing))?;
        for zeros in [Some(nothing), hidden].into_iter().flatten() {
            call!(
                run,
                InplaceMaskedFillScalar(result, zeros, Scalar::F32(0.0))
            )?;
        }
        run.cast(out, result)
    })
}

/// Which columns a row does not see: bool `[1, rows, cols]`.
///
/// A row of the sequence sees the columns before `kv_len`, or before its own position + 1, or before the prefix if that is more;
/// others see none.
fn hidden(
    run: &mut Run<'_>,
    mask: Mask,
    args: &[Tensor],
    rows: usize,
    cols: usize,
) -> Result<Tensor> {
    let (first, end, kv_len) = (args[0].slice(0, 0, 1), args[0].slice(0, 1, 1), args[1]);
    let row = run.count(rows, 1)?;
    let seen = run.piece(Kind::I32, &[rows]);
    let one = Scalar::I32(1);
    match mask {
        Mask::Full => {
            run.fill(seen, Scalar::I32(0))?;
            call!(run, Add(seen, kv_len, one, seen))?;
        }
        Mask::Causal | Mask::Prefix => {
            // row + 1 + kv_len − end
            call!(run, Adds(row, one, one, seen))?;
            call!(run, Add(seen, kv_len, one, seen))?;
            call!(run, Sub(seen, end, one, seen))?;
        }
    }
    if mask == Mask::Prefix {
        call!(run, Maximum(seen, args[2], seen))?;
        call!(run, Minimum(seen, kv_len, seen))?;
    }
    let [after, before, inside] = [0; 3].map(|_| run.piece(Kind::Bool, &[rows]));
    call!(run, GeTensor(row, first, after))?;
    call!(run, LtTensor(row, end, before))?;
    call!(run, LogicalAnd(after, before, inside))?;
    let (nothing, limit) = (run.piece(Kind::I32, &[rows]), run.piece(Kind::I32, &[rows]));
    run.fill(nothing, Scalar::I32(0))?;
    call!(run, SWhere(inside, seen, nothing, limit))?;
    let col = run.count(cols, 1)?;
    let hidden = run.piece(Kind::Bool, &[rows, cols]);
    call!(run, GeTensor(col.unsqueeze(0), limit.unsqueeze(1), hidden))?;
    Ok(hidden.unsqueeze(0))
}
