//! Runs cases on an accelerator and judges the results.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hal::{Buffer, DType, Device, Error, ErrorKind, Result, View, WeightFormat};
use ops::reference::Tensor;
use ops::{Accelerator, Arg, ArgList, Context, HostWeight, How, Op, Plan, Role};

use crate::bound::Expected;
use crate::case::{Case, Fill, Layout};
use crate::cases::Conformance;
use crate::generate;
use crate::number::{decode, encode, spacing};
use crate::outcome::{Metrics, Outcome, Report, Status, Worst};

/// Bytes before and after every argument and workspace that no kernel may touch. A multiple of every device's
/// alignment, so that guarded buffers are as aligned as plain ones.
const GUARD_BYTES: usize = 256;

/// What unwritten memory holds in the first and in the second run: NaN in every float type, then 3.4e38 (f32, bf16)
/// or NaN (f16). As ids they are −1 and far too large.
const POISON: [u8; 2] = [0xff, 0x7f];

/// The cases of all operations, run on one accelerator.
#[derive(Debug)]
pub struct Suite {
    context: Context,
    accelerator: Accelerator,
    /// Whether the user allowed operations on the host.
    host_asked: bool,
    ceilings: OnceLock<[f64; 2]>,
}

impl Suite {
    /// The suite on `accelerator` alone.
    pub fn new(accelerator: Accelerator) -> Self {
        Self {
            context: Context::new(accelerator.clone()),
            accelerator,
            host_asked: false,
            ceilings: OnceLock::new(),
        }
    }

    /// What is tried.
    pub fn accelerator(&self) -> &Accelerator {
        &self.accelerator
    }

    /// Where operations are planned.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The same with operations that the accelerator lacks run on `host`.
    #[must_use]
    pub fn with_host_fallback(self, host: Accelerator) -> Self {
        Self {
            context: self.context.with_host_fallback(host),
            host_asked: true,
            ..self
        }
    }

    /// Runs every case of `O`.
    pub fn run<O: Conformance>(&self) -> Report {
        self.run_where::<O>(|_| true)
    }

    /// Runs the cases of `O` that `keep` keeps.
    pub fn run_where<O: Conformance>(&self, keep: impl Fn(&Case<O>) -> bool) -> Report {
        let cases = O::cases().into_iter().filter(keep);
        Report {
            outcomes: cases.map(|case| self.run_case(&case)).collect(),
        }
    }

    /// Runs one case.
    pub fn run_case<O: Conformance>(&self, case: &Case<O>) -> Outcome {
        self.judge(case, &Truth::default())
    }

    /// Runs one case and judges it by `truth`, which is of this case and is filled in when it is empty: what a case
    /// must give does not depend on the device, so many devices can share it.
    pub fn judge<O: Conformance>(&self, case: &Case<O>, truth: &Truth) -> Outcome {
        let start = Instant::now();
        let mut outcome = Outcome::new(O::NAME, case.id());
        if let Err(wrong) = self.try_case(case, truth, &mut outcome) {
            let claims = O::planner(&self.accelerator.ops).is_some() && !self.lacks_type(&case.op);
            (outcome.status, outcome.why) = match wrong {
                Wrong::Unsupported(e) if claims => (Status::ClaimedButUnsupported, e.to_string()),
                Wrong::Unsupported(e) => (Status::Unsupported, e.to_string()),
                Wrong::Lost(e) => (Status::DeviceLost, e.to_string()),
                Wrong::TooLarge(e) => (Status::NotRun, e.to_string()),
                Wrong::Failed(why) => (Status::Fail, why),
            };
        }
        if outcome.how == Some(How::Host) && !self.host_asked {
            outcome.status = outcome.status.max(Status::Host);
            outcome.why = format!("ran on the host, which nobody asked for. {}", outcome.why);
        }
        outcome.seconds = start.elapsed().as_secs_f64();
        outcome
    }

