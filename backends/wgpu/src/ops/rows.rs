//! Rows of words: what operations with dense rows share.

use hal::View;

use crate::kernel::{Bound, Params, WORKGROUP};

/// The most words that a row of `dim` elements of `view`'s type lies in, wherever it begins.
pub(super) fn units(view: &View<'_>, dim: usize) -> usize {
    match view.dtype().bytes() {
        2 => dim / 2 + 1,
        _ => dim,
    }
}

/// Workgroups for one invocation each of `items`.
pub(super) fn groups(items: usize) -> usize {
    items.div_ceil(WORKGROUP as usize)
}

impl Params {
    /// Adds where a matrix begins, and the distance of its rows.
    pub(super) fn rows(self, bound: &Bound<'_>, view: &View<'_>) -> Self {
        self.word(bound.first as usize).word(view.strides()[0])
    }

    /// Adds where a tensor begins.
    pub(super) fn first(self, bound: &Bound<'_>) -> Self {
        self.word(bound.first as usize)
    }
}
