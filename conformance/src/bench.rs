//! The arguments of one case in device memory, between guards, and what is there after a run.

use std::fmt;
use std::time::Duration;

use hal::{Buffer, DType, Error, ErrorKind, Result, Stream, View};
use ops::reference::Tensor;
use ops::{ArgList, Context, HostWeight, How, Op, Plan, Role};

use crate::case::{Case, Fill, Layout};
use crate::cases::Conformance;
use crate::generate;
use crate::number::{decode, encode};

/// Bytes before and after every argument and workspace that no kernel may touch. A multiple of every device's
/// alignment, so that guarded buffers are as aligned as plain ones.
const GUARD_BYTES: usize = 256;

/// What unwritten memory holds in the first and in the second run: NaN in every float type, then 3.4e38 (f32, bf16)
/// or NaN (f16). As ids they are −1 and far too large.
pub(crate) const POISON: [u8; 2] = [0xff, 0x7f];

/// One argument in device memory.
#[derive(Clone)]
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

/// Carries out so many launches.
type Launching<'a> = dyn FnMut(u64) -> Result<Duration> + 'a;

/// One operation with its arguments, launched again and again.
pub struct Launches<'a> {
    /// How it was planned.
    pub how: How,
    /// Bytes that a launch must read and write.
    pub bytes: f64,
    run: Box<Launching<'a>>,
}

impl Launches<'_> {
    /// Launches it `n` times, and gives the time that took by the device's own clock.
    ///
    /// # Errors
    /// What the launches report.
    pub fn run(&mut self, n: u64) -> Result<Duration> {
        (self.run)(n)
    }

    /// Median seconds of one launch.
    pub(crate) fn median(&mut self) -> Result<f64> {
        const ROUNDS: usize = 11;
        /// Launches that together take less than this are too short for a clock.
        const LEAST: f64 = 2e-3;
        let mut seconds = |n| Ok::<_, Error>(self.run(n)?.as_secs_f64());
        // The first ones also warm caches up.
        let mut n = 1;
        while seconds(n)? < LEAST && n < 1 << 20 {
            n *= 2;
        }
        let rounds: Result<Vec<f64>> = (0..ROUNDS).map(|_| seconds(n)).collect();
        let mut rounds = rounds?;
        rounds.sort_by(f64::total_cmp);
        Ok(rounds[ROUNDS / 2] / n as f64)
    }
}

impl fmt::Debug for Launches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes", self.how, self.bytes)
    }
}

