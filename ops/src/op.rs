//! What an operation is, and what a backend gives for one.

use std::fmt::{self, Debug};
use std::sync::Arc;

use arrayvec::ArrayVec;
use hal::{Buffer, DType, Error, Result, Stream, View, WeightFormat};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Context, HostWeight, Ops, reference::Tensor};

/// The largest number of arguments of an operation.
pub const MAX_ARGS: usize = 10;

/// The arguments of one launch, in the operation's fixed order: outputs, inputs, weights.
pub type ArgList<'a> = ArrayVec<View<'a>, MAX_ARGS>;

/// The shapes of arguments.
pub(crate) fn shapes<'v>(args: &'v [View<'_>]) -> ArrayVec<&'v [usize], MAX_ARGS> {
    args.iter().map(View::shape).collect()
}

/// What one argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name in [`Op::Args`].
    pub name: &'static str,
    /// How it is used.
    pub role: Role,
    /// Its element type. Packed weights are bytes: [`DType::U8`].
    pub dtype: DType,
}

/// How an operation uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Written everywhere, never read.
    Out,
    /// Read, and written in part.
    InOut,
    /// Read.
    In,
    /// Read; made by [`Launch::pack`] of the same plan.
    Weight(WeightFormat),
}

/// The list of arguments that a specification has.
pub type Signature = ArrayVec<Arg, MAX_ARGS>;

