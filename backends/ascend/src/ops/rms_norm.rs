//! RMS normalisation: one operator; on chips that lack it in f32 from smaller ones.

use hal::Result;
use ops::RmsNorm;

use crate::arguments::{Integers, Scalar};
use crate::find::Generation;
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

pub(crate) fn plan(npu: &Npu, op: &RmsNorm) -> Planned {
    let RmsNorm { dim, eps, .. } = *op;
    let whole = npu.generation == Generation::Second;
    let rows: &[usize] = &[1, dim];
    npu.plan(op, &[rows, rows, &[dim]], move |run, args| {
        let [out, x, weight] = args.try_into().expect("counted by check_args");
        if out.is_empty() {
            return Ok(());
        }
        let n = out.dim(0);
        if whole && run.has(|operators| operators.RmsNorm.is_some()) {
            let rstd = run.piece(Kind::F32, &[n, 1]);
            let apart = run.piece(out.kind, &[n, dim]);
            // Nobody promises that it works in place.
            let to = if out.address == x.address { apart } else { out };
            call!(run, RmsNorm(x, weight, f64::from(eps), to, rstd))?;
            return match to.address == out.address {
                true => Ok(()),
                false => run.cast(out, to),
            };
        }
        let wide = run.piece(Kind::F32, &[n, dim]);
        run.cast(wide, x)?;
        scale_rows(run, wide, eps)?;
        call!(run, Mul(wide, weight, wide))?;
        run.cast(out, wide)
    })
}

/// Divides each row of `x`, in f32, by the root of its mean square and `eps`.
pub(crate) fn scale_rows(run: &mut Run<'_>, x: Tensor, eps: f32) -> Result<()> {
    let (n, dim) = (x.dim(0), x.dim(1));
    let squares = run.piece(Kind::F32, &[n, dim]);
    let mean = run.piece(Kind::F32, &[n, 1]);
    call!(run, Mul(x, x, squares))?;
    call!(run, Mean(squares, Integers(&[1]), true, Kind::F32, mean))?;
    call!(run, Adds(mean, Scalar::F32(eps), Scalar::F32(1.0), mean))?;
    call!(run, Rsqrt(mean, mean))?;
    call!(run, Mul(x, mean, x))
}
