//! Activations, gated and not, and element-by-element functions.

use ops::reference::{Tensor, erfc};
use ops::{Act, Activation, Binary, Elementwise, Glu};

use super::{Kernel, Math};

/// The activation in f32.
pub(crate) fn act(act: Act, x: f32) -> f32 {
    // −∞·0 would be NaN; the limit is 0.
    if x == f32::NEG_INFINITY {
        return 0.0;
    }
    match act {
        Act::Silu => x / (1.0 + (-x).exp()),
        Act::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
        // The library function of a device, correctly rounded here.
        Act::GeluErf => 0.5 * x * erfc(f64::from(-x * std::f32::consts::FRAC_1_SQRT_2)) as f32,
        Act::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            // 1 + tanh(w) without its cancellation for negative w.
            x / (1.0 + (-2.0 * inner).exp())
        }
    }
}

impl Kernel for Activation {
    fn compute(&self, math: &Math, _shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        vec![inputs[0].map(|x| math.put(act(self.act, math.get(x))))]
    }
}

impl Kernel for Glu {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let mut out = Tensor::zeros(shapes[0]);
        let [gate, up] = self.halves();
        for r in 0..out.rows() {
            let x = inputs[0].row(r);
            for (c, out) in out.row_mut(r).iter_mut().enumerate() {
                let (mut g, mut u) = (math.get(x[gate.start + c]), math.get(x[up.start + c]));
                if let Some(limit) = self.limit {
                    g = if g > limit { limit } else { g };
                    u = u.clamp(-limit, limit);
                }
                *out = math.put(act(self.act, g) * u);
            }
        }
        vec![out]
    }
}

impl Kernel for Elementwise {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let f = |(&a, &b): (&f64, &f64)| {
            let (a, b) = (math.get(a), math.flushed(self.alpha * math.get(b)));
            math.put(match self.kind {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Mul => a * b,
            })
        };
        let pairs = inputs[0].data.iter().zip(&inputs[1].data);
        vec![Tensor::new(shapes[0], pairs.map(f).collect())]
    }
}
