//! A launch under construction: operators one after the other, and the memory between them.

use std::ptr;

use backend_runtime::{Handle, Queue, Runtime};
use hal::{Error, Result};

use crate::arguments::{Scalar, Telling};
use crate::device::Acl;
use crate::executors::{Call, Executors};
use crate::failure::{is_refusal, refusal};
use crate::libraries::Library;
use crate::operators::{Operator, Operators, Queue as QueueOperator, Status};
use crate::tensor::{Kind, Tensor};

/// Where pieces of a workspace begin: at multiples of this.
const ALIGN: usize = 512;

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

    /// Whether workspace is measured.
    pub(crate) fn measures(&self) -> bool {
        matches!(self.to, To::Nowhere(_))
    }

    /// Whether it is asked which operators are there.
    pub(crate) fn checks(&self) -> bool {
        matches!(self.to, To::Check(_))
    }

    /// Whether there is an operator.
    pub(crate) fn has(&self, operator: impl Fn(&Operators) -> bool) -> bool {
        match &self.to {
            To::Nowhere(operators) | To::Check(operators) => operator(operators),
            To::Stream { runtime, .. } => operator(&runtime.api().library.operators),
        }
    }

    /// Requires `x`, where it is memory at all, to have as many bytes as were packed.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn require(&self, x: Tensor, bytes: usize) -> Result<()> {
        match &self.to {
            To::Stream { .. } if x.len() < bytes => {
                let why = format!("{} B of a packed weight, {bytes} B are needed", x.len());
                Err(Error::invalid("launch an operation", why)
                    .next_step("give the memory that the plan packed"))
            }
            _ => Ok(()),
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
        describe: impl FnOnce(&mut Call),
        prepare: impl FnOnce(F, &mut Telling<'_>, &mut u64, &mut Handle) -> Result<Status>,
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
                let library = &runtime.api().library;
                let operator = pick(&library.operators).ok_or_else(absent)?;
                let mut call = Call::new(name);
                describe(&mut call);
                call.end();
                let repeats = library.repeats.as_ref().filter(|_| call.can_repeat(name));
                let kept = repeats.and_then(|repeats| {
                    let executors = queue.kept::<Executors>();
                    executors.find(repeats, &call)
                });
                if let Some((executor, bytes)) = kept {
                    return enqueue(
                        runtime,
                        queue,
                        *stream,
                        operator.queue,
                        (name, bytes, executor),
                    );
                }
                let mut telling = Telling::new(runtime);
                let (mut bytes, mut executor) = (0, ptr::null_mut());
                let status = prepare(operator.prepare, &mut telling, &mut bytes, &mut executor)?;
                accept(runtime, name, status)?;
                // First, because without memory nobody else would let the executor go.
                if let Err(e) = scratch(queue, name, bytes) {
                    library.forget(executor);
                    return Err(e);
                }
                let Telling { tensors, held, .. } = telling;
                let used_up = match repeats {
                    Some(repeats) => {
                        let executors = queue.kept::<Executors>();
                        executors.keep(repeats, &call, (executor, bytes), &tensors, held)
                    }
                    None => Some(held),
                };
                let queued = enqueue(
                    runtime,
                    queue,
                    *stream,
                    operator.queue,
                    (name, bytes, executor),
                );
                // An executor that is not kept has been used up: what it was told of may go.
                drop(used_up);
                queued
            }
        }
    }
}

/// Where an operator works.
fn scratch(queue: &mut Queue<Acl>, name: &'static str, bytes: u64) -> Result<u64> {
    match bytes {
        0 => Ok(0),
        _ => queue.scratch(name, bytes as usize),
    }
}

fn enqueue(
    runtime: &Runtime<Acl>,
    queue: &mut Queue<Acl>,
    stream: Handle,
    operator: QueueOperator,
    (name, bytes, executor): (&'static str, u64, Handle),
) -> Result<()> {
    let workspace = scratch(queue, name, bytes)?;
    let workspace = ptr::with_exposed_provenance_mut(workspace as usize);
    // SAFETY: the workspace has as many bytes, work of this stream alone uses it, in order, and the executor may be used.
    let status = unsafe { operator(workspace, bytes, executor, stream) };
    accept(runtime, name, status)
}

/// What `status` of the operator `name` means.
///
/// # Errors
/// `Unsupported` for what it refuses; what the runtime reports.
pub(crate) fn accept(runtime: &Runtime<Acl>, name: &'static str, status: Status) -> Result<()> {
    match status {
        0 => Ok(()),
        _ if is_refusal(status) => Err(refusal(&runtime.api().library, name, status)),
        _ => runtime.check(name, status.cast_unsigned()),
    }
}

impl Library {
    /// Lets an executor go that was not used.
    fn forget(&self, executor: Handle) {
        if let Some(repeats) = &self.repeats {
            // Others are let go by being used.
            // SAFETY: made by an operator.
            let status = unsafe { (repeats.aclSetAclOpExecutorRepeatable)(executor) };
            if status == 0 {
                // SAFETY: it is not used again.
                unsafe { (repeats.aclDestroyAclOpExecutor)(executor) };
            }
        }
    }
}

/// Runs an operator: `call!(run, Add(a, b, Scalar::F32(1.0), out))`.
macro_rules! call {
    ($run:expr, $name:ident($($argument:expr),* $(,)?)) => {
        $run.operate(
            concat!("aclnn", stringify!($name)),
            |operators| operators.$name,
            |call| { $($crate::arguments::Described::describe(&$argument, call);)* },
            // SAFETY: the arguments have the types of the table, and live until the operator is queued.
            |prepare, telling, bytes, executor| Ok(unsafe {
                prepare($($crate::arguments::Argument::tell(&$argument, telling)?,)* bytes, executor)
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
        let out = self.piece(kind, &x.lengths());
        self.cast(out, x)?;
        Ok(out)
    }

    /// `x` without gaps: itself, when it has none. How much workspace there must be does not depend on that.
    pub(crate) fn dense(&mut self, x: Tensor) -> Result<Tensor> {
        let out = self.piece(x.kind, &x.lengths());
        if x.is_contiguous() {
            return Ok(x);
        }
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
