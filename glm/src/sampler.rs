//! Drawing tokens on the device.
//!
//! Logits never travel to the host: per row come back the id and the one logit that it had.

use hal::{Buffer, DType, Device, Error, ErrorKind, Result, Stream, View};
use ops::{Plan, Sample, SampleArgs, SampleControl};

/// How tokens are drawn; see [`ops::Sample`] for the order of the rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides logits; 0: the largest logit wins.
    pub temperature: f32,
    /// Keeps this many of the most probable tokens; 0: all.
    pub top_k: u32,
    /// Keeps the most probable tokens whose probabilities sum to this; in (0, 1].
    pub top_p: f32,
    /// Divides positive and multiplies negative logits of ids that have occurred; 1: nothing.
    pub repetition_penalty: f32,
    /// Same seed, same tokens: alone or in a batch.
    pub seed: u64,
}

impl Default for Sampling {
    /// The most probable token.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks every value's range.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn check(&self) -> Result<()> {
        let rules = [
            (
                "temperature",
                self.temperature,
                0.0..=f32::MAX,
                "at least 0",
            ),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "in (0, 1]"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                f32::MIN_POSITIVE..=f32::MAX,
                "above 0",
            ),
        ];
        match rules
            .iter()
            .find(|(_, value, range, _)| !range.contains(value))
        {
            None => Ok(()),
            Some((name, value, _, rule)) => Err(Error::invalid(
                "sample tokens",
                format!("{name} is {value}; it must be {rule}"),
            )),
        }
    }

    /// The control of token `step` of a request.
    pub fn control(&self, step: u32) -> SampleControl {
        SampleControl {
            temperature: self.temperature,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            top_k: self.top_k,
            seed: self.seed,
            step,
        }
    }
}

/// What one row needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How to draw.
    pub control: SampleControl,
    /// All ids so far. They may only grow from draw to draw, unless [`Sampler::rewind`] tells
    /// otherwise.
    pub history: &'a [u32],
}

/// A drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub id: u32,
    /// Its logit, before penalty and temperature.
    pub logit: f32,
}

/// Draws one token per row of logits.
#[derive(Debug)]
pub struct Sampler {
    plan: Plan<Sample>,
    rows: usize,
    capacity: usize,
    out: Buffer,
    floats: Buffer,
    ints: Buffer,
    history: Buffer,
    history_len: Buffer,
    workspace: Buffer,
    /// Ids of each row that lie on the device.
    known: Vec<usize>,
    /// Staging: values of one upload or download each.
    host_floats: Vec<[f32; 3]>,
    host_ints: Vec<[i32; 4]>,
    host_row: Vec<i32>,
    drawn: Vec<Drawn>,
}

impl Sampler {
    /// A sampler for at most `rows` rows with at most `capacity` ids of history each.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    pub fn new(
        device: &dyn Device,
        plan: Plan<Sample>,
        rows: usize,
        capacity: usize,
    ) -> Result<Self> {
        let logits = [rows, plan.op().vocab];
        let vector = [rows];
        let shapes: [&[usize]; 6] = [
            &vector,
            &logits,
            &[rows, 3],
            &[rows, 4],
            &[rows, capacity],
            &vector,
        ];
        let workspace = plan.workspace_bytes(&shapes);
        Ok(Self {
            out: device.alloc(rows * 4)?,
            floats: device.alloc(rows * 12)?,
            ints: device.alloc(rows * 16)?,
            history: device.alloc(rows * capacity * 4)?,
            history_len: device.alloc(rows * 4)?,
            workspace: device.alloc(workspace)?,
            known: vec![0; rows],
            host_floats: Vec::with_capacity(rows),
            host_ints: Vec::with_capacity(rows),
            host_row: vec![0; rows],
            drawn: Vec::with_capacity(rows),
            plan,
            rows,
            capacity,
        })
    }

    /// Tells that only the first `len` ids of row `row`'s history are still those of the last draw.
    pub fn rewind(&mut self, row: usize, len: usize) {
        if let Some(known) = self.known.get_mut(row) {
            *known = len.min(*known);
        }
    }

    /// Draws a token for each row of `logits`, f32 `[requests, vocab]`.
    ///
    /// # Errors
    /// `InvalidArgument` for more rows or ids than the sampler was made for; `DeviceLost`;
    /// `Unexpected` when the device draws an id that does not exist.
    pub fn draw(
        &mut self,
        stream: &mut dyn Stream,
        logits: View<'_>,
        requests: &[Request<'_>],
    ) -> Result<&[Drawn]> {
        let (n, vocab) = (requests.len(), self.plan.op().vocab);
        if n > self.rows || requests.iter().any(|r| r.history.len() > self.capacity) {
            let detail = format!("at most {} rows with {} ids each", self.rows, self.capacity);
            return Err(Error::invalid("sample tokens", detail));
        }
        let history = View::new(&self.history, DType::I32, &[self.rows, self.capacity])?;
        let history = history.slice(0, 0..n)?;
        self.host_floats.clear();
        self.host_ints.clear();
        for (r, request) in requests.iter().enumerate() {
            self.host_floats.push(request.control.floats());
            self.host_ints.push(request.control.ints());
            // Without a penalty nobody reads the history.
            let len = match request.control.repetition_penalty {
                1.0 => 0,
                _ => request.history.len(),
            };
            self.host_row[r] = len as i32;
            let known = self.known[r].min(len);
            if known < len {
                let new = history.slice(0, r..r + 1)?.slice(1, known..len)?;
                // Ids are below 2^31, so the bits of an i32 are the same.
                stream.upload(&new, bytemuck::cast_slice(&request.history[known..len]))?;
            }
            self.known[r] = len.max(known);
        }
        let out = View::new(&self.out, DType::I32, &[n])?;
        let floats = View::new(&self.floats, DType::F32, &[n, 3])?;
        let ints = View::new(&self.ints, DType::I32, &[n, 4])?;
        let history_len = View::new(&self.history_len, DType::I32, &[n])?;
        stream.upload(&floats, bytemuck::cast_slice(&self.host_floats))?;
        stream.upload(&ints, bytemuck::cast_slice(&self.host_ints))?;
        stream.upload(&history_len, bytemuck::cast_slice(&self.host_row[..n]))?;
        let args = SampleArgs {
            out,
            logits,
            floats,
            ints,
            history,
            history_len,
        };
        self.plan
            .run(stream, args, &View::of_bytes(&self.workspace))?;
        stream.download(bytemuck::cast_slice_mut(&mut self.host_row[..n]), &out)?;
        self.drawn.clear();
        for (r, &id) in self.host_row[..n].iter().enumerate() {
            let at = usize::try_from(id).ok().filter(|&id| id < vocab);
            let at = at.ok_or_else(|| {
                let detail = format!("the device drew id {id} of {vocab}");
                Error::new(ErrorKind::Unexpected, "sample tokens", detail)
                    .next_step("run `glm conform` on this device")
            })?;
            let mut logit = 0.0f32;
            let view = logits.slice(0, r..r + 1)?.slice(1, at..at + 1)?;
            stream.download(bytemuck::bytes_of_mut(&mut logit), &view)?;
            let id = at as u32;
            self.drawn.push(Drawn { id, logit });
        }
        Ok(&self.drawn)
    }
}
