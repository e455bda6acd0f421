//! Matrix products of activations: one operator, whose operands are brought to one type where they differ.

use ops::BatchedMatmul;

use crate::arguments::{KeepType, Scalar};
use crate::planned::{Npu, Planned};
use crate::run::call;
use crate::tensor::Kind;

use super::weight::product_kind;

pub(crate) fn plan(npu: &Npu, op: &BatchedMatmul) -> Planned {
    let (alpha, generation) = (op.alpha, npu.generation);
    let one: &[usize] = &[1; 4];
    npu.plan(op, &[one; 3], move |run, args| {
        let [out, mut a, mut b] = args.try_into().expect("counted by check_args");
        if out.is_empty() {
            return Ok(());
        }
        if a.dim(3) == 0 {
            return run.fill(out, Scalar::F32(0.0));
        }
        let kind = product_kind(generation, a.kind, b.kind);
        // What one of them repeats is broadcast, and not copied.
        for dim in [0, 1] {
            if b.repeats(dim) {
                b = b.slice(dim, 0, 1);
            } else if a.repeats(dim) {
                a = a.slice(dim, 0, 1);
            }
        }
        let (a, b) = (run.as_kind(a, kind)?, run.as_kind(b, kind)?);
        let wide = alpha != 1.0 || (out.kind != kind && out.kind != Kind::F32);
        let shape = [0, 1, 2, 3].map(|i| out.dim(i));
        let apart = run.piece(if wide { Kind::F32 } else { out.kind }, &shape);
        let to = match out.is_contiguous() && out.kind == apart.kind {
            true => out,
            false => apart,
        };
        call!(run, Matmul(a, b.transposed(), to, KeepType))?;
        if alpha != 1.0 {
            call!(run, Muls(to, Scalar::F32(alpha), to))?;
        }
        match to.address == out.address {
            true => Ok(()),
            false => run.cast(out, to),
        }
    })
}
