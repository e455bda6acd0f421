//! Rows of a table: `out[t, :] = table[ids[t], :]`.
//!
//! An id outside `0..vocab` gives a row of zeros.

use hal::{DType, Result, View, WeightFormat};
use serde::{Deserialize, Serialize};

use crate::op::{
    expect_contiguous, expect_dense_rows, expect_rank, expect_shape, op_args, signature,
};
use crate::reference::Tensor;
use crate::{Op, Signature};

/// Specification of an embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// Number of rows of the table.
    pub vocab: usize,
    /// Length of a row.
    pub dim: usize,
    /// Encoding of the table. A dense one is a plain view `[vocab, dim]`; others are packed by the plan.
    pub table: WeightFormat,
    /// Element type of `out`.
    pub out: DType,
    /// Whether the table is the weight of a product, as the plan of that product packed it: a tied output layer
    /// `[vocab, dim]` for `x` of type `out`, which so lies in memory once. Such a table is never a plain view.
    pub tied: bool,
}

op_args! {
    /// Arguments of [`Embedding`].
    EmbeddingArgs {
        /// `[rows, dim]`
        out,
        /// i32 `[rows]`
        ids,
        /// `[vocab, dim]`, or packed: see [`Embedding::table_view`]
        table,
    }
}

impl Embedding {
    /// The view of a packed table that this operation takes.
    ///
    /// # Errors
    /// `InvalidArgument` when the buffer is smaller than the dense table.
    pub fn table_view<'a>(&self, table: &'a hal::Buffer) -> Result<View<'a>> {
        match self.plain() {
            Some(dtype) => View::new(table, dtype, &[self.vocab, self.dim]),
            None => Ok(View::of_bytes(table)),
        }
    }

    /// The element type of a table that is a plain view.
    pub fn plain(&self) -> Option<DType> {
        match self.table {
            WeightFormat::Dense(dtype) if !self.tied => Some(dtype),
            _ => None,
        }
    }
}

impl Op for Embedding {
    const NAME: &'static str = "embedding";
    type Args<'a> = EmbeddingArgs<'a>;

    fn signature(&self) -> Signature {
        let (role, dtype) = match self.plain() {
            Some(dtype) => (crate::Role::In, dtype),
            None => (crate::Role::Weight(self.table), DType::U8),
        };
        signature![out: Out, self.out; ids: In, DType::I32; table: role, dtype]
    }

    fn check(&self, args: &[View<'_>]) -> Result<()> {
        let [out, ids, table] = args else {
            unreachable!("counted by check_args")
        };
        expect_rank(Self::NAME, "ids", ids, 1)?;
        expect_contiguous(Self::NAME, "ids", ids)?;
        expect_shape(Self::NAME, "out", out, &[ids.dim(0), self.dim])?;
        expect_dense_rows(Self::NAME, "out", out)?;
        if self.plain().is_some() {
            expect_shape(Self::NAME, "table", table, &[self.vocab, self.dim])?;
            expect_contiguous(Self::NAME, "table", table)?;
        }
        Ok(())
    }

    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor> {
        let [ids, table] = inputs else {
            unreachable!("two inputs")
        };
        let mut out = Tensor::zeros(shapes[0]);
        for (t, &id) in ids.data.iter().enumerate() {
            if (0.0..self.vocab as f64).contains(&id) {
                out.row_mut(t).copy_from_slice(table.row(id as usize));
            }
        }
        vec![out]
    }
}
