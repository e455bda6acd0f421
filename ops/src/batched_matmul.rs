//! Matrix products of activations: `out[i, j, m, n] = alpha · Σ_k a[i, j, m, k] · b[i, j, n, k]`.
//!
//! All three take any strides, so a transposed or repeated operand is a view, not a copy. Sums in f32.

use hal::{DType, Result, View};
use serde::{Deserialize, Serialize};

use crate::op::{expect_rank, expect_shape, op_args, signature};
use crate::reference::{Tensor, dot};
use crate::{Op, Signature};

/// Specification of a batched product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchedMatmul {
    /// Element type of `a`.
    pub a: DType,
    /// Element type of `b`.
    pub b: DType,
    /// Element type of `out`.
    pub out: DType,
    /// Factor of the result.
    pub alpha: f32,
}

op_args! {
    /// Arguments of [`BatchedMatmul`].
    BatchedMatmulArgs {
        /// `[b0, b1, m, n]`
        out,
        /// `[b0, b1, m, k]`
        a,
        /// `[b0, b1, n, k]`
        b,
    }
}

impl Op for BatchedMatmul {
    const NAME: &'static str = "batched_matmul";
    type Args<'a> = BatchedMatmulArgs<'a>;

    fn signature(&self) -> Signature {
        signature![out: Out, self.out; a: In, self.a; b: In, self.b]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, a, b] = args else {
            unreachable!("counted by check_args")
        };
        for (name, view) in [("out", out), ("a", a), ("b", b)] {
            expect_rank(Self::NAME, name, view, 4)?;
        }
        let (b0, b1, m, k, n) = (a.dim(0), a.dim(1), a.dim(2), a.dim(3), b.dim(2));
        expect_shape(Self::NAME, "b", b, &[b0, b1, n, k])?;
        expect_shape(Self::NAME, "out", out, &[b0, b1, m, n])
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [a, b] = inputs else {
            unreachable!("two inputs")
        };
        let mut out = Tensor::zeros(shapes[0]);
        let (m, n) = (shapes[0][2], shapes[0][3]);
        for batch in 0..shapes[0][0] * shapes[0][1] {
            for i in 0..m {
                for j in 0..n {
                    out.row_mut(batch * m + i)[j] =
                        f64::from(self.alpha) * dot(a.row(batch * m + i), b.row(batch * n + j));
                }
            }
        }
        vec![out]
    }
}
