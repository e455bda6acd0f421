//! From a planned operation to a launch: what every planner of this crate uses.

use std::sync::Arc;
use std::thread;

use hal::{Buffer, DType, Error, Result, Stream, View};
use ops::{HostWeight, Launch, Planner};

use crate::device::{Chip, SimtMemory, SimtStream};
use crate::driver::{Argument, Arguments, SimtDriver, Source};

/// What a planner returns.
pub type Planned = Result<Option<Arc<dyn Launch>>>;

/// Groups in one dimension of a grid; kernels with more work stride over it.
const MAX_GRID: usize = 1 << 20;

/// A kernel, and the size of its groups.
pub struct Kernel<D: SimtDriver> {
    kernel: D::Kernel,
    pub(crate) group: usize,
}

/// What [`Chip::kernels`] makes a kernel of.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its program.
    pub source: &'static Source,
    /// The entry.
    pub name: &'static str,
    /// Work-items of a group.
    pub group: usize,
    /// Local memory that each launch gives it; 0: none beside its own.
    pub local_bytes: usize,
    /// What is defined in its program.
    pub defines: Vec<(&'static str, String)>,
}

impl<D: SimtDriver> Chip<D> {
    /// The largest group that this device allows, at most `wanted`; a power of two.
    pub(crate) fn group(&self, wanted: usize) -> usize {
        let limit = self.driver.limits().max_group.max(1);
        1 << wanted.min(limit).ilog2()
    }

