//! Typed access to the views of a launch.
//!
//! Elements are reached through [`Cell`]s, because an output may be the same view as an input.

use std::cell::Cell;
use std::marker::PhantomData;

use hal::{MAX_RANK, View};

use super::vector::{Element, Lanes, MAX_LANES};
use crate::memory::address;

/// A view as typed elements, shared by the threads of one launch.
pub(crate) struct Tensor<'a, T> {
    base: *mut T,
    rank: usize,
    shape: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
    lifetime: PhantomData<&'a Cell<T>>,
}

impl<T> Clone for Tensor<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Tensor<'_, T> {}

// SAFETY: the elements are plain numbers, and `Tensor::new` demands that no two threads write the same ones.
unsafe impl<T: Send> Send for Tensor<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Tensor<'_, T> {}

impl<'a, T: bytemuck::Pod> Tensor<'a, T> {
    /// # Safety
    /// While it lives, an element that is written is touched by one thread only.
    pub(crate) unsafe fn new(view: &View<'a>) -> Self {
        debug_assert_eq!(size_of::<T>(), view.dtype().bytes());
        let rank = view.rank();
        let (mut shape, mut strides) = ([1; MAX_RANK], [0; MAX_RANK]);
        shape[..rank].copy_from_slice(view.shape());
        strides[..rank].copy_from_slice(view.strides());
        Self {
            base: address(view),
            rank,
            shape,
            strides,
            lifetime: PhantomData,
        }
    }

    /// Length of dimension `i`.
    pub(crate) fn dim(&self, i: usize) -> usize {
        self.shape[i]
    }

    /// The dense row at `index` of all dimensions but the last.
    #[inline(always)]
    pub(crate) fn row<const LEAD: usize>(&self, index: [usize; LEAD]) -> Row<'a, T> {
        assert!(LEAD + 1 == self.rank);
        debug_assert!(self.shape[LEAD] <= 1 || self.strides[LEAD] == 1);
        let len = self.shape[LEAD];
        // SAFETY: elements of the last dimension lie side by side.
        unsafe { self.side_by_side(index, len) }
    }

    /// The elements at `index` of all dimensions but the last two, which lie side by side.
    #[inline(always)]
    pub(crate) fn plane<const LEAD: usize>(&self, index: [usize; LEAD]) -> Row<'a, T> {
        assert!(LEAD + 2 == self.rank);
        debug_assert!(self.shape[LEAD] <= 1 || self.strides[LEAD] == self.shape[LEAD + 1]);
        let len = self.shape[LEAD] * self.shape[LEAD + 1];
        // SAFETY: as the caller of this says of them, elements of the last two dimensions lie side by side.
        unsafe { self.side_by_side(index, len) }
    }

    /// The `len` elements from `index` of the first dimensions on.
    ///
    /// # Safety
    /// That many elements of the other dimensions lie side by side.
    #[inline(always)]
    unsafe fn side_by_side<const LEAD: usize>(
        &self,
        index: [usize; LEAD],
        len: usize,
    ) -> Row<'a, T> {
        let mut offset = 0;
        for (i, at) in index.into_iter().enumerate() {
            assert!(at < self.shape[i]);
            offset += at * self.strides[i];
        }
        // An empty one may lie at the end of its buffer, hence the wrapping.
        let start = self.base.wrapping_add(offset).cast::<Cell<T>>();
        // SAFETY: the index is inside the shape, the view inside its buffer, and a cell is its element.
        Row(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// All elements of a contiguous view.
    pub(crate) fn flat(&self) -> Row<'a, T> {
        let len = self.shape.iter().product();
        // SAFETY: as in `row`.
        Row(unsafe { std::slice::from_raw_parts(self.base.cast(), len) })
    }
}

/// Elements that lie side by side.
pub(crate) struct Row<'a, T>(pub(crate) &'a [Cell<T>]);

impl<T> Clone for Row<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Row<'_, T> {}

impl<'a, T: Copy> Row<'a, T> {
    /// A row of the thread's own numbers.
    #[inline(always)]
    pub(crate) fn of(own: &'a mut [T]) -> Self {
        Row(Cell::from_mut(own).as_slice_of_cells())
    }

    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    pub(crate) fn get(self, i: usize) -> T {
        self.0[i].get()
    }

    #[inline(always)]
    pub(crate) fn set(self, i: usize, x: T) {
        self.0[i].set(x);
    }

    #[inline(always)]
    pub(crate) fn part(self, range: std::ops::Range<usize>) -> Row<'a, T> {
        Row(&self.0[range])
    }
}

