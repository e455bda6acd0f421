//! Layer normalisation: `out[r, i] = (x[r, i] − mean) / sqrt(var + eps) · weight[i] + bias[i]`, mean and (biased)
//! variance over the row.
//!
//! Sums in f32 whatever the storage type; `out` may be the same view as `x`.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{op_args, signature};
use crate::reference::{Tensor, sum};
use crate::rms_norm::{check_rows, check_vectors};
use crate::{Op, Signature};

/// Specification of a layer normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Elements per row.
    pub dim: usize,
    /// Element type of `x` and `out`.
    pub dtype: DType,
    /// Added to the variance.
    pub eps: f32,
}

op_args! {
    /// Arguments of [`LayerNorm`].
    LayerNormArgs {
        /// `[rows, dim]`
        out,
        /// `[rows, dim]`
        x,
        /// f32 `[dim]`
        weight,
        /// f32 `[dim]`
        bias,
    }
}

impl Op for LayerNorm {
    const NAME: &'static str = "layer_norm";
    type Args<'a> = LayerNormArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.dtype; x: In, self.dtype; weight: In, DType::F32; bias: In, DType::F32]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, x, weight, bias] = args else {
            unreachable!("counted by check_args")
        };
        check_rows(Self::NAME, self.dim, &[("x", x), ("out", out)])?;
        check_vectors(Self::NAME, self.dim, &[("weight", weight), ("bias", bias)])
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        (out, input) == (0, 1)
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, weight, bias] = inputs else {
            unreachable!("three inputs")
        };
        let mut out = Tensor::zeros(shapes[0]);
        for r in 0..x.rows() {
            let row = x.row(r);
            let mean = sum(row.iter().copied()) / self.dim as f64;
            let var = sum(row.iter().map(|x| (x - mean) * (x - mean))) / self.dim as f64;
            let scale = 1.0 / (var + f64::from(self.eps)).sqrt();
            for (i, out) in out.row_mut(r).iter_mut().enumerate() {
                *out = (row[i] - mean) * scale * weight.data[i] + bias.data[i];
            }
        }
        vec![out]
    }
}
