//! Wrong results on request: for each operation a table of named changes around its kernel.
//!
//! A change may plan another specification, pack another weight, edit arguments or results, or compute something
//! else altogether. It knows no backend: [`with`] puts it into any accelerator.

mod common;
mod residual;

mod activation;
mod add_layer_norm;
mod add_rms_norm;
mod argmax;
mod attention;
mod batched_matmul;
mod cast;
mod copy;
mod elementwise;
mod embedding;
mod glu;
mod kv_write;
mod layer_norm;
mod matmul;
mod rms_norm;
mod rope;
mod rope_kv_write;
mod sample;
mod softmax;
mod top_k;

use std::sync::{Arc, Mutex, PoisonError};

use conformance::Conformance;
use conformance::number::{decode, encode};
use hal::{Buffer, Device, Error, ErrorKind, Result, Stream, View};
use ops::reference::Tensor;
use ops::{Accelerator, Context, HostWeight, Launch, Ops, Plan, Planner, Role};

use crate::Character;
use crate::kernels::Math;

/// An operation with a table of mutants.
pub trait Mutable: Conformance {
    /// What can be wrong with it.
    fn mutants() -> Vec<Change<Self>>;

    /// `ops` with `planner` for this operation.
    fn place(ops: Ops, planner: Arc<dyn Planner<Self>>) -> Ops;
}

/// What a mutant does in place of a launch.
pub type Run<O> = fn(&mut At<'_, O>) -> Result<()>;

/// One mutant of one operation: what is different. By default nothing.
pub struct Change<O: Conformance> {
    /// Its name within the operation.
    pub name: &'static str,
    /// The specification that is planned in truth.
    op: fn(&O) -> O,
    /// Whether it declines a specification that the kernel takes.
    declines: fn(&O) -> bool,
    /// The weight that is packed in truth.
    weight: fn(&HostWeight<'_>) -> HostWeight<'static>,
    /// Where a packed weight lies.
    elsewhere: bool,
    /// The workspace that is declared in truth.
    workspace_bytes: fn(usize) -> usize,
    run: Run<O>,
}

impl<O: Conformance> Change<O> {
    /// No change, to start from.
    pub fn none(name: &'static str) -> Self {
        Self {
            name,
            op: O::clone,
            declines: |_| false,
            weight: owned,
            elsewhere: false,
            workspace_bytes: |bytes| bytes,
            run: |at| at.launch(),
        }
    }

    /// Another launch: `run` does what it likes, the real launch among it.
    pub fn run(name: &'static str, run: Run<O>) -> Self {
        Self {
            run,
            ..Self::none(name)
        }
    }

    fn op(name: &'static str, op: fn(&O) -> O) -> Self {
        Self {
            op,
            ..Self::none(name)
        }
    }

    fn weight(name: &'static str, weight: fn(&HostWeight<'_>) -> HostWeight<'static>) -> Self {
        Self {
            weight,
            ..Self::none(name)
        }
    }
}

/// A weight with data of its own.
fn owned(weight: &HostWeight<'_>) -> HostWeight<'static> {
    HostWeight {
        data: weight.data.to_vec().into(),
        scales: weight.scales.to_vec().into(),
        ..*weight
    }
}

/// The arithmetic of mutants that compute by themselves.
fn math() -> Math {
    Math::of(&Character::default())
}

/// One launch of a mutant.
pub struct At<'a, O: Conformance> {
    wrapped: &'a Wrapped<O>,
    stream: &'a mut dyn Stream,
    args: &'a [View<'a>],
    workspace: &'a View<'a>,
}

