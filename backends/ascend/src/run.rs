//! A launch under construction: operators one after the other, and the memory between them.

use std::ffi::c_void;
use std::ptr;

use arrayvec::ArrayVec;
use backend_runtime::{Api, Handle, Queue, Runtime};
use hal::{Error, ErrorKind, Result};

use crate::device::Acl;
use crate::failure::{is_refusal, refusal};
use crate::libraries::Library;
use crate::operators::{Operator, Operators, Queue as QueueOperator, Status};
use crate::symbols::Base;
use crate::tensor::{Kind, Tensor};

/// Where pieces of a workspace begin: at multiples of this.
const ALIGN: usize = 512;
/// `ACL_FORMAT_ND`.
pub(crate) const ND: i32 = 2;
/// The most tensors, scalars and lists of one operator.
const MAX_HELD: usize = 12;

/// The operators of one launch, or what they will take.
pub(crate) struct Run<'a> {
    to: To<'a>,
    workspace: u64,
    used: usize,
    /// Bytes of workspace that were used at most.
    pub(crate) most: usize,
}

/// Where operators go.
enum To<'a> {
    /// Nowhere: workspace is measured.
    Nowhere(&'a Operators),
    /// Nowhere: those that would run must be there.
    Check(&'a Operators),
    /// To a stream.
    Stream {
        runtime: &'a Runtime<Acl>,
        queue: &'a mut Queue<Acl>,
        stream: Handle,
    },
}

impl<'a> Run<'a> {
    /// Measures workspace.
    pub(crate) fn measure(operators: &'a Operators) -> Self {
        Self::with(To::Nowhere(operators), 0)
    }

    /// Fails where an operator is not there.
    pub(crate) fn check(operators: &'a Operators) -> Self {
        Self::with(To::Check(operators), 0)
    }

    /// Queues operators, with pieces of the memory at `workspace`.
    ///
    /// # Errors
    /// `DeviceLost`; what the runtime reports.
    pub(crate) fn stream(
        runtime: &'a Runtime<Acl>,
        queue: &'a mut Queue<Acl>,
        workspace: u64,
    ) -> Result<Self> {
        let to = To::Stream {
            stream: queue.begin("launch an operation")?,
            runtime,
            queue,
        };
        Ok(Self::with(to, workspace))
    }

    fn with(to: To<'a>, workspace: u64) -> Self {
        Self {
            to,
            workspace,
            used: 0,
            most: 0,
        }
    }

    /// Whether there is an operator.
    pub(crate) fn has(&self, operator: impl Fn(&Operators) -> bool) -> bool {
        match &self.to {
            To::Nowhere(operators) | To::Check(operators) => operator(operators),
            To::Stream { runtime, .. } => operator(&runtime.api().library.operators),
        }
    }

    /// The next piece of the workspace.
    pub(crate) fn piece(&mut self, kind: Kind, shape: &[usize]) -> Tensor {
        let piece = Tensor::new(self.workspace + self.used as u64, kind, shape);
        let bytes = piece.len() * kind.bytes();
        self.used += bytes.next_multiple_of(ALIGN);
        self.most = self.most.max(self.used);
        piece
    }

    /// Runs what gives its pieces back.
    pub(crate) fn scope<R>(&mut self, inner: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        let used = self.used;
        let result = inner(self);
        self.used = used;
        result
    }

    /// What [`call`] does with an operator.
    pub(crate) fn operate<F: Copy>(
        &mut self,
        name: &'static str,
        pick: impl Fn(&Operators) -> Option<Operator<F>>,
        prepare: impl FnOnce(F, &mut Held<'_>, &mut u64, &mut Handle) -> Result<Status>,
    ) -> Result<()> {
        let absent = || {
            let doing = format!("plan {name}");
            Error::unsupported(doing, "this release of CANN does not have it")
                .next_step("install a newer CANN with the operator packages of this chip")
        };
        match &mut self.to {
            To::Nowhere(_) => Ok(()),
            To::Check(operators) => pick(operators).map(drop).ok_or_else(absent),
            To::Stream {
                runtime,
                queue,
                stream,
            } => {
                let operator = pick(&runtime.api().library.operators).ok_or_else(absent)?;
                let mut held = Held::new(runtime);
                let (mut bytes, mut executor) = (0, ptr::null_mut());
                let status = prepare(operator.prepare, &mut held, &mut bytes, &mut executor)?;
                accept(runtime, name, status)?;
                let queued = enqueue(
                    runtime,
                    queue,
                    *stream,
                    operator.queue,
                    (name, bytes, executor),
                );
                // The executor has been used up: what it was told of may go.
                drop(held);
                queued
            }
        }
    }
}

fn enqueue(
    runtime: &Runtime<Acl>,
    queue: &mut Queue<Acl>,
    stream: Handle,
    operator: QueueOperator,
    (name, bytes, executor): (&'static str, u64, Handle),
) -> Result<()> {
    let workspace = match bytes {
        0 => Ok(0),
        _ => queue.scratch(name, bytes as usize),
    };
    let workspace = workspace.inspect_err(|_| runtime.api().library.forget(executor))?;
    let workspace = ptr::with_exposed_provenance_mut(workspace as usize);
    // SAFETY: the workspace has as many bytes, work of this stream alone uses it, in order, and the executor was just made.
    let status = unsafe { operator(workspace, bytes, executor, stream) };
    accept(runtime, name, status)
}

fn accept(runtime: &Runtime<Acl>, name: &'static str, status: Status) -> Result<()> {
    match status {
        0 => Ok(()),
        _ if is_refusal(status) => Err(refusal(&runtime.api().library, name, status)),
        _ => runtime.check(name, status.cast_unsigned()),
    }
}

impl Library {
    /// Lets an executor go that was not used.
    fn forget(&self, executor: Handle) {
        if let Some(executors) = &self.executors {
            // SAFETY: made by an operator, and not used again.
            unsafe { (executors.aclDestroyAclOpExecutor)(executor) };
        }
    }
}

/// What an operator is told of, until it is queued.
pub(crate) struct Held<'a> {
    runtime: &'a Runtime<Acl>,
    base: &'a Base,
    handles: ArrayVec<(Handle, unsafe extern "C" fn(Handle) -> Status), MAX_HELD>,
}

impl<'a> Held<'a> {
    fn new(runtime: &'a Runtime<Acl>) -> Self {
        Self {
            runtime,
            base: &runtime.api().library.base,
            handles: ArrayVec::new(),
        }
    }

    fn hold(
        &mut self,
        handle: Handle,
        destroy: unsafe extern "C" fn(Handle) -> Status,
    ) -> Result<Handle> {
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
        self.handles.push((handle, destroy));
        Ok(handle)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        for (handle, destroy) in self.handles.drain(..) {
            // SAFETY: made by this library, and not used again.
            unsafe { destroy(handle) };
        }
    }
}

/// What is given to the first function of an operator, as `Raw`.
pub(crate) trait Argument<Raw> {
    fn raw(&self, held: &mut Held<'_>) -> Result<Raw>;
}

impl Argument<Handle> for Tensor {
    fn raw(&self, held: &mut Held<'_>) -> Result<Handle> {
        let (shape, strides) = (self.shape(), self.strides());
        // Memory in the tensor's own shape, or all from its first element to its last.
        let span = [self.span()];
        let storage = if self.is_contiguous() { shape } else { &span };
        let data: *mut c_void = ptr::with_exposed_provenance_mut(self.address as usize);
        // SAFETY: lengths and strides are as many as is said, and are copied.
        let handle = unsafe {
            (held.base.aclCreateTensor)(
                shape.as_ptr(),
                shape.len() as u64,
                self.kind as i32,
                strides.as_ptr(),
                0,
                ND,
                storage.as_ptr(),
                storage.len() as u64,
                data,
            )
        };
        let destroy = held.base.aclDestroyTensor;
        held.hold(handle, destroy)
    }
}

/// No tensor, where one may be left out.
pub(crate) struct Absent;

impl Argument<Handle> for Absent {
    fn raw(&self, _: &mut Held<'_>) -> Result<Handle> {
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

impl Argument<Handle> for Scalar {
    fn raw(&self, held: &mut Held<'_>) -> Result<Handle> {
        let (value, kind): (*const c_void, Kind) = match self {
            Self::F32(x) => (ptr::from_ref(x).cast(), Kind::F32),
            Self::I32(x) => (ptr::from_ref(x).cast(), Kind::I32),
            Self::I64(x) => (ptr::from_ref(x).cast(), Kind::I64),
        };
        // SAFETY: the value is of that type, and is copied.
        let handle = unsafe { (held.base.aclCreateScalar)(value, kind as i32) };
        let destroy = held.base.aclDestroyScalar;
        held.hold(handle, destroy)
    }
}

/// Numbers of dimensions, or lengths.
#[derive(Clone, Copy)]
pub(crate) struct Integers<'a>(pub(crate) &'a [i64]);

impl Argument<Handle> for Integers<'_> {
    fn raw(&self, held: &mut Held<'_>) -> Result<Handle> {
        // SAFETY: there are as many, and they are copied.
        let handle = unsafe { (held.base.aclCreateIntArray)(self.0.as_ptr(), self.0.len() as u64) };
        let destroy = held.base.aclDestroyIntArray;
        held.hold(handle, destroy)
    }
}

/// Digits that products keep: all that the operands have.
pub(crate) struct KeepType;

impl Argument<i8> for KeepType {
    fn raw(&self, _: &mut Held<'_>) -> Result<i8> {
        Ok(0)
    }
}

impl Argument<i32> for Kind {
    fn raw(&self, _: &mut Held<'_>) -> Result<i32> {
        Ok(*self as i32)
    }
}

macro_rules! plain {
    ($($type:ty as $raw:ty),*) => {
        $(impl Argument<$raw> for $type {
            fn raw(&self, _: &mut Held<'_>) -> Result<$raw> {
                Ok((*self).into())
            }
        })*
    };
}
// Dimensions and modes are written as plain numbers.
plain!(bool as bool, f64 as f64, i32 as i64);

/// Runs an operator: `call!(run, Add(a, b, Scalar::F32(1.0), out))`.
macro_rules! call {
    ($run:expr, $name:ident($($argument:expr),* $(,)?)) => {
        $run.operate(
            concat!("aclnn", stringify!($name)),
            |operators| operators.$name,
            // SAFETY: the arguments have the types of the table, and live until the operator is queued.
            |prepare, held, bytes, executor| Ok(unsafe {
                prepare($($crate::run::Argument::raw(&$argument, held)?,)* bytes, executor)
            }),
        )
    };
}
pub(crate) use call;

/// What many operations do.
impl Run<'_> {
    /// `out = x`, of any types.
    pub(crate) fn cast(&mut self, out: Tensor, x: Tensor) -> Result<()> {
        match out.kind == x.kind {
            _ if out.is_empty() => Ok(()),
            true => call!(self, InplaceCopy(out, x)),
            false => call!(self, Cast(x, out.kind, out)),
        }
    }

    /// `x` in another type: itself, when it has that.
    pub(crate) fn as_kind(&mut self, x: Tensor, kind: Kind) -> Result<Tensor> {
        if x.kind == kind {
            return Ok(x);
        }
        let shape: ArrayVec<usize, 5> = x.shape().iter().map(|&n| n as usize).collect();
        let out = self.piece(kind, &shape);
        self.cast(out, x)?;
        Ok(out)
    }

    /// All elements of `x` become `value`.
    pub(crate) fn fill(&mut self, x: Tensor, value: Scalar) -> Result<()> {
        match x.is_empty() {
            true => Ok(()),
            false => call!(self, InplaceFillScalar(x, value)),
        }
    }

    /// `0, step, 2·step, …` as `n` elements of i32.
    pub(crate) fn count(&mut self, n: usize, step: usize) -> Result<Tensor> {
        let out = self.piece(Kind::I32, &[n]);
        let end = Scalar::I32((n * step) as i32);
        call!(
            self,
            Arange(Scalar::I32(0), end, Scalar::I32(step as i32), out)
        )?;
        Ok(out)
    }
}
