//! Change of float type, rounded to nearest even: `out = x`.
//!
//! Bit-exact: overflow gives an infinity, NaN stays NaN, subnormals are kept. Any strides.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{expect_shape, op_args, signature};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// Specification of a cast between f32, f16 and bf16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    /// Element type of `x`.
    pub from: DType,
    /// Element type of `out`.
    pub to: DType,
}

op_args! {
    /// Arguments of [`Cast`], of one shape.
    CastArgs {
        /// the result
        out,
        /// the source
        x,
    }
}

impl Op for Cast {
    const NAME: &'static str = "cast";
    type Args<'a> = CastArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.to; x: In, self.from]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        expect_shape(Self::NAME, "x", &args[1], args[0].shape())
    }

    fn reference(&self, _shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        vec![inputs[0].clone()]
    }
}
