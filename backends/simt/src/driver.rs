//! What a chip's runtime must be able to do: compile, load, launch, memory, streams, marks.

use std::fmt::Debug;
use std::time::Duration;

use arrayvec::ArrayVec;
use hal::{DType, Error, Numerics, Result};

/// The largest number of arguments of a kernel.
pub const MAX_ARGUMENTS: usize = 48;

/// What a device allows, and what helps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most work-items in a group.
    pub max_group: usize,
    /// Local (shared) memory of one group, in bytes.
    pub local_bytes: usize,
    /// Largest single allocation, in bytes.
    pub max_alloc_bytes: usize,
    /// All device memory, in bytes.
    pub memory_bytes: usize,
    /// Work-items of a wave whose registers can be exchanged, where that number is fixed (CUDA, HIP): kernels get it as
    /// `WAVE`. 1: not fixed, or no exchange; reductions go through local memory, or through what the driver defines.
    pub wave: usize,
    /// Groups that run at once.
    pub parallelism: usize,
    /// Whether one work-item should do much work alone (a CPU's core), rather than little among many.
    pub wide_items: bool,
}

/// What identifies a device to a person.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The device spec that opens it: `opencl:0.1`.
    pub spec: String,
    /// The vendor's name of it.
    pub name: String,
    /// Versions of driver and compiler, and what else is worth knowing.
    pub detail: String,
    /// Device and driver, versions included: binaries of programs are kept under this. `None`: they are not kept.
    pub fingerprint: Option<String>,
    /// Float types the device computes with natively.
    pub native_floats: Vec<DType>,
    /// How it computes products and sums.
    pub numerics: Numerics,
}

/// The text of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The operation.
    pub name: &'static str,
    /// The text but for the definitions, in the common dialect: one part after the other.
    pub parts: &'static [&'static str],
    /// Whether its kernels wait by themselves for the work before them, so that a device may begin them while that ends.
    pub begins_early: bool,
}

impl Source {
    /// The whole text but for the definitions.
    pub fn text(&self) -> String {
        self.parts.concat()
    }
}

/// What [`SimtDriver::compile`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiled<P> {
    /// The program.
    pub program: P,
    /// Whether the compiler ran: there was no binary, or the runtime refused it.
    pub fresh: bool,
}

/// One argument of a kernel.
#[derive(Debug)]
pub enum Argument<'a, M> {
    /// Memory from this byte on. The kernel takes two parameters: the memory, and the offset as 64 bits.
    Memory(&'a M, usize),
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float.
    F32(f32),
}

/// The arguments of one launch.
pub type Arguments<'a, D> = ArrayVec<Argument<'a, <D as SimtDriver>::Memory>, MAX_ARGUMENTS>;

