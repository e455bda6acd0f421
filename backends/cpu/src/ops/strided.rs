//! Walks over views of one shape and any strides.

use std::ops::Range;

use hal::{MAX_RANK, View};

use crate::device::Cpu;

/// The longest run handed out at once, so that one long row is shared by the threads too.
const RUN: usize = 1 << 12;

/// The elements of `N` views of one shape, as runs along one dimension. Dimensions that lie regularly behind one
/// another in all views count as one.
pub(super) struct Walk<const N: usize> {
    shape: [usize; MAX_RANK],
    strides: [[usize; N]; MAX_RANK],
}

impl<const N: usize> Walk<N> {
    pub(super) fn new(views: [&View<'_>; N]) -> Self {
        let (mut shape, mut strides) = ([1; MAX_RANK], [[0; N]; MAX_RANK]);
        // From the last dimension to the first, into the last free place.
        let mut at = MAX_RANK;
        for (i, &n) in views[0].shape().iter().enumerate().rev() {
            let stride = views.map(|v| v.strides()[i]);
            if n == 1 {
                continue;
            }
            if at < MAX_RANK && (0..N).all(|v| stride[v] == strides[at][v] * shape[at]) {
                shape[at] *= n;
                continue;
            }
            at -= 1;
            (shape[at], strides[at]) = (n, stride);
        }
        if at == MAX_RANK {
            strides[MAX_RANK - 1] = [1; N];
        }
        Self { shape, strides }
    }

    /// Distances between neighbours of a run.
    pub(super) fn steps(&self) -> [usize; N] {
        self.strides[MAX_RANK - 1]
    }

    /// Calls `f(offsets, length)` for every run, on all threads.
    pub(super) fn run(&self, cpu: &Cpu, f: impl Fn([usize; N], usize) + Sync) {
        let [outer @ .., inner] = self.shape;
        let runs = inner.div_ceil(RUN);
        let count = outer.iter().product::<usize>() * runs;
        cpu.rows(count, inner.min(RUN), |part: Range<usize>| {
            for i in part {
                let (mut rest, start) = (i / runs, i % runs * RUN);
                let mut offsets = self.steps().map(|s| s * start);
                for (n, strides) in outer.into_iter().zip(self.strides).rev() {
                    let index = rest % n;
                    rest /= n;
                    for (offset, stride) in offsets.iter_mut().zip(strides) {
                        *offset += index * stride;
                    }
                }
                f(offsets, RUN.min(inner - start));
            }
        });
    }
}
