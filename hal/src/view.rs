//! A typed, shaped window into a [`Buffer`].

use std::fmt;
use std::ops::Range;

use crate::{Buffer, DType, Error, Result};

/// The largest number of dimensions of a [`View`].
pub const MAX_RANK: usize = 4;

/// A typed, shaped window into a [`Buffer`]: element `[i, j, …]` lies at
/// `offset_bytes + (i·strides[0] + j·strides[1] + …) · dtype.bytes()`.
///
/// A view never reaches outside its buffer: every constructor checks that once, so kernels need not.
/// Strides count elements; stride 0 repeats a dimension (inputs only: ops reject it in outputs).
#[derive(Clone, Copy)]
pub struct View<'a> {
    buffer: &'a Buffer,
    dtype: DType,
    rank: u8,
    shape: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
    offset_bytes: usize,
}

impl<'a> View<'a> {
    /// A row-major view of `shape` at the start of `buffer`.
    ///
    /// # Errors
    /// `InvalidArgument` when the rank exceeds [`MAX_RANK`] or the buffer is too small.
    pub fn new(buffer: &'a Buffer, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::at(buffer, 0, dtype, shape)
    }

    /// A row-major view of `shape` that starts `offset_bytes` into `buffer`.
    ///
    /// # Errors
    /// As [`View::new`]; also when the offset is not a multiple of the element size.
    pub fn at(
        buffer: &'a Buffer,
        offset_bytes: usize,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self> {
        let strides = contiguous_strides(shape)?;
        Self::strided(buffer, offset_bytes, dtype, shape, &strides[..shape.len()])
    }

    /// A view with explicit `strides` (in elements).
    ///
    /// # Errors
    /// As [`View::at`].
    pub fn strided(
        buffer: &'a Buffer,
        offset_bytes: usize,
        dtype: DType,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self> {
        let fail = |why: String| Error::invalid("make a view", why);
        if shape.len() > MAX_RANK || shape.len() != strides.len() {
            return Err(fail(format!(
                "shape {shape:?} with strides {strides:?}; at most {MAX_RANK} dimensions"
            )));
        }
        if !offset_bytes.is_multiple_of(dtype.bytes()) {
            return Err(fail(format!(
                "offset {offset_bytes} B is not a multiple of {dtype}"
            )));
        }
        let end = extent(shape, strides)
            .and_then(|n| n.checked_mul(dtype.bytes()))
            .and_then(|n| n.checked_add(offset_bytes));
        if end.is_none_or(|end| end > buffer.bytes()) {
            return Err(fail(format!(
                "{dtype} {shape:?} with strides {strides:?} at byte {offset_bytes} exceeds a buffer of {} B",
                buffer.bytes()
            )));
        }
        let mut view = View {
            buffer,
            dtype,
            rank: shape.len() as u8,
            shape: [1; MAX_RANK],
            strides: [0; MAX_RANK],
            offset_bytes,
        };
        view.shape[..shape.len()].copy_from_slice(shape);
        view.strides[..shape.len()].copy_from_slice(strides);
        Ok(view)
    }

    /// The whole buffer as bytes.
    pub fn of_bytes(buffer: &'a Buffer) -> Self {
        let mut shape = [1; MAX_RANK];
        let mut strides = [0; MAX_RANK];
        (shape[0], strides[0]) = (buffer.bytes(), 1);
        View {
            buffer,
            dtype: DType::U8,
            rank: 1,
            shape,
            strides,
            offset_bytes: 0,
        }
    }

    /// The buffer looked into.
    pub fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Lengths of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank as usize]
    }

