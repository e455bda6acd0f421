//! Layer normalisation: one operator; on chips that lack it in f32 from smaller ones.

use ops::LayerNorm;

use super::rms_norm::scale_rows;
use crate::arguments::{Absent, Integers, Scalar};
use crate::find::Generation;
use crate::planned::{Npu, Planned};
use crate::run::call;
use crate::tensor::Kind;

pub(crate) fn plan(npu: &Npu, op: &LayerNorm) -> Planned {
    let LayerNorm { dim, eps, .. } = *op;
    let whole = npu.generation == Generation::Second;
    let rows: &[usize] = &[1, dim];
    npu.plan(op, &[rows, rows, &[dim], &[dim]], move |run, args| {
        let [out, x, weight, bias] = args.try_into().expect("counted by check_args");
        if out.is_empty() {
            return Ok(());
        }
        let n = out.dim(0);
        if whole && run.has(|operators| operators.LayerNorm.is_some()) {
            let apart = run.piece(out.kind, &[n, dim]);
            // Nobody promises that it works in place.
            let to = if out.address == x.address { apart } else { out };
            let shape = [dim as i64];
            call!(
                run,
                LayerNorm(
                    x,
                    Integers(&shape),
                    weight,
                    bias,
                    f64::from(eps),
                    to,
                    Absent,
                    Absent
                )
            )?;
            return match to.address == out.address {
                true => Ok(()),
                false => run.cast(out, to),
            };
        }
        let wide = run.piece(Kind::F32, &[n, dim]);
        let mean = run.piece(Kind::F32, &[n, 1]);
        run.cast(wide, x)?;
        call!(run, Mean(wide, Integers(&[1]), true, Kind::F32, mean))?;
        call!(run, Sub(wide, mean, Scalar::F32(1.0), wide))?;
        scale_rows(run, wide, eps)?;
        call!(run, Mul(wide, weight, wide))?;
        call!(run, Add(wide, bias, Scalar::F32(1.0), wide))?;
        run.cast(out, wide)
    })
}
