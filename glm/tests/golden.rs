//! Logits of tiny models against those of the official code, through real files and the normal load
//! path.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{golden, golden_config, golden_shapes, tensor, write_checkpoint};
use glm::architecture::{Architecture, GLM_NAMES, Norm, Residual};
use glm::architecture::{RopeRecipe, RopeRounding, RopeScaling};
use glm::blank::BlankPositions;
use glm::cache::Sequence;
use glm::checkpoint::Checkpoint;
use glm::model::{Chunk, Model, Options, Rows};
use hal::{Buffer, DType, Device, DeviceInfo, ErrorKind, MemoryInfo, Result, Stream, WeightFormat};
use ops::{Accelerator, Act, Context, Half, HostWeight, Mask, RopeLayout};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

/// Golden cases and their `model_type`.
const CASES: [(&str, &str); 3] = [("chatglm3", "chatglm"), ("glm", "glm"), ("glm4", "glm4")];

fn cpu() -> Context {
    let options = backend_cpu::Options {
        threads: Some(2),
        level: None,
    };
    Context::new(backend_cpu::open(&options).unwrap())
}

/// Every operation in f64, rounded once.
fn reference() -> Context {
    Context::new(conformance::reference_device::open())
}

/// In f32, with all rows of logits at once.
fn options() -> Options {
    Options {
        dtype: Some(DType::F32),
        max_logits: 64,
        max_sequences: 4,
        ..Options::default()
    }
}

