//! The k largest elements: a stable sort, because the library's top-k does not say which of equal elements comes first.

use ops::TopK;

use crate::planned::{Npu, Planned};
use crate::run::call;
use crate::tensor::Kind;

pub(crate) fn plan(npu: &Npu, op: &TopK) -> Planned {
    let k = op.k;
    let row: &[usize] = &[1, k.max(1)];
    npu.plan(op, &[row; 3], move |run, args| {
        let [values, indices, x] = args.try_into().expect("counted by check_args");
        if values.is_empty() {
            return Ok(());
        }
        let shape = [x.dim(0), x.dim(1)];
        let (sorted, order) = (run.piece(x.kind, &shape), run.piece(Kind::I64, &shape));
        call!(run, Sort(x, true, 1, true, sorted, order))?;
        run.cast(values, sorted.slice(1, 0, k))?;
        run.cast(indices, order.slice(1, 0, k))
    })
}