    /// How `case` is carried out, the median time of one launch in seconds, and the bytes of all its arguments.
    pub(crate) fn time<O: Conformance>(&self, case: &Case<O>) -> Result<(How, f64, f64)> {
        let plan = self.context.plan(case.op.clone())?;
        let bench = Bench::new(&self.context, &plan, case)?;
        let (seconds, bytes) = bench.time(&plan)?;
        Ok((plan.how(), seconds, bytes))
    }

    /// What the device reaches by itself: bytes per second and operations per second, measured once.
    pub(crate) fn ceilings(&self) -> Result<[f64; 2]> {
        match self.ceilings.get() {
            Some(ceilings) => Ok(*ceilings),
            None => {
                let measured = crate::speed::ceilings(self)?;
                Ok(*self.ceilings.get_or_init(|| measured))
            }
        }
    }

    /// Whether `op` has an argument of a float type that the device's card leaves out.
    fn lacks_type<O: Op>(&self, op: &O) -> bool {
        let floats = &self.context.device().info().numerics.floats;
        let type_of = |arg: &Arg| match arg.role {
            Role::Weight(WeightFormat::Dense(dtype)) => dtype,
            _ => arg.dtype,
        };
        let mut types = op.signature().into_iter().map(|arg| type_of(&arg));
        types.any(|dtype| dtype.is_float() && !floats.contains(&dtype))
    }

    /// The outputs of one case, row-major, without a judgement: for properties that need no reference.
    ///
    /// # Errors
    /// `Unsupported` when the device has no way to do it, `Unexpected` for what the guards found, and what the
    /// device reports.
    pub fn outputs<O: Conformance>(&self, case: &Case<O>) -> Result<Vec<Tensor>> {
        self.run_once(case, true)
    }

    /// The outputs of one case whatever the guards found: what a comparison of numbers alone would see.
    ///
    /// # Errors
    /// `Unsupported` when the device has no way to do it, and what the device reports.
    pub fn unguarded_outputs<O: Conformance>(&self, case: &Case<O>) -> Result<Vec<Tensor>> {
        self.run_once(case, false)
    }

