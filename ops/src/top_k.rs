//! The k largest elements of each row, largest first; equal ones by index, NaN before all.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::argmax::ranking;
use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, invalid, op_args, signature,
};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// Specification of a top-k.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// How many; at most the columns of `x`.
    pub k: usize,
    /// Element type of `x` and `values`.
    pub dtype: DType,
}

op_args! {
    /// Arguments of [`TopK`].
    TopKArgs {
        /// `[rows, k]`
        values,
        /// i32 `[rows, k]`
        indices,
        /// `[rows, cols]`
        x,
    }
}

impl Op for TopK {
    const NAME: &'static str = "top_k";
    type Args<'a> = TopKArgs<'a>;

    fn signature(&self) -> Signature {
        signature![values: Out, self.dtype; indices: Out, DType::I32; x: In, self.dtype]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [values, indices, x] = args else {
            unreachable!("counted by check_args")
        };
        expect_rank(Self::NAME, "x", x, 2)?;
        expect_dense_rows(Self::NAME, "x", x)?;
        if self.k > x.dim(1) {
            return Err(invalid(
                Self::NAME,
                format_args!("k = {} of {} columns", self.k, x.dim(1)),
            ));
        }
        for (name, view) in [("values", values), ("indices", indices)] {
            expect_shape(Self::NAME, name, view, &[x.dim(0), self.k])?;
            expect_contiguous(Self::NAME, name, view)?;
        }
        Ok(())
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let (mut values, mut indices) = (Tensor::zeros(shapes[0]), Tensor::zeros(shapes[1]));
        for r in 0..shapes[0][0] {
            let row = inputs[0].row(r);
            for (j, i) in ranking(row).into_iter().take(self.k).enumerate() {
                values.row_mut(r)[j] = row[i];
                indices.row_mut(r)[j] = i as f64;
            }
        }
        vec![values, indices]
    }
}
