//! Cases of [`Glu`].

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Act, Glu, Half, Op};

use super::activation::act_error;
use super::{Conformance, FLOATS};
use crate::bound::{U, stored};
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

impl Conformance for Glu {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (rows, dim) = (picks.size(65), picks.size(1025));
        let op = Glu {
            dim,
            act: picks.one(&Act::ALL),
            gate: picks.one(&[Half::First, Half::Second]),
            limit: picks.one(&[None, Some(1.5)]),
            dtype: picks.one(&FLOATS),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::SignedZeros,
            Generator::Subnormals,
        ]);
        let (out, x) = (picks.one(&Layout::ROWS), picks.one(&Layout::ROWS));
        Case::new(
            op,
            vec![
                Operand::out(&[rows, dim]).layout(out),
                Operand::random(&[rows, 2 * dim], generator).layout(x),
            ],
        )
    }

    fn model_cases(_sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::glu()
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        let [gate, up] = self.halves();
        let mut bounds = Vec::new();
        for (i, &y) in want.data.iter().enumerate() {
            let (row, c) = (inputs[0].row(i / self.dim), i % self.dim);
            let (mut g, mut u) = (row[gate.start + c], row[up.start + c]);
            if let Some(limit) = self.limit.map(f64::from) {
                (g, u) = (g.min(limit), u.clamp(-limit, limit));
            }
            // The composed form stores the activated half before the product.
            let activated = stored(self.dtype, self.act.reference(g), act_error(self.act, g));
            let error = activated * u.abs() + U * y.abs();
            bounds.push(Bound::of(|_| stored(self.dtype, y, error)));
        }
        vec![Expected::Within(want, bounds)]
    }
}
