//! Mutants of layer normalisation.

use conformance::number::round;
use hal::{DType, Result};
use ops::LayerNorm;

use super::{At, Change, common, math};

/// The norm with these moments of x, n and eps: mean, and the factor.
fn with_moments(
    at: &mut At<'_, LayerNorm>,
    moments: fn(&[f32], f32, f32) -> (f32, f32),
) -> Result<()> {
    at.instead(|op, shapes, inputs| {
        let mut out = ops::reference::Tensor::zeros(shapes[0]);
        for r in 0..out.rows() {
            let x: Vec<f32> = inputs[0].row(r).iter().map(|&x| x as f32).collect();
            let (mean, scale) = moments(&x, x.len() as f32, op.eps);
            for (i, y) in out.row_mut(r).iter_mut().enumerate() {
                let (w, b) = (inputs[1].data[i] as f32, inputs[2].data[i] as f32);
                *y = f64::from((x[i] - mean) * scale * w + b);
            }
        }
        vec![out]
    })
}

fn mean(x: &[f32]) -> f32 {
    math().sum(x.iter().copied()) / x.len() as f32
}

/// Sum of squared distances from `mean`.
fn spread(x: &[f32], mean: f32) -> f32 {
    math().sum(x.iter().map(|x| (x - mean) * (x - mean)))
}

pub(super) fn mutants() -> Vec<Change<LayerNorm>> {
    let mut mutants = common::everywhere();
    mutants.extend(common::declines());
    mutants.extend(common::computed());
    mutants.extend(common::output_strides());
    mutants.extend(common::input_layout::<1, _>());
    mutants.extend(common::index_wraps());
    mutants.extend(common::nan());
    let own: Vec<Change<LayerNorm>> = vec![
        Change::run("variance-is-mean-square-minus-square-mean", |at| {
            with_moments(at, |x, n, eps| {
                let mean = mean(x);
                let square = math().sum(x.iter().map(|x| x * x)) / n;
                (mean, 1.0 / ((square - mean * mean).max(0.0) + eps).sqrt())
            })
        }),
        Change::run("variance-is-unbiased", |at| {
            with_moments(at, |x, n, eps| {
                let mean = mean(x);
                (
                    mean,
                    1.0 / (spread(x, mean) / (n - 1.0).max(1.0) + eps).sqrt(),
                )
            })
        }),
        Change::run("variance-is-the-mean-square", |at| {
            with_moments(at, |x, n, eps| {
                (mean(x), 1.0 / (spread(x, 0.0) / n + eps).sqrt())
            })
        }),
        Change::run("mean-not-subtracted", |at| {
            with_moments(at, |x, n, eps| {
                (0.0, 1.0 / (spread(x, mean(x)) / n + eps).sqrt())
            })
        }),
        Change::run("eps-outside-the-root", |at| {
            with_moments(at, |x, n, eps| {
                let mean = mean(x);
                (mean, 1.0 / ((spread(x, mean) / n).sqrt() + eps))
            })
        }),
        Change::op("eps-forgotten", |op| LayerNorm {
            eps: 1e-30,
            ..op.clone()
        }),
        Change::run("mean-in-f16", |at| {
            with_moments(at, |x, n, eps| {
                let mean = round(DType::F16, mean(x).into()) as f32;
                (mean, 1.0 / (spread(x, mean) / n + eps).sqrt())
            })
        }),
        Change::run("mean-without-the-last-element", |at| {
            with_moments(at, |x, n, eps| {
                let mean = math().sum(x[..x.len() - 1].iter().copied()) / n;
                (mean, 1.0 / (spread(x, mean) / n + eps).sqrt())
            })
        }),
        Change::run("weight-forgotten", |at| at.launch_with(2, |w| w.fill(1.0))),
        Change::run("bias-forgotten", |at| at.launch_with(3, |b| b.fill(0.0))),
        Change::run("weight-and-bias-swapped", |at| {
            let (w, b) = (at.read(2)?, at.read(3)?);
            at.instead(|op, shapes, inputs| {
                let mut inputs = inputs.to_vec();
                (inputs[1].data, inputs[2].data) = (b, w);
                ops::Op::reference(op, shapes, &inputs)
            })
        }),
        Change::run("root-to-12-bits", |at| {
            with_moments(at, |x, n, eps| {
                let mean = mean(x);
                let scale = 1.0 / (spread(x, mean) / n + eps).sqrt();
                (mean, scale * (1.0 - 1.0 / 4096.0))
            })
        }),
    ];
    mutants.extend(own);
    mutants
}