/// A runtime that compiles the common dialect and runs its kernels.
///
/// Shared by all threads. A queue is in order; queues are ordered among themselves by marks only.
pub trait SimtDriver: Send + Sync + Debug + Sized + 'static {
    /// Device memory, freed on drop once work that was queued before has finished.
    type Memory: Send + Sync + Debug + 'static;
    /// A program for this device.
    type Program: Send + Sync + 'static;
    /// An entry of a program, which keeps it alive.
    type Kernel: Send + Sync + 'static;
    /// An in-order queue. Work that was queued is done even when it is dropped.
    type Queue: Send + Debug + 'static;
    /// A point in a queue's order.
    type Mark: Send + Sync + Debug + 'static;

    /// Who this is.
    fn facts(&self) -> &Facts;

    /// What it allows.
    fn limits(&self) -> &Limits;

    /// Memory of at least `bytes` > 0 bytes, aligned to 128.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    fn alloc(&self, bytes: usize) -> Result<Self::Memory>;

    /// Compiles `source` with these macros defined, in this order. `binary` is what [`Self::binary`] gave for the same
    /// text, macros and fingerprint; one that does not load is ignored, and the result says so.
    ///
    /// # Errors
    /// `CompileFailed` with the compiler's log.
    fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        binary: Option<&[u8]>,
    ) -> Result<Compiled<Self::Program>>;

    /// The program in the device's own form, to be kept on disk; `None` when the runtime does not give it.
    fn binary(&self, _program: &Self::Program) -> Option<Vec<u8>> {
        None
    }

    /// The entry `name` of a program, to be launched in groups of `group`.
    ///
    /// # Errors
    /// `CompileFailed` when there is none, or when it does not fit this device in groups of that size.
    fn kernel(&self, program: &Self::Program, name: &str, group: usize) -> Result<Self::Kernel>;

    /// As [`Self::kernel`], for an entry that is given `local_bytes` of local memory with each launch, beside its own.
    ///
    /// # Errors
    /// `Unsupported` where a launch gives none, which is the default; those of [`Self::kernel`].
    fn kernel_with_local(
        &self,
        _program: &Self::Program,
        name: &str,
        _group: usize,
        _local_bytes: usize,
    ) -> Result<Self::Kernel> {
        let why = "local memory is the kernel's own on this device";
        Err(Error::unsupported(format!("make the kernel {name}"), why))
    }

    /// A new queue.
    ///
    /// # Errors
    /// `DeviceLost`, `OutOfMemory`.
    fn queue(&self) -> Result<Self::Queue>;

    /// Copies `src` to `dst` from byte `at` on. `src` may be reused on return.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn upload(
        &self,
        queue: &mut Self::Queue,
        dst: &Self::Memory,
        at: usize,
        src: &[u8],
    ) -> Result<()>;

    /// Copies `src` from byte `at` on to `dst`, which is filled on return.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn download(
        &self,
        queue: &mut Self::Queue,
        dst: &mut [u8],
        src: &Self::Memory,
        at: usize,
    ) -> Result<()>;

    /// Queues a kernel: `grid` groups of `group` work-items (the size that the kernel was made for). No allocation, no
    /// lock, no wait.
    ///
    /// # Safety
    /// `arguments` are what the kernel declares, and the kernel stays within them.
    ///
    /// # Errors
    /// `DeviceLost` and other failures of the runtime.
    unsafe fn launch(
        &self,
        queue: &mut Self::Queue,
        kernel: &Self::Kernel,
        grid: [usize; 3],
        group: usize,
        arguments: &[Argument<'_, Self::Memory>],
    ) -> Result<()>;

    /// Marks the end of the work queued so far, and starts it.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn record(&self, queue: &mut Self::Queue) -> Result<Self::Mark>;

    /// Later work of `queue` waits for `mark`, of any queue of this driver.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn wait(&self, queue: &mut Self::Queue, mark: &Self::Mark) -> Result<()>;

    /// Returns when all work of `queue` is done.
    ///
    /// # Errors
    /// `DeviceLost`, and whatever the work failed with.
    fn synchronize(&self, queue: &mut Self::Queue) -> Result<()>;

    /// Returns when `mark` has passed.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn finish(&self, mark: &Self::Mark) -> Result<()>;

    /// Device time from one mark to a later one; `None` when either has not passed.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn elapsed(&self, from: &Self::Mark, to: &Self::Mark) -> Result<Option<Duration>>;

    /// From now on launches on `queue` are recorded, and not carried out. Until [`Self::end_capture`] it is given nothing
    /// else; a queue that is dropped takes its capture along.
    ///
    /// # Errors
    /// `Unsupported` when queues record nothing, which is the default; `DeviceLost`.
    fn begin_capture(&self, _queue: &mut Self::Queue) -> Result<()> {
        Err(no_capture())
    }

    /// What was launched on `queue` since the capture began; it keeps the memory of these launches alive.
    ///
    /// # Errors
    /// As [`Self::begin_capture`].
    fn end_capture(&self, _queue: &mut Self::Queue) -> Result<Box<dyn Recorded<Self>>> {
        Err(no_capture())
    }
}

/// Launches that a queue recorded, to be repeated.
pub trait Recorded<D: SimtDriver>: Send + Sync + Debug {
    /// Queues them in their order.
    ///
    /// # Errors
    /// `DeviceLost` and other failures of the runtime.
    fn launch(&self, driver: &D, queue: &mut D::Queue) -> Result<()>;
}

fn no_capture() -> Error {
    Error::unsupported("capture a stream", "this device's streams record nothing")
        .next_step("launch the operations one by one")
}
