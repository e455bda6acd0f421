//! Sum, difference, product: one operator; with a factor of a half type through f32, so that it is rounded once.

use ops::{Binary, Elementwise};

use crate::arguments::Scalar;
use crate::planned::{Npu, Planned};
use crate::run::call;
use crate::tensor::Kind;

pub(crate) fn plan(npu: &Npu, op: &Elementwise) -> Planned {
    let Elementwise { kind, alpha, .. } = *op;
    let one: &[usize] = &[1];
    npu.plan(op, &[one; 3], move |run, args| {
        let [out, mut a, mut b] = args.try_into().expect("counted by check_args");
        if out.is_empty() {
            return Ok(());
        }
        let mut to = out;
        if alpha != 1.0 {
            (a, b) = (run.as_kind(a, Kind::F32)?, run.as_kind(b, Kind::F32)?);
            let shape: Vec<usize> = out.shape().iter().map(|&n| n as usize).collect();
            to = if out.kind == Kind::F32 {
                out
            } else {
                run.piece(Kind::F32, &shape)
            };
        }
        let factor = Scalar::F32(alpha);
        match kind {
            Binary::Add => call!(run, Add(a, b, factor, to))?,
            Binary::Sub => call!(run, Sub(a, b, factor, to))?,
            Binary::Mul if alpha == 1.0 => call!(run, Mul(a, b, to))?,
            Binary::Mul => {
                let shape: Vec<usize> = out.shape().iter().map(|&n| n as usize).collect();
                let scaled = run.piece(Kind::F32, &shape);
                call!(run, Muls(b, factor, scaled))?;
                call!(run, Mul(a, scaled, to))?;
            }
        }
        match alpha == 1.0 || out.kind == Kind::F32 {
            true => Ok(()),
            false => run.cast(out, to),
        }
    })
}
