//! RMS normalisation: `out[r, i] = x[r, i] · weight[i] / sqrt(mean(x[r, ..]²) + eps)`.
//!
//! Sums in f32 whatever the storage type; `out` may be the same view as `x`.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, op_args, signature,
};
use crate::reference::{Tensor, dot};
use crate::{Op, Signature};

/// Specification of an RMS normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Elements per row.
    pub dim: usize,
    /// Element type of `x` and `out`.
    pub dtype: DType,
    /// Added to the mean square.
    pub eps: f32,
}

op_args! {
    /// Arguments of [`RmsNorm`].
    RmsNormArgs {
        /// `[rows, dim]`
        out,
        /// `[rows, dim]`
        x,
        /// f32 `[dim]`
        weight,
    }
}

impl Op for RmsNorm {
    const NAME: &'static str = "rms_norm";
    type Args<'a> = RmsNormArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.dtype; x: In, self.dtype; weight: In, DType::F32]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, x, weight] = args else {
            unreachable!("counted by check_args")
        };
        check_rows(Self::NAME, self.dim, &[("x", x), ("out", out)])?;
        check_vectors(Self::NAME, self.dim, &[("weight", weight)])
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        (out, input) == (0, 1)
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, weight] = inputs else {
            unreachable!("two inputs")
        };
        let mut out = Tensor::zeros(shapes[0]);
        for r in 0..x.rows() {
            let row = x.row(r);
            let scale = 1.0 / (dot(row, row) / self.dim as f64 + f64::from(self.eps)).sqrt();
            for (i, out) in out.row_mut(r).iter_mut().enumerate() {
                *out = row[i] * scale * weight.data[i];
            }
        }
        vec![out]
    }
}

/// Requires views `[rows, dim]` with dense rows, all of the same number of rows.
pub(crate) fn check_rows(op: &str, dim: usize, views: &[(&str, &View<'_>)]) -> Result<()> {
    expect_rank(op, views[0].0, views[0].1, 2)?;
    let rows = views[0].1.dim(0);
    for (name, view) in views {
        expect_shape(op, name, view, &[rows, dim])?;
        expect_dense_rows(op, name, view)?;
    }
    Ok(())
}

/// Requires contiguous vectors `[dim]`.
pub(crate) fn check_vectors(op: &str, dim: usize, views: &[(&str, &View<'_>)]) -> Result<()> {
    for (name, view) in views {
        expect_shape(op, name, view, &[dim])?;
        expect_contiguous(op, name, view)?;
    }
    Ok(())
}
