//! `glm bench`: how fast a device runs a model, or single operations.

mod compare;
mod ops;
mod report;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use ::ops::Context;
use glm::architecture::Architecture;
use glm::checkpoint::Checkpoint;
use glm::model::{Model, Options, Work};
use glm::speed::{Clock, Figure, Limits, Running, Spread, Took};
use glm::{backends, shapes};
use hal::{DType, Error, WeightFormat};
use serde_json::json;

use crate::args::{Bench, BenchWhat, Global};
use crate::failure::Failure;
use crate::{compiling, load, output};
use report::{Facts, Writer};

/// Tests when none are asked for, where the context has room.
const PROMPT: usize = 512;
const DECODED: usize = 64;
/// Free memory with which the read limit is measured again beside a loaded model: twice what that takes.
const READING_BYTES: usize = 1 << 30;
/// Seconds in which a back end's own loops measure one limit, and measure it again around a run.
const OWN_SECONDS: f64 = 0.4;
const AGAIN_SECONDS: f64 = 0.1;
/// Seconds of one measurement of the limits, at most.
const LIMIT_SECONDS: f64 = 2.0;
/// Runs of one measurement of the limits.
const LIMIT_RUNS: usize = 5;

pub(crate) fn run(global: &Global, args: &Bench) -> Result<(), Failure> {
    if let Some(files) = &args.compare {
        return compare::run(global, files, args.least.map(|least| least.0));
    }
    let report = match &args.ops {
        Some(BenchWhat::Ops(ops)) => &ops.report,
        None => &args.report,
    };
    let mut writer = Writer::new(global, report.output);
    let threads: Vec<Option<usize>> = match global.threads.is_empty() {
        true => vec![None],
        false => global.threads.iter().map(|&n| Some(n)).collect(),
    };
    for threads in threads {
        let global = &Global {
            threads: threads.into_iter().collect(),
            ..global.clone()
        };
        match &args.ops {
            Some(BenchWhat::Ops(ops)) => ops::run(global, ops, &mut writer)?,
            None => model(global, args, &mut writer)?,
        }
    }
    writer.finish()
}

/// The device, and what it could do.
fn limits(global: &Global, clock: &mut Clock, context: &Context) -> Result<Limits, Failure> {
    say(global, "measuring the device's limits");
    let options = load::device_options(global);
    let own = backends::limits(&global.device, &options, OWN_SECONDS)?;
    Ok(Limits::measure(context, clock, own)?)
}

/// A line of progress.
fn say(global: &Global, what: &str) {
    if !global.quiet {
        compiling::finish();
        eprintln!("bench: {what}");
    }
}

/// What is measured, its tensors, and what reports say of it.
struct Subject {
    name: String,
    architecture: Architecture,
    checkpoint: Checkpoint,
    /// Where the weights come from.
    weights: String,
}

impl Subject {
    fn new(global: &Global, args: &Bench) -> Result<Self, Failure> {
        let Some(shape) = &args.shape else {
            let source = load::source(args.model.as_deref());
            let folder = args.model.as_deref().and_then(Path::file_name);
            return Ok(Self {
                name: folder.map_or("embedded".into(), |name| {
                    name.to_string_lossy().into_owned()
                }),
                architecture: source.architecture()?,
                checkpoint: load::checkpoint(global, &source)?,
                weights: "of the checkpoint".into(),
            });
        };
        // What the user typed, not what a file holds: usage.
        let mut architecture =
            shapes::architecture(shape, args.layers).map_err(|e| Failure::Error(e, 2))?;
        if let Some(context) = args.context {
            architecture.context = context.get();
        }
        let dtype = global.dtype.and_then(|d| d.activations());
        let dense = WeightFormat::Dense(dtype.unwrap_or(architecture.dtype));
        let format = global.dtype.map_or(dense, |d| d.weights());
        let seed = global.seed.unwrap_or(1);
        Ok(Self {
            name: match args.layers {
                Some(layers) => format!("{shape}-{layers}-layers"),
                None => shape.clone(),
            },
            checkpoint: Checkpoint::random(&architecture, format, dense, seed)?,
            architecture,
            weights: format!("random, seed {seed}"),
        })
    }
}

/// The tests of one run: everything that was asked for, in all combinations.
struct Tests {
    prompts: Vec<usize>,
    decoded: Vec<usize>,
    depths: Vec<usize>,
    batches: Vec<usize>,
}