    /// The device under test.
    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        self.context.device()
    }

    fn run_once<O: Conformance>(&self, case: &Case<O>, guarded: bool) -> Result<Vec<Tensor>> {
        let plan = self.context.plan(case.op.clone())?;
        let bench = Bench::new(&self.context, &plan, case)?;
        let (outputs, disturbed) = bench.run(&plan, POISON[0])?;
        if let Some(why) = disturbed.filter(|_| guarded) {
            let doing = format!("run {}", O::NAME);
            return Err(Error::new(ErrorKind::Unexpected, doing, why));
        }
        let shape = |&i: &usize| &case.operands[i].shape;
        let shapes = bench.outputs.iter().map(shape);
        Ok(shapes
            .zip(outputs)
            .map(|(shape, data)| Tensor::new(shape, data))
            .collect())
    }

    fn try_case<O: Conformance>(
        &self,
        case: &Case<O>,
        truth: &Truth,
        outcome: &mut Outcome,
    ) -> Result<(), Wrong> {
        let plan = self
            .context
            .plan(case.op.clone())
            .map_err(|e| match e.kind() {
                ErrorKind::Unsupported => Wrong::Unsupported(e),
                _ => e.into(),
            })?;
        outcome.how = Some(plan.how());
        let bench = Bench::new(&self.context, &plan, case).map_err(|e| match e.kind() {
            ErrorKind::OutOfMemory => Wrong::TooLarge(e),
            _ => e.into(),
        })?;
        let [first, second] = POISON.map(|poison| match bench.run(&plan, poison) {
            Ok((outputs, None)) => Ok(outputs),
            Ok((_, Some(disturbed))) => Err(Wrong::Failed(disturbed)),
            Err(e) => Err(Wrong::from(e)),
        });
        let (first, second) = (first?, second?);
        let signature = case.op.signature();
        let written = signature
            .iter()
            .zip(&case.operands)
            .filter(|(arg, _)| matches!(arg.role, Role::Out | Role::InOut));
        let expected = truth
            .0
            .get_or_init(|| case.op.expect(&bench.shapes(), &bench.inputs));
        let outputs = first.into_iter().zip(second).zip(expected);
        let mut metrics = Metrics::default();
        for ((arg, operand), ((got, again), expected)) in written.zip(outputs) {
            if got.len() != expected.len() {
                let lengths = (got.len(), expected.len());
                return Err(Wrong::Failed(format!(
                    "the suite is wrong: {} has {} elements, {} are expected",
                    arg.name, lengths.0, lengths.1
                )));
            }
            for (i, (&got, again)) in got.iter().zip(again).enumerate() {
                let c = expected.compare(arg.dtype, i, got);
                let index = || index_of(&operand.shape, i);
                let ulp = match arg.dtype.is_float() {
                    true => spacing(arg.dtype, c.want),
                    false => 1.0,
                };
                metrics.add(got, c.want, ulp, c.utilisation);
                if c.wrong {
                    outcome.status = Status::Fail;
                } else if c.utilisation > 1.0 {
                    outcome.status = outcome.status.max(Status::PassWeak);
                }
                if got.to_bits() != again.to_bits() && outcome.why.is_empty() {
                    outcome.status = Status::Fail;
                    outcome.why = format!(
                        "{}{:?} is {got:e} in the first run and {again:e} in the second: \
                         never written, or not repeatable",
                        arg.name,
                        index()
                    );
                }
                let worse = |worst: &Worst| c.utilisation > worst.utilisation;
                if outcome.worst.as_ref().is_none_or(worse) {
                    outcome.worst = Some(Worst {
                        arg: arg.name.into(),
                        index: index(),
                        got,
                        want: c.want,
                        bound: c.bound,
                        utilisation: c.utilisation,
                    });
                }
            }
        }
        outcome.metrics = Some(metrics.finish());
        Ok(())
    }
}

/// What the outputs of one case must be, computed when first asked for.
#[derive(Debug, Default)]
pub struct Truth(OnceLock<Vec<Expected>>);

impl Truth {
    /// The expectations, one per output, once a case has been judged by it.
    pub fn expected(&self) -> Option<&[Expected]> {
        self.0.get().map(Vec::as_slice)
    }
}

/// Why a case has no result to compare.
enum Wrong {
    Unsupported(Error),
    /// The device is gone.
    Lost(Error),
    /// The arguments do not fit in the device's memory.
    TooLarge(Error),
    Failed(String),
}

impl From<Error> for Wrong {
    fn from(e: Error) -> Self {
        match e.kind() {
            ErrorKind::DeviceLost => Wrong::Lost(e),
            _ => Wrong::Failed(format!("{e:?}")),
        }
    }
}

/// One argument in device memory.
struct Placed {
    buffer: Buffer,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset_bytes: usize,
    /// Each element's distance from the first, in bytes, row-major.
    offsets: Vec<usize>,
    /// Row-major values, rounded to storage; `None` for a pure output.
    values: Option<Vec<f64>>,
    written: bool,
}

