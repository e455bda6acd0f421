//! From an operation to a launch: what every planner of this crate uses.

use std::sync::Arc;

use arrayvec::ArrayVec;
use backend_runtime::Runtime;
use backend_simt::kit::{Chip, memory_of, queue_of};
use hal::{Buffer, DType, Device, Error, Result, Stream, View, WeightFormat};
use ops::{HostWeight, Launch, MAX_ARGS, Op, Role};

use crate::device::Acl;
use crate::find::Generation;
use crate::run::Run;
use crate::tensor::{Kind, Tensor};

/// What a planner returns.
pub(crate) type Planned = Result<Option<Arc<dyn Launch>>>;

/// The arguments of a launch.
pub(crate) type Tensors = ArrayVec<Tensor, MAX_ARGS>;

/// An open device, for planners.
#[derive(Clone)]
pub(crate) struct Npu {
    pub(crate) chip: Arc<Chip<Runtime<Acl>>>,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) generation: Generation,
    /// Whether products with integers are the library's own.
    pub(crate) weight_quant: bool,
    /// Whether attention is.
    pub(crate) attention: bool,
    /// Whether weights of half types lie in fractals.
    pub(crate) folds: bool,
}

/// How a weight is brought to the device.
pub(crate) type Pack =
    Box<dyn Fn(&Arc<dyn Device>, &HostWeight<'_>) -> Result<Buffer> + Send + Sync>;

impl Npu {
    /// A launch of what `steps` queues. `example` has shapes of arguments, with which it queues all that it ever does.
    ///
    /// # Errors
    /// `Unsupported` for bf16 where the chip has none, and for an operator that this release lacks.
    pub(crate) fn plan<O: Op>(
        &self,
        op: &O,
        example: &[&[usize]],
        steps: impl Fn(&mut Run<'_>, &[Tensor]) -> Result<()> + Send + Sync + 'static,
    ) -> Planned {
        self.plan_with(op, example, None, steps)
    }

    /// As [`Self::plan`], with a weight.
    pub(crate) fn plan_with<O: Op>(
        &self,
        op: &O,
        example: &[&[usize]],
        pack: Option<Pack>,
        steps: impl Fn(&mut Run<'_>, &[Tensor]) -> Result<()> + Send + Sync + 'static,
    ) -> Planned {
        let signature = op.signature();
        let is_bf16 = |role, dtype| {
            dtype == DType::BF16 || matches!(role, Role::Weight(WeightFormat::Dense(DType::BF16)))
        };
        if self.generation == Generation::First
            && signature.iter().any(|arg| is_bf16(arg.role, arg.dtype))
        {
            let info = self.device.info();
            let doing = format!("plan {} on {}", O::NAME, info.spec);
            return Err(
                Error::unsupported(doing, format!("{} has no bf16", info.name))
                    .next_step("choose f16: --dtype f16"),
            );
        }
        let kinds = signature.iter().map(|arg| Kind::of(arg.dtype));
        let Some(kinds) = kinds.collect::<Option<ArrayVec<Kind, MAX_ARGS>>>() else {
            return Ok(None);
        };
        let operators = &self.chip.driver().api().library.operators;
        steps(&mut Run::check(operators), &of_shapes(&kinds, example))?;
        Ok(Some(Arc::new(Steps {
            chip: Arc::clone(&self.chip),
            device: Arc::clone(&self.device),
            kinds,
            steps,
            pack,
        })))
    }
}

fn of_shapes(kinds: &[Kind], shapes: &[&[usize]]) -> Tensors {
    let shapes = kinds.iter().zip(shapes);
    shapes
        .map(|(&kind, shape)| Tensor::new(0, kind, shape))
        .collect()
}

struct Steps<F> {
    chip: Arc<Chip<Runtime<Acl>>>,
    device: Arc<dyn Device>,
    kinds: ArrayVec<Kind, MAX_ARGS>,
    steps: F,
    pack: Option<Pack>,
}

impl<F> Launch for Steps<F>
where
    F: Fn(&mut Run<'_>, &[Tensor]) -> Result<()> + Send + Sync,
{
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        let mut run = Run::measure(&self.chip.driver().api().library.operators);
        // Nothing fails where nothing is done.
        let _ = (self.steps)(&mut run, &of_shapes(&self.kinds, shapes));
        run.most
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        let queue = queue_of(&self.chip, stream)?;
        let mut at = |view: &View<'_>| {
            let memory = memory_of::<Runtime<Acl>>(view)?;
            queue.uses(memory);
            Ok(memory.address())
        };
        let mut tensors = Tensors::new();
        for (view, &kind) in args.iter().zip(&self.kinds) {
            tensors.push(Tensor::of_view(view, at(view)?, kind));
        }
        // A launch without workspace may be given a view of any memory.
        let workspace = match workspace.is_empty() {
            true => 0,
            false => at(workspace)? + workspace.offset_bytes() as u64,
        };
        let mut run = Run::stream(self.chip.driver(), queue, workspace)?;
        (self.steps)(&mut run, &tensors)
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        match &self.pack {
            Some(pack) => pack(&self.device, weight),
            None => Err(Error::unsupported(
                "pack a weight",
                "this operation has none",
            )),
        }
    }
}
