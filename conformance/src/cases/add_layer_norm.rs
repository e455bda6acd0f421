//! Cases of [`AddLayerNorm`]: the sum, and the norm of the sum before or after it was rounded to storage.

use ops::reference::Tensor;
use ops::{AddLayerNorm, Op};

use super::norm::layer_errors;
use super::{Conformance, FLOATS};
use crate::bound::{TINY, U, stored};
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

impl Conformance for AddLayerNorm {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (rows, dim) = (picks.size(33), picks.size_from_1(4097));
        let op = AddLayerNorm {
            dim,
            dtype: picks.one(&FLOATS),
            eps: picks.one(&[1e-5, 1e-6]),
            // 1, and DeepNorm's √140 and √56.
            alpha: picks.one(&[1.0, 11.832_159, 7.483_315]),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::SignedZeros,
            Generator::Constant,
            Generator::Nan,
        ]);
        let inputs = [picks.one(&Layout::ROWS), picks.one(&Layout::ROWS)];
        let sum = picks.one(&[
            Layout::Contiguous,
            Layout::InPlace(2),
            Layout::InPlace(3),
            Layout::Padded(3),
        ]);
        // The norm may take the place of x unless the sum has taken it.
        let out = match picks.one(&[Layout::Contiguous, Layout::InPlace(2), Layout::Padded(3)]) {
            Layout::InPlace(2) if sum == Layout::InPlace(2) => Layout::Contiguous,
            layout => layout,
        };
        let shape = [rows, dim];
        Case::new(
            op,
            vec![
                Operand::out(&shape).layout(out),
                Operand::out(&shape).layout(sum),
                Operand::random(&shape, generator).layout(inputs[0]),
                Operand::random(&shape, Generator::Normal).layout(inputs[1]),
                Operand::random(&[dim], Generator::Normal),
                Operand::random(&[dim], Generator::Normal),
            ],
        )
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Expected> {
        let mut outputs = self.reference(shapes, inputs).into_iter();
        let (out, sum) = (outputs.next(), outputs.next());
        let (Some(out), Some(sum)) = (out, sum) else {
            unreachable!("two outputs")
        };
        let [_, residual, vectors @ ..] = inputs else {
            unreachable!("two inputs and the parameters")
        };
        let moved: Vec<f64> = residual
            .data
            .iter()
            .zip(&sum.data)
            .map(|(r, s)| {
                let product = (f64::from(self.alpha) * r).abs();
                stored(self.dtype, *s, U * (product + s.abs()) + 2.0 * TINY)
            })
            .collect();
        let bounds = Bound::rows(out.rows(), |r, model| {
            let moved = &moved[r * self.dim..(r + 1) * self.dim];
            let errors = {
                let (weight, bias) = (&vectors[0].data, &vectors[1].data);
                layer_errors(sum.row(r), moved, weight, bias, self.eps, model)
            };
            let elements = out.row(r).iter().zip(errors);
            elements.map(|(&y, e)| stored(self.dtype, y, e)).collect()
        });
        let sums = moved.iter().map(|&e| Bound::of(|_| e)).collect();
        vec![Expected::Within(out, bounds), Expected::Within(sum, sums)]
    }
}