    /// The entry `name` of `source`, compiled for groups of `group` and with `defines`.
    ///
    /// # Errors
    /// `CompileFailed` with the compiler's log.
    pub fn kernel(
        &self,
        source: &Source,
        name: &str,
        group: usize,
        defines: &[(&'static str, String)],
    ) -> Result<Kernel<D>> {
        let program = self.compiled(source, group, defines)?;
        let kernel = self.driver.kernel(&program, name, group)?;
        Ok(Kernel { kernel, group })
    }

    /// As [`Self::kernel`], for an entry that takes `local_bytes` of local memory at each launch.
    ///
    /// # Errors
    /// Those of [`Self::kernel`]; `Unsupported` where a launch gives no memory.
    pub fn kernel_with_local(
        &self,
        source: &Source,
        name: &str,
        group: usize,
        local_bytes: usize,
        defines: &[(&'static str, String)],
    ) -> Result<Kernel<D>> {
        let program = self.compiled(source, group, defines)?;
        let made = self
            .driver
            .kernel_with_local(&program, name, group, local_bytes);
        Ok(Kernel {
            kernel: made?,
            group,
        })
    }

    /// These kernels, in their order; their programs are compiled side by side.
    ///
    /// # Errors
    /// Those of [`Self::kernel_with_local`].
    pub fn kernels(&self, wanted: &[Wanted]) -> Result<Vec<Kernel<D>>> {
        thread::scope(|scope| {
            for w in wanted {
                // What it fails with comes again below.
                scope.spawn(|| self.compiled(w.source, w.group, &w.defines).is_ok());
            }
        });
        let make = |w: &Wanted| match w.local_bytes {
            0 => self.kernel(w.source, w.name, w.group, &w.defines),
            bytes => self.kernel_with_local(w.source, w.name, w.group, bytes, &w.defines),
        };
        wanted.iter().map(make).collect()
    }

    fn compiled(
        &self,
        source: &Source,
        group: usize,
        defines: &[(&'static str, String)],
    ) -> Result<Arc<D::Program>> {
        let mut all = vec![("GROUP", group.to_string())];
        let wave = self.driver.limits().wave;
        if wave > 1 && group.is_multiple_of(wave) {
            all.push(("WAVE", wave.to_string()));
        }
        all.extend_from_slice(defines);
        self.programs.program(&self.driver, source, all)
    }
}

/// Groups of `group` work-items that a multiprocessor is to have registers for, where a kernel can say so: as many as have 80
/// each of 65536. Without a number compilers spill some to fit more groups.
pub(crate) fn resident(group: usize) -> usize {
    (65536 / 80 / group).max(1)
}

/// A kernel's definitions: `defines!["X": op.dtype, "TILE": 16]`.
macro_rules! defines {
    ($($name:literal: $value:expr),* $(,)?) => {
        [$(($name, $value.to_string())),*]
    };
}
pub(crate) use defines;

/// What every source begins with: one dialect for all compilers.
pub const DIALECT: &str = include_str!("../kernels/dialect.h");

/// The source of an operation: the dialect, shared parts, its own file.
macro_rules! source {
    ($name:literal $(, $part:literal)*) => {
        $crate::driver::Source {
            name: $name,
            parts: &[
                $crate::launch::DIALECT,
                $(include_str!(concat!("../../kernels/", $part)),)*
                include_str!(concat!("../../kernels/", $name, ".cl.h")),
            ],
            begins_early: false,
        }
    };
}
pub(crate) use source;

/// The number of a float type in the kernels.
pub fn code(dtype: DType) -> usize {
    match dtype {
        DType::F16 => 1,
        DType::BF16 => 2,
        _ => 0,
    }
}

/// A launch under construction: arguments in the kernel's order, then [`Call::run`].
pub struct Call<'a, D: SimtDriver> {
    chip: &'a Chip<D>,
    queue: &'a mut D::Queue,
    arguments: Arguments<'a, D>,
    /// An argument does not fit its type.
    wrong: bool,
}

impl<'a, D: SimtDriver> Call<'a, D> {
    /// Memory from the first element of `view` on.
    pub fn view(self, view: &View<'a>) -> Self {
        self.view_from(view, 0)
    }

    /// Memory from `skipped_bytes` after the first element of `view` on.
    pub fn view_from(mut self, view: &View<'a>, skipped_bytes: usize) -> Self {
        let at = view.offset_bytes() + skipped_bytes;
        match view.buffer().downcast::<SimtMemory<D>>() {
            Some(memory) => self.push(Argument::Memory(&memory.memory, at)),
            None => self.wrong = true,
        }
        self
    }

    /// A length or other number that fits 31 bits.
    pub fn int(mut self, n: usize) -> Self {
        match i32::try_from(n) {
            Ok(n) => self.push(Argument::I32(n)),
            Err(_) => self.wrong = true,
        }
        self
    }

    /// A number of elements or a stride.
    pub fn long(mut self, n: usize) -> Self {
        match i64::try_from(n) {
            Ok(n) => self.push(Argument::I64(n)),
            Err(_) => self.wrong = true,
        }
        self
    }

    /// A number of f32.
    pub fn float(mut self, x: f32) -> Self {
        self.push(Argument::F32(x));
        self
    }

    fn push(&mut self, argument: Argument<'a, D::Memory>) {
        self.wrong |= self.arguments.try_push(argument).is_err();
    }

    /// Shape and strides as four dimensions each, the missing ones first and of length 1.
    pub(crate) fn shape4(mut self, view: &View<'a>) -> Self {
        for i in 0..4usize {
            let n = (i + view.rank()).checked_sub(4).map_or(1, |i| view.dim(i));
            self = self.long(n);
        }
        self
    }

    /// Strides as four dimensions, see [`Call::shape4`].
    pub(crate) fn strides4(mut self, view: &View<'a>) -> Self {
        for i in 0..4usize {
            let stride = (i + view.rank())
                .checked_sub(4)
                .map_or(0, |i| view.strides()[i]);
            self = self.long(stride);
        }
        self
    }

    /// Queues the kernel; an empty grid does nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for lengths beyond 31 bits; what the driver reports.
    pub fn run(self, kernel: &Kernel<D>, grid: [usize; 3]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.is_right()?;
        // SAFETY: each planner gives the arguments that its kernel declares; kernels bound what they read from memory
        // and stay inside their views, whose bounds `ops::check_args` has checked.
        unsafe {
            self.chip.driver.launch(
                self.queue,
                &kernel.kernel,
                grid,
                kernel.group,
                &self.arguments,
            )
        }
    }

    /// Gives queue and arguments to `give`, which queues what is no kernel.
    ///
    /// # Errors
    /// Those of [`Self::run`], and of `give`.
    pub fn give<T>(
        self,
        give: impl FnOnce(&D, &mut D::Queue, &[Argument<'_, D::Memory>]) -> Result<T>,
    ) -> Result<T> {
        self.is_right()?;
        give(&self.chip.driver, self.queue, &self.arguments)
    }

    fn is_right(&self) -> Result<()> {
        match self.wrong {
            true => Err(Error::invalid(
                "launch a kernel",
                "a length exceeds 2^31 - 1, or memory is of another device",
            )),
            false => Ok(()),
        }
    }
}

/// Groups for `n` work-items that stride over the grid.
pub(crate) fn groups(n: usize, group: usize) -> usize {
    n.div_ceil(group).min(MAX_GRID)
}

/// The stream of a launch, ready to be given kernels.
pub struct Queue<'a, D: SimtDriver> {
    chip: &'a Chip<D>,
    queue: &'a mut D::Queue,
}

impl<D: SimtDriver> Queue<'_, D> {
    /// A kernel's arguments, to be filled in.
    pub fn call<'a>(&'a mut self) -> Call<'a, D> {
        Call {
            chip: self.chip,
            queue: self.queue,
            arguments: Arguments::<'a, D>::new(),
            wrong: false,
        }
    }
}

/// The driver's queue under a stream of `chip`.
///
/// # Errors
/// `InvalidArgument` for a stream of another device.
pub fn queue_of<'a, D: SimtDriver>(
    chip: &Chip<D>,
    stream: &'a mut dyn Stream,
) -> Result<&'a mut D::Queue> {
    let stream = stream
        .downcast::<SimtStream<D>>()
        .filter(|stream| stream.chip.id() == chip.id())
        .ok_or_else(|| Error::invalid("launch a kernel", "the stream is of another device"))?;
    Ok(&mut stream.queue)
}

/// The driver's memory under a view.
///
/// # Errors
/// `InvalidArgument` for a view of another back end.
pub fn memory_of<'a, D: SimtDriver>(view: &View<'a>) -> Result<&'a D::Memory> {
    let memory = view.buffer().downcast::<SimtMemory<D>>();
    let memory =
        memory.ok_or_else(|| Error::invalid("launch a kernel", "memory is of another device"))?;
    Ok(&memory.memory)
}

