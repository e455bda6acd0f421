//! Activation functions: one operator each.

use hal::Result;
use ops::{Act, Activation};

use crate::arguments::Scalar;
use crate::planned::{Npu, Planned};
use crate::run::{Run, call};
use crate::tensor::Tensor;

pub(crate) fn plan(npu: &Npu, op: &Activation) -> Planned {
    let act = op.act;
    let one: &[usize] = &[1, 1];
    npu.plan(op, &[one, one], move |run, args| {
        activate(run, act, args[0], args[1])
    })
}

/// `out = act(x)`; they may be the same.
pub(crate) fn activate(run: &mut Run<'_>, act: Act, out: Tensor, x: Tensor) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    match act {
        Act::Silu => call!(run, Silu(x, out)),
        Act::GeluErf => call!(run, GeluV2(x, 0, out)),
        // Older releases have this function, and no other, under the name without a number.
        Act::GeluTanh if !run.has(|operators| operators.GeluV2.is_some()) => {
            call!(run, Gelu(x, out))
        }
        Act::GeluTanh => call!(run, GeluV2(x, 1, out)),
        Act::GeluQuick => call!(run, Swish(x, Scalar::F32(1.702), out)),
    }
}