impl Placed {
    fn view(&self) -> Result<View<'_>> {
        View::strided(
            &self.buffer,
            self.offset_bytes,
            self.dtype,
            &self.shape,
            &self.strides,
        )
    }

    /// Whether these are the bytes of a weight, whose layout only the backend knows.
    fn is_packed(&self) -> bool {
        self.values.is_none() && !self.written
    }

    /// The bytes of the whole buffer before a run.
    fn image(&self, poison: u8) -> Vec<u8> {
        let mut image = vec![poison; self.buffer.bytes()];
        let mut bytes = Vec::new();
        for (&x, at) in self.values.iter().flatten().zip(&self.offsets) {
            bytes.clear();
            encode(self.dtype, x, &mut bytes);
            let at = self.offset_bytes + at;
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        image
    }

    /// The elements in `image`, row-major.
    fn elements(&self, image: &[u8]) -> Vec<f64> {
        let element = |at: &usize| decode(self.dtype, &image[self.offset_bytes + at..]);
        self.offsets.iter().map(element).collect()
    }

    /// The first byte that differs between two images outside the elements that may be written.
    fn disturbed(&self, before: &[u8], after: &[u8]) -> Option<usize> {
        let mut after = after.to_vec();
        if self.written {
            for at in &self.offsets {
                let at = self.offset_bytes + at;
                let range = at..at + self.dtype.bytes();
                after[range.clone()].copy_from_slice(&before[range]);
            }
        }
        before.iter().zip(&after).position(|(a, b)| a != b)
    }
}

/// The arguments of one case, ready to run.
struct Bench<'a> {
    context: &'a Context,
    /// By argument; outputs in place share the entry of their input.
    placed: Vec<Placed>,
    /// Which of `placed` each argument is.
    of_arg: Vec<usize>,
    names: Vec<&'static str>,
    shapes: Vec<Vec<usize>>,
    /// Which arguments are written, in order.
    outputs: Vec<usize>,
    /// All arguments but pure outputs, for the reference.
    inputs: Vec<Tensor>,
}

impl<'a> Bench<'a> {
    fn new<O: Conformance>(context: &'a Context, plan: &Plan<O>, case: &Case<O>) -> Result<Self> {
        let signature = case.op.signature();
        let mut bench = Self {
            context,
            placed: Vec::new(),
            of_arg: vec![0; signature.len()],
            names: signature.iter().map(|arg| arg.name).collect(),
            shapes: Vec::new(),
            outputs: Vec::new(),
            inputs: Vec::new(),
        };
        for (i, (arg, operand)) in signature.iter().zip(&case.operands).enumerate() {
            let written = matches!(arg.role, Role::Out | Role::InOut);
            if written {
                bench.outputs.push(i);
            }
            bench.of_arg[i] = bench.placed.len();
            if let Layout::InPlace(_) = operand.layout {
                // Placed with its input, below.
                continue;
            }
            let mut rng = case.rng(i);
            if let Role::Weight(format) = arg.role {
                let [rows, cols] = case.op.weight_shape().unwrap_or_default();
                let weight = match &operand.fill {
                    Fill::Random(generator) => generator.weight(format, [rows, cols], &mut rng)?,
                    Fill::Values(values) => generate::weight(format, [rows, cols], values)?,
                    Fill::Weight(weight) => HostWeight::clone(weight),
                    Fill::None => {
                        return Err(Error::invalid("make a case", "a weight has no data"));
                    }
                };
                bench.inputs.push(weight.dequantise());
                let buffer = plan.pack(&weight)?;
                // The one place where work that silently went elsewhere leaves a trace.
                if plan.how() != How::Host && buffer.device() != context.device().info().id {
                    return Err(Error::new(
                        ErrorKind::Unexpected,
                        format!("run {}", O::NAME),
                        format!("a {} plan packed its weight on another device", plan.how()),
                    ));
                }
                bench.placed.push(Placed {
                    dtype: DType::U8,
                    shape: vec![buffer.bytes()],
                    strides: vec![1],
                    offset_bytes: 0,
                    offsets: Vec::new(),
                    values: None,
                    written: false,
                    buffer,
                });
                continue;
            }
            let (offset, strides) = operand.layout.place(&operand.shape);
            let size = arg.dtype.bytes();
            let mut offsets = offsets(&operand.shape, &strides);
            offsets.iter_mut().for_each(|at| *at *= size);
            let extent_bytes = offsets.iter().max().map_or(0, |last| last + size);
            let row = operand.shape.last().copied().unwrap_or(1);
            let values = match &operand.fill {
                Fill::None | Fill::Weight(_) => None,
                Fill::Values(values) => Some(values.clone()),
                Fill::Random(generator) => {
                    Some(generator.fill(arg.dtype, offsets.len(), row, &mut rng))
                }
            };
            let offset_bytes = GUARD_BYTES + offset * size;
            let mut placed = Placed {
                buffer: context
                    .device()
                    .alloc(offset_bytes + extent_bytes + GUARD_BYTES)?,
                dtype: arg.dtype,
                shape: operand.shape.clone(),
                strides,
                offset_bytes,
                offsets,
                values,
                written,
            };
            // Repeated elements are written over one another: read back what is there.
            if placed.values.is_some() {
                let stored = placed.elements(&placed.image(POISON[0]));
                bench
                    .inputs
                    .push(Tensor::new(&operand.shape, stored.clone()));
                placed.values = Some(stored);
            }
            bench.placed.push(placed);
        }
        for (i, operand) in case.operands.iter().enumerate() {
            if let Layout::InPlace(input) = operand.layout {
                bench.of_arg[i] = bench.of_arg[input];
                bench.placed[bench.of_arg[input]].written = true;
            }
        }
        for (i, operand) in case.operands.iter().enumerate() {
            // A packed weight's view is bytes, whatever its operand's shape.
            let packed = matches!(signature[i].role, Role::Weight(_));
            bench.shapes.push(match packed {
                true => bench.placed[bench.of_arg[i]].shape.clone(),
                false => operand.shape.clone(),
            });
        }
        Ok(bench)
    }

