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
            if out.kind != Kind::F32 {
                to = run.piece(Kind::F32, &out.lengths());
            }
        }
        let factor = Scalar::F32(alpha);
        match kind {
            Binary::Add => call!(run, Add(a, b, factor, to))?,
            Binary::Sub => call!(run, Sub(a, b, factor, to))?,
            Binary::Mul if alpha == 1.0 => call!(run, Mul(a, b, to))?,
            Binary::Mul => {
                let scaled = run.piece(Kind::F32, &out.lengths());
                call!(run, Muls(b, factor, scaled))?;
                call!(run, Mul(a, scaled, to))?;
            }
        }
        match to.kind == out.kind {
            true => Ok(()),
            false => run.cast(out, to),
        }
    })
}
