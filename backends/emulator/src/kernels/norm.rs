//! Normalisations, with and without a residual sum before them.

use ops::reference::Tensor;
use ops::{AddLayerNorm, AddRmsNorm, LayerNorm, RmsNorm};

use super::{Kernel, Math};

/// One row: `x · weight / sqrt(mean(x²) + eps)`.
pub(crate) fn rms_norm(math: &Math, x: &[f64], weight: &[f64], eps: f32, out: &mut [f64]) {
    let squares = x.iter().map(|&x| math.flushed(math.get(x) * math.get(x)));
    let scale = 1.0 / (math.sum(squares) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = math.put(math.flushed(math.get(x) * scale) * math.get(w));
    }
}

/// One row: `(x − mean) / sqrt(var + eps) · weight + bias`.
fn layer_norm(math: &Math, x: &[f64], [weight, bias]: [&[f64]; 2], eps: f32, out: &mut [f64]) {
    let n = x.len() as f32;
    let mean = math.sum(x.iter().map(|&x| math.get(x))) / n;
    let deviation = |x: f64| math.flushed(math.get(x) - mean);
    let squares = x.iter().map(|&x| math.flushed(deviation(x) * deviation(x)));
    let scale = 1.0 / (math.sum(squares) / n + eps).sqrt();
    for (i, out) in out.iter_mut().enumerate() {
        let normed = math.flushed(deviation(x[i]) * scale);
        *out = math.put(math.flushed(normed * math.get(weight[i])) + math.get(bias[i]));
    }
}

/// `x + alpha · residual`.
fn residual_sum(math: &Math, alpha: f32, x: &Tensor, residual: &Tensor) -> Tensor {
    let add = |(&x, &r): (&f64, &f64)| math.put(math.get(x) + math.flushed(alpha * math.get(r)));
    Tensor::new(
        &x.shape,
        x.data.iter().zip(&residual.data).map(add).collect(),
    )
}

impl Kernel for RmsNorm {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let mut out = Tensor::zeros(shapes[0]);
        for r in 0..out.rows() {
            rms_norm(
                math,
                inputs[0].row(r),
                &inputs[1].data,
                self.eps,
                out.row_mut(r),
            );
        }
        vec![out]
    }
}

impl Kernel for LayerNorm {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let mut out = Tensor::zeros(shapes[0]);
        let vectors = [&inputs[1].data[..], &inputs[2].data];
        for r in 0..out.rows() {
            layer_norm(math, inputs[0].row(r), vectors, self.eps, out.row_mut(r));
        }
        vec![out]
    }
}

impl Kernel for AddRmsNorm {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let sum = residual_sum(math, self.alpha, &inputs[0], &inputs[1]);
        let mut out = Tensor::zeros(shapes[0]);
        for r in 0..out.rows() {
            rms_norm(math, sum.row(r), &inputs[2].data, self.eps, out.row_mut(r));
        }
        vec![out, sum]
    }
}

impl Kernel for AddLayerNorm {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let sum = residual_sum(math, self.alpha, &inputs[0], &inputs[1]);
        let mut out = Tensor::zeros(shapes[0]);
        let vectors = [&inputs[2].data[..], &inputs[3].data];
        for r in 0..out.rows() {
            layer_norm(math, sum.row(r), vectors, self.eps, out.row_mut(r));
        }
        vec![out, sum]
    }
}
