//! Softmax of rows.

use ops::Softmax;
use ops::reference::Tensor;

use super::{Kernel, Math};

/// Softmax of one row of scores; −∞ is hidden. A row that sees nothing becomes zeros.
pub(crate) fn softmax_row(math: &Math, scores: &mut [f32]) {
    let larger = |m: f32, &x: &f32| if x > m || x.is_nan() { x } else { m };
    let max = scores.iter().fold(f32::NEG_INFINITY, larger);
    if max == f32::NEG_INFINITY {
        return scores.fill(0.0);
    }
    for s in scores.iter_mut() {
        *s = math.flushed((*s - max).exp());
    }
    let total = math.sum(scores.iter().copied());
    for s in scores.iter_mut() {
        *s = math.flushed(*s / total);
    }
}

impl Kernel for Softmax {
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let rows = shapes[0][1];
        let mut out = Tensor::zeros(shapes[0]);
        for r in 0..out.rows() {
            let sees: Vec<bool> = (0..shapes[0][2])
                .map(|c| sees(self, inputs, r % rows, c))
                .collect();
            let scaled = inputs[0]
                .row(r)
                .iter()
                .zip(&sees)
                .map(|(&x, &sees)| match sees {
                    true => math.flushed(math.get(x) * self.scale),
                    false => f32::NEG_INFINITY,
                });
            let mut scores: Vec<f32> = scaled.collect();
            softmax_row(math, &mut scores);
            for ((out, p), sees) in out.row_mut(r).iter_mut().zip(scores).zip(sees) {
                // Hidden columns are 0 even where a visible NaN spoils the row.
                *out = if sees { math.put(p) } else { 0.0 };
            }
        }
        vec![out]
    }
}

/// Whether row `row` sees column `col`.
fn sees(op: &Softmax, inputs: &[Tensor], row: usize, col: usize) -> bool {
    let Some(mask) = op.mask else { return true };
    let (start, end) = (inputs[1].data[0] as i64, inputs[1].data[1] as i64);
    let (row, kv_len) = (row as i64, inputs[2].data[0] as i64);
    let prefix = inputs.get(3).map_or(0, |p| p.data[0] as i64);
    (start..end).contains(&row) && mask.sees(kv_len - end + row, col as i64, kv_len, prefix)
}
