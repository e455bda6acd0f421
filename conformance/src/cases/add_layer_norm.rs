//! Cases of [`AddLayerNorm`]: the sum, and the norm of the sum before or after it was rounded to storage.

use hal::Numerics;
use ops::reference::Tensor;
use ops::{AddLayerNorm, Op};

use super::Conformance;
use super::norm::{SumPicks, expect_sum, layer_errors};
use crate::{Case, Expected, Generator, Operand, Picks};

impl Conformance for AddLayerNorm {
    fn case(picks: &mut Picks) -> Case<Self> {
        let mut sum = SumPicks::new(picks);
        sum.operands
            .push(Operand::random(&[sum.dim], Generator::Normal));
        sum.operands
            .push(Operand::random(&[sum.dim], Generator::Normal));
        let SumPicks {
            dim,
            dtype,
            eps,
            alpha,
            operands,
        } = sum;
        Case::new(
            AddLayerNorm {
                dim,
                dtype,
                eps,
                alpha,
            },
            operands,
        )
    }

    fn expect(&self, shapes: &[&[usize]], inputs: &[Tensor], _card: &Numerics) -> Vec<Expected> {
        let (weight, bias) = (&inputs[2].data, &inputs[3].data);
        let errors = |row: &[f64], moved: &[f64], model| {
            layer_errors(row, moved, weight, bias, self.eps, model)
        };
        expect_sum(
            self.dtype,
            self.alpha,
            &inputs[1],
            self.reference(shapes, inputs),
            errors,
        )
    }
}