/// One operation of one specification: `RmsNorm { dim: 4096, dtype: BF16, eps: 1e-5 }`.
///
/// The specification holds what selects a kernel; the views hold what changes per token.
pub trait Op:
    Planned + Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The name in tables, traces and reports; also the file name in each crate.
    const NAME: &'static str;

    /// The named arguments.
    type Args<'a>: Into<ArgList<'a>>;

    /// The arguments of this specification, in order.
    fn signature(&self) -> Signature;

    /// The rules on shapes and strides. [`check_args`] has already checked count, types, devices and overlap.
    ///
    /// # Errors
    /// `InvalidArgument`.
    fn check(&self, args: &[View<'_>]) -> Result<()>;

    /// The result in f64, by scalar code in a fixed order: the truth that backends are held to.
    ///
    /// `inputs` are all arguments but pure outputs, in order; weights come dequantised as `[rows, cols]`.
    /// Returns the `Out` and `InOut` arguments in order, not rounded. `shapes` are the shapes of all arguments.
    fn reference(&self, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor>;

    /// This operation from smaller ones on the same device; `None` when there is no such way.
    ///
    /// # Errors
    /// Those of planning the smaller ones.
    fn compose(&self, _context: &Context) -> Result<Option<Arc<dyn Launch>>> {
        Ok(None)
    }

    /// Whether output `out` may be the very same view as input `input` (indices into the signature).
    fn in_place(&self, _out: usize, _input: usize) -> bool {
        false
    }
}

/// Ties an operation to its entry in [`Ops`]; written by the table itself.
pub trait Planned: Sized {
    /// The device's planner for this operation, if it has one.
    fn planner(ops: &Ops) -> Option<&Arc<dyn Planner<Self>>>;
}

/// What a backend offers for one operation.
pub trait Planner<O>: Send + Sync {
    /// A kernel for `op`, or `None` when this device has no kernel for that specification.
    ///
    /// # Errors
    /// What goes wrong while making one: `CompileFailed`, `OutOfMemory`, `DeviceLost`.
    fn plan(&self, op: &O) -> Result<Option<Arc<dyn Launch>>>;
}

impl<O, F> Planner<O> for F
where
    F: Fn(&O) -> Result<Option<Arc<dyn Launch>>> + Send + Sync,
{
    fn plan(&self, op: &O) -> Result<Option<Arc<dyn Launch>>> {
        self(op)
    }
}

/// A planned operation, ready to be queued many times.
pub trait Launch: Send + Sync {
    /// Bytes of workspace that a launch with arguments of these shapes uses. Never less for a larger shape.
    fn workspace_bytes(&self, _shapes: &[&[usize]]) -> usize {
        0
    }

    /// Queues the work. No allocation, no lock, no host wait.
    ///
    /// # Safety
    /// `args` passed [`check_args`] of the planned operation, `workspace` is at least
    /// [`Self::workspace_bytes`] long, and no other stream touches outputs or workspace meanwhile.
    ///
    /// # Errors
    /// `DeviceLost` and other failures of the driver.
    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()>;

    /// Brings the weight argument into this kernel's own layout, in device memory.
    ///
    /// # Errors
    /// `Unsupported` for operations without weights; `OutOfMemory`.
    fn pack(&self, _weight: &HostWeight<'_>) -> Result<Buffer> {
        Err(Error::unsupported(
            "pack a weight",
            "this operation has none",
        ))
    }
}

/// A [`Launch`] that needs no workspace and no unsafe code: for devices whose memory is reached by safe calls.
pub trait SafeLaunch: Send + Sync {
    /// Does the work. `args` passed [`check_args`] of the planned operation.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    fn run(&self, stream: &mut dyn Stream, args: &[View<'_>]) -> Result<()>;

    /// As [`Launch::pack`].
    ///
    /// # Errors
    /// As [`Launch::pack`].
    fn pack(&self, _weight: &HostWeight<'_>) -> Result<Buffer> {
        Err(Error::unsupported(
            "pack a weight",
            "this operation has none",
        ))
    }
}

impl<T: SafeLaunch> Launch for T {
    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        _: &View<'_>,
    ) -> Result<()> {
        self.run(stream, args)
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        SafeLaunch::pack(self, weight)
    }
}

/// Checks `args` against the signature and the rules of `op`.
///
/// # Errors
/// `InvalidArgument` naming the argument.
pub fn check_args<O: Op>(op: &O, args: &[View<'_>]) -> Result<()> {
    let signature = op.signature();
    let fail = |why: fmt::Arguments<'_>| Err(invalid(O::NAME, why));
    if args.len() != signature.len() {
        return fail(format_args!(
            "{} arguments given, {} expected by {op:?}",
            args.len(),
            signature.len()
        ));
    }
    for (i, (arg, view)) in signature.iter().zip(args).enumerate() {
        if view.dtype() != arg.dtype {
            return fail(format_args!(
                "{} is {view:?}, expected {}",
                arg.name, arg.dtype
            ));
        }
        // A packed weight lies wherever the kernel that packed it wants it.
        let packed = matches!(arg.role, Role::Weight(_));
        if !packed && view.buffer().device() != args[0].buffer().device() {
            return fail(format_args!(
                "{} lies on another device than {}",
                arg.name, signature[0].name
            ));
        }
        if matches!(arg.role, Role::Out | Role::InOut) {
            if view
                .shape()
                .iter()
                .zip(view.strides())
                .any(|(&n, &s)| n > 1 && s == 0)
            {
                return fail(format_args!("{} is written and repeats elements", arg.name));
            }
            for (j, other) in args.iter().enumerate() {
                let allowed = op.in_place(i, j) && view.same(other);
                if i != j && view.overlaps(other) && !allowed {
                    return fail(format_args!("{} overlaps {}", arg.name, signature[j].name));
                }
            }
        }
    }
    op.check(args)
}

/// `InvalidArgument: run <op>: <why>`.
pub(crate) fn invalid(op: &str, why: impl fmt::Display) -> Error {
    Error::invalid(format!("run {op}"), why.to_string())
}

/// Requires `view` (argument `name` of `op`) to have `shape`.
pub(crate) fn expect_shape(op: &str, name: &str, view: &View<'_>, shape: &[usize]) -> Result<()> {
    if view.shape() == shape {
        return Ok(());
    }
    Err(invalid(
        op,
        format_args!("{name} is {view:?}, expected shape {shape:?}"),
    ))
}

/// Requires the rank of `view` to be `rank`.
pub(crate) fn expect_rank(op: &str, name: &str, view: &View<'_>, rank: usize) -> Result<()> {
    if view.rank() == rank {
        return Ok(());
    }
    Err(invalid(
        op,
        format_args!("{name} is {view:?}, expected {rank} dimensions"),
    ))
}

/// Requires the last dimension of `view` to be dense.
pub(crate) fn expect_dense_rows(op: &str, name: &str, view: &View<'_>) -> Result<()> {
    if view.has_dense_rows() {
        return Ok(());
    }
    Err(invalid(
        op,
        format_args!("{name} is {view:?}, its last dimension must be dense"),
    ))
}

/// Requires `view` to be contiguous.
pub(crate) fn expect_contiguous(op: &str, name: &str, view: &View<'_>) -> Result<()> {
    if view.is_contiguous() {
        return Ok(());
    }
    Err(invalid(
        op,
        format_args!("{name} is {view:?}, it must be contiguous"),
    ))
}

/// Declares the named arguments of an operation: a struct of views and its conversion to [`ArgList`].
/// Fields after `optional` are left out of the list when `None`.
macro_rules! op_args {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident),* $(,)? $(; optional $($(#[$odoc:meta])* $opt:ident),* $(,)?)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a> {
            $($(#[$doc])* pub $field: hal::View<'a>,)*
            $($($(#[$odoc])* pub $opt: Option<hal::View<'a>>,)*)?
        }

        impl<'a> From<$name<'a>> for $crate::ArgList<'a> {
            fn from(args: $name<'a>) -> Self {
                let mut list = Self::new();
                $(list.push(args.$field);)*
                $($(list.extend(args.$opt);)*)?
                list
            }
        }
    };
}
pub(crate) use op_args;

/// Builds a [`Signature`]: `signature![out: Out F32, x: In (self.dtype)]`.
macro_rules! signature {
    ($($name:ident: $role:expr, $dtype:expr);* $(;)?) => {{
        use $crate::Role::*;
        let mut list = $crate::Signature::new();
        $(list.push($crate::Arg { name: stringify!($name), role: $role, dtype: $dtype });)*
        list
    }};
}
pub(crate) use signature;
