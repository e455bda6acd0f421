//! A planned operation and how it is run.

use std::fmt;
use std::sync::Arc;

use hal::{Buffer, DeviceId, Error, Result, Stream, View};
use serde::{Deserialize, Serialize};

use crate::op::shapes;
use crate::{ArgList, HostWeight, Launch, Op, check_args};

/// How a planned operation is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// By one kernel of the device.
    Native,
    /// From smaller operations on the same device.
    Composed,
    /// On the host, because the user asked for it.
    Host,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::Native => "native",
            How::Composed => "composed",
            How::Host => "host",
        })
    }
}

/// An operation planned for one device: plan once, run many times.
#[derive(Clone)]
pub struct Plan<O: Op> {
    op: O,
    how: How,
    device: DeviceId,
    launch: Arc<dyn Launch>,
}

impl<O: Op> Plan<O> {
    pub(crate) fn new(op: O, how: How, device: DeviceId, launch: Arc<dyn Launch>) -> Self {
        Self {
            op,
            how,
            device,
            launch,
        }
    }

    /// What is computed.
    pub fn op(&self) -> &O {
        &self.op
    }

    /// How it is carried out.
    pub fn how(&self) -> How {
        self.how
    }

    /// Brings a weight into the layout that this plan reads.
    ///
    /// # Errors
    /// `InvalidArgument` for a weight of another format or shape, `OutOfMemory`.
    pub fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.launch.pack(weight)
    }

    /// Bytes of workspace that [`Self::run`] needs for arguments of these shapes (one per argument, in order).
    pub fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        self.launch.workspace_bytes(shapes)
    }

    /// Checks the arguments and queues the work: no lock, lookup or allocation on the way.
    ///
    /// # Errors
    /// `InvalidArgument` for arguments against the operation's rules or a workspace too small;
    /// whatever the driver reports.
    pub fn run(
        &self,
        stream: &mut dyn Stream,
        args: O::Args<'_>,
        workspace: &View<'_>,
    ) -> Result<()> {
        let args: ArgList<'_> = args.into();
        self.run_list(stream, &args, workspace)
    }

    /// [`Self::run`] with the arguments as a list in the signature's order.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_list(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        check_args(&self.op, args)?;
        let needed = self.launch.workspace_bytes(&shapes(args));
        let (device, given) = (args[0].buffer().device(), workspace.bytes());
        if device != self.device || (needed > 0 && workspace.buffer().device() != device) {
            return Err(Error::invalid(
                format!("run {}", O::NAME),
                "the arguments lie on another device than the plan",
            ));
        }
        if needed > given || !workspace.is_contiguous() {
            return Err(Error::invalid(
                format!("run {}", O::NAME),
                format!("a workspace of {needed} B is needed, {given} B were given"),
            ));
        }
        // SAFETY: arguments and workspace were checked above; exclusive use of outputs is the
        // caller's ordering of streams, whose violation the device contract makes a wrong result,
        // not a fault.
        unsafe { self.launch.launch(stream, args, workspace) }
    }
}

impl<O: Op> fmt::Debug for Plan<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.how, self.op)
    }
}
