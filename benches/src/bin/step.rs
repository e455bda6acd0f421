//! A whole model on random weights: memory while loading, prefill and decode as shares of limits of the same run.
//!
//! `step [FORMAT]`: `bf16` (the default), `int8`, `int4` or `int4-g32`; one per process, so that memory is what this
//! one needs. Writes a checkpoint of the shape of GLM-Edge-1.5B (3.2 GB of bf16) into a temporary folder and loads it
//! by the normal path.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backend_cpu::Options as CpuOptions;
use benches::{Limit, Limits, RandomModel, decode_bytes, matrix_parameters};
use glm::architecture::Architecture;
use glm::checkpoint::Checkpoint;
use glm::model::{Chunk, Model, Options, Rows};
use hal::{DType, Error, Result, WeightFormat};
use ops::Context;

const PROMPT: usize = 512;
const DECODED: usize = 64;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "bf16".into());
    let format = WeightFormat::ALL
        .into_iter()
        .find(|format| format.to_string() == name);
    let format = format.ok_or_else(|| Error::invalid("choose a format", name))?;
    let model = RandomModel::new(28)?;
    measure(model.folder(), format)
}

fn measure(folder: &Path, format: WeightFormat) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "| weights | footprint | peak while loading | load | prefill {PROMPT} | share of bf16 peak \
         | decode | share of read |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let limits = Limits::new(threads);
    let architecture = Architecture::load(folder)?;
    let cpu = CpuOptions {
        threads: Some(threads),
        level: None,
    };
    let context = Context::new(backend_cpu::open(&cpu)?);
    let options = Options {
        dtype: Some(DType::BF16),
        weights: Some(format),
        context: Some(PROMPT + DECODED + 1),
        ..Options::default()
    };
    let before = anonymous_bytes();
    let start = Instant::now();
    let (model, peak) = watch_memory(|| {
        let checkpoint = Checkpoint::open(folder)?;
        Model::load(&context, &architecture, &checkpoint, &options, |_, _| {})
    });
    let (mut model, load) = (model?, start.elapsed());

    let ids: Vec<u32> = (0..PROMPT as u32).collect();
    let mut sequence = model.sequence();
    let mut forward = |ids: &[u32], sequence: &mut _| -> Result<f64> {
        let start = Instant::now();
        model.forward(
            &mut [Chunk {
                sequence,
                ids,
                positions: None,
            }],
            Rows::Last,
        )?;
        model.read_logits()?;
        Ok(start.elapsed().as_secs_f64())
    };
    forward(&ids, &mut sequence)?;
    let peak_flops = limits.measure(Limit::Bf16, 0.5);
    sequence.truncate(0);
    let prefill = forward(&ids, &mut sequence)?;
    let read = limits.measure(Limit::Read, 0.5);
    let mut steps = Vec::with_capacity(DECODED);
    for id in 0..DECODED as u32 {
        steps.push(forward(&[id], &mut sequence)?);
    }
    let read = read.max(limits.measure(Limit::Read, 0.5));
    steps.sort_by(f64::total_cmp);
    let decode = steps[DECODED / 2];

    let layers = matrix_parameters(&architecture);
    let head = architecture.vocab * architecture.hidden;
    let decode_bytes = decode_bytes(&architecture, format) as f64;
    let prefill_flops = 2.0 * (layers * PROMPT + head) as f64;
    let gib = |bytes: usize| format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64);
    println!(
        "| {format} | {} | {} | {:.1} s | {:.0} tok/s | {:.0} % of {:.0} GFLOP/s | {:.1} tok/s | {:.0} % of {:.1} GB/s |",
        gib(model.footprint().total()),
        gib(peak.saturating_sub(before)),
        load.as_secs_f64(),
        PROMPT as f64 / prefill,
        100.0 * prefill_flops / prefill / peak_flops,
        peak_flops / 1e9,
        1.0 / decode,
        100.0 * decode_bytes / decode / read,
        read / 1e9,
    );
    Ok(())
}

/// Runs `f`, and the most anonymous memory (file pages not counted) that the process had meanwhile.
fn watch_memory<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let (done, peak) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let value = f();
        done.store(true, Ordering::Relaxed);
        (value, peak.load(Ordering::Relaxed))
    })
}

fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or(0) << 10
}
