//! What operators are given: tensors, numbers, lists, and how the library is told of them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use arrayvec::ArrayVec;
use backend_runtime::{Api, Handle, Runtime};
use hal::{Error, ErrorKind, Result};

use crate::device::Acl;
use crate::executors::{Call, Destroy, Held, MAX_HELD};
use crate::symbols::Base;
use crate::tensor::{Kind, Tensor};

/// `ACL_FORMAT_ND`, `ACL_FORMAT_FRACTAL_NZ`.
pub(crate) const ND: i32 = 2;
pub(crate) const NZ: i32 = 29;
/// Rows and columns of a fractal of a half type.
pub(crate) const FRACTAL: usize = 16;

/// The library is being told of arguments.
pub(crate) struct Telling<'a> {
    runtime: &'a Runtime<Acl>,
    base: &'a Base,
    pub(crate) held: Held,
    /// Those that are tensors.
    pub(crate) tensors: ArrayVec<Handle, MAX_HELD>,
}

impl<'a> Telling<'a> {
    pub(crate) fn new(runtime: &'a Runtime<Acl>) -> Self {
        Self {
            runtime,
            base: &runtime.api().library.base,
            held: Held::default(),
            tensors: ArrayVec::new(),
        }
    }

    /// Describes `x`, whose memory has the lengths `storage` in `format`.
    fn tensor(&mut self, x: &Tensor, format: i32, storage: &[i64]) -> Result<Handle> {
        let data: *mut c_void = ptr::with_exposed_provenance_mut(x.address as usize);
        let (shape, strides) = (x.shape(), x.strides());
        // SAFETY: lengths and strides are as many as is said, and are copied.
        let handle = unsafe {
            (self.base.aclCreateTensor)(
                shape.as_ptr(),
                shape.len() as u64,
                x.kind as i32,
                strides.as_ptr(),
                0,
                format,
                storage.as_ptr(),
                storage.len() as u64,
                data,
            )
        };
        let destroy = self.base.aclDestroyTensor;
        let handle = self.hold(handle, destroy)?;
        self.tensors.push(handle);
        Ok(handle)
    }

    fn hold(&mut self, handle: Handle, destroy: Destroy) -> Result<Handle> {
        if handle.is_null() {
            const DOING: &str = "describe an argument";
            // It does not say why: of a lost device everything fails.
            // SAFETY: the device is open.
            let code = unsafe { self.runtime.api().set_current() };
            self.runtime.check(DOING, code)?;
            let why = "the operator library made none";
            return Err(Error::new(ErrorKind::OutOfMemory, DOING, why)
                .next_step("close other programs on this host"));
        }
        self.held.0.push((handle, destroy));
        Ok(handle)
    }
}

/// What an executor depends on.
pub(crate) trait Described {
    fn describe(&self, call: &mut Call);
}

/// What is given to the first function of an operator, as `Raw`.
pub(crate) trait Argument<Raw>: Described {
    fn tell(&self, telling: &mut Telling<'_>) -> Result<Raw>;
}

impl Described for Tensor {
    fn describe(&self, call: &mut Call) {
        call.word(self.kind as u64 | (self.shape().len() as u64) << 32);
        for (&n, &stride) in self.shape().iter().zip(self.strides()) {
            call.word(n.cast_unsigned());
            call.word(stride.cast_unsigned());
        }
        call.address(self.address);
    }
}

impl Argument<Handle> for Tensor {
    fn tell(&self, telling: &mut Telling<'_>) -> Result<Handle> {
        // Memory in the tensor's own shape, or all from its first element to its last.
        let span = [self.span()];
        let storage = match self.is_contiguous() {
            true => self.shape(),
            false => &span,
        };
        telling.tensor(self, ND, storage)
    }
}

/// A weight `[rows, cols]` that lies in fractals, as the second operand `[cols, rows]` of a product.
pub(crate) struct Folded(pub(crate) Tensor);

impl Described for Folded {
    fn describe(&self, call: &mut Call) {
        call.word(NZ as u64);
        self.0.transposed().describe(call);
    }
}

impl Argument<Handle> for Folded {
    fn tell(&self, telling: &mut Telling<'_>) -> Result<Handle> {
        let [rows, cols] = [0, 1].map(|i| self.0.dim(i).div_ceil(FRACTAL) as i64);
        let storage = [cols, rows, FRACTAL as i64, FRACTAL as i64];
        telling.tensor(&self.0.transposed(), NZ, &storage)
    }
}

/// A list of one tensor.
pub(crate) struct Alone(pub(crate) Tensor);

impl Described for Alone {
    fn describe(&self, call: &mut Call) {
        call.list();
        self.0.describe(call);
    }
}

impl Argument<Handle> for Alone {
    fn tell(&self, telling: &mut Telling<'_>) -> Result<Handle> {
        let tensor = self.0.tell(telling)?;
        // SAFETY: there is one, and the list knows it by its handle.
        let list = unsafe { (telling.base.aclCreateTensorList)(&raw const tensor, 1) };
        if !list.is_null() {
            // It goes with its list.
            telling.held.0.pop();
        }
        let destroy = telling.base.aclDestroyTensorList;
        telling.hold(list, destroy)
    }
}

/// No tensor or list, where one may be left out.
pub(crate) struct Absent;

impl Described for Absent {
    fn describe(&self, call: &mut Call) {
        call.absent();
    }
}

impl Argument<Handle> for Absent {
    fn tell(&self, _: &mut Telling<'_>) -> Result<Handle> {
        Ok(ptr::null_mut())
    }
}

/// A number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalar {
    F32(f32),
    I32(i32),
    I64(i64),
}

