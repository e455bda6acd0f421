//! Mutants of the product of activations.

use conformance::number::round;
use hal::{DType, Result};
use ops::BatchedMatmul;
use ops::reference::Tensor;

use super::{At, Change, common, math};
use crate::kernels::{Kernel, Math};

fn with_math(at: &mut At<'_, BatchedMatmul>, change: fn(&mut Math)) -> Result<()> {
    let mut math = math();
    change(&mut math);
    at.instead(|op, shapes, inputs| op.compute(&math, shapes, inputs))
}

/// The product with batch `of(b0, b1, i)` of `b` for batch i of `a`.
fn with_batch(at: &mut At<'_, BatchedMatmul>, of: fn([usize; 2], usize) -> usize) -> Result<()> {
    at.instead(|op, shapes, inputs| {
        let [b0, b1, n, k] = *shapes[2] else {
            unreachable!("checked rank")
        };
        let b = (0..b0 * b1).flat_map(|i| {
            let start = of([b0, b1], i) * n * k;
            &inputs[1].data[start..start + n * k]
        });
        let b = Tensor::new(shapes[2], b.copied().collect());
        op.compute(&math(), shapes, &[inputs[0].clone(), b])
    })
}

pub(super) fn mutants() -> Vec<Change<BatchedMatmul>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::index_wraps());
    mutants.extend(common::nan());
    let own: Vec<Change<BatchedMatmul>> = vec![
        Change::run("last-k-dropped", |at| {
            let k = at.args[1].dim(3).max(1);
            at.launch_with(1, |a| {
                a.iter_mut().skip(k - 1).step_by(k).for_each(|x| *x = 0.0)
            })
        }),
        Change::run("sums-in-f16", |at| {
            with_math(at, |m| m.accumulator = DType::F16)
        }),
        Change::run("operands-in-tf32", |at| {
            with_math(at, |m| m.operand_bits = 11)
        }),
        Change::op("factor-missing", |op| BatchedMatmul {
            alpha: 1.0,
            ..op.clone()
        }),
        Change::op("factor-through-f16", |op| BatchedMatmul {
            alpha: round(DType::F16, op.alpha.into()) as f32,
            ..op.clone()
        }),
        Change::run("b-of-the-first-batch-for-all", |at| {
            with_batch(at, |_, _| 0)
        }),
        Change::run("batch-dimensions-swapped", |at| {
            with_batch(at, |[b0, b1], i| i % b0 * b1 + i / b0)
        }),
        Change::run("strides-of-b-ignored", |at| {
            let view = at.args[2];
            if view.is_contiguous() {
                return at.launch();
            }
            let b = at.read(2)?;
            at.launch_with(2, |x| {
                for (i, x) in x.iter_mut().enumerate() {
                    *x = b[(i * 2) % b.len().max(1)];
                }
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
