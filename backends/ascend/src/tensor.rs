//! Tensors as operators are told of them: address, type, lengths and strides.

use arrayvec::ArrayVec;
use hal::{DType, View};

/// The largest number of dimensions.
const RANK: usize = 5;

/// `aclDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Kind {
    F32 = 0,
    F16 = 1,
    I8 = 2,
    I32 = 3,
    U8 = 4,
    I64 = 9,
    Bool = 12,
    Bf16 = 27,
}

impl Kind {
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        Some(match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::Bf16,
            DType::I8 => Self::I8,
            DType::U8 => Self::U8,
            DType::I32 => Self::I32,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// A window into device memory. Its views reach no memory that it does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor {
    pub(crate) address: u64,
    pub(crate) kind: Kind,
    rank: usize,
    shape: [i64; RANK],
    strides: [i64; RANK],
}

impl Tensor {
    /// Row-major, from `address` on.
    pub(crate) fn new(address: u64, kind: Kind, shape: &[usize]) -> Self {
        let mut tensor = Self {
            address,
            kind,
            rank: shape.len(),
            shape: [1; RANK],
            strides: [0; RANK],
        };
        let mut stride = 1;
        for (i, &n) in shape.iter().enumerate().rev() {
            tensor.shape[i] = n as i64;
            tensor.strides[i] = stride;
            stride *= n.max(1) as i64;
        }
        tensor
    }

    /// A view of memory that begins at `base`.
    pub(crate) fn of_view(view: &View<'_>, base: u64, kind: Kind) -> Self {
        let mut tensor = Self::new(base + view.offset_bytes() as u64, kind, view.shape());
        for (to, &stride) in tensor.strides.iter_mut().zip(view.strides()) {
            *to = stride as i64;
        }
        tensor
    }

    pub(crate) fn shape(&self) -> &[i64] {
        &self.shape[..self.rank]
    }

    /// As [`Self::shape`], to make others of.
    pub(crate) fn lengths(&self) -> ArrayVec<usize, RANK> {
        self.shape().iter().map(|&n| n as usize).collect()
    }

    pub(crate) fn strides(&self) -> &[i64] {
        &self.strides[..self.rank]
    }

    pub(crate) fn dim(&self, i: usize) -> usize {
        self.shape[..self.rank][i] as usize
    }

    pub(crate) fn len(&self) -> usize {
        self.shape().iter().product::<i64>() as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements from the first to the last one, those between them that are not its own included.
    pub(crate) fn span(&self) -> i64 {
        if self.is_empty() {
            return 0;
        }
        let reach = self.shape().iter().zip(self.strides());
        1 + reach.map(|(n, stride)| (n - 1) * stride).sum::<i64>()
    }

    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&n, &stride) in self.shape().iter().zip(self.strides()).rev() {
            if n != 1 && stride != expected {
                return false;
            }
            expected *= n.max(1);
        }
        true
    }

    /// `n` elements of dimension `dim`: `first`, and then each `step`-th.
    pub(crate) fn every(mut self, dim: usize, first: usize, step: usize, n: usize) -> Self {
        debug_assert!(n == 0 || first + (n - 1) * step < self.dim(dim));
        if n > 0 {
            self.address += (first as i64 * self.strides[dim]) as u64 * self.kind.bytes() as u64;
        }
        self.shape[dim] = n as i64;
        self.strides[dim] *= step as i64;
        self
    }

    /// `n` elements of dimension `dim`, from `first` on.
    pub(crate) fn slice(self, dim: usize, first: usize, n: usize) -> Self {
        self.every(dim, first, 1, n)
    }

    /// With a dimension of length 1 before `dim`.
    pub(crate) fn unsqueeze(mut self, dim: usize) -> Self {
        debug_assert!(self.rank < RANK);
        self.shape.copy_within(dim..self.rank, dim + 1);
        self.strides.copy_within(dim..self.rank, dim + 1);
        (self.shape[dim], self.strides[dim]) = (1, 0);
        self.rank += 1;
        self
    }

    /// Without its first dimension, whose length is 1.
    pub(crate) fn squeezed(mut self) -> Self {
        debug_assert_eq!(self.dim(0), 1);
        self.shape.copy_within(1..self.rank, 0);
        self.strides.copy_within(1..self.rank, 0);
        self.rank -= 1;
        self
    }

    /// With dimension `dim` of length `a`·`b` as two.
    pub(crate) fn split(mut self, dim: usize, a: usize, b: usize) -> Self {
        debug_assert_eq!(self.dim(dim), a * b);
        self = self.unsqueeze(dim);
        (self.shape[dim], self.shape[dim + 1]) = (a as i64, b as i64);
        self.strides[dim] = self.strides[dim + 1] * b as i64;
        self
    }

    /// Whether dimension `dim` repeats what is there once.
    pub(crate) fn repeats(&self, dim: usize) -> bool {
        self.strides[dim] == 0 && self.shape[dim] > 1
    }

    /// With its last two dimensions exchanged.
    pub(crate) fn transposed(self) -> Self {
        self.exchanged(self.rank - 2, self.rank - 1)
    }

    /// With two dimensions exchanged.
    pub(crate) fn exchanged(mut self, a: usize, b: usize) -> Self {
        self.shape.swap(a, b);
        self.strides.swap(a, b);
        self
    }

    /// The same elements, which are contiguous, in another shape.
    pub(crate) fn reshape(self, shape: &[usize]) -> Self {
        let other = Self::new(self.address, self.kind, shape);
        debug_assert!(self.is_contiguous() && self.len() == other.len());
        other
    }
}
