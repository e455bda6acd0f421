//! A CPU with something between its callers and one operation's kernel.

use std::sync::Arc;

use backend_cpu::Options;
use conformance::Conformance;
use conformance::number::{decode, encode};
use hal::{Buffer, Device, Result, Stream, View};
use ops::{Accelerator, Context, HostWeight, Launch, Ops, Plan, Planner};

pub(crate) fn cpu() -> Accelerator {
    backend_cpu::open(&Options::default()).unwrap()
}

/// The CPU without kernels for operations that can be composed.
pub(crate) fn primitive() -> Accelerator {
    let Accelerator { device, ops } = cpu();
    let ops = Ops {
        attention: None,
        glu: None,
        add_rms_norm: None,
        add_layer_norm: None,
        ..ops
    };
    Accelerator { device, ops }
}

/// A changed launch: the wrapped plan, stream, arguments, workspace.
type Run<O> = fn(&Wrapped<O>, &mut dyn Stream, &[View<'_>], &View<'_>) -> Result<()>;

/// What is different; by default nothing.
pub(crate) struct Change<O: Conformance> {
    pub(crate) name: &'static str,
    /// The specification that is planned in truth.
    pub(crate) op: fn(&O) -> O,
    /// The weight that is packed in truth.
    pub(crate) weight: fn(&HostWeight<'_>) -> HostWeight<'static>,
    /// What a launch does.
    pub(crate) run: Run<O>,
}

impl<O: Conformance> Change<O> {
    pub(crate) fn none(name: &'static str) -> Self {
        Self {
            name,
            op: O::clone,
            weight: owned,
            run: |wrapped, stream, args, workspace| wrapped.launch(stream, args, workspace),
        }
    }
}

pub(crate) fn owned(weight: &HostWeight<'_>) -> HostWeight<'static> {
    HostWeight {
        data: weight.data.to_vec().into(),
        scales: weight.scales.to_vec().into(),
        ..*weight
    }
}

/// A planned kernel and its change.
pub(crate) struct Wrapped<O: Conformance> {
    pub(crate) op: O,
    device: Arc<dyn Device>,
    plan: Plan<O>,
    change: Arc<Change<O>>,
}

impl<O: Conformance> Wrapped<O> {
    /// The real launch.
    pub(crate) fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        self.plan.run_list(stream, args, workspace)
    }

    /// The real launch with argument `i` replaced by an edited copy.
    pub(crate) fn launch_with(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
        i: usize,
        change: impl FnOnce(&mut [f64]),
    ) -> Result<()> {
        let view = &args[i];
        let mut bytes = vec![0; view.buffer().bytes()];
        stream.download(&mut bytes, &View::of_bytes(view.buffer()))?;
        let copy: Buffer = self.device.alloc(bytes.len())?;
        stream.upload(&View::of_bytes(&copy), &bytes)?;
        let at = view.offset_bytes();
        let edited = View::strided(&copy, at, view.dtype(), view.shape(), view.strides())?;
        edit(stream, &edited, change)?;
        let mut args = args.to_vec();
        args[i] = edited;
        self.launch(stream, &args, workspace)
    }
}

impl<O: Conformance> Launch for Wrapped<O> {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        self.plan.workspace_bytes(shapes)
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        (self.change.run)(self, stream, args, workspace)
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        self.plan.pack(&(self.change.weight)(weight))
    }
}

/// `cpu` with `change` in one operation, which `table` puts into its place.
pub(crate) fn with<O: Conformance>(
    cpu: Accelerator,
    change: Change<O>,
    table: fn(Arc<dyn Planner<O>>) -> Ops,
) -> Accelerator {
    let (device, context, change) = (cpu.device.clone(), Context::new(cpu), Arc::new(change));
    let of_plan = device.clone();
    let planner = move |op: &O| -> Result<Option<Arc<dyn Launch>>> {
        Ok(Some(Arc::new(Wrapped {
            op: op.clone(),
            device: of_plan.clone(),
            plan: context.plan((change.op)(op))?,
            change: change.clone(),
        })))
    };
    Accelerator {
        device,
        ops: table(Arc::new(planner)),
    }
}

/// Distance of each element from the start of the buffer in bytes, row-major.
fn offsets(view: &View<'_>) -> Vec<usize> {
    let mut offsets = vec![view.offset_bytes()];
    for (&n, &stride) in view.shape().iter().zip(view.strides()) {
        let step = stride * view.dtype().bytes();
        let next = offsets
            .iter()
            .flat_map(|at| (0..n).map(move |i| at + i * step));
        offsets = next.collect();
    }
    offsets
}

/// The elements of a view, row-major.
pub(crate) fn read(stream: &mut dyn Stream, view: &View<'_>) -> Result<Vec<f64>> {
    let mut bytes = vec![0; view.buffer().bytes()];
    stream.download(&mut bytes, &View::of_bytes(view.buffer()))?;
    let element = |at: usize| decode(view.dtype(), &bytes[at..]);
    Ok(offsets(view).into_iter().map(element).collect())
}

/// Changes elements of a view; those left alone keep their bits.
pub(crate) fn edit(
    stream: &mut dyn Stream,
    view: &View<'_>,
    change: impl FnOnce(&mut [f64]),
) -> Result<()> {
    let before = read(stream, view)?;
    let mut after = before.clone();
    change(&mut after);
    let mut bytes = vec![0; view.buffer().bytes()];
    stream.download(&mut bytes, &View::of_bytes(view.buffer()))?;
    let mut element = Vec::new();
    for ((old, new), at) in before.iter().zip(&after).zip(offsets(view)) {
        if old.to_bits() != new.to_bits() {
            element.clear();
            encode(view.dtype(), *new, &mut element);
            bytes[at..at + element.len()].copy_from_slice(&element);
        }
    }
    stream.upload(&View::of_bytes(view.buffer()), &bytes)
}