    fn shapes(&self) -> Vec<&[usize]> {
        self.shapes.iter().map(Vec::as_slice).collect()
    }

    /// Median seconds of one launch, by the device's own clock, and the bytes of all arguments.
    fn time<O: Op>(&self, plan: &Plan<O>) -> Result<(f64, f64)> {
        const ROUNDS: usize = 11;
        /// Launches that together take less than this are too short for a clock.
        const LEAST: f64 = 2e-3;
        let device = self.context.device();
        let mut stream = device.stream()?;
        let workspace = device.alloc(plan.workspace_bytes(&self.shapes()))?;
        let mut bytes = 0;
        for placed in &self.placed {
            if !placed.is_packed() {
                stream.upload(&View::of_bytes(&placed.buffer), &placed.image(0))?;
            }
            bytes += placed.view()?.bytes();
        }
        let mut args = ArgList::new();
        for &at in &self.of_arg {
            args.push(self.placed[at].view()?);
        }
        let workspace = View::of_bytes(&workspace);
        let mut launches = |n: usize| -> Result<f64> {
            let start = stream.record()?;
            for _ in 0..n {
                plan.run_list(&mut *stream, &args, &workspace)?;
            }
            let end = stream.record()?;
            stream.synchronize()?;
            Ok(end.since(&start)?.as_secs_f64())
        };
        // The first ones also warm caches up.
        let mut n = 1;
        while launches(n)? < LEAST && n < 1 << 20 {
            n *= 2;
        }
        let rounds: Result<Vec<f64>> = (0..ROUNDS).map(|_| launches(n)).collect();
        let mut rounds = rounds?;
        rounds.sort_by(f64::total_cmp);
        Ok((rounds[ROUNDS / 2] / n as f64, bytes as f64))
    }

