//! Runs one operation at every level of this CPU, on one thread and on three, against its f64 reference.
//!
//! What holds for every kernel is checked here: the bound, bytes outside the outputs untouched, the same bits whatever
//! the number of threads. A test gives the arguments and the bound.

use hal::{Buffer, DType, Numerics, View};
use half::{bf16, f16};
use ops::reference::Tensor;
use ops::{ArgList, Context, Op, Role};

use crate::testing::{Random, contexts, decode, encode};

/// Elements before and after every view, and the byte that fills them.
const MARGIN: usize = 5;
const FILL: u8 = 0xa5;

/// One argument: its shape, where its elements lie, and what they are.
#[derive(Clone, Debug)]
pub(crate) struct Arg {
    shape: Vec<usize>,
    strides: Vec<usize>,
    data: Vec<f64>,
    same_as: Option<usize>,
}

impl Arg {
    /// A dense input; `data` row-major.
    pub(crate) fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i].max(1);
        }
        Self {
            shape: shape.to_vec(),
            strides,
            data,
            same_as: None,
        }
    }

    /// A dense input of nearly normal numbers times `size`.
    pub(crate) fn random(shape: &[usize], size: f64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let n = shape.iter().product();
        Self::new(
            shape,
            (0..n).map(|_| f64::from(random.normal()) * size).collect(),
        )
    }

    /// A dense i32 input.
    pub(crate) fn ints(shape: &[usize], data: &[i32]) -> Self {
        Self::new(shape, data.iter().map(|&x| f64::from(x)).collect())
    }

    /// A dense output.
    pub(crate) fn out(shape: &[usize]) -> Self {
        Self::new(shape, vec![0.0; shape.iter().product()])
    }

    /// The very view of argument `i`.
    pub(crate) fn same(i: usize) -> Self {
        Self {
            same_as: Some(i),
            ..Self::out(&[0])
        }
    }

    /// With these elements instead.
    pub(crate) fn set(&mut self, data: &[f64]) {
        assert_eq!(data.len(), self.data.len());
        self.data = data.to_vec();
    }

    /// With `x` added to every element.
    pub(crate) fn plus(mut self, x: f64) -> Self {
        self.data.iter_mut().for_each(|y| *y += x);
        self
    }

    /// With these distances between neighbours.
    pub(crate) fn strides(mut self, strides: &[usize]) -> Self {
        self.strides = strides.to_vec();
        self
    }

    /// With gaps between rows.
    pub(crate) fn padded(mut self) -> Self {
        let mut next = 1;
        for (i, (stride, n)) in self.strides.iter_mut().zip(&self.shape).enumerate().rev() {
            *stride = next;
            next = next * n + if i + 1 == self.shape.len() { 3 } else { 1 };
        }
        self
    }

    /// Where each element lies, in row-major order.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![MARGIN];
        for (&n, &stride) in self.shape.iter().zip(&self.strides) {
            places = places
                .iter()
                .flat_map(|p| (0..n).map(move |i| p + i * stride))
                .collect();
        }
        places
    }
}

fn to_bytes(dtype: DType, x: f64) -> Vec<u8> {
    match dtype {
        DType::I32 => (x as i32).to_le_bytes().to_vec(),
        DType::I8 | DType::U8 => vec![x as i64 as u8],
        _ => encode(dtype, x as f32),
    }
}

fn to_number(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::I32 => f64::from(i32::from_le_bytes(bytes.try_into().expect("four bytes"))),
        DType::I8 => f64::from(bytes[0] as i8),
        DType::U8 => f64::from(bytes[0]),
        _ => decode(dtype, bytes),
    }
}

/// Half the distance between the least numbers of a type, and its largest number.
fn range(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F16 => (2f64.powi(-25), f16::MAX.to_f64()),
        DType::BF16 => (2f64.powi(-134), bf16::MAX.to_f64()),
        _ => (2f64.powi(-150), f64::from(f32::MAX)),
    }
}

/// `bound(output, index, expected)` limits the error before the result is rounded to its type.
pub(crate) fn check<O: Op>(op: &O, args: &[Arg], bound: impl Fn(usize, usize, f64) -> f64) {
    check_declared(op, args, |_, output, index, expected| {
        bound(output, index, expected)
    });
}

/// As [`check`], of what the device declares.
pub(crate) fn check_declared<O: Op>(
    op: &O,
    args: &[Arg],
    bound: impl Fn(&Numerics, usize, usize, f64) -> f64,
) {
    let reference = reference(op, args);
    run(op, args, |(numerics, what), output, index, dtype, got| {
        let expected = reference[output].data[index];
        let error = bound(numerics, output, index, expected);
        let (floor, max) = range(dtype);
        let u = dtype.unit_roundoff();
        let limit = error + u * (expected.abs() + error) + floor;
        let good = if expected.is_nan() {
            got.is_nan()
        } else if got.is_infinite() && expected.is_finite() {
            (expected.abs() + limit) * (1.0 + u) >= max && (got > 0.0) == (expected > 0.0)
        } else {
            got == expected || (got - expected).abs() <= limit
        };
        assert!(
            good,
            "{what}: output {output}[{index}] is {got:e}, expected {expected:e} ± {limit:e}"
        );
    });
}

/// Every element is the reference's, rounded to its type.
pub(crate) fn check_exact<O: Op>(op: &O, args: &[Arg]) {
    let reference = reference(op, args);
    run(op, args, |(_, what), output, index, dtype, got| {
        let expected = reference[output].data[index];
        let rounded = to_number(dtype, &to_bytes(dtype, expected));
        assert!(
            got == rounded || got.is_nan() && expected.is_nan(),
            "{what}: output {output}[{index}] is {got:e}, expected {rounded:e}"
        );
    });
}

