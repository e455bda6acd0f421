//! Cases of [`RmsNorm`].

use hal::Numerics;
use ops::reference::Tensor;
use ops::{Op, RmsNorm};

use super::norm::rms_errors;
use super::{Conformance, FLOATS, NORM_GENERATORS};
use crate::bound::stored;
use crate::shapes::Sizes;
use crate::{Bound, Case, Expected, Generator, Layout, Operand, Picks};

impl Conformance for RmsNorm {
    fn case(picks: &mut Picks) -> Case<Self> {
        let (rows, dim) = (picks.size(33), picks.size_from_1(4097));
        let op = RmsNorm {
            dim,
            dtype: picks.one(&FLOATS),
            eps: picks.one(&[1e-5, 1e-6, 1.562_5e-7]),
        };
        let generator = picks.one(&NORM_GENERATORS);
        let x = picks.one(&Layout::ROWS);
        let out = picks.one(&[Layout::Contiguous, Layout::InPlace(1), Layout::Padded(3)]);
        Case::new(
            op,
            vec![
                Operand::out(&[rows, dim]).layout(out),
                Operand::random(&[rows, dim], generator).layout(x),
                Operand::random(&[dim], Generator::Normal),
            ],
        )
    }

    fn model_cases(_sizes: Sizes) -> Vec<Case<Self>> {
        crate::shapes::rms_norm()
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let want = self.reference(shapes, inputs).swap_remove(0);
        let moved = vec![0.0; self.dim];
        let bounds = Bound::rows(want.rows(), |r, model| {
            let (row, weight) = (inputs[0].row(r), &inputs[1].data);
            let errors = rms_errors(row, &moved, weight, self.eps, model);
            let elements = want.row(r).iter().zip(errors);
            elements.map(|(&y, e)| stored(self.dtype, y, e)).collect()
        });
        vec![Expected::Within(want, bounds)]
    }
}
