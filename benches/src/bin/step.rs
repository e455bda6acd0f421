//! A whole model on random weights: memory while loading, prefill and decode as shares of limits of the same run.
//!
//! `step [FORMAT]`: `bf16` (the default), `int8`, `int4` or `int4-g32`; one per process, so that memory is what this
//! one needs. Writes a checkpoint of the shape of GLM-Edge-1.5B (3.2 GB of bf16) into a temporary folder and loads it
//! by the normal path.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backend_cpu::Options as CpuOptions;
use benches::{Limit, Limits};
use glm::architecture::Architecture;
use glm::checkpoint::Checkpoint;
use glm::model::{Chunk, Model, Options, Rows};
use hal::{DType, Error, ErrorKind, Result, WeightFormat};
use ops::Context;
use serde_json::{Map, Value, json};

const PROMPT: usize = 512;
const DECODED: usize = 64;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "bf16".into());
    let format = WeightFormat::ALL
        .into_iter()
        .find(|format| format.to_string() == name);
    let format = format.ok_or_else(|| Error::invalid("choose a format", name))?;
    let folder = std::env::temp_dir().join(format!("glm-step-{}", std::process::id()));
    let io = |e: std::io::Error| Error::new(ErrorKind::Io, "write a random model", e.to_string());
    std::fs::create_dir_all(&folder).map_err(io)?;
    let result = write_model(&folder)
        .map_err(io)
        .and_then(|()| measure(&folder, format));
    std::fs::remove_dir_all(&folder).map_err(io)?;
    result
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
    let row = layers as f64 / architecture.hidden as f64;
    let bytes_per_weight =
        format.row_bytes(architecture.hidden) as f64 / architecture.hidden as f64;
    let (scales, scale) = format.row_scales(architecture.hidden);
    let scale_bytes = row * (scales * scale.bytes()) as f64;
    let decode_bytes = layers as f64 * bytes_per_weight + scale_bytes + 2.0 * head as f64;
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

/// Multiply-adds per token in the layers.
fn matrix_parameters(a: &Architecture) -> usize {
    let per_layer = a.qkv_rows() + a.heads * a.head_dim + a.up_rows() + a.ffn;
    a.layers * per_layer * a.hidden
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

/// A checkpoint of the shape of GLM-Edge-1.5B with small random bf16 weights.
fn write_model(folder: &Path) -> std::io::Result<()> {
    let (layers, hidden, heads, kv_heads, head_dim, ffn, vocab) =
        (28, 2048, 16, 4, 128, 6144, 59264);
    let config = json!({
        "model_type": "glm", "num_hidden_layers": layers, "hidden_size": hidden,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "intermediate_size": ffn, "vocab_size": vocab, "max_position_embeddings": 8192,
        "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "attention_bias": false, "torch_dtype": "bfloat16",
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let mut tensors: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens".into(), vec![vocab, hidden])];
    for i in 0..layers {
        let mut add = |name: &str, shape: Vec<usize>| {
            tensors.push((format!("model.layers.{i}.{name}"), shape))
        };
        add("input_layernorm", vec![hidden]);
        add("self_attn.q_proj", vec![heads * head_dim, hidden]);
        add("self_attn.k_proj", vec![kv_heads * head_dim, hidden]);
        add("self_attn.v_proj", vec![kv_heads * head_dim, hidden]);
        add("self_attn.o_proj", vec![hidden, heads * head_dim]);
        add("post_attention_layernorm", vec![hidden]);
        add("mlp.gate_up_proj", vec![2 * ffn, hidden]);
        add("mlp.down_proj", vec![hidden, ffn]);
    }
    tensors.push(("model.norm".into(), vec![hidden]));

    let mut header = Map::new();
    let mut at = 0usize;
    for (name, shape) in &tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] });
        header.insert(format!("{name}.weight"), entry);
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut out = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    // Signs and mantissas are random; magnitudes between 2^-6 and 2^-5.
    let random: Vec<u8> = (0..1u64 << 14)
        .flat_map(|i| ops::philox(1, i))
        .flat_map(|x| {
            [
                (x as u16 & 0x807f) | 0x3c80,
                ((x >> 16) as u16 & 0x807f) | 0x3c80,
            ]
        })
        .flat_map(u16::to_le_bytes)
        .collect();
    let ones: Vec<u8> = [0x3f80u16; 2048]
        .into_iter()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (name, shape) in &tensors {
        let pattern = if name.contains("norm") {
            &ones
        } else {
            &random
        };
        let mut left = 2 * shape.iter().product::<usize>();
        while left > 0 {
            let n = left.min(pattern.len());
            out.write_all(&pattern[..n])?;
            left -= n;
        }
    }
    out.flush()
}
