//! Sum, difference or product of two tensors: `out = a ∘ (alpha · b)`, element by element.
//!
//! Any strides, so stride 0 broadcasts an input. `out` may be the same view as `a` or `b`.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{expect_shape, op_args, signature};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binary {
    /// `a + alpha·b`
    Add,
    /// `a − alpha·b`
    Sub,
    /// `a · alpha·b`
    Mul,
}

impl Binary {
    /// Every function.
    pub const ALL: [Binary; 3] = [Binary::Add, Binary::Sub, Binary::Mul];
}

/// Specification of an element-by-element function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Elementwise {
    /// The function.
    pub kind: Binary,
    /// Element type of all three.
    pub dtype: DType,
    /// Factor of `b`.
    pub alpha: f32,
}

op_args! {
    /// Arguments of [`Elementwise`], all of one shape.
    ElementwiseArgs {
        /// the result
        out,
        /// first operand
        a,
        /// second operand
        b,
    }
}

impl Op for Elementwise {
    const NAME: &'static str = "elementwise";
    type Args<'a> = ElementwiseArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.dtype; a: In, self.dtype; b: In, self.dtype]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, a, b] = args else {
            unreachable!("counted by check_args")
        };
        expect_shape(Self::NAME, "a", a, out.shape())?;
        expect_shape(Self::NAME, "b", b, out.shape())
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        out == 0 && (input == 1 || input == 2)
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let f = |(&a, &b): (&f64, &f64)| {
            let b = f64::from(self.alpha) * b;
            match self.kind {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Mul => a * b,
            }
        };
        vec![Tensor::new(
            shapes[0],
            inputs[0].data.iter().zip(&inputs[1].data).map(f).collect(),
        )]
    }
}
