//! Index of the largest element of each row; of equal ones the lowest index. A NaN counts as the largest.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, invalid, op_args, signature,
};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// Specification of an argmax.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Argmax {
    /// Element type of `x`.
    pub dtype: DType,
}

op_args! {
    /// Arguments of [`Argmax`].
    ArgmaxArgs {
        /// i32 `[rows]`
        out,
        /// `[rows, cols]`
        x,
    }
}

impl Op for Argmax {
    const NAME: &'static str = "argmax";
    type Args<'a> = ArgmaxArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, DType::I32; x: In, self.dtype]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, x] = args else {
            unreachable!("counted by check_args")
        };
        expect_rank(Self::NAME, "x", x, 2)?;
        expect_dense_rows(Self::NAME, "x", x)?;
        if x.dim(1) == 0 {
            return Err(invalid(Self::NAME, "x has no columns"));
        }
        expect_shape(Self::NAME, "out", out, &[x.dim(0)])?;
        expect_contiguous(Self::NAME, "out", out)
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let best = |r| ranking(inputs[0].row(r))[0] as f64;
        vec![Tensor::new(
            shapes[0],
            (0..shapes[0][0]).map(best).collect(),
        )]
    }
}

/// Indices from the largest element to the smallest; equal ones by index, NaN first.
pub(crate) fn ranking(row: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    let key = |i: usize| {
        if row[i].is_nan() {
            f64::INFINITY
        } else {
            row[i]
        }
    };
    order.sort_by(|&a, &b| {
        let by_value = key(b).partial_cmp(&key(a)).expect("no NaN left");
        by_value
            .then(row[b].is_nan().cmp(&row[a].is_nan()))
            .then(a.cmp(&b))
    });
    order
}
