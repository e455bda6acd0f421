//! Kernels of the emulator: each operation once, in plain scalar code, rounded as a chip rounds.

mod activation;
mod attention;
mod exact;
mod math;
mod matmul;
mod norm;
mod rope;
mod rope_kv_write;
mod sample;
mod softmax;

use std::marker::PhantomData;
use std::sync::Arc;

use conformance::Conformance;
use hal::{Buffer, DType, Error, ErrorKind, Result, Stream, View, WeightFormat};
use ops::reference::Tensor;
use ops::{HostWeight, Launch, Role, SafeLaunch};

use crate::device::{Board, EmulatorStream, Launched, Window};

pub(crate) use activation::act;
pub(crate) use attention::{Ways as AttentionWays, attention};
pub(crate) use math::Math;
pub(crate) use matmul::matmul;
pub(crate) use norm::rms_norm;
pub(crate) use sample::{Ways as SampleWays, draw};
pub(crate) use softmax::softmax_row;

/// An operation that the emulator computes. Arguments and results as for [`ops::Op::reference`]; results are f32
/// numbers, rounded to storage by whoever stores them.
pub(crate) trait Kernel: Conformance {
    /// The outputs.
    fn compute(&self, math: &Math, shapes: &[&[usize]], inputs: &[Tensor]) -> Vec<Tensor>;
}

/// Plans kernels of one operation.
pub(crate) struct Planner<O> {
    board: Arc<Board>,
    op: PhantomData<fn(O)>,
}

impl<O> Planner<O> {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self {
            board,
            op: PhantomData,
        }
    }
}

impl<O: Kernel> ops::Planner<O> for Planner<O> {
    fn plan(&self, op: &O) -> Result<Option<Arc<dyn Launch>>> {
        self.board.alive("plan a kernel")?;
        let is_bf16 = |role: &Role, dtype: DType| match role {
            Role::Weight(format) => *format == WeightFormat::Dense(DType::BF16),
            _ => dtype == DType::BF16,
        };
        let mut args = op.signature().into_iter();
        if !self.board.character.bf16 && args.any(|arg| is_bf16(&arg.role, arg.dtype)) {
            return Ok(None);
        }
        Ok(Some(Arc::new(Planned {
            op: op.clone(),
            board: self.board.clone(),
        })))
    }
}

struct Planned<O> {
    op: O,
    board: Arc<Board>,
}

impl<O: Kernel> SafeLaunch for Planned<O> {
    fn run(&self, stream: &mut dyn Stream, args: &[View<'_>]) -> Result<()> {
        let stream: &mut EmulatorStream = stream.downcast().ok_or_else(|| {
            Error::invalid(format!("run {}", O::NAME), "a stream of another backend")
        })?;
        let mut windows = Vec::with_capacity(args.len());
        for view in args {
            let window = Window::new(&self.board, O::NAME, view)?;
            if !window.is_aligned(self.board.character.align_bytes) {
                return Err(Error::unsupported(
                    format!("run {}", O::NAME),
                    format!(
                        "{view:?} starts at byte {}, no multiple of {}",
                        view.offset_bytes(),
                        self.board.character.align_bytes
                    ),
                ));
            }
            windows.push(window);
        }
        let (op, math) = (self.op.clone(), Math::of(&self.board.character));
        stream.launch(Launched {
            op: O::NAME,
            windows,
            kernel: Box::new(move |windows| execute(&op, &math, windows)),
        })
    }

    fn pack(&self, weight: &HostWeight<'_>) -> Result<Buffer> {
        let roles = self.op.signature().into_iter().map(|arg| arg.role);
        let format = roles.into_iter().find_map(|role| match role {
            Role::Weight(format) => Some(format),
            _ => None,
        });
        let (Some(format), Some([rows, cols])) = (format, self.op.weight_shape()) else {
            return Err(Error::unsupported(
                "pack a weight",
                "this operation has none",
            ));
        };
        weight.expect(format, rows, cols)?;
        let data = [&*weight.data, &*weight.scales].concat();
        self.board.alloc(data.len(), Some(data))
    }
}

fn execute<O: Kernel>(op: &O, math: &Math, windows: &[Window]) -> Result<()> {
    let signature = op.signature();
    let mut inputs = Vec::new();
    for (arg, window) in signature.iter().zip(windows) {
        match arg.role {
            Role::Out => {}
            Role::Weight(format) => {
                let [rows, cols] = op.weight_shape().unwrap_or_default();
                let bytes = window.buffer_bytes();
                let (data, scales) = bytes
                    .split_at_checked(rows * format.row_bytes(cols))
                    .ok_or_else(|| {
                        Error::invalid(O::NAME, "the weight was packed by another plan")
                    })?;
                let weight = HostWeight::new(format, rows, cols, data, scales)?;
                inputs.push(weight.dequantise());
            }
            _ => inputs.push(Tensor::new(&window.shape, window.read())),
        }
    }
    let shapes: Vec<&[usize]> = windows.iter().map(|window| &window.shape[..]).collect();
    let mut results = op.compute(math, &shapes, &inputs).into_iter();
    for (arg, window) in signature.iter().zip(windows) {
        if let Role::Out | Role::InOut = arg.role {
            let result = results.next().ok_or_else(|| {
                Error::new(
                    ErrorKind::Unexpected,
                    O::NAME,
                    "the kernel has too few outputs",
                )
            })?;
            window.write(&result.data);
        }
    }
    Ok(())
}
