//! Cases of [`Elementwise`]: any strides, broadcast inputs, in place.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Binary, Elementwise, Op};

use super::{Conformance, FLOATS, strided_shape};
use crate::bound::{TINY, U, stored};
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

impl Conformance for Elementwise {
    fn case(picks: &mut Picks) -> Case<Self> {
        let shape = strided_shape(picks);
        // One question, so that every function of every type meets every factor, shape and layout.
        let pairs = Binary::ALL.map(|kind| FLOATS.map(|dtype| (kind, dtype)));
        let (kind, dtype) = picks.one(pairs.as_flattened());
        let op = Elementwise {
            kind,
            dtype,
            alpha: picks.one(&[1.0, 0.5, -3.3, 11.832_159]),
        };
        let generator = picks.one(&[
            Generator::Normal,
            Generator::Outliers,
            Generator::SignedZeros,
            Generator::Subnormals,
            Generator::NegInf,
            Generator::Nan,
            Generator::Uniform,
        ]);
        let layouts = [picks.one(&Layout::ANY), picks.one(&Layout::ANY)];
        let out = picks.one(&[
            Layout::Contiguous,
            Layout::InPlace(1),
            Layout::InPlace(2),
            Layout::Padded(5),
            Layout::Spread,
        ]);
        let [a, b] = layouts.map(|layout| match (out, layout) {
            (Layout::InPlace(_), Layout::Repeated) => Layout::Contiguous,
            _ => layout,
        });
        Case::new(
            op,
            vec![
                Operand::out(&shape).layout(out),
                Operand::random(&shape, generator).layout(a),
                Operand::random(&shape, Generator::Normal).layout(b),
            ],
        )
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        let (a, b) = (&inputs[0].data, &inputs[1].data);
        let bound = |(i, &want): (usize, &f64)| {
            let product = (f64::from(self.alpha) * b[i]).abs();
            let error = match self.kind {
                Binary::Add | Binary::Sub => U * (product + want.abs()) + 2.0 * TINY,
                Binary::Mul => {
                    let flushed = 1.0 + a[i].abs() + f64::from(self.alpha.abs());
                    2.0 * U * want.abs() + flushed * TINY
                }
            };
            Bound::of(|_| stored(self.dtype, want, error))
        };
        let bounds = want.data.iter().enumerate().map(bound).collect();
        vec![Expected::Within(want, bounds)]
    }
}
