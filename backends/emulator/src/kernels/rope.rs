//! Rotary position embedding.

use ops::reference::Tensor;
use ops::{Rope, RopeLayout};

use super::{Kernel, Math};

impl Kernel for Rope {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, positions, cos, sin] = inputs else {
            unreachable!("four inputs")
        };
        let (heads, part, pairs) = (
            shapes[0][1],
            self.head_dim / self.streams,
            self.rotary_dim / 2,
        );
        let mut out = x.clone();
        for row in 0..x.rows() {
            for s in 0..self.streams {
                let position = positions.row(s)[row / heads];
                let position = position.clamp(0.0, (cos.shape[0] - 1) as f64) as usize;
                for i in 0..pairs {
                    let (a, b) = match self.layout {
                        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                        RopeLayout::HalfSplit => (i, i + pairs),
                    };
                    let (a, b) = (s * part + a, s * part + b);
                    let (cos, sin) = (cos.row(position)[i] as f32, sin.row(position)[i] as f32);
                    let (x0, x1) = (math.get(x.row(row)[a]), math.get(x.row(row)[b]));
                    let out = out.row_mut(row);
                    out[a] = math.put(math.flushed(x0 * cos) - math.flushed(x1 * sin));
                    out[b] = math.put(math.flushed(x1 * cos) + math.flushed(x0 * sin));
                }
            }
        }
        vec![out]
    }
}
