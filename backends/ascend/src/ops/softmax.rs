//! Softmax in f32. A mask is made on the device.

use ops::{Op, Softmax};

use super::mask::Rows;
use crate::arguments::{Integers, Scalar};
use crate::planned::{Npu, Planned};
use crate::run::call;
use crate::tensor::Kind;

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
            Some(mask) => {
                let of = Rows {
                    first: args[2].slice(0, 0, 1),
                    end: args[2].slice(0, 1, 1),
                    kv_len: args[3],
                    prefix: args.get(4).copied(),
                };
                Some(of.hidden(run, mask, rows, cols)?.unsqueeze(0))
            }
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
