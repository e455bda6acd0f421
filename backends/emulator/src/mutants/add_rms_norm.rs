//! Mutants of the residual sum with RMS normalisation.

use conformance::number::round;
use hal::DType;
use ops::AddRmsNorm;

use super::{Change, common};

pub(super) fn mutants() -> Vec<Change<AddRmsNorm>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<2, _>());
    mutants.extend(common::nan());
    let own: Vec<Change<AddRmsNorm>> = vec![
        Change::op("factor-ignored", |op| AddRmsNorm {
            alpha: 1.0,
            ..op.clone()
        }),
        Change::run("residual-forgotten", |at| {
            at.instead(|op, shapes, inputs| {
                let mut inputs = inputs.to_vec();
                inputs[1] = inputs[1].map(|_| 0.0);
                ops::Op::reference(op, shapes, &inputs)
            })
        }),
        Change::run("factor-on-the-wrong-operand", |at| {
            at.instead(|op, shapes, inputs| {
                let mut inputs = inputs.to_vec();
                inputs.swap(0, 1);
                ops::Op::reference(op, shapes, &inputs)
            })
        }),
        Change::run("norm-of-x-instead-of-the-sum", |at| {
            at.instead(|op, shapes, inputs| {
                let mut out = ops::Op::reference(op, shapes, inputs);
                let mut alone = inputs.to_vec();
                alone[1] = alone[1].map(|_| 0.0);
                out[0] = ops::Op::reference(op, shapes, &alone).swap_remove(0);
                out
            })
        }),
        Change::run("sum-not-written", |at| {
            let before = at.read(1)?;
            at.launch()?;
            at.edit(1, |sum| sum.copy_from_slice(&before))
        }),
        Change::run("sum-is-x", |at| {
            let x = at.read(2)?;
            at.launch()?;
            at.edit(1, |sum| sum.copy_from_slice(&x))
        }),
        Change::run("sum-is-the-norm", |at| {
            at.launch()?;
            let out = at.read(0)?;
            at.edit(1, |sum| sum.copy_from_slice(&out))
        }),
        Change::run("sum-through-bf16", |at| {
            at.launch()?;
            at.edit(1, |sum| {
                sum.iter_mut().for_each(|x| *x = round(DType::BF16, *x))
            })
        }),
        Change::run("last-row-of-the-sum-unwritten", |at| {
            let (before, dim) = (at.read(1)?, at.op().dim);
            at.launch()?;
            at.edit(1, |sum| {
                let last = sum.len().saturating_sub(dim);
                sum[last..].copy_from_slice(&before[last..]);
            })
        }),
        Change::op("eps-forgotten", |op| AddRmsNorm {
            eps: 1e-30,
            ..op.clone()
        }),
        Change::run("weight-forgotten", |at| at.launch_with(4, |w| w.fill(1.0))),
    ];
    mutants.extend(own);
    mutants
}
