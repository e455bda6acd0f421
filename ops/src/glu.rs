//! Gated linear unit: `out[r, i] = act(g) · u` where the halves of `x[r, ..]` are g and u in the order the model has.
//!
//! With a limit L (GLM-5 experts): `g ← min(g, L)`, `u ← clamp(u, −L, L)` first.
//!
//! Source: Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202.

use std::sync::Arc;

use hal::{DType, Result, Stream, View};
use serde::{Deserialize, Serialize};

use crate::op::{expect_dense_rows, expect_rank, expect_shape, op_args, signature};
use crate::reference::Tensor;
use crate::workspace::{Carver, piece_bytes};
use crate::*;

/// A half of the last dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// Columns `0..dim`: ChatGLM2 and later.
    First,
    /// Columns `dim..2·dim`: GLM-130B.
    Second,
}

/// Specification of a gated linear unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Glu {
    /// Columns of `out`; `x` has twice as many.
    pub dim: usize,
    /// Activation of the gate.
    pub act: Act,
    /// The half that is activated.
    pub gate: Half,
    /// Clamp of both halves.
    pub limit: Option<f32>,
    /// Element type.
    pub dtype: DType,
}

op_args! {
    /// Arguments of [`Glu`].
    GluArgs {
        /// `[rows, dim]`
        out,
        /// `[rows, 2·dim]`
        x,
    }
}

impl Glu {
    /// Columns of the gate, and of the other half.
    pub fn halves(&self) -> [std::ops::Range<usize>; 2] {
        let (first, second) = (0..self.dim, self.dim..2 * self.dim);
        match self.gate {
            Half::First => [first, second],
            Half::Second => [second, first],
        }
    }
}

impl Op for Glu {
    const NAME: &'static str = "glu";
    type Args<'a> = GluArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.dtype; x: In, self.dtype]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        expect_rank(Self::NAME, "x", x, 2)?;
        expect_shape(Self::NAME, "x", x, &[x.dim(0), 2 * self.dim])?;
        expect_shape(Self::NAME, "out", out, &[x.dim(0), self.dim])?;
        expect_dense_rows(Self::NAME, "x", x)?;
        expect_dense_rows(Self::NAME, "out", out)
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let mut out = Tensor::zeros(shapes[0]);
        let [gate, up] = self.halves();
        for r in 0..out.rows() {
            let x = inputs[0].row(r);
            let pairs = x[gate.clone()].iter().zip(&x[up.clone()]);
            for (out, (&g, &u)) in out.row_mut(r).iter_mut().zip(pairs) {
                let (g, u) = match self.limit.map(f64::from) {
                    // A NaN stays one; `f64::min` would drop it.
                    Some(limit) => (if g > limit { limit } else { g }, u.clamp(-limit, limit)),
                    None => (g, u),
                };
                *out = self.act.reference(g) * u;
            }
        }
        vec![out]
    }

    fn compose(&self, context: &Context) -> Result<Option<Arc<dyn Launch>>> {
        if self.limit.is_some() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Composed {
            op: self.clone(),
            activation: context.plan(Activation {
                act: self.act,
                dtype: self.dtype,
            })?,
            product: context.plan(Elementwise {
                kind: Binary::Mul,
                dtype: self.dtype,
                alpha: 1.0,
            })?,
        })))
    }
}

struct Composed {
    op: Glu,
    activation: Plan<Activation>,
    product: Plan<Elementwise>,
}

impl Launch for Composed {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let rows = shapes[0];
        piece_bytes(self.op.dtype, rows)
            + self
                .activation
                .workspace_bytes(&[rows; 2])
                .max(self.product.workspace_bytes(&[rows; 3]))
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let [out, x] = *args else {
            unreachable!("counted by check_args")
        };
        let [gate, up] = self.op.halves();
        let mut carver = Carver::new(workspace);
        let activated = carver.take(self.op.dtype, out.shape())?;
        let rest = carver.rest()?;
        self.activation.run(
            stream,
            ActivationArgs {
                out: activated,
                x: x.slice(1, gate)?,
            },
            &rest,
        )?;
        self.product.run(
            stream,
            ElementwiseArgs {
                out,
                a: activated,
                b: x.slice(1, up)?,
            },
            &rest,
        )
    }
}