impl Tests {
    fn new(args: &Bench, context: usize) -> Self {
        let given = |list: &Option<Vec<usize>>, usual: usize| {
            let list = list.clone().unwrap_or_else(|| vec![usual]);
            list.into_iter().filter(|&n| n > 0).collect()
        };
        Self {
            prompts: given(&args.prompt, PROMPT.min(context / 2)),
            decoded: given(&args.tokens, DECODED.min(context / 4)),
            depths: args.depth.clone(),
            batches: args.batch.iter().map(|b| b.get()).collect(),
        }
    }

    /// The longest sequence of all that fit into `context`.
    fn longest(&self, context: usize) -> usize {
        let new = || self.prompts.iter().chain(&self.decoded);
        let lengths = self
            .depths
            .iter()
            .flat_map(|d| new().map(move |n| d.saturating_add(*n)));
        lengths.filter(|n| *n <= context).max().unwrap_or(1)
    }
}

fn model(global: &Global, args: &Bench, writer: &mut Writer) -> Result<(), Failure> {
    let context = load::context(global)?;
    let mut clock = Clock::new(&**context.device(), LIMIT_RUNS, LIMIT_SECONDS)?;
    let limits = limits(global, &mut clock, &context)?;
    drop(clock);
    let start = Instant::now();
    let subject = Subject::new(global, args)?;
    let most = subject.architecture.context;
    let tests = Tests::new(args, most);
    let batch = tests.batches.iter().copied().max().unwrap_or(1);
    let options = Options {
        context: Some(tests.longest(most)),
        max_tokens: Some(args.chunk.get().max(batch)),
        max_sequences: batch,
        max_logits: batch,
        ..Options::default()
    };
    let options = load::with_dtype(global, options);
    say(
        global,
        &format!("loading {} ({})", subject.name, subject.weights),
    );
    let mut model = load::with_progress(global, |progress| {
        let Subject {
            architecture,
            checkpoint,
            ..
        } = &subject;
        Model::load(&context, architecture, checkpoint, &options, progress)
    })?;
    drop(subject.checkpoint);
    let stored = "stored".to_owned();
    let format = global.dtype.map_or(stored, |d| d.weights().to_string());
    let facts = json!({
        "name": subject.name,
        "weights": subject.weights,
        "format": format,
        "layers": subject.architecture.layers,
        "parameters": subject.architecture.parameters(),
        "activations": model.dtype().name(),
        "products": match model.work().token.integers > 0.0 {
            true => DType::I8.name(),
            false => model.dtype().name(),
        },
        "cache": model.cache().shape().dtype.name(),
        "random_cache": args.random_cache,
        "load_seconds": start.elapsed().as_secs_f64(),
        "footprint_bytes": {
            "weights": model.footprint().weights,
            "cache": model.footprint().cache,
            "buffers": model.footprint().buffers,
        },
        "step_weight_bytes": model.work().weight_bytes,
        "context": model.context(),
        "chunk": model.max_tokens(),
    });
    let about = format!(
        "{} ({} layers, {format}, weights {}), {}{}",
        subject.name,
        subject.architecture.layers,
        subject.weights,
        output::bytes(model.footprint().weights as u64),
        match args.random_cache {
            true => "; random numbers in the cache for the tokens of a depth",
            false => "",
        },
    );
    writer.begin(Facts::new(global, &context, &limits, Some((facts, about))))?;
    let bench = Bencher {
        global,
        context: &context,
        runs: args.report.runs,
        limits,
        dtype: model.dtype(),
        random_cache: args.random_cache,
        prefix: format!("{}/{format}", subject.name),
        most,
    };
    for &batch in &tests.batches {
        bench.tests(&mut model, &tests, batch, writer)?;
    }
    Ok(())
}

/// What all tests of a model share.
struct Bencher<'a> {
    global: &'a Global,
    context: &'a Context,
    /// As they were measured first.
    limits: Limits,
    runs: NonZeroUsize,
    /// Type of the model's floats.
    dtype: DType,
    /// Whether tokens of a depth are random numbers in the cache.
    random_cache: bool,
    prefix: String,
    /// Tokens that the model was made for.
    most: usize,
}

