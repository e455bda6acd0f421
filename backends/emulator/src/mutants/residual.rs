//! Mutants of a residual sum with its norm, which both norms share.

use conformance::Conformance;
use conformance::number::round;
use hal::DType;

use super::{Change, common};

/// `without_factor` and `without_eps` give the specification without one of its two numbers.
pub(super) fn mutants<O: Conformance>(
    without_factor: fn(&O) -> O,
    without_eps: fn(&O) -> O,
) -> Vec<Change<O>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<2, _>());
    mutants.extend(common::nan());
    let own: Vec<Change<O>> = vec![
        Change::op("factor-ignored", without_factor),
        Change::run("residual-forgotten", |at| {
            at.instead(|op, shapes, inputs| {
                let mut inputs = inputs.to_vec();
                inputs[1] = inputs[1].map(|_| 0.0);
                op.reference(shapes, &inputs)
            })
        }),
        Change::run("factor-on-the-wrong-operand", |at| {
            at.instead(|op, shapes, inputs| {
                let mut inputs = inputs.to_vec();
                inputs.swap(0, 1);
                op.reference(shapes, &inputs)
            })
        }),
        Change::run("norm-of-x-instead-of-the-sum", |at| {
            at.instead(|op, shapes, inputs| {
                let mut out = op.reference(shapes, inputs);
                let mut alone = inputs.to_vec();
                alone[1] = alone[1].map(|_| 0.0);
                out[0] = op.reference(shapes, &alone).swap_remove(0);
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
            let (before, dim) = (at.read(1)?, at.args[1].dim(1));
            at.launch()?;
            at.edit(1, |sum| {
                let last = sum.len().saturating_sub(dim);
                sum[last..].copy_from_slice(&before[last..]);
            })
        }),
        Change::op("eps-forgotten", without_eps),
        Change::run("weight-forgotten", |at| at.launch_with(4, |w| w.fill(1.0))),
    ];
    mutants.extend(own);
    mutants
}
