//! Residual sum and layer normalisation: `sum = x + alpha · residual`, `out = layer_norm(sum)`.
//!
//! With `alpha = 1` the pre-norm block of the original GLM; with DeepNorm's α (GLM-130B √140, ChatGLM-6B √56) the residual is the normalised tensor.
//! The norm reads the sum as it was rounded to storage, or the sum before rounding. `sum` may be the same view as
//! `x` or `residual`, `out` the same as `x`.

use std::sync::Arc;

use hal::{DType, Result, Stream, View};
use serde::{Deserialize, Serialize};

use crate::op::{op_args, signature};
use crate::reference::Tensor;
use crate::rms_norm::{check_rows, check_vectors};
use crate::*;

/// Specification of a residual sum with layer normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddLayerNorm {
    /// Elements per row.
    pub dim: usize,
    /// Element type of all but the weights.
    pub dtype: DType,
    /// Added under the root.
    pub eps: f32,
    /// Factor of the residual.
    pub alpha: f32,
}

op_args! {
    /// Arguments of [`AddLayerNorm`].
    AddLayerNormArgs {
        /// `[rows, dim]`: the normalised sum
        out,
        /// `[rows, dim]`: the sum
        sum,
        /// `[rows, dim]`
        x,
        /// `[rows, dim]`
        residual,
        /// f32 `[dim]`
        weight,
        /// f32 `[dim]`
        bias,
    }
}

impl AddLayerNorm {
    fn norm(&self) -> LayerNorm {
        LayerNorm {
            dim: self.dim,
            dtype: self.dtype,
            eps: self.eps,
        }
    }
}

impl Op for AddLayerNorm {
    const NAME: &'static str = "add_layer_norm";
    type Args<'a> = AddLayerNormArgs<'a>;

    fn signature(&self) -> Signature {
        signature![
            out: Out, self.dtype; sum: Out, self.dtype; x: In, self.dtype; residual: In, self.dtype;
            weight: In, DType::F32; bias: In, DType::F32
        ]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, sum, x, residual, weight, bias] = args else {
            unreachable!("counted by check_args")
        };
        let rows = [("x", x), ("residual", residual), ("sum", sum), ("out", out)];
        check_rows(Self::NAME, self.dim, &rows)?;
        check_vectors(Self::NAME, self.dim, &[("weight", weight), ("bias", bias)])
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        matches!((out, input), (1, 2) | (1, 3) | (0, 2))
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let (x, residual) = (&inputs[0], &inputs[1]);
        let add = |(x, r): (&f64, &f64)| x + f64::from(self.alpha) * r;
        let sum = Tensor::new(
            shapes[1],
            x.data.iter().zip(&residual.data).map(add).collect(),
        );
        let mut norm_inputs = inputs[1..].to_vec();
        norm_inputs[0] = sum.clone();
        let mut outputs = self.norm().reference(&shapes[..1], &norm_inputs);
        outputs.push(sum);
        outputs
    }

    fn compose(&self, context: &Context) -> Result<Option<Arc<dyn Launch>>> {
        let add = Elementwise {
            kind: Binary::Add,
            dtype: self.dtype,
            alpha: self.alpha,
        };
        Ok(Some(Arc::new(Composed {
            add: context.plan(add)?,
            norm: context.plan(self.norm())?,
        })))
    }
}

struct Composed {
    add: Plan<Elementwise>,
    norm: Plan<LayerNorm>,
}

impl Launch for Composed {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let rows = shapes[0];
        self.add.workspace_bytes(&[rows; 3]).max(
            self.norm
                .workspace_bytes(&[rows, rows, shapes[4], shapes[5]]),
        )
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let [out, sum, x, residual, weight, bias] = *args else {
            unreachable!("counted by check_args")
        };
        self.add.run(
            stream,
            ElementwiseArgs {
                out: sum,
                a: x,
                b: residual,
            },
            workspace,
        )?;
        self.norm.run(
            stream,
            LayerNormArgs {
                out,
                x: sum,
                weight,
                bias,
            },
            workspace,
        )
    }
}
