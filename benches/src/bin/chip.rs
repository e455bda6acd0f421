//! A model of random weights on an accelerator beside the same on the CPU back end, step by step in turn.
//!
//! `chip DEVICE [FORMAT [LAYERS]]`: `opencl:0`, `wgpu`, …; `int4` by default; 4 layers of the shape of GLM-Edge-1.5B by
//! default. Shares are of the device's own copy bandwidth, measured between the steps.

use std::path::Path;
use std::time::Instant;

use benches::{RandomModel, decode_bytes, matrix_parameters};
use glm::architecture::Architecture;
use glm::backends;
use glm::cache::Sequence;
use glm::checkpoint::Checkpoint;
use glm::model::{Chunk, Model, Options, Rows};
use hal::{Buffer, DType, Error, Result, Stream, View, WeightFormat};
use ops::{Context, CopyArgs, Plan, StridedCopy};

const PROMPT: usize = 128;
const DECODED: usize = 32;

/// Bytes that a copy reads, and writes: more than a cache holds.
const COPY_BYTES: usize = 256 << 20;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let device = words
        .next()
        .ok_or_else(|| Error::invalid("choose a device", "name one: `glm devices` lists them"))?;
    let format = words.next().unwrap_or_else(|| "int4".into());
    let format = WeightFormat::ALL
        .into_iter()
        .find(|known| known.to_string() == format)
        .ok_or_else(|| Error::invalid("choose a format", format))?;
    let layers = words.next().unwrap_or_else(|| "4".into());
    let layers = layers
        .parse()
        .map_err(|_| Error::invalid("choose a number of layers", layers))?;
    let files = RandomModel::new(layers)?;
    let mut both = [&*device, "cpu"]
        .into_iter()
        .map(|spec| Running::new(spec, files.folder(), format))
        .collect::<Result<Vec<_>>>()?;

    let ids: Vec<u32> = (0..PROMPT as u32).collect();
    let mut prefill = [f64::INFINITY; 2];
    for round in 0..3 {
        for (running, best) in both.iter_mut().zip(&mut prefill) {
            running.sequence.truncate(0);
            let seconds = running.forward(&ids)?;
            // The first touches memory and compiles.
            if round > 0 {
                *best = best.min(seconds);
            }
        }
    }
    let mut steps = [Vec::new(), Vec::new()];
    let mut copies = [Vec::new(), Vec::new()];
    for id in 0..DECODED as u32 {
        for (i, running) in both.iter_mut().enumerate() {
            steps[i].push(running.forward(&[id])?);
            if id % 4 == 0 {
                copies[i].push(running.copy.seconds()?);
            }
        }
    }
    let [step, copy] = [steps, copies].map(|both| both.map(median));
    let architecture = Architecture::load(files.folder())?;
    let bytes = decode_bytes(&architecture, format) as f64;
    let head = architecture.vocab * architecture.hidden;
    let operations = 2.0 * (matrix_parameters(&architecture) * PROMPT + head) as f64;
    println!(
        "{layers} layers of the shape of GLM-Edge-1.5B, {format}, medians of {DECODED} steps at a depth of {PROMPT}"
    );
    println!(
        "| device | prefill {PROMPT} | of the CPU back end | decode | of the CPU back end | weights read | of its copy |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (i, running) in both.iter().enumerate() {
        println!(
            "| {} {} | {:.1} GFLOP/s | {:.2} | {:.1} ms | {:.2} | {:.1} GB/s | {:.0} % of {:.1} GB/s |",
            running.spec,
            running.name,
            operations / prefill[i] / 1e9,
            prefill[1] / prefill[i],
            step[i] * 1e3,
            step[1] / step[i],
            bytes / step[i] / 1e9,
            50.0 * bytes / step[i] * copy[i] / COPY_BYTES as f64,
            2.0 * COPY_BYTES as f64 / copy[i] / 1e9,
        );
    }
    Ok(())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// The model on one device.
struct Running {
    spec: String,
    name: String,
    model: Model,
    sequence: Sequence,
    copy: Copying,
}

impl Running {
    fn new(spec: &str, folder: &Path, format: WeightFormat) -> Result<Self> {
        let context = Context::new(backends::open(spec, &backends::Options::default())?);
        let options = Options {
            dtype: Some(DType::BF16),
            weights: Some(format),
            context: Some(PROMPT + DECODED + 1),
            ..Options::default()
        };
        let (architecture, checkpoint) = (Architecture::load(folder)?, Checkpoint::open(folder)?);
        let model = Model::load(&context, &architecture, &checkpoint, &options, |_, _| {})?;
        Ok(Self {
            spec: spec.into(),
            name: context.device().info().name.clone(),
            sequence: model.sequence(),
            model,
            copy: Copying::new(&context)?,
        })
    }

    /// Seconds until the logits of the last token are here.
    fn forward(&mut self, ids: &[u32]) -> Result<f64> {
        let start = Instant::now();
        let chunk = Chunk {
            sequence: &mut self.sequence,
            ids,
            positions: None,
        };
        self.model.forward(&mut [chunk], Rows::Last)?;
        self.model.read_logits()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// A copy within a device.
struct Copying {
    plan: Plan<StridedCopy>,
    stream: Box<dyn Stream>,
    from: Buffer,
    to: Buffer,
    workspace: Buffer,
}

/// What is copied: floats.
const COPIED: [usize; 1] = [COPY_BYTES / 4];

impl Copying {
    fn new(context: &Context) -> Result<Self> {
        let device = context.device();
        let plan = context.plan(StridedCopy { dtype: DType::F32 })?;
        Ok(Self {
            workspace: device.alloc(plan.workspace_bytes(&[&COPIED, &COPIED]))?,
            plan,
            stream: device.stream()?,
            from: device.alloc(COPY_BYTES)?,
            to: device.alloc(COPY_BYTES)?,
        })
    }

    fn seconds(&mut self) -> Result<f64> {
        let start = Instant::now();
        let args = CopyArgs {
            out: View::new(&self.to, DType::F32, &COPIED)?,
            x: View::new(&self.from, DType::F32, &COPIED)?,
        };
        let workspace = View::of_bytes(&self.workspace);
        self.plan.run(&mut *self.stream, args, &workspace)?;
        self.stream.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    }
}
