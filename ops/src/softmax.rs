//! Softmax of rows: `out[.., c] = exp(s_c − max) / Σ exp(s − max)` with `s = scale · x` over the visible columns.
//!
//! Always f32 inside. Hidden columns become 0; a row that sees nothing becomes zeros.
//! `out` may be the same view as `x`.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, op_args, signature,
};
use crate::reference::{Tensor, softmax};
use crate::{Mask, Op, Signature};

/// Specification of a softmax.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// Element type of `x` and `out`.
    pub dtype: DType,
    /// Factor of `x`.
    pub scale: f32,
    /// Which columns a row sees; `None`: all. With a mask, the rows are tokens and the columns the KV slots of one
    /// sequence, see [`SoftmaxArgs`].
    pub mask: Option<Mask>,
}

op_args! {
    /// Arguments of [`Softmax`]. With a mask, row `r` belongs to the sequence when `q_range[0] ≤ r < q_range[1]`
    /// (other rows become zeros) and is token `kv_len − q_range[1] + r` of it.
    SoftmaxArgs {
        /// `[batch, rows, cols]`
        out,
        /// `[batch, rows, cols]`
        x,
        ; optional
        /// i32 `[2]`: first row of the sequence, and one past its last; with a mask
        q_range,
        /// i32 `[1]`: length of the sequence in the cache, the rows included; with a mask
        kv_len,
        /// i32 `[1]`: columns visible to every row; with [`Mask::Prefix`]
        prefix,
    }
}

impl Op for Softmax {
    const NAME: &'static str = "softmax";
    type Args<'a> = SoftmaxArgs<'a>;

    fn signature(&self) -> Signature {
        let mut list = signature![out: Out, self.dtype; x: In, self.dtype];
        if self.mask.is_some() {
            list.extend(signature![q_range: In, DType::I32; kv_len: In, DType::I32]);
        }
        if self.mask == Some(Mask::Prefix) {
            list.extend(signature![prefix: In, DType::I32]);
        }
        list
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let (out, x) = (&args[0], &args[1]);
        expect_rank(Self::NAME, "x", x, 3)?;
        expect_shape(Self::NAME, "out", out, x.shape())?;
        expect_dense_rows(Self::NAME, "x", x)?;
        expect_dense_rows(Self::NAME, "out", out)?;
        for (i, (name, n)) in [("q_range", 2), ("kv_len", 1), ("prefix", 1)]
            .iter()
            .enumerate()
        {
            if let Some(view) = args.get(2 + i) {
                expect_shape(Self::NAME, name, view, &[*n])?;
                expect_contiguous(Self::NAME, name, view)?;
            }
        }
        Ok(())
    }

    fn in_place(&self, out: usize, input: usize) -> bool {
        (out, input) == (0, 1)
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [batch, rows, cols] = *shapes[0] else {
            unreachable!("checked rank")
        };
        let mut out = inputs[0].map(|x| x * f64::from(self.scale));
        let mut hidden = Vec::new();
        for (b, r) in (0..batch).flat_map(|b| (0..rows).map(move |r| (b, r))) {
            let row = out.row_mut(b * rows + r);
            if let Some(mask) = self.mask {
                let (start, end) = (inputs[1].data[0] as i64, inputs[1].data[1] as i64);
                let kv_len = inputs[2].data[0] as i64;
                let prefix = inputs.get(3).map_or(0, |p| p.data[0] as i64);
                let (r, inside) = (r as i64, (start..end).contains(&(r as i64)));
                let sees = |c| inside && mask.sees(kv_len - end + r, c as i64, kv_len, prefix);
                hidden.extend((0..cols).filter(|&c| !sees(c)));
            }
            hidden.iter().for_each(|&c| row[c] = f64::NEG_INFINITY);
            softmax(row);
            // They are 0 even where a visible NaN spoils the row.
            hidden.drain(..).for_each(|c| row[c] = 0.0);
        }
        vec![out]
    }
}
