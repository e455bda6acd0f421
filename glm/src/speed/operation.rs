//! A planned operation with its arguments in device memory.

use std::fmt;

use hal::{Buffer, DType, Device, Error, ErrorKind, Result, Stream, View};
use ops::{ArgList, Context, How, Op, Plan};

use super::Amounts;
use crate::cache::repeat;
use crate::checkpoint::random::Kind;

/// Memory of the copies that launches take turns with: far beyond the last cache of any device.
pub(super) const COLD_BYTES: usize = 256 << 20;
/// Copies, at most: of what is so small that more would not come to [`COLD_BYTES`] soon. That lies in a cache.
pub(super) const MOST_COPIES: usize = 256;

type Launching = Box<dyn FnMut(&mut dyn Stream) -> Result<()>>;

/// One operation at one size, to be launched again and again.
pub struct Operation {
    /// How it was planned.
    pub how: How,
    /// What a launch must move and compute.
    pub amounts: Amounts,
    /// After how many launches the first copies are used again.
    pub(super) turns: usize,
    launch: Launching,
}

impl Operation {
    /// Of a plan and its arguments, which move and compute `amounts`.
    pub(super) fn new<O: Op>(
        context: &Context,
        plan: &Plan<O>,
        args: Vec<Placed>,
        amounts: impl Into<Amounts>,
    ) -> Result<Self> {
        let shapes: Vec<&[usize]> = args.iter().map(|arg| &*arg.shape).collect();
        let workspace = context.device().alloc(plan.workspace_bytes(&shapes))?;
        let (how, plan) = (plan.how(), plan.clone());
        let turns = args.iter().map(|arg| arg.places.len()).max().unwrap_or(1);
        let mut turn = 0;
        Ok(Self {
            turns,
            how,
            amounts: amounts.into(),
            launch: Box::new(move |stream| {
                let views: Result<ArgList<'_>> = args.iter().map(|arg| arg.view(turn)).collect();
                turn += 1;
                plan.run_list(stream, &views?, &View::of_bytes(&workspace))
            }),
        })
    }

    /// Queues it once, with the next copies of its arguments.
    ///
    /// # Errors
    /// What the launch reports.
    pub fn launch(&mut self, stream: &mut dyn Stream) -> Result<()> {
        (self.launch)(stream)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, amounts, .. } = self;
        write!(f, "{how}, {amounts:?}")
    }
}

/// An argument: the places that launches take turns with, as bytes from the start of a buffer.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) places: Vec<(Buffer, usize)>,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
}

impl Placed {
    /// Memory that nobody has written yet.
    pub(super) fn unwritten(device: &dyn Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes = dtype.bytes() * shape.iter().product::<usize>();
        Ok(Self::whole(device.alloc(bytes)?, dtype, shape))
    }

    /// Random floats of a magnitude near 1.
    pub(super) fn random(
        device: &dyn Device,
        stream: &mut dyn Stream,
        dtype: DType,
        shape: &[usize],
    ) -> Result<Self> {
        let placed = Self::unwritten(device, dtype, shape)?;
        let (buffer, _) = &placed.places[0];
        let bytes = dtype.bytes() * shape.iter().product::<usize>();
        let block = Kind::floats(dtype, -1, true).period(1);
        repeat(stream, buffer, bytes, &block)?;
        Ok(placed)
    }

    /// These floats.
    pub(super) fn floats(
        device: &dyn Device,
        stream: &mut dyn Stream,
        shape: &[usize],
        values: &[f32],
    ) -> Result<Self> {
        let placed = Self::unwritten(device, DType::F32, shape)?;
        stream.upload(&placed.view(0)?, bytemuck::cast_slice(values))?;
        Ok(placed)
    }

    /// These integers.
    pub(super) fn integers(
        device: &dyn Device,
        stream: &mut dyn Stream,
        shape: &[usize],
        values: &[i32],
    ) -> Result<Self> {
        let placed = Self::unwritten(device, DType::I32, shape)?;
        stream.upload(&placed.view(0)?, bytemuck::cast_slice(values))?;
        Ok(placed)
    }

    pub(super) fn whole(buffer: Buffer, dtype: DType, shape: &[usize]) -> Self {
        Self {
            places: vec![(buffer, 0)],
            dtype,
            shape: shape.to_vec(),
        }
    }

    fn view(&self, turn: usize) -> Result<View<'_>> {
        let (buffer, at) = &self.places[turn % self.places.len()];
        View::at(buffer, *at, self.dtype, &self.shape)
    }
}

/// Refuses what does not fit into the device's free memory.
pub(super) fn expect_room(context: &Context, doing: &str, bytes: usize) -> Result<()> {
    match context.device().memory() {
        Some(memory) if bytes > memory.free_bytes => {
            let [needed, free] = [bytes, memory.free_bytes].map(|n| n as f64 / 1e9);
            let detail = format!("{needed:.1} GB are needed, {free:.1} GB are free");
            Err(Error::new(ErrorKind::OutOfMemory, doing, detail).next_step("choose smaller sizes"))
        }
        _ => Ok(()),
    }
}
