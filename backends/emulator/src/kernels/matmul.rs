//! Products.

use ops::reference::Tensor;
use ops::{BatchedMatmul, Matmul};

use super::{Kernel, Math, act};

/// The product with `dot(m, n, x, w)` in place of its inner sums.
pub(crate) fn matmul(
    op: &Matmul,
    math: &Math,
    shapes: &[&[usize]],
    inputs: &[Tensor],
    dot: impl Fn(usize, usize, &[f64], &[f64]) -> f32,
) -> Vec<Tensor> {
    let (x, weight) = (&inputs[0], &inputs[1]);
    let bias = op.bias.then(|| &inputs[2]);
    let residual = op.residual.then(|| &inputs[2 + usize::from(op.bias)]);
    let mut out = Tensor::zeros(shapes[0]);
    for m in 0..x.rows() {
        for n in 0..op.n {
            let mut z = dot(m, n, x.row(m), weight.row(n));
            if let Some(bias) = bias {
                z = math.flushed(z + math.get(bias.data[n]));
            }
            if let Some(f) = op.activation {
                z = math.flushed(act(f, z));
            }
            if let Some(residual) = residual {
                z += math.get(residual.row(m)[n]);
            }
            out.row_mut(m)[n] = math.put(z);
        }
    }
    vec![out]
}

impl Kernel for Matmul {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        // A dequantised weight is a rounded product.
        let inputs: Vec<Tensor> = inputs
            .iter()
            .map(|t| t.map(|x| f64::from(x as f32)))
            .collect();
        matmul(self, math, shapes, &inputs, |_, _, x, w| math.dot(x, w))
    }
}

impl Kernel for BatchedMatmul {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [_, _, m, n] = *shapes[0] else {
            unreachable!("checked rank")
        };
        let mut out = Tensor::zeros(shapes[0]);
        for i in 0..out.data.len() {
            let (batch, at) = (i / (m * n), i % (m * n));
            let a = inputs[0].row(batch * m + at / n);
            let b = inputs[1].row(batch * n + at % n);
            out.data[i] = math.put(self.alpha * math.dot(a, b));
        }
        vec![out]
    }
}