impl<'a, O: Conformance> At<'a, O> {
    fn op(&self) -> &'a O {
        &self.wrapped.op
    }

    /// The real launch.
    ///
    /// # Errors
    /// Those of the real launch.
    pub fn launch(&mut self) -> Result<()> {
        self.wrapped
            .plan
            .run_list(self.stream, self.args, self.workspace)
    }

    /// The real launch with argument `i` replaced by an edited copy.
    fn launch_with(&mut self, i: usize, change: impl FnOnce(&mut [f64])) -> Result<()> {
        let view = &self.args[i];
        let mut bytes = vec![0; view.buffer().bytes()];
        self.stream
            .download(&mut bytes, &View::of_bytes(view.buffer()))?;
        let copy = self.wrapped.device.alloc(bytes.len())?;
        self.stream.upload(&View::of_bytes(&copy), &bytes)?;
        let at = view.offset_bytes();
        let edited = View::strided(&copy, at, view.dtype(), view.shape(), view.strides())?;
        edit(self.stream, &edited, change)?;
        let mut args = self.args.to_vec();
        args[i] = edited;
        self.wrapped
            .plan
            .run_list(self.stream, &args, self.workspace)
    }

    /// The elements of argument `i`, row-major.
    fn read(&mut self, i: usize) -> Result<Vec<f64>> {
        read(self.stream, &self.args[i])
    }

    /// Changes elements of argument `i`.
    fn edit(&mut self, i: usize, change: impl FnOnce(&mut [f64])) -> Result<()> {
        edit(self.stream, &self.args[i], change)
    }

    /// The arguments as [`ops::Op::reference`] takes them.
    fn inputs(&mut self) -> Result<Vec<Tensor>> {
        let mut inputs = Vec::new();
        for (i, arg) in self.op().signature().iter().enumerate() {
            match arg.role {
                Role::Out => {}
                Role::Weight(_) => {
                    let weight = self.wrapped.weight.lock();
                    let weight = weight.unwrap_or_else(PoisonError::into_inner);
                    inputs.push(weight.clone().ok_or_else(|| {
                        Error::invalid("run a mutant", "its weight was packed by another plan")
                    })?);
                }
                _ => inputs.push(Tensor::new(self.args[i].shape(), self.read(i)?)),
            }
        }
        Ok(inputs)
    }

    /// Computes the outputs by `f` in the kernel's place.
    fn instead(&mut self, f: impl FnOnce(&O, &[&[usize]], &[Tensor]) -> Vec<Tensor>) -> Result<()> {
        let inputs = self.inputs()?;
        let shapes: Vec<&[usize]> = self.args.iter().map(View::shape).collect();
        let mut results = f(self.op(), &shapes, &inputs).into_iter();
        for (i, arg) in self.op().signature().iter().enumerate() {
            if let Role::Out | Role::InOut = arg.role {
                let result = results.next().map_or(Vec::new(), |result| result.data);
                write(self.stream, &self.args[i], &result)?;
            }
        }
        Ok(())
    }

    /// The real launch, then a change of the first output that may look at the inputs as they were before.
    fn after(&mut self, change: impl FnOnce(&O, &[Tensor], &mut [f64])) -> Result<()> {
        let inputs = self.inputs()?;
        self.launch()?;
        let op = self.op();
        self.edit(0, |out| change(op, &inputs, out))
    }

    /// Whether the output is the very view of an input.
    fn in_place(&self) -> bool {
        self.args[1..].iter().any(|arg| arg.same(&self.args[0]))
    }
}

/// A planned kernel and its change.
struct Wrapped<O: Conformance> {
    op: O,
    device: Arc<dyn Device>,
    plan: Plan<O>,
    /// The values of the weight that was packed last.
    weight: Mutex<Option<Tensor>>,
    change: Arc<Change<O>>,
}

#[expect(
    unsafe_code,
    reason = "a launch with a workspace is declared unsafe; this one makes only safe calls"
)]
impl<O: Conformance> Launch for Wrapped<O> {
    fn workspace_bytes(&self, shapes: &[&[usize]]) -> usize {
        (self.change.workspace_bytes)(self.plan.workspace_bytes(shapes))
    }

