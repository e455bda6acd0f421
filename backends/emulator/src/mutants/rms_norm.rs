//! Mutants of RMS normalisation.

use conformance::number::round;
use hal::{DType, Result};
use ops::RmsNorm;

use super::{At, Change, common, math};
use crate::kernels::rms_norm;

/// The norm of rows that `row` has computed in f32: x, weight, eps, out.
fn with_row(at: &mut At<'_, RmsNorm>, row: fn(&[f64], &[f64], f32, &mut [f64])) -> Result<()> {
    at.instead(|op, shapes, inputs| {
        let mut out = ops::reference::Tensor::zeros(shapes[0]);
        for r in 0..out.rows() {
            row(inputs[0].row(r), &inputs[1].data, op.eps, out.row_mut(r));
        }
        vec![out]
    })
}

/// Mean of squares in f32.
fn mean_square(x: &[f64]) -> f32 {
    math().sum(x.iter().map(|&x| (x * x) as f32)) / x.len() as f32
}

fn scaled(x: &[f64], weight: &[f64], scale: f32, out: &mut [f64]) {
    for (i, y) in out.iter_mut().enumerate() {
        *y = f64::from(x[i] as f32 * scale * weight[i] as f32);
    }
}

pub(super) fn mutants() -> Vec<Change<RmsNorm>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::index_wraps());
    mutants.extend(common::nan());
    let own: Vec<Change<RmsNorm>> = vec![
        Change::op("eps-forgotten", |op| RmsNorm {
            eps: 0.0,
            ..op.clone()
        }),
        Change::run("eps-outside-the-root", |at| {
            with_row(at, |x, weight, eps, out| {
                scaled(x, weight, 1.0 / (mean_square(x).sqrt() + eps), out);
            })
        }),
        Change::op("eps-of-another-model", |op| RmsNorm {
            eps: if op.eps == 1e-5 { 1e-6 } else { 1e-5 },
            ..op.clone()
        }),
        Change::run("sum-without-the-last-element", |at| {
            with_row(at, |x, weight, eps, out| {
                let but_last = mean_square(&x[..x.len() - 1]) * (x.len() - 1) as f32;
                let mean = if x.len() > 1 {
                    but_last / x.len() as f32
                } else {
                    0.0
                };
                scaled(x, weight, 1.0 / (mean + eps).sqrt(), out);
            })
        }),
        Change::run("sum-without-the-tail-beyond-1024", |at| {
            with_row(at, |x, weight, eps, out| {
                let seen = &x[..x.len().min(1024)];
                let mean = mean_square(seen) * seen.len() as f32 / x.len() as f32;
                scaled(x, weight, 1.0 / (mean + eps).sqrt(), out);
            })
        }),
        Change::run("sum-not-divided", |at| {
            with_row(at, |x, weight, eps, out| {
                scaled(
                    x,
                    weight,
                    1.0 / (mean_square(x) * x.len() as f32 + eps).sqrt(),
                    out,
                );
            })
        }),
        Change::run("mean-subtracted", |at| {
            with_row(at, |x, weight, eps, out| {
                let mean = x.iter().sum::<f64>() / x.len() as f64;
                let x: Vec<f64> = x.iter().map(|x| x - mean).collect();
                rms_norm(&math(), &x, weight, eps, out);
            })
        }),
        Change::run("sum-in-f16", |at| {
            with_row(at, |x, weight, eps, out| {
                let sum = x.iter().fold(0.0, |sum, x| round(DType::F16, sum + x * x));
                scaled(
                    x,
                    weight,
                    1.0 / (sum as f32 / x.len() as f32 + eps).sqrt(),
                    out,
                );
            })
        }),
        Change::run("root-to-12-bits", |at| {
            with_row(at, |x, weight, eps, out| {
                let scale = 1.0 / (mean_square(x) + eps).sqrt();
                scaled(x, weight, scale * (1.0 + 1.0 / 4096.0), out);
            })
        }),
        Change::run("scale-of-the-first-row-for-all", |at| {
            at.instead(|op, shapes, inputs| {
                let mut out = ops::reference::Tensor::zeros(shapes[0]);
                for r in 0..out.rows() {
                    let scale = 1.0 / (mean_square(inputs[0].row(0)) + op.eps).sqrt();
                    scaled(inputs[0].row(r), &inputs[1].data, scale, out.row_mut(r));
                }
                vec![out]
            })
        }),
        Change::run("weight-forgotten", |at| at.launch_with(2, |w| w.fill(1.0))),
        Change::run("one-added-to-the-weight", |at| {
            at.launch_with(2, |w| w.iter_mut().for_each(|w| *w += 1.0))
        }),
        Change::run("weight-through-bf16", |at| {
            at.launch_with(2, |w| {
                w.iter_mut().for_each(|w| *w = round(DType::BF16, *w))
            })
        }),
        Change::run("normalised-through-storage-before-the-weight", |at| {
            let dtype = at.op().dtype;
            if dtype == DType::F32 {
                return at.launch();
            }
            // Two roundings of the storage type instead of one.
            at.instead(|op, shapes, inputs| {
                let ones = inputs[1].map(|_| 1.0);
                let plain = [inputs[0].clone(), ones];
                let mut out = ops::Op::reference(op, shapes, &plain);
                let weight = &inputs[1].data;
                for (i, y) in out[0].data.iter_mut().enumerate() {
                    *y = round(dtype, *y) * weight[i % weight.len()];
                }
                out
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