fn load(context: &Context, folder: &Path, options: &Options) -> Result<Model> {
    let architecture = Architecture::load(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    Model::load(context, &architecture, &checkpoint, options, |_, _| {})
}

/// The files of a case, one or sharded.
fn files(case: &str, model_type: &str, sharded: bool) -> TempDir {
    let (dir, case) = (TempDir::new().unwrap(), golden(case));
    let config = golden_config(&case, model_type);
    write_checkpoint(dir.path(), &golden_shapes(&case), &config, sharded);
    dir
}

fn model(case: &str, model_type: &str, options: &Options) -> Model {
    load(&cpu(), files(case, model_type, false).path(), options).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    let rows = value.as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap())
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

/// Appends `ids` to `sequence`; their logits.
fn step(model: &mut Model, sequence: &mut Sequence, ids: &[u32]) -> Vec<f32> {
    let chunk = Chunk {
        sequence,
        ids,
        positions: None,
    };
    model.forward(&mut [chunk], Rows::All).unwrap();
    model.read_logits().unwrap()
}

fn full(model: &mut Model, ids: &[u32]) -> Vec<f32> {
    let mut sequence = model.sequence();
    step(model, &mut sequence, ids)
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // `max` would drop a NaN.
    let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

#[track_caller]
fn assert_near(a: &[f32], b: &[f32], bound: f32, what: &str) {
    let worst = worst(a, b);
    println!("{what}: worst difference {worst:.2e}, bound {bound:.1e}");
    assert!(worst <= bound, "{what}: {worst:e} > {bound:e}");
}

#[test]
fn logits_are_those_of_the_official_code() {
    for (device, context) in [("cpu", cpu()), ("reference", reference())] {
        for (name, model_type) in CASES {
            for sharded in [false, true] {
                let dir = files(name, model_type, sharded);
                let mut model = load(&context, dir.path(), &options()).unwrap();
                let case = golden(name);
                let got = full(&mut model, &ids(&case["input_ids"]));
                let what = format!("{name} on {device}, sharded: {sharded}");
                assert_near(&got, &floats(&case["logits"]), 2e-4, &what);
            }
        }
    }
}

/// What the first generations do otherwise: layer norms, DeepNorm, rows per head, prefix mask, two
/// position streams. Their containers are read elsewhere; the layers must already be right.
fn first_generation(case: &str, config: &Value) -> Architecture {
    let n = |key: &str| config[key].as_u64().unwrap() as usize;
    let v1 = case.starts_with("chatglm_v1");
    let head_dim = n("hidden_size") / n("num_attention_heads");
    // ChatGLM-6B has √56 whatever its number of layers.
    let alpha = if v1 {
        56.0
    } else {
        2.0 * n("num_layers") as f32
    };
    Architecture {
        model_type: case.to_owned(),
        layers: n("num_layers"),
        hidden: n("hidden_size"),
        heads: n("num_attention_heads"),
        kv_heads: n("num_attention_heads"),
        head_dim,
        ffn: n("inner_hidden_size"),
        vocab: n("vocab_size"),
        context: n("max_sequence_length"),
        norm: Norm::Layer(1e-5),
        residual: Residual::DeepNorm(alpha.sqrt()),
        rope: RopeRecipe {
            layout: RopeLayout::HalfSplit,
            rotary_dim: if v1 { head_dim / 2 } else { head_dim },
            streams: if v1 { 2 } else { 1 },
            base: 10_000.0,
            scaling: RopeScaling::None,
            rounding: RopeRounding::F16Frequencies,
        },
        mask: Mask::Prefix,
        blank: if v1 {
            BlankPositions::TwoStreams
        } else {
            BlankPositions::OneStream
        },
        act: if v1 { Act::GeluTanh } else { Act::GeluErf },
        gate: (!v1).then_some(Half::Second),
        qkv_bias: Some(true),
        dense_bias: true,
        tied: true,
        dtype: DType::F16,
        names: GLM_NAMES,
    }
}

#[test]
fn layers_of_the_first_generations_are_right() {
    let names = [
        "glm130b_gmask",
        "glm130b_mask",
        "chatglm_v1_gmask",
        "chatglm_v1_mask",
        "chatglm_v1_28layers",
    ];
    for name in names {
        let (case, dir) = (golden(name), TempDir::new().unwrap());
        let v1 = name.starts_with("chatglm_v1");
        write_checkpoint(dir.path(), &golden_shapes(&case), &case["config"], false);
        let architecture = first_generation(name, &case["config"]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let mut model = Model::load(&cpu(), &architecture, &checkpoint, &options(), |_, _| {});
        let model = model.as_mut().unwrap();
        let mut sequence = model.sequence();

        let prompt = ids(&case["input_ids"]);
        let prefix = match v1 {
            true => {
                let bos = case["config"]["bos_token_id"].as_u64().unwrap() as u32;
                prompt.iter().position(|&id| id == bos).unwrap()
            }
            false => case["context_visible"].as_u64().unwrap() as usize,
        };
        let positions = |value: &Value| match v1 {
            true => value.as_array().unwrap().iter().flat_map(ids).collect(),
            false => ids(value),
        };
        let mut run = |sequence: &mut Sequence, ids: &[u32], positions: &[u32]| {
            let positions = Some(positions);
            let chunk = Chunk {
                sequence,
                ids,
                positions,
            };
            model.forward(&mut [chunk], Rows::All)?;
            model.read_logits()
        };
        sequence.set_prefix(prefix).unwrap();
        let all = positions(&case["position_ids"]);
        // Tokens of the prefix see each other: a piece of it would silently see less.
        let piece = run(
            &mut sequence,
            &prompt[..2],
            &all[..2 * all.len() / prompt.len()],
        );
        assert_eq!(piece.unwrap_err().kind(), ErrorKind::InvalidArgument);
        let got = run(&mut sequence, &prompt, &all).unwrap();
        assert_near(&got, &floats(&case["logits"]), 2e-4, name);
        if !v1 {
            continue;
        }
        let decode_ids = ids(&case["decode_ids"]);
        let expected = floats(&case["decode_logits"]);
        for (i, id) in decode_ids.iter().enumerate() {
            let got = run(&mut sequence, &[*id], &ids(&case["decode_position_ids"][i])).unwrap();
            let expected = &expected[i * 64..(i + 1) * 64];
            assert_near(&got, expected, 2e-4, &format!("{name}, token {i}"));
        }
    }
}

#[test]
fn decoding_from_the_cache_equals_one_prefill() {
    for (name, model_type) in CASES {
        let mut model = model(
            name,
            model_type,
            &Options {
                page_size: 3,
                ..options()
            },
        );
        // Longer than two pages, so that slots are found across their borders.
        let prompt: Vec<u32> = (0..17).map(|i| (i * 29 + 5) % 64).collect();
        let expected = full(&mut model, &prompt);
        for size in [1, 3] {
            let mut sequence = model.sequence();
            let got: Vec<f32> = prompt
                .chunks(size)
                .flat_map(|chunk| step(&mut model, &mut sequence, chunk))
                .collect();
            assert_near(&got, &expected, 1e-4, &format!("{name}, chunks of {size}"));
            // Rewound, it computes the same again.
            sequence.truncate(7);
            let again = step(&mut model, &mut sequence, &prompt[7..]);
            assert_near(
                &again,
                &expected[7 * 64..],
                1e-4,
                &format!("{name}, rewound"),
            );
        }
    }
}

#[test]
fn a_sequence_does_not_notice_its_neighbours() {
    for (name, model_type) in CASES {
        let mut model = model(name, model_type, &options());
        let (a, b): (Vec<u32>, Vec<u32>) = ((1..12).collect(), (20..25).collect());
        // Two prompts, then a token of one beside a prompt of the other.
        let steps = [(&a[..10], &b[..2]), (&a[10..], &b[2..])];
        let alone = |model: &mut Model, pieces: [&[u32]; 2]| {
            let mut sequence = model.sequence();
            pieces.map(|ids| step(model, &mut sequence, ids)).concat()
        };
        let expected = [
            alone(&mut model, steps.map(|(a, _)| a)),
            alone(&mut model, steps.map(|(_, b)| b)),
        ];
        let (mut s, mut t) = (model.sequence(), model.sequence());
        let mut got = [Vec::new(), Vec::new()];
        for (a, b) in steps {
            let chunk = |sequence, ids| Chunk {
                sequence,
                ids,
                positions: None,
            };
            let mut chunks = [chunk(&mut s, a), chunk(&mut t, b)];
            model.forward(&mut chunks, Rows::All).unwrap();
            let logits = model.read_logits().unwrap();
            let (of_a, of_b) = logits.split_at(a.len() * 64);
            got[0].extend_from_slice(of_a);
            got[1].extend_from_slice(of_b);
        }
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn logits_come_for_the_rows_that_are_asked_for() {
    let mut model = model("glm", "glm", &options());
    let prompt: Vec<u32> = (3..11).collect();
    let all = full(&mut model, &prompt);
    let row = |r: usize| &all[r * 64..(r + 1) * 64];
    let cases: [(Rows<'_>, &[usize]); 5] = [
        (Rows::None, &[]),
        (Rows::Last, &[7]),
        (Rows::Given(&[2, 3, 4]), &[2, 3, 4]),
        (Rows::Given(&[6, 1]), &[6, 1]),
        (Rows::Given(&[]), &[]),
    ];
    for (rows, expected) in cases {
        let mut sequence = model.sequence();
        let chunk = Chunk {
            sequence: &mut sequence,
            ids: &prompt,
            positions: None,
        };
        model.forward(&mut [chunk], rows).unwrap();
        let expected: Vec<f32> = expected.iter().flat_map(|&r| row(r)).copied().collect();
        assert_eq!(model.read_logits().unwrap(), expected, "{rows:?}");
    }
}

#[test]
fn sixteen_bit_activations_stay_within_their_rounding() {
    for dtype in [DType::F16, DType::BF16] {
        for (name, model_type) in CASES {
            if (dtype, name) == (DType::F16, "glm4") {
                continue;
            }
            let sixteen = Options {
                dtype: Some(dtype),
                ..options()
            };
            let prompt = ids(&golden(name)["input_ids"]);
            let expected = full(&mut model(name, model_type, &options()), &prompt);
            let got = full(&mut model(name, model_type, &sixteen), &prompt);
            // The reference device rounds once per operation: what 16-bit storage costs at least. A
            // good kernel rounds elsewhere too, so its errors are other ones, but not of another
            // size.
            let dir = files(name, model_type, false);
            let mut ideal = load(&reference(), dir.path(), &sixteen).unwrap();
            let least = worst(&full(&mut ideal, &prompt), &expected);
            assert_near(&got, &expected, 2.0 * least, &format!("{name} in {dtype}"));
            assert!(worst(&got, &expected) > 1e-6, "{dtype} was not used");
        }
    }
}

/// Writes the case with the layers' matrices replaced by what `format` stands for.
fn write_dequantised(dir: &Path, case: &Value, config: &Value, format: WeightFormat) {
    write_checkpoint(dir, &golden_shapes(case), config, false);
    let quantised = |name: &str, values: Vec<f32>, shape: &[usize]| {
        let inside = name.contains("layers.") && shape.len() == 2;
        if !inside {
            return values;
        }
        let dense = WeightFormat::Dense(DType::F32);
        let (rows, cols) = (shape[0], shape[1]);
        let weight = HostWeight::new(dense, rows, cols, common::le_bytes(&values), vec![]);
        let weight = weight.unwrap();
        let back = weight.convert(format).unwrap().dequantise();
        back.data.iter().map(|&x| x as f32).collect()
    };
    let tensors: Vec<_> = golden_shapes(case)
        .into_iter()
        .map(|(name, shape)| {
            let values = quantised(&name, tensor(&name, &shape), &shape);
            (name, shape, common::le_bytes(&values))
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

#[test]
fn quantised_weights_compute_what_they_stand_for() {
    for format in [WeightFormat::Int8Row, WeightFormat::Int4Row] {
        for (name, model_type) in CASES {
            let (case, dir) = (golden(name), TempDir::new().unwrap());
            let config = golden_config(&case, model_type);
            write_dequantised(dir.path(), &case, &config, format);
            let prompt = ids(&case["input_ids"]);
            let mut expected = load(&cpu(), dir.path(), &options()).unwrap();
            let expected = full(&mut expected, &prompt);
            let quantised = Options {
                weights: Some(format),
                ..options()
            };
            let got = full(&mut model(name, model_type, &quantised), &prompt);
            assert_near(&got, &expected, 1e-3, &format!("{name} in {format}"));
            // The weights really are others than those of the file.
            assert!(worst(&got, &floats(&case["logits"])) > 1e-3, "{format}");
        }
    }
}

#[test]
fn refuses_what_would_go_wrong() {
    let context = cpu();
    let refused = |case: &str, model_type: &str, options: Options| {
        let dir = files(case, model_type, false);
        load(&context, dir.path(), &options).unwrap_err()
    };
    let with = |change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        options
    };
    let e = refused("glm4", "glm4", with(|o| o.dtype = Some(DType::F16)));
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.next().unwrap().contains("bf16 or f32"));
    let e = refused("glm", "glm", with(|o| o.dtype = Some(DType::I8)));
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    let e = refused("glm", "glm", with(|o| o.context = Some(65)));
    assert!(e.to_string().contains("it was made for 64"), "{e}");
    let e = refused("glm", "glm", with(|o| o.page_size = 0));
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    let group = |o: &mut Options| o.weights = Some(WeightFormat::Int4Group(32));
    let e = refused("glm", "glm", with(group));
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(
        e.to_string().contains("layers.0.mlp.down_proj.weight"),
        "{e}"
    );

    let (case, dir) = (golden("glm"), TempDir::new().unwrap());
    let config = golden_config(&case, "glm");
    for (name, change, kind) in [
        ("model.norm.weight", None, ErrorKind::NotFound),
        (
            "model.layers.1.self_attn.q_proj.bias",
            Some(vec![31]),
            ErrorKind::Corrupt,
        ),
        ("lm_head.weight", Some(vec![63, 32]), ErrorKind::Corrupt),
        (
            "model.layers.0.mlp.gate_up_proj.weight",
            Some(vec![48, 32]),
            ErrorKind::Corrupt,
        ),
    ] {
        let mut shapes = golden_shapes(&case);
        let at = shapes.iter().position(|(n, _)| n == name).unwrap();
        match change {
            Some(shape) => shapes[at].1 = shape,
            None => drop(shapes.remove(at)),
        }
        write_checkpoint(dir.path(), &shapes, &config, false);
        let e = load(&context, dir.path(), &options()).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(name) && e.next().is_some(), "{e}");
    }
}

#[test]
fn refuses_batches_beyond_its_limits() {
    let limits = Options {
        max_tokens: 8,
        max_logits: 4,
        max_sequences: 1,
        cache_tokens: Some(16),
        ..options()
    };
    let (mut model, other) = (model("glm", "glm", &limits), model("glm", "glm", &limits));
    let (mut foreign, mut sequence) = (other.sequence(), model.sequence());
    let mut run = |sequence: &mut Sequence, ids: &[u32], rows: Rows<'_>| {
        let chunk = Chunk {
            sequence,
            ids,
            positions: None,
        };
        model.forward(&mut [chunk], rows).map_err(|e| e.kind())
    };
    let invalid = Err(ErrorKind::InvalidArgument);
    assert_eq!(run(&mut foreign, &[1], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[64], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[1; 9], Rows::Last), invalid);
    assert_eq!(run(&mut sequence, &[1; 5], Rows::All), invalid);
    assert_eq!(run(&mut sequence, &[1; 5], Rows::Given(&[5])), invalid);
    assert_eq!(sequence.len(), 0);
    assert_eq!(run(&mut sequence, &[1; 8], Rows::Last), Ok(()));
    assert_eq!(run(&mut sequence, &[1; 8], Rows::None), Ok(()));
    let full = Err(ErrorKind::OutOfMemory);
    assert_eq!(run(&mut sequence, &[1], Rows::Last), full);
    assert_eq!(sequence.len(), 16);
}

/// A device that counts allocations and says how much memory is free.
#[derive(Debug)]
struct Watched {
    device: Arc<dyn Device>,
    free_bytes: usize,
    allocations: AtomicUsize,
}

impl Device for Watched {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn memory(&self) -> Option<MemoryInfo> {
        Some(MemoryInfo {
            total_bytes: self.free_bytes,
            free_bytes: self.free_bytes,
        })
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.device.alloc(bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.device.stream()
    }
}

fn watched(free_bytes: usize) -> (Context, Arc<Watched>) {
    let cpu = backend_cpu::open(&backend_cpu::Options::default()).unwrap();
    let device = Arc::new(Watched {
        device: cpu.device.clone(),
        free_bytes,
        allocations: AtomicUsize::new(0),
    });
    let accelerator = Accelerator {
        device: device.clone(),
        ops: cpu.ops,
    };
    (Context::new(accelerator), device)
}

#[test]
fn asks_for_memory_before_loading_and_never_after() {
    let dir = files("glm", "glm", false);
    let (context, device) = watched(usize::MAX);
    let mut model = load(&context, dir.path(), &options()).unwrap();
    let needed = model.footprint().total();
    let loaded = device.allocations.load(Ordering::Relaxed);
    let mut sequence = model.sequence();
    step(&mut model, &mut sequence, &[1, 2, 3]);
    for id in 0..40 {
        step(&mut model, &mut sequence, &[id]);
    }
    assert_eq!(device.allocations.load(Ordering::Relaxed), loaded);

    let (context, _) = watched(needed);
    load(&context, dir.path(), &options()).unwrap();
    let (context, device) = watched(needed - 1);
    let e = load(&context, dir.path(), &options()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutOfMemory);
    assert!(e.to_string().contains("MiB are needed"), "{e}");
    assert!(e.next().unwrap().contains("int4"));
    assert_eq!(device.allocations.load(Ordering::Relaxed), 0);
}

#[test]
fn progress_ends_at_the_announced_total() {
    let dir = files("chatglm3", "chatglm", false);
    let architecture = Architecture::load(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut heard = Vec::new();
    let progress = |done, total| heard.push((done, total));
    let model = Model::load(&cpu(), &architecture, &checkpoint, &options(), progress).unwrap();
    let total = model.footprint().weights;
    assert_eq!(total as u64, checkpoint.total_bytes());
    assert!(heard.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 == total));
    assert_eq!(heard.last(), Some(&(total, total)));
}