impl Described for Scalar {
    fn describe(&self, call: &mut Call) {
        let (kind, bits) = match *self {
            Self::F32(x) => (Kind::F32, x.to_bits().into()),
            Self::I32(x) => (Kind::I32, i64::from(x).cast_unsigned()),
            Self::I64(x) => (Kind::I64, x.cast_unsigned()),
        };
        call.word(kind as u64);
        call.word(bits);
    }
}

impl Argument<Handle> for Scalar {
    fn tell(&self, telling: &mut Telling<'_>) -> Result<Handle> {
        let (value, kind): (*const c_void, Kind) = match self {
            Self::F32(x) => (ptr::from_ref(x).cast(), Kind::F32),
            Self::I32(x) => (ptr::from_ref(x).cast(), Kind::I32),
            Self::I64(x) => (ptr::from_ref(x).cast(), Kind::I64),
        };
        // SAFETY: the value is of that type, and is copied.
        let handle = unsafe { (telling.base.aclCreateScalar)(value, kind as i32) };
        let destroy = telling.base.aclDestroyScalar;
        telling.hold(handle, destroy)
    }
}

/// Numbers of dimensions, or lengths.
#[derive(Clone, Copy)]
pub(crate) struct Integers<'a>(pub(crate) &'a [i64]);

impl Described for Integers<'_> {
    fn describe(&self, call: &mut Call) {
        call.word(self.0.len() as u64);
        self.0.iter().for_each(|n| call.word(n.cast_unsigned()));
    }
}

impl Argument<Handle> for Integers<'_> {
    fn tell(&self, telling: &mut Telling<'_>) -> Result<Handle> {
        let (at, n) = (self.0.as_ptr(), self.0.len() as u64);
        // SAFETY: there are as many, and they are copied.
        let handle = unsafe { (telling.base.aclCreateIntArray)(at, n) };
        let destroy = telling.base.aclDestroyIntArray;
        telling.hold(handle, destroy)
    }
}

impl Described for &'static CStr {
    fn describe(&self, call: &mut Call) {
        self.to_bytes()
            .iter()
            .for_each(|&byte| call.word(byte.into()));
    }
}

impl Argument<*const c_char> for &'static CStr {
    fn tell(&self, _: &mut Telling<'_>) -> Result<*const c_char> {
        Ok(self.as_ptr())
    }
}

/// Digits that products keep: all that the operands have.
pub(crate) struct KeepType;

/// Scales are of whole rows, and of no groups.
pub(crate) struct WholeRows;

/// Arguments that are numbers to the library too: as `Raw`, and as the word that describes them.
macro_rules! plain {
    ($($type:ty as $raw:ty: |$value:ident| $told:expr, $word:expr;)*) => {
        $(impl Described for $type {
            fn describe(&self, call: &mut Call) {
                let $value = self;
                call.word($word);
            }
        }

        impl Argument<$raw> for $type {
            fn tell(&self, _: &mut Telling<'_>) -> Result<$raw> {
                let $value = self;
                Ok($told)
            }
        })*
    };
}
plain! {
    KeepType as i8: |_x| 0, 0;
    WholeRows as c_int: |_x| 0, 0;
    Kind as i32: |x| *x as i32, *x as u64;
    bool as bool: |x| *x, u64::from(*x);
    f64 as f64: |x| *x, x.to_bits();
    // Dimensions and modes are written as plain numbers.
    i32 as i64: |x| i64::from(*x), i64::from(*x).cast_unsigned();
}
