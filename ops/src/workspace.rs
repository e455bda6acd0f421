//! Carving temporaries out of one workspace.

use hal::{DType, Result, View};

/// Alignment of each piece: enough for every device's vector loads and binding offsets.
const ALIGN: usize = 256;

/// Hands out pieces of a workspace one after the other.
pub(crate) struct Carver<'a> {
    workspace: View<'a>,
    used_bytes: usize,
}

impl<'a> Carver<'a> {
    pub(crate) fn new(workspace: &View<'a>) -> Self {
        Self {
            workspace: *workspace,
            used_bytes: 0,
        }
    }

    /// The next piece as a contiguous view.
    ///
    /// # Errors
    /// `InvalidArgument` when the workspace is used up.
    pub(crate) fn take(&mut self, dtype: DType, shape: &[usize]) -> Result<View<'a>> {
        let at = self.workspace.offset_bytes() + self.used_bytes;
        self.used_bytes += piece_bytes(dtype, shape);
        View::at(self.workspace.buffer(), at, dtype, shape)
    }

    /// What is left, as bytes.
    ///
    /// # Errors
    /// `InvalidArgument` when more than everything was taken.
    pub(crate) fn rest(&self) -> Result<View<'a>> {
        self.workspace.slice(
            0,
            self.used_bytes.min(self.workspace.len())..self.workspace.len(),
        )
    }
}

/// Bytes that [`Carver::take`] uses for such a piece.
pub(crate) fn piece_bytes(dtype: DType, shape: &[usize]) -> usize {
    (shape.iter().product::<usize>() * dtype.bytes()).next_multiple_of(ALIGN)
}