    unsafe fn launch(
        &self,
        stream: &mut dyn Stream,
        args: &[View<'_>],
        workspace: &View<'_>,
    ) -> Result<()> {
        (self.change.run)(&mut At {
            wrapped: self,
            stream,
            args,
            workspace,
        })
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        let weight = (self.change.weight)(weight);
        let values = weight.dequantise();
        *self.weight.lock().unwrap_or_else(PoisonError::into_inner) = Some(values);
        match self.change.elsewhere {
            true => conformance::reference_device::open().device.alloc(1),
            false => self.plan.pack(&weight),
        }
    }
}

/// `accelerator` with `change` in one operation.
pub fn with<O: Mutable>(accelerator: &Accelerator, change: Change<O>) -> Accelerator {
    let (device, ops) = (accelerator.device.clone(), accelerator.ops.clone());
    let (context, change) = (Context::new(accelerator.clone()), Arc::new(change));
    let of_plan = device.clone();
    let planner = move |op: &O| -> Result<Option<Arc<dyn Launch>>> {
        if (change.declines)(op) {
            return Ok(None);
        }
        let plan = match context.plan((change.op)(op)) {
            Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(None),
            plan => plan?,
        };
        Ok(Some(Arc::new(Wrapped {
            op: op.clone(),
            device: of_plan.clone(),
            plan,
            weight: Mutex::default(),
            change: change.clone(),
        })))
    };
    Accelerator {
        device,
        ops: O::place(ops, Arc::new(planner)),
    }
}

macro_rules! table {
    ($($name:ident $op:ident),*) => {
        $(impl Mutable for ops::$op {
            fn mutants() -> Vec<Change<Self>> {
                $name::mutants()
            }

            fn place(ops: Ops, planner: Arc<dyn Planner<Self>>) -> Ops {
                Ops { $name: Some(planner), ..ops }
            }
        })*

        /// Every mutant as `operation/name`.
        pub fn names() -> Vec<String> {
            let mut names = Vec::new();
            $(names.extend(
                <ops::$op as Mutable>::mutants()
                    .iter()
                    .map(|mutant| format!("{}/{}", stringify!($name), mutant.name)),
            );)*
            names
        }

        /// `accelerator` with the mutant `operation/name`.
        ///
        /// # Errors
        /// `NotFound` when there is none of this name.
        pub fn apply(accelerator: Accelerator, name: &str) -> Result<Accelerator> {
            let (op, mutant) = name.split_once('/').unwrap_or((name, ""));
            $(if op == stringify!($name) {
                let all = <ops::$op as Mutable>::mutants();
                if let Some(change) = all.into_iter().find(|change| change.name == mutant) {
                    return Ok(with(&accelerator, change));
                }
            })*
            let near: Vec<String> = names().into_iter().filter(|n| n.starts_with(op)).collect();
            Err(Error::new(ErrorKind::NotFound, "apply a mutant", format!("there is no '{name}'"))
                .next_step(match near.is_empty() {
                    true => "write operation/name".to_string(),
                    false => format!("there are: {}", near.join(", ")),
                }))
        }
    };
}
conformance::for_each_op!(table);

/// Distance of each element from the start of the buffer in bytes, row-major.
fn places(view: &View<'_>) -> Vec<usize> {
    let mut places = vec![view.offset_bytes()];
    for (&n, &stride) in view.shape().iter().zip(view.strides()) {
        let step = stride * view.dtype().bytes();
        let next = places
            .iter()
            .flat_map(|at| (0..n).map(move |i| at + i * step));
        places = next.collect();
    }
    places
}

/// The elements of a view, row-major.
fn read(stream: &mut dyn Stream, view: &View<'_>) -> Result<Vec<f64>> {
    let mut bytes = vec![0; view.buffer().bytes()];
    stream.download(&mut bytes, &View::of_bytes(view.buffer()))?;
    let element = |at: usize| decode(view.dtype(), &bytes[at..]);
    Ok(places(view).into_iter().map(element).collect())
}

/// Stores elements of a view, row-major.
fn write(stream: &mut dyn Stream, view: &View<'_>, values: &[f64]) -> Result<()> {
    let mut bytes = vec![0; view.buffer().bytes()];
    stream.download(&mut bytes, &View::of_bytes(view.buffer()))?;
    let mut element = Vec::new();
    for (&x, at) in values.iter().zip(places(view)) {
        element.clear();
        encode(view.dtype(), x, &mut element);
        bytes[at..at + element.len()].copy_from_slice(&element);
    }
    stream.upload(&View::of_bytes(view.buffer()), &bytes)
}

/// Changes elements of a view; those left alone keep their bits.
fn edit(stream: &mut dyn Stream, view: &View<'_>, change: impl FnOnce(&mut [f64])) -> Result<()> {
    let mut bytes = vec![0; view.buffer().bytes()];
    stream.download(&mut bytes, &View::of_bytes(view.buffer()))?;
    let places = places(view);
    let element = |at: &usize| decode(view.dtype(), &bytes[*at..]);
    let before: Vec<f64> = places.iter().map(element).collect();
    let mut after = before.clone();
    change(&mut after);
    let mut element = Vec::new();
    for ((old, new), at) in before.iter().zip(&after).zip(places) {
        if old.to_bits() != new.to_bits() {
            element.clear();
            encode(view.dtype(), *new, &mut element);
            bytes[at..at + element.len()].copy_from_slice(&element);
        }
    }
    stream.upload(&View::of_bytes(view.buffer()), &bytes)
}
