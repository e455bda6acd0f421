//! Activation function: `out[r, i] = f(x[r, i])`.
//!
//! `out` may be the same view as `x`.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{expect_dense_rows, expect_rank, expect_shape, op_args, signature};
use crate::reference::{Tensor, erfc};
use crate::{Op, Signature};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// `x / (1 + exp(−x))`: ChatGLM2 and later.
    Silu,
    /// `x/2 · (1 + erf(x/√2))`: GLM-130B.
    GeluErf,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`: ChatGLM-6B, the original GLM.
    GeluTanh,
    /// `x / (1 + exp(−1.702·x))`: CodeGeeX-13B.
    GeluQuick,
}

impl Act {
    /// Every activation.
    pub const ALL: [Act; 4] = [Act::Silu, Act::GeluErf, Act::GeluTanh, Act::GeluQuick];

    /// The function in f64.
    pub fn reference(self, x: f64) -> f64 {
        // −∞·0 would be NaN; the limit is 0.
        if x == f64::NEG_INFINITY {
            return 0.0;
        }
        match self {
            Act::Silu => x / (1.0 + (-x).exp()),
            // Forms that do not cancel for negative x: 1 + erf(y) = erfc(−y), 1 + tanh(y) = 2/(1 + exp(−2y)).
            Act::GeluErf => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            Act::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x / (1.0 + (-2.0 * inner).exp())
            }
            Act::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
        }
    }
}

/// Specification of an activation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activation {
    /// The function.
    pub act: Act,
    /// Element type.
    pub dtype: DType,
}

op_args! {
    /// Arguments of [`Activation`].
    ActivationArgs {
        /// `[rows, dim]`
        out,
        /// `[rows, dim]`
        x,
    }
}

impl Op for Activation {
    const NAME: &'static str = "activation";
    type Args<'a> = ActivationArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.dtype; x: In, self.dtype]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        expect_rank(Self::NAME, "x", x, 2)?;
        expect_shape(Self::NAME, "out", out, x.shape())?;
        expect_dense_rows(Self::NAME, "x", x)?;
        expect_dense_rows(Self::NAME, "out", out)
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        (out, input) == (0, 1)
    }

    fn reference(&self, _shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        vec![inputs[0].map(|x| self.act.reference(x))]
    }
}
