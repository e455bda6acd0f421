//! Masks, made on the device: each row sees the first columns, as many as its place in its sequence says.

use hal::Result;
use ops::Mask;

use crate::arguments::Scalar;
use crate::run::{Run, call};
use crate::tensor::{Kind, Tensor};

/// Where rows lie in their sequences: i32 `[rows]`, or `[1]` when they are of one sequence.
pub(crate) struct Rows {
    /// The first row of the sequence, and the one after its last.
    pub(crate) first: Tensor,
    pub(crate) end: Tensor,
    /// Columns of the sequence.
    pub(crate) kv_len: Tensor,
    /// Columns that all of its rows see.
    pub(crate) prefix: Option<Tensor>,
}

impl Rows {
    /// Which columns a row does not see: bool `[rows, cols]`.
    ///
    /// A row of the sequence sees the columns before `kv_len`, or before its own position + 1, or before the prefix if that is
    /// more; others see none.
    pub(crate) fn hidden(
        &self,
        run: &mut Run<'_>,
        mask: Mask,
        rows: usize,
        cols: usize,
    ) -> Result<Tensor> {
        let row = run.count(rows, 1)?;
        let seen = run.piece(Kind::I32, &[rows]);
        let one = Scalar::I32(1);
        match mask {
            Mask::Full => {
                run.fill(seen, Scalar::I32(0))?;
                call!(run, Add(seen, self.kv_len, one, seen))?;
            }
            Mask::Causal | Mask::Prefix => {
                // row + 1 + kv_len − end
                call!(run, Adds(row, one, one, seen))?;
                call!(run, Add(seen, self.kv_len, one, seen))?;
                call!(run, Sub(seen, self.end, one, seen))?;
            }
        }
        if let Some(prefix) = self.prefix {
            call!(run, Maximum(seen, prefix, seen))?;
            call!(run, Minimum(seen, self.kv_len, seen))?;
        }
        let [after, before, inside] = [0; 3].map(|_| run.piece(Kind::Bool, &[rows]));
        call!(run, GeTensor(row, self.first, after))?;
        call!(run, LtTensor(row, self.end, before))?;
        call!(run, LogicalAnd(after, before, inside))?;
        let [nothing, limit] = [0; 2].map(|_| run.piece(Kind::I32, &[rows]));
        run.fill(nothing, Scalar::I32(0))?;
        call!(run, SWhere(inside, seen, nothing, limit))?;
        let col = run.count(cols, 1)?;
        let hidden = run.piece(Kind::Bool, &[rows, cols]);
        call!(run, GeTensor(col.unsqueeze(0), limit.unsqueeze(1), hidden))?;
        Ok(hidden)
    }
}
