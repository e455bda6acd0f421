//! Change of float type: one operator.

use ops::Cast;

use crate::planned::{Npu, Planned};

pub(crate) fn plan(npu: &Npu, op: &Cast) -> Planned {
    let one: &[usize] = &[1];
    npu.plan(op, &[one, one], |run, args| run.cast(args[0], args[1]))
}
