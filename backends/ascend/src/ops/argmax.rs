//! Index of the largest element: one operator.

use ops::Argmax;

use crate::planned::{Npu, Planned};
use crate::run::call;

pub(crate) fn plan(npu: &Npu, op: &Argmax) -> Planned {
    let (one, row): (&[usize], &[usize]) = (&[1], &[1, 1]);
    npu.plan(op, &[one, row], |run, args| {
        let (out, x) = (args[0], args[1]);
        match out.is_empty() {
            true => Ok(()),
            false => call!(run, ArgMax(x, 1, false, out)),
        }
    })
}