/// The arguments of one case, ready to run.
#[derive(Clone)]
pub(crate) struct Bench<'a> {
    context: &'a Context,
    /// By argument; outputs in place share the entry of their input.
    placed: Vec<Placed>,
    /// Which of `placed` each argument is.
    of_arg: Vec<usize>,
    names: Vec<&'static str>,
    shapes: Vec<Vec<usize>>,
    /// Which arguments are written, in order.
    pub(crate) outputs: Vec<usize>,
    /// All arguments but pure outputs, for the reference.
    pub(crate) inputs: Vec<Tensor>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new<O: Conformance>(
        context: &'a Context,
        plan: &Plan<O>,
        case: &Case<O>,
    ) -> Result<Self> {
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

    pub(crate) fn shapes(&self) -> Vec<&[usize]> {
        self.shapes.iter().map(Vec::as_slice).collect()
    }

    /// The arguments in place, to launch `plan` with them again and again.
    pub(crate) fn launches<O: Op>(self, plan: Plan<O>) -> Result<Launches<'a>> {
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
        Ok(Launches {
            how: plan.how(),
            bytes: bytes as f64,
            run: Box::new(move |n| {
                let (args, workspace) = (self.args()?, View::of_bytes(&workspace));
                let start = stream.record()?;
                for _ in 0..n {
                    plan.run_list(&mut *stream, &args, &workspace)?;
                }
                let end = stream.record()?;
                stream.synchronize()?;
                end.since(&start)
            }),
        })
    }

    /// Runs the plan over memory filled with `poison`; the outputs' elements, and what was touched that must not be.
    pub(crate) fn run<O: Op>(&self, plan: &Plan<O>, poison: u8) -> Result<Looked> {
        let mut stream = self.context.device().stream()?;
        let workspace = self.workspace(plan)?;
        let before = self.fill(&mut *stream, &workspace, self, poison)?;
        plan.run_list(&mut *stream, &self.args()?, &workspace.view()?)?;
        stream.synchronize()?;
        self.look(&mut *stream, &workspace, &before, poison)
    }

    /// The same arguments in other memory. Packed weights are shared.
    pub(crate) fn elsewhere(&self) -> Result<Self> {
        let mut bench = self.clone();
        for placed in bench.placed.iter_mut().filter(|placed| !placed.is_packed()) {
            placed.buffer = self.context.device().alloc(placed.buffer.bytes())?;
        }
        Ok(bench)
    }

    /// Scratch memory for the plan, between guards.
    pub(crate) fn workspace<O: Op>(&self, plan: &Plan<O>) -> Result<Workspace> {
        self.scratch(plan.workspace_bytes(&self.shapes()))
    }

    /// So much scratch memory, between guards.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Workspace> {
        let buffer = self.context.device().alloc(bytes + 2 * GUARD_BYTES)?;
        Ok(Workspace { buffer, bytes })
    }

    /// The arguments in the signature's order.
    pub(crate) fn args(&self) -> Result<ArgList<'_>> {
        let mut args = ArgList::new();
        for &at in &self.of_arg {
            args.push(self.placed[at].view()?);
        }
        Ok(args)
    }

    /// Whether memory can be seen from this device: a weight that was packed for the host cannot.
    fn is_here(&self, placed: &Placed) -> bool {
        placed.buffer.device() == self.context.device().info().id
    }

    /// Writes the arguments of `values`, which are placed as these are, and `poison` around them. The bytes of every
    /// buffer.
    pub(crate) fn fill(
        &self,
        stream: &mut dyn Stream,
        workspace: &Workspace,
        values: &Bench<'_>,
        poison: u8,
    ) -> Result<Vec<Vec<u8>>> {
        stream.upload(
            &View::of_bytes(&workspace.buffer),
            &vec![poison; workspace.buffer.bytes()],
        )?;
        let mut before = Vec::new();
        for (placed, values) in self.placed.iter().zip(&values.placed) {
            let mut image = Vec::new();
            if self.is_here(placed) {
                let whole = View::of_bytes(&placed.buffer);
                if placed.is_packed() {
                    image.resize(placed.buffer.bytes(), 0);
                    stream.download(&mut image, &whole)?;
                } else {
                    image = values.image(poison);
                    stream.upload(&whole, &image)?;
                }
            }
            before.push(image);
        }
        Ok(before)
    }

    /// The outputs' elements, and what has changed since [`Bench::fill`] that must not.
    pub(crate) fn look(
        &self,
        stream: &mut dyn Stream,
        workspace: &Workspace,
        before: &[Vec<u8>],
        poison: u8,
    ) -> Result<Looked> {
        let mut after = Vec::new();
        for (placed, before) in self.placed.iter().zip(before) {
            let mut image = vec![0; before.len()];
            if self.is_here(placed) {
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
        let mut image = vec![0; workspace.buffer.bytes()];
        stream.download(&mut image, &View::of_bytes(&workspace.buffer))?;
        image[GUARD_BYTES..GUARD_BYTES + workspace.bytes].fill(poison);
        if let Some(byte) = image.iter().position(|&b| b != poison) {
            disturbed.get_or_insert(format!(
                "memory outside the workspace of {} B was written, at byte {}",
                workspace.bytes,
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

/// The elements of all outputs, and what was touched that must not be.
pub(crate) type Looked = (Vec<Vec<f64>>, Option<String>);

/// Scratch memory between guards.
pub(crate) struct Workspace {
    buffer: Buffer,
    bytes: usize,
}

impl Workspace {
    pub(crate) fn view(&self) -> Result<View<'_>> {
        View::of_bytes(&self.buffer).slice(0, GUARD_BYTES..GUARD_BYTES + self.bytes)
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
