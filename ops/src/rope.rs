//! Rotary position embedding from tables: each pair `(x0, x1)` of a head becomes
//! `(x0·cos − x1·sin, x1·cos + x0·sin)` with `cos`, `sin` at the token's position.
//!
//! Angles come in as tables, so every model's rounding recipe fits and no device computes a sine. Dimensions beyond
//! `rotary_dim` are copied. With two streams (ChatGLM-6B) each head is two halves, each rotated on its own by its own
//! positions. A position outside the table uses the nearest row. `out` may be the same view as `x`.
//!
//! Source: Su et al., "RoFormer", arXiv 2104.09864; the layouts of the GLM generations differ, see [`RopeLayout`].

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, invalid, op_args, signature,
};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// Which elements form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeLayout {
    /// `(2i, 2i+1)`: ChatGLM2 to GLM-4-0414.
    Interleaved,
    /// `(i, i + rotary_dim/2)`: GLM-130B, ChatGLM-6B, GLM-4.5.
    HalfSplit,
}

/// Specification of a rotary embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Elements per head.
    pub head_dim: usize,
    /// Rotated elements per stream: the first ones of each part of the head. Even.
    pub rotary_dim: usize,
    /// Position streams: 1, or 2 for the 2-D positions of ChatGLM-6B. Divides `head_dim`.
    pub streams: usize,
    /// Pairing.
    pub layout: RopeLayout,
    /// Element type of `x` and `out`.
    pub dtype: DType,
}

op_args! {
    /// Arguments of [`Rope`].
    RopeArgs {
        /// `[tokens, heads, head_dim]`
        out,
        /// `[tokens, heads, head_dim]`
        x,
        /// i32 `[streams, tokens]`
        positions,
        /// f32 `[max_positions, rotary_dim / 2]`
        cos,
        /// f32 `[max_positions, rotary_dim / 2]`
        sin,
    }
}

impl Rope {
    /// The rules on positions and tables, for the operation `name` on so many tokens.
    pub(crate) fn check_angles(
        &self,
        name: &str,
        tokens: usize,
        [positions, cos, sin]: [&View<'_>; 3],
    ) -> Result<()> {
        let part = self.head_dim.checked_div(self.streams).unwrap_or(0);
        if part * self.streams != self.head_dim
            || self.rotary_dim > part
            || !self.rotary_dim.is_multiple_of(2)
        {
            return Err(invalid(
                name,
                format_args!("{self:?}: rotary_dim must be even and fit a stream's part"),
            ));
        }
        expect_shape(name, "positions", positions, &[self.streams, tokens])?;
        expect_dense_rows(name, "positions", positions)?;
        expect_rank(name, "cos", cos, 2)?;
        if cos.dim(0) == 0 {
            return Err(invalid(name, "the tables are empty"));
        }
        for (table_name, table) in [("cos", cos), ("sin", sin)] {
            expect_shape(name, table_name, table, &[cos.dim(0), self.rotary_dim / 2])?;
            expect_contiguous(name, table_name, table)?;
        }
        Ok(())
    }
}

impl Op for Rope {
    const NAME: &'static str = "rope";
    type Args<'a> = RopeArgs<'a>;

    fn signature(&self) -> Signature {
        signature![
            out: Out, self.dtype; x: In, self.dtype; positions: In, DType::I32;
            cos: In, DType::F32; sin: In, DType::F32
        ]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, x, positions, cos, sin] = args else {
            unreachable!("counted by check_args")
        };
        expect_rank(Self::NAME, "x", x, 3)?;
        expect_shape(Self::NAME, "x", x, &[x.dim(0), x.dim(1), self.head_dim])?;
        expect_shape(Self::NAME, "out", out, x.shape())?;
        expect_dense_rows(Self::NAME, "x", x)?;
        expect_dense_rows(Self::NAME, "out", out)?;
        self.check_angles(Self::NAME, x.dim(0), [positions, cos, sin])
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        (out, input) == (0, 1)
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, positions, cos, sin] = inputs else {
            unreachable!("four inputs")
        };
        let [tokens, heads, _] = *shapes[0] else {
            unreachable!("checked rank")
        };
        let (part, pairs) = (self.head_dim / self.streams, self.rotary_dim / 2);
        let mut out = x.clone();
        for (t, h, s) in (0..tokens)
            .flat_map(|t| (0..heads).map(move |h| (t, h)))
            .flat_map(|(t, h)| (0..self.streams).map(move |s| (t, h, s)))
        {
            let position = positions.row(s)[t].clamp(0.0, (cos.shape[0] - 1) as f64) as usize;
            for i in 0..pairs {
                let (a, b) = match self.layout {
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    RopeLayout::HalfSplit => (i, i + pairs),
                };
                let (a, b) = (s * part + a, s * part + b);
                let (cos, sin) = (cos.row(position)[i], sin.row(position)[i]);
                let x = x.row(t * heads + h);
                let out = out.row_mut(t * heads + h);
                out[a] = x[a] * cos - x[b] * sin;
                out[b] = x[b] * cos + x[a] * sin;
            }
        }
        vec![out]
    }
}
