//! Mutants of element-by-element functions.

use conformance::number::round;
use hal::DType;
use ops::{Binary, Elementwise};

use super::{Change, common};

pub(super) fn mutants() -> Vec<Change<Elementwise>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::nan());
    let own: Vec<Change<Elementwise>> = vec![
        Change::op("factor-ignored", |op| Elementwise {
            alpha: 1.0,
            ..op.clone()
        }),
        Change::op("factor-through-f16", |op| Elementwise {
            alpha: round(DType::F16, op.alpha.into()) as f32,
            ..op.clone()
        }),
        Change::op("factor-of-the-other-sign", |op| Elementwise {
            alpha: op.alpha.abs(),
            ..op.clone()
        }),
        Change::run("factor-on-the-first-operand", |at| {
            at.instead(|op, shapes, inputs| {
                let plain = Elementwise {
                    alpha: 1.0,
                    ..op.clone()
                };
                let a = inputs[0].map(|x| x * f64::from(op.alpha));
                ops::Op::reference(&plain, shapes, &[a, inputs[1].clone()])
            })
        }),
        Change::run("difference-reversed", |at| {
            at.after(|op, _, out| {
                if op.kind == Binary::Sub {
                    out.iter_mut().for_each(|y| *y = -*y);
                }
            })
        }),
        Change::op("difference-is-a-sum", |op| Elementwise {
            kind: if op.kind == Binary::Sub {
                Binary::Add
            } else {
                op.kind
            },
            ..op.clone()
        }),
        Change::run("product-of-rounded-operands", |at| {
            at.launch_with(2, |b| {
                b.iter_mut().for_each(|b| *b = round(DType::BF16, *b))
            })
        }),
        Change::run("second-operand-not-broadcast", |at| {
            let view = at.args[2];
            if view.rank() == 0 || view.strides()[0] != 0 || view.shape()[0] < 2 {
                return at.launch();
            }
            let first = view.len() / view.shape()[0];
            let in_place = at.args[0].same(&view);
            let b = at.read(2)?;
            at.instead(|op, shapes, inputs| {
                let mut b = b;
                if !in_place && let Some(rest) = b.get_mut(first..) {
                    rest.fill(0.0);
                }
                let b = ops::reference::Tensor::new(&inputs[1].shape, b);
                ops::Op::reference(op, shapes, &[inputs[0].clone(), b])
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