    /// Distances between neighbours, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.rank as usize]
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Length of dimension `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.shape()[i]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the first element lies in the buffer.
    pub fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    /// Number of bytes of the elements themselves.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// Bytes of the buffer that the view may touch, from its first to its last element.
    pub fn range_bytes(&self) -> Range<usize> {
        let n = extent(self.shape(), self.strides()).unwrap_or(0);
        self.offset_bytes..self.offset_bytes + n * self.dtype.bytes()
    }

    /// Whether the elements lie row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&n, &s) in self.shape().iter().zip(self.strides()).rev() {
            if n != 1 && s != expected {
                return false;
            }
            expected *= n.max(1);
        }
        true
    }

    /// Whether the last dimension is dense (stride 1).
    pub fn has_dense_rows(&self) -> bool {
        match self.rank() {
            0 => true,
            r => self.shape[r - 1] <= 1 || self.strides[r - 1] == 1,
        }
    }

    /// The part `range` of dimension `dim`.
    ///
    /// # Errors
    /// `InvalidArgument` when the range leaves the dimension.
    pub fn slice(&self, dim: usize, range: Range<usize>) -> Result<Self> {
        if dim >= self.rank() || range.start > range.end || range.end > self.shape[dim] {
            return Err(Error::invalid(
                "slice a view",
                format!("{range:?} of dimension {dim} of {:?}", self.shape()),
            ));
        }
        let mut view = *self;
        // An empty slice may start one past the last element: leave its offset alone.
        if !range.is_empty() {
            view.offset_bytes += range.start * self.strides[dim] * self.dtype.bytes();
        }
        view.shape[dim] = range.len();
        Ok(view)
    }

    /// The same elements, contiguous ones, in another shape.
    ///
    /// # Errors
    /// `InvalidArgument` when the view is not contiguous or the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let strides = contiguous_strides(shape)?;
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if !self.is_contiguous() || len != Some(self.len()) {
            return Err(Error::invalid(
                "reshape a view",
                format!("{self:?} to {shape:?}; the source must be contiguous and as long"),
            ));
        }
        Self::strided(
            self.buffer,
            self.offset_bytes,
            self.dtype,
            shape,
            &strides[..shape.len()],
        )
    }

    /// The same elements with dimensions in the order `dims`.
    ///
    /// # Errors
    /// `InvalidArgument` when `dims` is not a permutation.
    pub fn permute(&self, dims: &[usize]) -> Result<Self> {
        let mut view = *self;
        let mut seen = [false; MAX_RANK];
        for (to, &from) in dims.iter().enumerate() {
            if dims.len() != self.rank() || from >= self.rank() || seen[from] {
                return Err(Error::invalid(
                    "permute a view",
                    format!("{dims:?} of rank {}", self.rank()),
                ));
            }
            seen[from] = true;
            view.shape[to] = self.shape[from];
            view.strides[to] = self.strides[from];
        }
        Ok(view)
    }

    /// Splits dimension `dim` of length `a·b` into two of lengths `a` and `b`.
    ///
    /// # Errors
    /// `InvalidArgument` when the lengths do not multiply or the rank would exceed [`MAX_RANK`].
    pub fn split(&self, dim: usize, a: usize, b: usize) -> Result<Self> {
        let rank = self.rank();
        if rank == MAX_RANK || dim >= rank || a.checked_mul(b) != Some(self.shape[dim]) {
            return Err(Error::invalid(
                "split a dimension of a view",
                format!("dimension {dim} of {:?} into {a}·{b}", self.shape()),
            ));
        }
        let mut view = *self;
        view.rank += 1;
        view.shape.copy_within(dim..rank, dim + 1);
        view.strides.copy_within(dim..rank, dim + 1);
        (view.shape[dim], view.shape[dim + 1]) = (a, b);
        (view.strides[dim], view.strides[dim + 1]) = (self.strides[dim] * b, self.strides[dim]);
        Ok(view)
    }

    /// Inserts a dimension of length `n` and stride 0 before `dim`: every copy reads the same elements.
    ///
    /// # Errors
    /// `InvalidArgument` when the rank would exceed [`MAX_RANK`].
    pub fn repeat(&self, dim: usize, n: usize) -> Result<Self> {
        let rank = self.rank();
        if rank == MAX_RANK || dim > rank {
            return Err(Error::invalid(
                "repeat a view",
                format!("before dimension {dim} of {:?}", self.shape()),
            ));
        }
        let mut view = *self;
        view.rank += 1;
        view.shape.copy_within(dim..rank, dim + 1);
        view.strides.copy_within(dim..rank, dim + 1);
        (view.shape[dim], view.strides[dim]) = (n, 0);
        Ok(view)
    }

    /// The bytes from the first to the last element, gaps included.
    pub fn span(&self) -> Self {
        let range = self.range_bytes();
        let mut span = View::of_bytes(self.buffer);
        span.offset_bytes = range.start;
        span.shape[0] = range.len();
        span
    }

    /// Whether two views may share bytes.
    pub fn overlaps(&self, other: &View<'_>) -> bool {
        let (a, b) = (self.range_bytes(), other.range_bytes());
        self.buffer.same(other.buffer) && a.start < b.end && b.start < a.end
    }

    /// Whether two views name exactly the same elements in the same order.
    pub fn same(&self, other: &View<'_>) -> bool {
        self.buffer.same(other.buffer)
            && self.offset_bytes == other.offset_bytes
            && self.dtype == other.dtype
            && self.shape() == other.shape()
            && self.strides() == other.strides()
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape())?;
        if !self.is_contiguous() {
            write!(f, " strides {:?}", self.strides())?;
        }
        Ok(())
    }
}

/// Number of elements from the first to the last one, `None` on overflow. Zero when empty.
fn extent(shape: &[usize], strides: &[usize]) -> Option<usize> {
    // An empty dimension makes the view empty, but the product must still be a number.
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .zip(strides)
        .try_fold(1usize, |n, (&d, &s)| n.checked_add((d - 1).checked_mul(s)?))
}

fn contiguous_strides(shape: &[usize]) -> Result<[usize; MAX_RANK]> {
    let mut strides = [0; MAX_RANK];
    let mut next = 1usize;
    for (i, &n) in shape.iter().enumerate().rev() {
        if i >= MAX_RANK {
            return Err(Error::invalid(
                "make a view",
                format!("shape {shape:?} has more than {MAX_RANK} dimensions"),
            ));
        }
        strides[i] = next;
        next = next.checked_mul(n.max(1)).ok_or_else(|| {
            Error::invalid(
                "make a view",
                format!("shape {shape:?} overflows the address space"),
            )
        })?;
    }
    Ok(strides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::null::NullDevice;

    fn buffer(bytes: usize) -> Buffer {
        NullDevice::new().alloc(bytes).unwrap()
    }

    #[test]
    fn stays_inside_its_buffer() {
        let b = buffer(24);
        assert!(View::new(&b, DType::F32, &[2, 3]).is_ok());
        assert!(View::new(&b, DType::F32, &[2, 4]).is_err());
        assert!(View::at(&b, 4, DType::F32, &[5]).is_ok());
        assert!(View::at(&b, 2, DType::F32, &[1]).is_err());
        assert!(View::new(&b, DType::F32, &[usize::MAX, usize::MAX]).is_err());
        assert!(View::new(&b, DType::F32, &[0, usize::MAX, usize::MAX]).is_err());
        assert!(View::new(&b, DType::F32, &[1; 5]).is_err());
        assert!(View::strided(&b, 0, DType::F32, &[2, 2], &[4, 1]).is_ok());
        assert!(View::strided(&b, 0, DType::F32, &[2, 2], &[5, 1]).is_err());
    }

    #[test]
    fn slices_permutes_splits_and_repeats() {
        let b = buffer(48);
        let v = View::new(&b, DType::F16, &[4, 6]).unwrap();
        let s = v.slice(1, 2..5).unwrap();
        assert_eq!(
            (s.shape(), s.strides(), s.offset_bytes()),
            (&[4, 3][..], &[6, 1][..], 4)
        );
        assert!(!s.is_contiguous() && s.has_dense_rows());
        assert!(v.slice(1, 5..7).is_err());
        assert!(v.slice(0, 4..4).unwrap().is_empty());
        let t = v.permute(&[1, 0]).unwrap();
        assert_eq!((t.shape(), t.strides()), (&[6, 4][..], &[1, 6][..]));
        assert!(v.permute(&[0, 0]).is_err());
        let p = v.split(1, 2, 3).unwrap();
        assert_eq!((p.shape(), p.strides()), (&[4, 2, 3][..], &[6, 3, 1][..]));
        let r = v.repeat(1, 5).unwrap();
        assert_eq!((r.shape(), r.strides()), (&[4, 5, 6][..], &[6, 0, 1][..]));
        assert_eq!(v.reshape(&[24]).unwrap().shape(), &[24]);
        assert!(s.reshape(&[12]).is_err());
    }

    #[test]
    fn knows_overlap() {
        let (b, c) = (buffer(16), buffer(16));
        let at = |b, o, n| View::at(b, o, DType::U8, &[n]).unwrap();
        assert!(at(&b, 0, 8).overlaps(&at(&b, 7, 4)));
        assert!(!at(&b, 0, 8).overlaps(&at(&b, 8, 4)));
        assert!(!at(&b, 0, 8).overlaps(&at(&c, 0, 8)));
    }
}