impl Bencher<'_> {
    /// All tests of `batch` sequences. What is in the cache stays for the next depth.
    fn tests(
        &self,
        model: &mut Model,
        tests: &Tests,
        batch: usize,
        writer: &mut Writer,
    ) -> Result<(), Failure> {
        let (work, chunk) = (model.work(), model.max_tokens());
        let list = [("pp", &tests.prompts), ("tg", &tests.decoded)];
        let list = list
            .iter()
            .flat_map(|(test, all)| all.iter().map(|&n| (*test, n)));
        let list: BTreeSet<(&str, usize)> = list.collect();
        let mut running = Running::new(self.context, model, batch)?;
        let mut filled = 0;
        for &depth in &tests.depths {
            if list.iter().any(|(_, n)| depth + n <= self.most) {
                filled = filled.min(depth);
                running.rewind(filled);
                if filled < depth {
                    let what = format!("{batch} x {depth} tokens into the cache");
                    say(self.global, &what);
                    match self.random_cache {
                        true => running.fill(self.context, depth)?,
                        false => running.prefill(depth - filled, 1).map(drop)?,
                    }
                    filled = depth;
                }
            }
            self.at_depth(&mut running, &list, [batch, depth], (work, chunk), writer)?;
        }
        Ok(())
    }

    /// The tests of `list` for `batch` sequences that have `depth` tokens each.
    fn at_depth(
        &self,
        running: &mut Running<'_>,
        list: &BTreeSet<(&str, usize)>,
        [batch, depth]: [usize; 2],
        (work, chunk): (Work, usize),
        writer: &mut Writer,
    ) -> Result<(), Failure> {
        let threads = self
            .global
            .threads()
            .map_or(String::new(), |t| format!("/t{t}"));
        let key =
            |test: &str, n: usize| format!("{}/b{batch}/d{depth}/{test}{n}{threads}", self.prefix);
        for &(test, n) in list {
            let key = key(test, n);
            if depth + n > self.most {
                let why = format!("the model was made for {} tokens", self.most);
                writer.found(&Figure::skipped(key, why))?;
                continue;
            }
            say(self.global, &key);
            let mut once = |n: usize| -> hal::Result<Took> {
                running.rewind(depth);
                match test {
                    "pp" => running.prefill(n, 2),
                    _ => running.decode(n),
                }
            };
            // The first touches memory, and compiles.
            once(if test == "pp" { n } else { n.min(2) })?;
            let mut runs = Vec::with_capacity(self.runs.get());
            let mut limits = Vec::from_iter(self.limits_again()?);
            for _ in 0..self.runs.get() {
                if !limits.is_empty() {
                    // Measuring them emptied the caches.
                    once(n.min(2))?;
                }
                runs.push(once(n)?);
                limits.extend(self.limits_again()?);
            }
            let amounts = match test {
                "pp" => work.prefill([batch, depth, n], chunk),
                _ => work.decode([batch, depth, n]),
            };
            let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
            let queued = Spread::of(runs.iter().map(|run| run.host_seconds).collect());
            let figure = match limits.len() == runs.len() + 1 {
                true => Figure::measured_between(key, &seconds, amounts, self.dtype, &limits),
                false => {
                    let seconds = Spread::of(seconds);
                    Figure::measured(key, seconds, amounts, self.dtype, &self.limits)
                }
            };
            let tokens = batch * n;
            writer.found(&Figure {
                tokens: Some(tokens),
                tokens_per_second: figure.seconds.map(|s| tokens as f64 / s.median),
                host_seconds: Some(queued.median),
                ..figure
            })?;
        }
        Ok(())
    }

    /// The limits now, because they change with the machine's other programs and guests; `None` where that takes memory that is
    /// not free, or where only the device's operations could tell.
    fn limits_again(&self) -> hal::Result<Option<Limits>> {
        let memory = self.context.device().memory();
        if memory.is_some_and(|memory| memory.free_bytes <= READING_BYTES) {
            return Ok(None);
        }
        let options = load::device_options(self.global);
        let own = backends::limits(&self.global.device, &options, AGAIN_SECONDS)?;
        Ok(own.map(Limits::from))
    }
}

/// A pattern or a list that no figure fits: usage.
fn usage(detail: impl Into<String>, next: &str) -> Failure {
    Failure::Error(
        Error::invalid("choose what to measure", detail).next_step(next),
        2,
    )
}
