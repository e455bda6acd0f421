//! Strided copy: one operator.

use ops::StridedCopy;

use crate::planned::{Npu, Planned};

pub(crate) fn plan(npu: &Npu, op: &StridedCopy) -> Planned {
    let one: &[usize] = &[1];
    npu.plan(op, &[one, one], |run, args| run.cast(args[0], args[1]))
}