    /// Runs the plan over memory filled with `poison`; the outputs' elements, and what was touched that must not be.
    fn run<O: Op>(&self, plan: &Plan<O>, poison: u8) -> Result<(Vec<Vec<f64>>, Option<String>)> {
        let device = self.context.device();
        let mut stream = device.stream()?;
        let workspace_bytes = plan.workspace_bytes(&self.shapes());
        let workspace = device.alloc(workspace_bytes + 2 * GUARD_BYTES)?;
        stream.upload(
            &View::of_bytes(&workspace),
            &vec![poison; workspace.bytes()],
        )?;
        let here = |placed: &Placed| placed.buffer.device() == device.info().id;
        let mut before = Vec::new();
        for placed in &self.placed {
            let mut image = Vec::new();
            // A weight that was packed for the host cannot be seen from this device.
            if here(placed) {
                let whole = View::of_bytes(&placed.buffer);
                if placed.is_packed() {
                    image.resize(placed.buffer.bytes(), 0);
                    stream.download(&mut image, &whole)?;
                } else {
                    image = placed.image(poison);
                    stream.upload(&whole, &image)?;
                }
            }
            before.push(image);
        }
        let mut args = ArgList::new();
        for &at in &self.of_arg {
            args.push(self.placed[at].view()?);
        }
        let guarded =
            View::of_bytes(&workspace).slice(0, GUARD_BYTES..GUARD_BYTES + workspace_bytes)?;
        plan.run_list(&mut *stream, &args, &guarded)?;
        stream.synchronize()?;
        let mut after = Vec::new();
        for (placed, before) in self.placed.iter().zip(&before) {
            let mut image = vec![0; before.len()];
            if here(placed) {
                stream.download(&mut image, &View::of_bytes(&placed.buffer))?;
            }
            after.push(image);
        }
        let mut disturbed = None;
        for (i, &at) in self.of_arg.iter().enumerate() {
            let placed = &self.placed[at];
            if let Some(byte) = placed.disturbed(&before[at], &after[at]) {
                let elements =
                    placed.offset_bytes..placed.offset_bytes + placed.view()?.range_bytes().len();
                let what = match (elements.contains(&byte), placed.written) {
                    (true, false) => "an input was changed",
                    (true, true) => "a gap between rows was written",
                    (false, _) => "memory outside was written",
                };
                let name = self.names[i];
                disturbed.get_or_insert(format!("{name}: {what}, at byte {byte} of {elements:?}"));
            }
        }
        let mut image = vec![0; workspace.bytes()];
        stream.download(&mut image, &View::of_bytes(&workspace))?;
        image[GUARD_BYTES..GUARD_BYTES + workspace_bytes].fill(poison);
        if let Some(byte) = image.iter().position(|&b| b != poison) {
            disturbed.get_or_insert(format!(
                "memory outside the workspace of {workspace_bytes} B was written, at byte {}",
                byte as isize - GUARD_BYTES as isize
            ));
        }
        let outputs = self.outputs.iter().map(|&i| {
            let at = self.of_arg[i];
            self.placed[at].elements(&after[at])
        });
        Ok((outputs.collect(), disturbed))
    }
}

/// Distances of all elements from the first, row-major, in elements.
pub(crate) fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    for (&n, &stride) in shape.iter().zip(strides) {
        offsets = offsets
            .iter()
            .flat_map(|&at| (0..n).map(move |i| at + i * stride))
            .collect();
    }
    offsets
}

/// The index of row-major element `i`.
fn index_of(shape: &[usize], mut i: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (at, &n) in index.iter_mut().zip(shape).rev() {
        (*at, i) = (i % n, i / n);
    }
    index
}

/// For every standard case of `O`: the reference's outputs, and what the suite expects.
#[cfg(test)]
pub(crate) fn cases_expectations<O: Conformance>() -> Vec<(Vec<Tensor>, Vec<crate::Expected>)> {
    let context = Context::new(crate::reference_device::open());
    let of_case = |case: Case<O>| {
        let plan = context.plan(case.op.clone()).unwrap();
        let bench = Bench::new(&context, &plan, &case).unwrap();
        let shapes = bench.shapes();
        let reference = case.op.reference(&shapes, &bench.inputs);
        (reference, case.op.expect(&shapes, &bench.inputs))
    };
    O::cases().into_iter().map(of_case).collect()
}
