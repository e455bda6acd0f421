//! Cases of [`Softmax`]: with and without masks, rows that see nothing, growing rows.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Mask, Op, Softmax};

use super::{Conformance, FLOATS};
use crate::bound::{TINY, U, stored};
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks, Rng};

/// Relative error of a vectorised f32 exponential: 3 units in the last place (OpenCL C 3.0, full profile).
pub(crate) const EXP: f64 = 3.0 * 2.0 * U;

impl Conformance for Softmax {
    fn case(picks: &mut Picks) -> Case<Self> {
        let batch = picks.one(&[1, 2, 3, 0]);
        let (rows, cols) = (picks.size(33), picks.size(1025));
        let op = Softmax {
            dtype: picks.one(&FLOATS),
            scale: picks.one(&[1.0, 0.088_388_35, -2.0]),
            mask: picks.one(&[
                None,
                Some(Mask::Causal),
                Some(Mask::Prefix),
                Some(Mask::Full),
            ]),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Rising,
            Generator::Outliers,
            Generator::Ties,
            Generator::NegInf,
            Generator::Nan,
            Generator::Subnormals,
        ]);
        // A negative factor makes +∞ of −∞, which no model does.
        let generator = match generator {
            Generator::NegInf if op.scale < 0.0 => Generator::Normal,
            generator => generator,
        };
        let x = picks.one(&Layout::ROWS);
        let out = picks.one(&[Layout::Contiguous, Layout::InPlace(1), Layout::Padded(3)]);
        let shape = [batch, rows, cols];
        let mut operands = vec![
            Operand::out(&shape).layout(out),
            Operand::random(&shape, generator).layout(x),
        ];
        if op.mask.is_some() {
            // The sequence has some of the rows, and a cache of at least as many slots, not all of which are columns.
            let mut rng = Rng::of(&format!("{op:?} {shape:?}"));
            let start = rng.below(rows + 1).min(rng.below(rows + 1));
            let end = start + rng.below(rows - start + 1);
            let kv_len = (end - start) + rng.below((cols + 1).saturating_sub(end - start).max(1));
            let range = vec![start as f64, end as f64];
            operands.push(Operand::values(&[2], range));
            operands.push(Operand::values(&[1], vec![kv_len as f64]));
            if op.mask == Some(Mask::Prefix) {
                operands.push(Operand::values(&[1], vec![rng.below(kv_len + 1) as f64]));
            }
        }
        Case::new(op, operands)
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        let mut bounds = Vec::with_capacity(want.data.len());
        let cols = shapes[0][2];
        for r in 0..want.rows() {
            let scores: Vec<f64> = inputs[0]
                .row(r)
                .iter()
                .map(|x| x * f64::from(self.scale))
                .collect();
            let visible = |c: usize| {
                is_visible(self, r % shapes[0][1], c, inputs) && scores[c] != f64::NEG_INFINITY
            };
            let max = (0..cols)
                .filter(|&c| visible(c))
                .map(|c| scores[c])
                .fold(f64::NEG_INFINITY, f64::max);
            // Relative error of exp(s − max): the product with the scale, the difference, the exponential.
            let exp = |c: usize| U * (3.0 * scores[c].abs() + (scores[c] - max).abs()) + EXP;
            let y = want.row(r);
            let total: f64 = (0..cols)
                .filter(|&c| visible(c))
                .map(|c| y[c] * exp(c))
                .sum();
            for (c, &y) in y.iter().enumerate() {
                bounds.push(match visible(c) {
                    true => Bound::of(|model| {
                        let relative = exp(c) + total + model.g(cols) + 3.0 * U;
                        stored(self.dtype, y, y * relative.exp_m1() + 2.0 * TINY)
                    }),
                    false => Bound::EXACT,
                });
            }
        }
        vec![Expected::Within(want, bounds)]
    }
}

/// Whether row `row` sees column `col`.
fn is_visible(op: &Softmax, row: usize, col: usize, inputs: &[Tensor]) -> bool {
    let Some(mask) = op.mask else { return true };
    let (start, end) = (inputs[1].data[0] as i64, inputs[1].data[1] as i64);
    let (row, kv_len) = (row as i64, inputs[2].data[0] as i64);
    let prefix = inputs.get(3).map_or(0, |p| p.data[0] as i64);
    (start..end).contains(&row) && mask.sees(kv_len - end + row, col as i64, kv_len, prefix)
}