/// The argument that `args[i]` shares its view with, or itself.
fn resolve(args: &[Arg], i: usize) -> usize {
    args[i].same_as.unwrap_or(i)
}

/// The outputs in f64 from the inputs as they are rounded to storage.
pub(crate) fn reference<O: Op>(op: &O, args: &[Arg]) -> Vec<Tensor> {
    let shapes: Vec<&[usize]> = (0..args.len())
        .map(|i| &args[resolve(args, i)].shape[..])
        .collect();
    op.reference(&shapes, &inputs(op, args))
}

/// The inputs as they are rounded to storage.
pub(crate) fn inputs<O: Op>(op: &O, args: &[Arg]) -> Vec<Tensor> {
    let signature = op.signature();
    let inputs = (0..args.len()).filter(|&i| signature[i].role != Role::Out);
    inputs
        .map(|i| {
            let arg = &args[resolve(args, i)];
            let dtype = signature[i].dtype;
            let round = |&x: &f64| to_number(dtype, &to_bytes(dtype, x));
            Tensor::new(&arg.shape, arg.data.iter().map(round).collect())
        })
        .collect()
}

/// Calls `each((numerics, what), output, index, dtype, value)` for every element of every output of every run.
fn run<O: Op>(op: &O, args: &[Arg], each: impl Fn((&Numerics, &str), usize, usize, DType, f64)) {
    let mut previous: Option<(String, Vec<Vec<u8>>)> = None;
    for context in contexts() {
        let info = context.device().info().clone();
        let what = format!("{op:?} on {} threads of {}", info.parallelism, info.detail);
        let bytes = launch(op, args, &context, &what);
        let signature = op.signature();
        let outputs = (0..args.len())
            .filter(|&i| matches!(signature[i].role, Role::Out | Role::InOut))
            .enumerate();
        for (output, i) in outputs {
            let dtype = signature[i].dtype;
            let arg = resolve(args, i);
            for (index, place) in args[arg].places().into_iter().enumerate() {
                let at = place * dtype.bytes();
                let got = to_number(dtype, &bytes[arg][at..at + dtype.bytes()]);
                each((&info.numerics, &what), output, index, dtype, got);
            }
        }
        // Levels may differ, numbers of threads may not.
        if let Some((level, other)) = &previous
            && *level == info.detail
        {
            assert!(
                *other == bytes,
                "{what}: other bits than with fewer threads"
            );
        }
        previous = Some((info.detail, bytes));
    }
}

/// The bytes of argument 0, a dense output, after one launch.
pub(crate) fn output<O: Op>(op: &O, args: &[Arg], context: &Context) -> Vec<u8> {
    let margin = MARGIN * op.signature()[0].dtype.bytes();
    let image = launch(op, args, context, &format!("{op:?}")).swap_remove(0);
    image[margin..image.len() - margin].to_vec()
}

/// All arguments after one launch, as bytes with their margins.
fn launch<O: Op>(op: &O, args: &[Arg], context: &Context, what: &str) -> Vec<Vec<u8>> {
    let (device, signature) = (context.device(), op.signature());
    let mut stream = device.stream().expect("a stream");
    let mut images: Vec<Vec<u8>> = Vec::new();
    let mut buffers: Vec<Buffer> = Vec::new();
    for (arg, kind) in args.iter().zip(&signature) {
        let size = kind.dtype.bytes();
        let places = arg.places();
        let end = places.iter().max().map_or(MARGIN, |p| p + 1);
        let mut image = vec![FILL; (end + MARGIN) * size];
        if kind.role != Role::Out && arg.same_as.is_none() {
            for (place, &x) in places.iter().zip(&arg.data) {
                image[place * size..][..size].copy_from_slice(&to_bytes(kind.dtype, x));
            }
        }
        let buffer = device.alloc(image.len()).expect("memory");
        let view = View::of_bytes(&buffer);
        stream.upload(&view, &image).expect("an upload");
        images.push(image);
        buffers.push(buffer);
    }
    // An output in place of an input starts as that input.
    let mut list = ArgList::new();
    for i in 0..args.len() {
        let from = resolve(args, i);
        let (arg, dtype) = (&args[from], signature[i].dtype);
        let offset = MARGIN * dtype.bytes();
        let view = View::strided(&buffers[from], offset, dtype, &arg.shape, &arg.strides);
        list.push(view.expect("a view"));
    }
    let plan = context.plan(op.clone()).expect("a plan");
    let shapes: Vec<&[usize]> = list.iter().map(View::shape).collect();
    let workspace = device.alloc(plan.workspace_bytes(&shapes)).expect("memory");
    // Garbage in the workspace must not matter.
    let garbage = vec![0xff; workspace.bytes()];
    let workspace = View::of_bytes(&workspace);
    stream.upload(&workspace, &garbage).expect("an upload");
    plan.run_list(&mut *stream, &list, &workspace)
        .expect("a run");
    for (i, (image, buffer)) in images.iter_mut().zip(&buffers).enumerate() {
        let mut after = vec![0; image.len()];
        stream
            .download(&mut after, &View::of_bytes(buffer))
            .expect("a download");
        let size = signature[i].dtype.bytes();
        let written = (0..args.len())
            .any(|o| matches!(signature[o].role, Role::Out | Role::InOut) && resolve(args, o) == i);
        let mut expected = image.clone();
        if written {
            for place in args[i].places() {
                let element = place * size..(place + 1) * size;
                expected[element.clone()].copy_from_slice(&after[element]);
            }
        }
        assert!(
            after == expected,
            "{what}: bytes of {} outside what it may write changed",
            signature[i].name
        );
        *image = after;
    }
    images
}
