//! Strided copy: `out = x`, bit for bit, between views of one shape and any strides.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{expect_shape, op_args, signature};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// Specification of a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StridedCopy {
    /// Element type of both.
    pub dtype: DType,
}

op_args! {
    /// Arguments of [`StridedCopy`], of one shape.
    CopyArgs {
        /// the destination
        out,
        /// the source
        x,
    }
}

impl Op for StridedCopy {
    const NAME: &'static str = "copy";
    type Args<'a> = CopyArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.dtype; x: In, self.dtype]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        expect_shape(Self::NAME, "x", &args[1], args[0].shape())
    }

    fn reference(&self, _shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        vec![inputs[0].clone()]
    }
}