/// A launch made of a function that queues kernels.
struct Native<D: SimtDriver, W, F, P> {
    chip: Arc<Chip<D>>,
    workspace_bytes: W,
    run: F,
    pack: P,
}

impl<D, W, F, P> Launch for Native<D, W, F, P>
where
    D: SimtDriver,
    W: Fn(&[&[usize]]) -> usize + Send + Sync,
    F: Fn(&mut Queue<'_, D>, &[View<'_>], &View<'_>) -> Result<()> + Send + Sync,
    P: Fn(&Arc<Chip<D>>, &HostWeight<'_>) -> Result<Buffer> + Send + Sync,
{
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        (self.workspace_bytes)(shapes)
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let mut queue = Queue {
            chip: &self.chip,
            queue: queue_of(&self.chip, stream)?,
        };
        (self.run)(&mut queue, args, workspace)
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        (self.pack)(&self.chip, weight)
    }
}

fn no_weight<D: SimtDriver>(_: &Arc<Chip<D>>, _: &HostWeight<'_>) -> Result<Buffer> {
    Err(Error::unsupported(
        "pack a weight",
        "this operation has none",
    ))
}

fn no_workspace(_: &[&[usize]]) -> usize {
    0
}

/// A launch without weights or workspace.
pub fn native<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    run: impl Fn(&mut Queue<'_, D>, &[View<'_>]) -> Result<()> + Send + Sync + 'static,
) -> Planned {
    let run = move |queue: &mut Queue<'_, D>, args: &[View<'_>], _: &View<'_>| run(queue, args);
    native_with(chip, no_workspace, run)
}

