//! Gated linear unit: one operator where the gate is the first half and its function SiLU; else in f32, one after the other.

use ops::{Act, Glu, Half};

use super::activation::activate;
use crate::arguments::Scalar;
use crate::planned::{Npu, Planned};
use crate::run::call;
use crate::tensor::Kind;

pub(crate) fn plan(npu: &Npu, op: &Glu) -> Planned {
    let Glu {
        dim, act, limit, ..
    } = *op;
    let ([gate, up], dense) = (op.halves(), (op.act, op.gate) == (Act::Silu, Half::First));
    let (rows, both): (&[usize], &[usize]) = (&[1, dim], &[1, 2 * dim]);
    npu.plan(op, &[rows, both], move |run, args| {
        let [out, x] = args.try_into().expect("counted by check_args");
        if out.is_empty() {
            return Ok(());
        }
        if dense && limit.is_none() && run.has(|operators| operators.SwiGlu.is_some()) {
            return call!(run, SwiGlu(x, 1, out));
        }
        let shape = [out.dim(0), dim];
        let [g, u] = [run.piece(Kind::F32, &shape), run.piece(Kind::F32, &shape)];
        run.cast(g, x.slice(1, gate.start, dim))?;
        run.cast(u, x.slice(1, up.start, dim))?;
        if let Some(limit) = limit {
            let [least, most] = [-limit, limit].map(Scalar::F32);
            call!(run, Clamp(g, Scalar::F32(f32::NEG_INFINITY), most, g))?;
            call!(run, Clamp(u, least, most, u))?;
        }
        activate(run, act, g, g)?;
        call!(run, Mul(g, u, g))?;
        run.cast(out, g)
    })
}