impl<T: Element> Row<'_, T> {
    /// The lanes from `i` on; lanes beyond the end are 0.
    #[inline(always)]
    pub(crate) fn load<V: Lanes>(self, i: usize) -> V {
        if i + V::N <= self.len() {
            // SAFETY: just checked.
            return unsafe { T::load(self.0.as_ptr().add(i).cast()) };
        }
        let mut part = [0.0; MAX_LANES];
        for (to, from) in part.iter_mut().zip(self.0.iter().skip(i)) {
            *to = from.get().widen();
        }
        // SAFETY: there are `MAX_LANES` elements.
        unsafe { V::load_f32(part.as_ptr()) }
    }

    /// Writes the lanes from `i` on that lie inside.
    #[inline(always)]
    pub(crate) fn store<V: Lanes>(self, i: usize, v: V) {
        if i + V::N <= self.len() {
            // SAFETY: just checked; a cell may be written through a shared reference.
            return unsafe { T::store(v, self.0.as_ptr().add(i).cast_mut().cast()) };
        }
        let mut part = [0.0; MAX_LANES];
        // SAFETY: there are `MAX_LANES` elements.
        unsafe { v.store_f32(part.as_mut_ptr()) };
        for (from, to) in part.into_iter().zip(self.0.iter().skip(i)) {
            to.set(T::narrow(from));
        }
    }

    /// Copies `from`, changing its type; zeros where it is shorter.
    #[inline(always)]
    pub(crate) fn copy_from<V: Lanes, X: Element>(self, from: Row<'_, X>) {
        for i in (0..self.len()).step_by(V::N) {
            self.store::<V>(i, from.load(i));
        }
    }

    /// Copies the elements as they are.
    #[inline(always)]
    pub(crate) fn copy_to(self, to: &mut [T]) {
        for (to, from) in to.iter_mut().zip(self.0) {
            *to = from.get();
        }
    }

    /// Writes `x` everywhere.
    #[inline(always)]
    pub(crate) fn fill<V: Lanes>(self, x: f32) {
        for i in (0..self.len()).step_by(V::N) {
            self.store(i, V::splat(x));
        }
    }
}

/// Folds a row into one vector by way of four: `fold!(V, row, start, merge, |lanes, accumulator| next)` with the name of
/// the method that merges accumulators.
macro_rules! fold {
    ($lanes:ty, $row:expr, $start:expr, $merge:ident, |$x:ident, $acc:ident| $next:expr) => {{
        let (row, mut sums) = ($row, [<$lanes>::splat($start); 4]);
        let (len, n) = (row.len(), <$lanes>::N);
        let whole = len / (4 * n) * (4 * n);
        for i in (0..whole).step_by(4 * n) {
            for (k, sum) in sums.iter_mut().enumerate() {
                let ($x, $acc) = (row.load::<$lanes>(i + k * n), *sum);
                *sum = $next;
            }
        }
        for i in (whole..len).step_by(n) {
            let ($x, $acc) = (row.load::<$lanes>(i), sums[0]);
            sums[0] = <$lanes>::first(len - i, $next, sums[0]);
        }
        sums[0].$merge(sums[1]).$merge(sums[2].$merge(sums[3]))
    }};
}
pub(crate) use fold;

/// Elements at equal distances.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a, T> {
    /// From the first to the last element, gaps included.
    cells: &'a [Cell<T>],
    step: usize,
    len: usize,
}

impl<'a, T: bytemuck::Pod> Tensor<'a, T> {
    /// The `len ≥ 1` elements at `offset`, `offset + step`, …
    ///
    /// They must lie in the view: [`super::strided::Walk`] sees to it.
    #[inline(always)]
    pub(super) fn run(&self, offset: usize, step: usize, len: usize) -> Run<'a, T> {
        let span = (len - 1) * step + 1;
        // SAFETY: the elements lie in the view, hence in its buffer; what lies between them does too.
        let cells = unsafe { std::slice::from_raw_parts(self.base.add(offset).cast(), span) };
        Run { cells, step, len }
    }
}

impl<'a, T: Copy> Run<'a, T> {
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> T {
        self.cells[i * self.step].get()
    }

    #[inline(always)]
    pub(crate) fn set(&self, i: usize, x: T) {
        self.cells[i * self.step].set(x);
    }

    /// The run as a row, when it has no gaps.
    #[inline(always)]
    pub(crate) fn row(&self) -> Option<Row<'a, T>> {
        (self.step == 1).then_some(Row(self.cells))
    }
}

impl<T: Element> Run<'_, T> {
    /// As [`Row::load`].
    #[inline(always)]
    pub(crate) fn load<V: Lanes>(&self, i: usize) -> V {
        match self.step {
            1 => Row(self.cells).load(i),
            0 => V::splat(self.cells[0].get().widen()),
            step => {
                let mut part = [0.0; MAX_LANES];
                let n = V::N.min(self.len.saturating_sub(i));
                for (k, to) in part.iter_mut().enumerate().take(n) {
                    *to = self.cells[(i + k) * step].get().widen();
                }
                // SAFETY: there are `MAX_LANES` elements.
                unsafe { V::load_f32(part.as_ptr()) }
            }
        }
    }

    /// As [`Row::store`].
    #[inline(always)]
    pub(crate) fn store<V: Lanes>(&self, i: usize, v: V) {
        if self.step == 1 {
            return Row(self.cells).store(i, v);
        }
        let mut part = [0.0; MAX_LANES];
        // SAFETY: there are `MAX_LANES` elements.
        unsafe { v.store_f32(part.as_mut_ptr()) };
        let n = V::N.min(self.len.saturating_sub(i));
        for (k, from) in part.into_iter().enumerate().take(n) {
            self.cells[(i + k) * self.step].set(T::narrow(from));
        }
    }
}