/// A launch with a workspace.
pub fn native_with<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    workspace_bytes: impl Fn(&[&[usize]]) -> usize + Send + Sync + 'static,
    run: impl Fn(&mut Queue<'_, D>, &[View<'_>], &View<'_>) -> Result<()> + Send + Sync + 'static,
) -> Planned {
    Ok(Some(Arc::new(Native {
        chip: Arc::clone(chip),
        workspace_bytes,
        run,
        pack: no_weight,
    })))
}

/// A launch with a weight.
pub(crate) fn weighted<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    pack: impl Fn(&Arc<Chip<D>>, &HostWeight<'_>) -> Result<Buffer> + Send + Sync + 'static,
    run: impl Fn(&mut Queue<'_, D>, &[View<'_>]) -> Result<()> + Send + Sync + 'static,
) -> Planned {
    let run = move |queue: &mut Queue<'_, D>, args: &[View<'_>], _: &View<'_>| run(queue, args);
    weighted_with(chip, pack, no_workspace, run)
}

/// A launch with a weight and a workspace.
pub fn weighted_with<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    pack: impl Fn(&Arc<Chip<D>>, &HostWeight<'_>) -> Result<Buffer> + Send + Sync + 'static,
    workspace_bytes: impl Fn(&[&[usize]]) -> usize + Send + Sync + 'static,
    run: impl Fn(&mut Queue<'_, D>, &[View<'_>], &View<'_>) -> Result<()> + Send + Sync + 'static,
) -> Planned {
    Ok(Some(Arc::new(Native {
        chip: Arc::clone(chip),
        workspace_bytes,
        run,
        pack,
    })))
}

/// A launch where `run` did not queue the work and `other`, who packs the weights, does.
struct Before<D: SimtDriver, W, F> {
    chip: Arc<Chip<D>>,
    other: Arc<dyn Launch>,
    workspace_bytes: W,
    run: F,
}

impl<D, W, F> Launch for Before<D, W, F>
where
    D: SimtDriver,
    W: Fn(&[&[usize]]) -> usize + Send + Sync,
    F: Fn(&mut Queue<'_, D>, &[View<'_>], &View<'_>) -> Result<bool> + Send + Sync,
{
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        (self.workspace_bytes)(shapes).max(self.other.workspace_bytes(shapes))
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let mut queue = Queue {
            chip: &self.chip,
            queue: queue_of(&self.chip, stream)?,
        };
        match (self.run)(&mut queue, args, workspace)? {
            true => Ok(()),
            // SAFETY: the caller's promise; there is as much workspace as `other` needs.
            false => unsafe { self.other.launch(stream, args, workspace) },
        }
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.other.pack(weight)
    }
}

/// A launch by `run`, which says whether it queued the work, before `other`, which does it else and packs the weights.
pub fn before<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    other: Arc<dyn Launch>,
    workspace_bytes: impl Fn(&[&[usize]]) -> usize + Send + Sync + 'static,
    run: impl Fn(&mut Queue<'_, D>, &[View<'_>], &View<'_>) -> Result<bool> + Send + Sync + 'static,
) -> Planned {
    Ok(Some(Arc::new(Before {
        chip: Arc::clone(chip),
        other,
        workspace_bytes,
        run,
    })))
}

/// Whether each row of 16-bit elements begins at a multiple of 16 bytes.
pub fn is_aligned(view: &View<'_>) -> bool {
    view.offset_bytes().is_multiple_of(16) && view.strides()[0].is_multiple_of(8)
}

/// A planner that asks `plan`, then `other`.
pub fn first<D: SimtDriver, O: 'static>(
    chip: &Arc<Chip<D>>,
    plan: impl Fn(&Arc<Chip<D>>, &O) -> Planned + Send + Sync + 'static,
    other: Option<Arc<dyn Planner<O>>>,
) -> Option<Arc<dyn Planner<O>>> {
    let chip = Arc::clone(chip);
    Some(Arc::new(move |op: &O| match plan(&chip, op)? {
        None => other.as_ref().map_or(Ok(None), |other| other.plan(op)),
        planned => Ok(planned),
    }))
}
