//! GGUF files: those that llama.cpp's own package wrote, golden models, blocks, damaged files.

use std::path::Path;

use crate::common::gguf::{F16, F32, Meta, Tensor, meta, write};
use crate::common::{golden, golden_config, golden_shapes, le_bytes, tensor};
use glm::architecture::{Architecture, Position, RopeScaling};
use glm::checkpoint::{Block, Checkpoint, StoredType};
use glm::inspect::inspect;
use glm::model::{Chunk, Model, Options, Rows};
use glm::prompt::ChatForm;
use glm::source::ModelSource;
use glm::tokenizer::Vocabulary;
use glm::tokenizer::chatglm::{CHATGLM3_SPECIALS, ChatGlm};
use glm::tokenizer::rank_bpe::{GLM4_SPECIALS, RankBpe};
use hal::{DType, ErrorKind, WeightFormat};
use half::f16;
use ops::Context;
use proptest::prelude::*;
use serde_json::Value;

const DENSE: WeightFormat = WeightFormat::Dense(DType::F32);

fn vector(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn cpu() -> Context {
    let options = backend_cpu::Options {
        threads: Some(2),
        ..backend_cpu::Options::default()
    };
    Context::new(backend_cpu::open(&options).unwrap())
}

/// A model in a file.
struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new(metadata: &[(String, Meta)], tensors: &[Tensor]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.gguf"), write(metadata, tensors)).unwrap();
        Self { dir }
    }

    fn source(&self) -> ModelSource {
        ModelSource::Folder(self.dir.path().join("model.gguf"))
    }

    fn checkpoint(&self) -> Checkpoint {
        self.source().checkpoint().unwrap()
    }

    fn logits(&self, options: Options, ids: &[u32]) -> Vec<f32> {
        let architecture = self.source().architecture().unwrap();
        logits(&architecture, &self.checkpoint(), options, ids)
    }
}

fn logits(a: &Architecture, checkpoint: &Checkpoint, options: Options, ids: &[u32]) -> Vec<f32> {
    let options = Options {
        max_logits: 64,
        ..options
    };
    let mut model = Model::load(&cpu(), a, checkpoint, &options, |_, _| {}).unwrap();
    let mut sequence = model.sequence();
    let chunk = Chunk {
        sequence: &mut sequence,
        ids,
        positions: None,
    };
    model.forward(&mut [chunk], Rows::All).unwrap();
    model.read_logits().unwrap()
}

fn in_f32() -> Options {
    Options {
        dtype: Some(DType::F32),
        weights: Some(DENSE),
        tables: Some(DENSE),
        ..Options::default()
    }
}

#[track_caller]
fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

fn rms(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len() as f32;
    (values.map(|x| x * x).sum::<f32>() / count).sqrt()
}

/// How far logits are from those wanted, in their root mean square.
#[track_caller]
fn distance(got: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(got.len(), wanted.len());
    let gaps = got.iter().zip(wanted).map(|(a, b)| a - b);
    rms(gaps) / rms(wanted.iter().copied())
}

#[test]
fn blocks_have_the_values_of_the_original() {
    let checkpoint = Checkpoint::from_bytes(vector("gguf/blocks.gguf")).unwrap();
    let mut values = &f32s(&vector("gguf/blocks.f32"))[..];
    for name in [
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "f32", "f16",
    ] {
        let stored = checkpoint.tensor(&format!("{name}.weight")).unwrap();
        assert_eq!(stored.dtype.to_string(), name);
        let got = stored.to_f32().unwrap();
        let (wanted, rest) = values.split_at(got.len());
        assert_eq!(got, wanted, "{name}");
        values = rest;

        let StoredType::Blocks(block) = *stored.dtype else {
            continue;
        };
        let cols = stored.shape[1];
        let weight = checkpoint.linear(name, cols).unwrap();
        assert_eq!(weight.format, block.runs_as());
        let exact = matches!(block, Block::Q4_0 | Block::Q5_0 | Block::Q8_0);
        let run = weight.dequantise();
        for (i, &value) in wanted.iter().enumerate() {
            let group = &wanted[i / 32 * 32..][..32];
            let largest = group.iter().fold(0f32, |m, x| m.max(x.abs()));
            let bound = match exact {
                true => 0.0,
                false => f64::from(largest) / 254.0 * (1.0 + 0.001),
            };
            let gap = (run.data[i] - f64::from(value)).abs();
            assert!(gap <= bound, "{name} [{i}]: {gap:e} > {bound:e}");
        }
        let dense = checkpoint.linear_in(name, cols, DENSE).unwrap();
        assert_eq!(f32s(&dense.data), wanted, "{name}");
    }
    assert!(values.is_empty());
}

/// The name that llama.cpp gives a tensor, by its converters.
fn ggml_name(name: &str) -> String {
    let mut name = name.to_owned();
    for (ours, theirs) in [
        ("transformer.embedding.word_embeddings", "token_embd"),
        ("transformer.encoder.final_layernorm", "output_norm"),
        ("transformer.output_layer", "output"),
        ("transformer.encoder.layers.", "blk."),
        ("self_attention.query_key_value", "attn_qkv"),
        ("self_attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_self_attn_layernorm", "post_attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("post_mlp_layernorm", "post_ffw_norm"),
    ] {
        name = name.replace(ours, theirs);
    }
    name
}

/// What the converters write of a configuration.
fn metadata(arch: &str, config: &Value) -> Vec<(String, Meta)> {
    let n = |keys: [&str; 2]| {
        let found = keys.iter().find_map(|key| config[key].as_u64());
        found.unwrap_or_else(|| panic!("{keys:?}")) as u32
    };
    let x = |keys: [&str; 2], default: f64| {
        let found = keys.iter().find_map(|key| config[key].as_f64());
        found.unwrap_or(default) as f32
    };
    let heads = n(["num_attention_heads", ""]);
    let hidden = n(["hidden_size", ""]);
    let head_dim = config["head_dim"]
        .as_u64()
        .or(config["kv_channels"].as_u64());
    let head_dim = head_dim.map_or(hidden / heads, |n| n as u32);
    let key = |name: &str| format!("{arch}.{name}");
    vec![
        meta("general.architecture", arch),
        (
            key("block_count"),
            n(["num_layers", "num_hidden_layers"]).into(),
        ),
        (key("context_length"), 128.into()),
        (key("embedding_length"), hidden.into()),
        (
            key("feed_forward_length"),
            n(["ffn_hidden_size", "intermediate_size"]).into(),
        ),
        (key("attention.head_count"), heads.into()),
        (
            key("attention.head_count_kv"),
            n(["multi_query_group_num", "num_key_value_heads"]).into(),
        ),
        (key("attention.key_length"), head_dim.into()),
        (
            key("attention.layer_norm_rms_epsilon"),
            x(["layernorm_epsilon", "rms_norm_eps"], 1.5625e-7).into(),
        ),
        (key("rope.dimension_count"), (head_dim / 2).into()),
        (
            key("rope.freq_base"),
            x(
                ["rope_theta", ""],
                10_000.0 * f64::from(x(["rope_ratio", ""], 1.0)),
            )
            .into(),
        ),
        meta("tokenizer.ggml.eos_token_id", 2),
    ]
}

/// The tensors of a golden case, matrices in f32 or f16.
fn golden_tensors(case: &Value, matrices: u32) -> Vec<Tensor> {
    let shapes = golden_shapes(case).into_iter();
    let tensors = shapes.map(|(name, shape)| {
        let values = tensor(&name, &shape);
        let (kind, data) = match matrices == F16 && shape.len() == 2 {
            true => {
                let halves = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
                (F16, halves.collect())
            }
            false => (F32, le_bytes(&values)),
        };
        (ggml_name(&name), shape, kind, data)
    });
    tensors.collect()
}

fn ids(case: &Value) -> Vec<u32> {
    let ids = case["input_ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

const CASES: [(&str, &str, &str); 3] = [
    ("chatglm3", "chatglm", "chatglm"),
    ("glm", "glm", "chatglm"),
    ("glm4", "glm4", "glm4"),
];

#[test]
fn logits_of_golden_models_are_those_of_the_official_code() {
    for (name, model_type, arch) in CASES {
        let case = golden(name);
        let config = golden_config(&case, model_type);
        let wanted: Vec<f32> = case["logits"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|x| x.as_f64().unwrap() as f32)
            .collect();
        for (matrices, bound) in [(F32, 2e-4), (F16, 2e-2)] {
            let tensors = golden_tensors(&case, matrices);
            let file = File::new(&metadata(arch, &config), &tensors);
            let got = file.logits(in_f32(), &ids(&case));
            let gap = worst(&got, &wanted);
            println!("{name} in type {matrices}: {gap:e}");
            assert!(gap <= bound, "{name} in type {matrices}: {gap:e}");

            let facts = inspect(&file.source()).unwrap();
            assert!(facts.missing.is_empty(), "{:?}", facts.missing);
            assert!(facts.unexpected.is_empty(), "{:?}", facts.unexpected);
            assert!(facts.misshapen.is_empty(), "{:?}", facts.misshapen);
            assert_eq!(facts.generation.unwrap().eos_ids, [2]);
        }
    }
}

#[test]
fn a_model_may_lie_in_several_files_or_alone_in_a_folder() {
    let case = golden("glm4");
    let config = golden_config(&case, "glm4");
    let (metadata, tensors) = (metadata("glm4", &config), golden_tensors(&case, F32));
    let whole = File::new(&metadata, &tensors);
    let wanted = whole.logits(in_f32(), &ids(&case));
    let folder = Checkpoint::open(whole.dir.path()).unwrap();
    assert_eq!(folder.names().len(), tensors.len());

    let split = |no: u32, count: u32| {
        let (count, tensors) = (
            meta("split.count", count),
            meta("split.tensors.count", tensors.len() as u32),
        );
        vec![meta("split.no", no), count, tensors]
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |i: usize| dir.path().join(format!("m-{i:05}-of-00002.gguf"));
    let (first, second) = tensors.split_at(5);
    let with = [metadata.clone(), split(0, 2)].concat();
    std::fs::write(path(1), write(&with, first)).unwrap();
    std::fs::write(path(2), write(&split(1, 2), second)).unwrap();
    for source in [dir.path().to_path_buf(), path(1), path(2)] {
        let source = ModelSource::Folder(source);
        let architecture = source.architecture().unwrap();
        let checkpoint = source.checkpoint().unwrap();
        assert_eq!(
            logits(&architecture, &checkpoint, in_f32(), &ids(&case)),
            wanted
        );
    }

    // In the wrong order, of another model, not all there, two models.
    std::fs::write(path(2), write(&split(0, 2), second)).unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err();
    assert!(e.to_string().contains("split.no"), "{e}");
    std::fs::write(path(2), write(&split(1, 2), &second[1..])).unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err();
    assert!(e.to_string().contains("split.tensors.count"), "{e}");
    std::fs::write(dir.path().join("other.gguf"), "").unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err();
    assert!(e.to_string().contains("2 models"), "{e}");
    std::fs::remove_file(path(2)).unwrap();
    let e = Checkpoint::open(&path(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    let alone = Checkpoint::from_bytes(write(&with, first)).unwrap_err();
    assert!(alone.to_string().contains("split.count"), "{alone}");
}

/// A generator for bytes of blocks.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z ^ (z >> 27)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }
}

/// Number of a type, bytes of a block, columns of it, and where its f16 numbers lie.
const TYPES: [(u32, usize, usize, &[usize]); 8] = [
    (2, 18, 32, &[0]),
    (3, 20, 32, &[0, 2]),
    (6, 22, 32, &[0]),
    (7, 24, 32, &[0, 2]),
    (8, 34, 32, &[0]),
    (12, 144, 256, &[0, 2]),
    (13, 176, 256, &[0, 2]),
    (14, 210, 256, &[208]),
];

/// Random blocks of type `kind` and their values, decoded bit by bit in f64.
fn random_blocks(kind: u32, elements: usize, random: &mut Random) -> (Vec<u8>, Vec<f64>) {
    let (_, size, cols, halves) = TYPES.into_iter().find(|t| t.0 == kind).unwrap();
    let (mut data, mut values) = (Vec::new(), Vec::new());
    for _ in 0..elements / cols {
        let mut block: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        for (i, &at) in halves.iter().enumerate() {
            // Scales of real weights: values of some tenths.
            let unit = match (kind, i) {
                (8, _) => 0.0015,
                (12 | 13, 1) => 0.002,
                (12..=14, _) => 0.0002,
                (_, 1) => -0.15,
                _ => 0.02,
            };
            let scale = f16::from_f64(unit * (1.0 + (random.below(100) as f64) / 200.0));
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        values.extend((0..cols).map(|c| decode(kind, &block, c)));
        data.extend(block);
    }
    (data, values)
}

fn decode(kind: u32, b: &[u8], c: usize) -> f64 {
    let half = |at: usize| f64::from(f16::from_le_bytes([b[at], b[at + 1]]).to_f32());
    let bits = |from: usize, count: usize| -> i32 {
        let bit = |i: usize| i32::from(b[(from + i) / 8] >> ((from + i) % 8) & 1);
        (0..count).map(|i| bit(i) << i).sum()
    };
    // Bit of the nibble of column `c` in blocks of 32 whose integers start at byte `at`.
    let nibble = |at: usize| bits(8 * (at + c % 16) + 4 * (c / 16), 4);
    let group = c / 32;
    // The 6-bit numbers of the K blocks: eight scales, eight offsets.
    let six = |offset: bool| {
        let s = 8 * 4;
        let (lower, upper) = (s, s + 8 * 8);
        let part = lower + if offset { 32 } else { 0 };
        match group {
            0..4 => bits(part + 8 * group, 6),
            _ => {
                let low = bits(upper + 8 * (group - 4) + if offset { 4 } else { 0 }, 4);
                low + 16 * bits(part + 8 * (group - 4) + 6, 2)
            }
        }
    };
    let k_nibble = |at: usize| bits(8 * (at + c / 64 * 32 + c % 32) + 4 * (group % 2), 4);
    match kind {
        2 => half(0) * f64::from(nibble(2) - 8),
        3 => half(0) * f64::from(nibble(4)) + half(2),
        6 => half(0) * f64::from(nibble(6) + 16 * bits(8 * 2 + c, 1) - 16),
        7 => half(0) * f64::from(nibble(8) + 16 * bits(8 * 4 + c, 1)) + half(2),
        8 => half(0) * f64::from(b[2 + c] as i8),
        12 => half(0) * f64::from(six(false) * k_nibble(16)) - half(2) * f64::from(six(true)),
        13 => {
            let q = k_nibble(48) + 16 * bits(8 * (16 + c % 32) + group, 1);
            half(0) * f64::from(six(false) * q) - half(2) * f64::from(six(true))
        }
        14 => {
            let (part, quarter) = (c / 128, c / 32 % 4);
            let low = bits(
                8 * (64 * part + 32 * (quarter % 2) + c % 32) + 4 * (quarter / 2),
                4,
            );
            let high = bits(8 * (128 + 32 * part + c % 32) + 2 * quarter, 2);
            let q = low + 16 * high - 32;
            half(208) * f64::from(b[192 + c / 16] as i8) * f64::from(q)
        }
        _ => unreachable!(),
    }
}

/// A `glm4` of one layer whose matrices are blocks of the types that `kind` gives, and the same in
/// f32 as the test decodes it.
fn quantised(kind: impl Fn(&str) -> u32) -> [File; 2] {
    let config = serde_json::json!({
        "num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 256,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "rms_norm_eps": 1e-5
    });
    let mut random = Random(5);
    let mut stored = Vec::new();
    let mut dense = Vec::new();
    let mut add = |name: &str, shape: &[usize]| {
        let kind = kind(name);
        let elements = shape.iter().product();
        if shape.len() == 1 {
            let values = le_bytes(&tensor(name, shape));
            stored.push((name.to_owned(), shape.to_vec(), F32, values.clone()));
            dense.push((name.to_owned(), shape.to_vec(), F32, values));
            return;
        }
        let (data, values) = random_blocks(kind, elements, &mut random);
        let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
        stored.push((name.to_owned(), shape.to_vec(), kind, data));
        dense.push((name.to_owned(), shape.to_vec(), F32, le_bytes(&values)));
    };
    add("token_embd.weight", &[40, 256]);
    add("output.weight", &[40, 256]);
    add("output_norm.weight", &[256]);
    for (name, shape) in [
        ("attn_norm", &[256][..]),
        ("attn_q", &[256, 256]),
        ("attn_k", &[128, 256]),
        ("attn_v", &[128, 256]),
        ("attn_output", &[256, 256]),
        ("post_attention_norm", &[256]),
        ("ffn_norm", &[256]),
        ("ffn_up", &[512, 256]),
        ("ffn_down", &[256, 256]),
        ("post_ffw_norm", &[256]),
    ] {
        add(&format!("blk.0.{name}.weight"), shape);
    }
    let metadata = metadata("glm4", &config);
    [File::new(&metadata, &stored), File::new(&metadata, &dense)]
}

#[test]
fn quantised_models_compute_what_their_blocks_say() {
    let ids: Vec<u32> = (0..12).map(|i| i * 7 % 40).collect();
    for (kind, ..) in TYPES {
        let [stored, dense] = quantised(|_| kind);
        let wanted = dense.logits(in_f32(), &ids);
        let rms = rms(wanted.iter().copied());
        let gap = worst(&stored.logits(in_f32(), &ids), &wanted);
        println!("type {kind}: rms {rms}, in f32 {gap:e}");
        assert!(gap <= 1e-4 * rms.max(1.0), "type {kind} in f32: {gap:e}");

        // As it runs: exact weights, or half a step of 8 bits, in f32 sums.
        let as_stored = Options {
            dtype: Some(DType::F32),
            ..Options::default()
        };
        let gap = distance(&stored.logits(as_stored, &ids), &wanted);
        println!("type {kind}: as it runs {gap:e}");
        let bound = if matches!(kind, 2 | 6 | 8) {
            1e-5
        } else {
            0.03
        };
        assert!(gap <= bound, "type {kind} as it runs: {gap:e}");

        // In the type of the configuration and in every other format: it loads and is finite.
        for weights in WeightFormat::ALL {
            let options = Options {
                weights: Some(weights),
                ..Options::default()
            };
            let got = stored.logits(options, &ids);
            assert!(
                got.iter().all(|x| x.is_finite()),
                "type {kind} in {weights}"
            );
        }
    }
}

#[test]
fn parts_of_attention_may_have_different_blocks() {
    let ids: Vec<u32> = (0..9).collect();
    // As llama.cpp mixes them: more bits for values, output layer and the second matrix.
    let kind = |name: &str| match name {
        "token_embd.weight" => 12,
        "output.weight" | "blk.0.attn_v.weight" => 14,
        "blk.0.attn_k.weight" => 2,
        "blk.0.ffn_down.weight" => 6,
        _ => 12,
    };
    let [stored, dense] = quantised(kind);
    let wanted = dense.logits(in_f32(), &ids);
    let rms = rms(wanted.iter().copied());
    let options = Options {
        dtype: Some(DType::F32),
        ..Options::default()
    };
    let gap = distance(&stored.logits(options, &ids), &wanted);
    assert!(gap <= 0.03, "{gap:e}");
    let facts = inspect(&stored.source()).unwrap();
    assert_eq!(facts.weights, "mixed");
    let q = |name: &str| facts.tensors.iter().find(|t| t.name == name).unwrap();
    let v = q("model.layers.0.self_attn.v_proj.weight");
    assert_eq!(
        (v.dtype.as_str(), v.runs_as.as_deref()),
        ("q6_k", Some("int8-g32"))
    );
    let k = q("model.layers.0.self_attn.k_proj.weight");
    assert_eq!(k.runs_as.as_deref(), Some("int4-g32"));

    let dir = tempfile::tempdir().unwrap();
    let ModelSource::Folder(path) = stored.source() else {
        unreachable!()
    };
    for (i, format) in [None, Some(DENSE), Some(WeightFormat::Int4Group(64))]
        .into_iter()
        .enumerate()
    {
        let target = dir.path().join(i.to_string());
        glm::convert::convert(&path, &target, format).unwrap();
        let source = ModelSource::Folder(target);
        let (a, checkpoint) = (source.architecture().unwrap(), source.checkpoint().unwrap());
        let options = || Options {
            dtype: Some(DType::F32),
            weights: format,
            tables: format.filter(|f| *f == DENSE),
            ..Options::default()
        };
        let wanted = stored.logits(options(), &ids);
        let got = logits(&a, &checkpoint, options(), &ids);
        assert!(worst(&got, &wanted) <= 1e-4 * rms.max(1.0), "{format:?}");
    }
}

#[test]
fn damaged_files_are_errors_that_say_where() {
    let good = |metadata: &[(String, Meta)]| {
        let tensors = [
            ("a.weight".to_owned(), vec![2, 32], 8, vec![0; 68]),
            ("b".to_owned(), vec![8], F32, vec![0; 32]),
        ];
        write(metadata, &tensors)
    };
    let plain = good(&[]);
    assert_eq!(
        Checkpoint::from_bytes(plain.clone()).unwrap().total_bytes(),
        100
    );
    let patch = |at: usize, bytes: &[u8]| {
        let mut file = plain.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // The table starts at byte 24: name 8 + 8, dims 4, 2 lengths, type, offset.
    let (cols, kind, offset) = (24 + 16 + 4, 24 + 16 + 4 + 16, 24 + 16 + 4 + 16 + 4);
    let second_name = offset + 8 + 8;
    let raw = |value_type: u32, value: &[u8]| {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend([0u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
        file.extend(1u64.to_le_bytes());
        file.push(b'k');
        file.extend(value_type.to_le_bytes());
        file.extend(value);
        file
    };
    let nested = |depth: usize| {
        let mut value = Vec::new();
        for _ in 0..depth {
            value.extend(9u32.to_le_bytes());
            value.extend(1u64.to_le_bytes());
        }
        raw(9, &value)
    };
    let huge_list = [&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    let long_text = [&(u64::MAX - 4).to_le_bytes()[..], b"x"].concat();
    use ErrorKind::{Corrupt, Unsupported};
    let max = u64::MAX.to_le_bytes();
    let cases: Vec<(&str, ErrorKind, Vec<u8>)> = vec![
        ("version has 4 bytes", Corrupt, b"GGUF".to_vec()),
        ("version 1 of GGUF", Unsupported, patch(4, &[1])),
        ("version 4 of GGUF", Unsupported, patch(4, &[4])),
        ("big-endian", Unsupported, patch(4, &[0, 0, 0, 3])),
        ("tensors; ", Corrupt, patch(8, &max)),
        ("keys; ", Corrupt, patch(16, &max)),
        (
            "alignment is 0",
            Corrupt,
            good(&[meta("general.alignment", 0)]),
        ),
        (
            "alignment is 48",
            Corrupt,
            good(&[meta("general.alignment", 48)]),
        ),
        (
            "alignment is 1073741824",
            Corrupt,
            good(&[meta("general.alignment", 1 << 30)]),
        ),
        (
            "`general.alignment`: it is not",
            Corrupt,
            good(&[meta("general.alignment", "32")]),
        ),
        (
            "key `k` is there twice",
            Corrupt,
            good(&[meta("k", 1), meta("k", 2)]),
        ),
        ("its name has", Corrupt, patch(24, &max)),
        ("not UTF-8", Corrupt, patch(32, &[0xff])),
        ("has 9 dimensions", Corrupt, patch(40, &[9])),
        ("`a.weight`: rows of 33", Corrupt, patch(cols, &[33])),
        (
            "beyond all memory",
            Corrupt,
            patch(cols + 8, &(1u64 << 60).to_le_bytes()),
        ),
        (
            "`a.weight` is of type Q2_K",
            Unsupported,
            patch(kind, &[10]),
        ),
        ("is of type 200, which", Unsupported, patch(kind, &[200])),
        ("no multiple of 32", Corrupt, patch(offset, &[1])),
        (
            "`a.weight`: 68 bytes at 18446744073709551584",
            Corrupt,
            patch(offset, &(u64::MAX - 31).to_le_bytes()),
        ),
        (
            "overlap",
            Corrupt,
            patch(second_name + 1 + 4 + 8 + 4, &[32]),
        ),
        ("truncated", Corrupt, plain[..plain.len() - 1].to_vec()),
        ("`a.weight` is there twice", Corrupt, {
            let one = |n: &str| (n.to_owned(), vec![1], F32, vec![0; 4]);
            write(&[], &[one("a.weight"), one("a.weight")])
        }),
        ("type 13", Corrupt, raw(13, &[0; 8])),
        ("neither false nor true", Corrupt, raw(7, &[2])),
        (
            "a list of 18446744073709551615",
            Corrupt,
            raw(9, &huge_list),
        ),
        ("its value has", Corrupt, raw(8, &long_text)),
        ("deep", Corrupt, nested(10)),
    ];
    assert_eq!(plain[second_name], b'b');
    for (wanted, kind, file) in cases {
        let e = Checkpoint::from_bytes(file).unwrap_err();
        assert!(e.to_string().contains(wanted), "{wanted}: {e}");
        assert_eq!(e.kind(), kind, "{wanted}: {e}");
        assert!(e.next().is_some(), "{e}");
    }
}

#[test]
fn configurations_that_no_model_has_are_refused() {
    let case = golden("glm4");
    let config = golden_config(&case, "glm4");
    type Change<'a> = &'a dyn Fn(&mut Vec<(String, Meta)>);
    let error = |change: Change<'_>| {
        let mut metadata = metadata("glm4", &config);
        change(&mut metadata);
        let file = File::new(&metadata, &golden_tensors(&case, F32));
        file.source().architecture().unwrap_err().to_string()
    };
    let set = |m: &mut Vec<(String, Meta)>, key: &str, value: Meta| {
        m.retain(|(k, _)| k != key);
        m.push((key.to_owned(), value));
    };
    let e = error(&|m| set(m, "general.architecture", "llama".into()));
    assert!(e.contains("architecture `llama`"), "{e}");
    let e = error(&|m| m.retain(|(key, _)| key != "glm4.block_count"));
    assert!(e.contains("`glm4.block_count`: it is missing"), "{e}");
    let e = error(&|m| set(m, "glm4.block_count", "two".into()));
    assert!(e.contains("not a whole number"), "{e}");
    let e = error(&|m| {
        set(
            m,
            "glm4.rope.dimension_sections",
            Meta::I32s(vec![8, 12, 12]),
        )
    });
    assert!(e.contains("images"), "{e}");
    let e = error(&|m| set(m, "glm4.rope.dimension_count", 0.into()));
    assert!(e.contains("partial_rotary_factor"), "{e}");
    let e = error(&|m| set(m, "glm4.attention.head_count", 0.into()));
    assert!(e.contains("num_attention_heads"), "{e}");

    let mut yarn = metadata("glm4", &config);
    yarn.extend([
        meta("glm4.rope.scaling.type", "yarn"),
        meta("glm4.rope.scaling.factor", 4.0),
        meta("glm4.rope.scaling.original_context_length", 32768),
    ]);
    let file = File::new(&yarn, &golden_tensors(&case, F32));
    let Position::Rope(rope) = file.source().architecture().unwrap().position else {
        panic!("its positions are learned");
    };
    assert_eq!(
        rope.scaling,
        RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32768
        }
    );
}

/// GPT-2's visible characters of bytes.
fn visible(bytes: &[u8]) -> String {
    let shown = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u8> = (0..=255).filter(|b| !shown(*b)).collect();
    let character = |b: &u8| match hidden.iter().position(|h| h == b) {
        Some(i) => char::from_u32(256 + i as u32).unwrap(),
        None => char::from(*b),
    };
    bytes.iter().map(character).collect()
}

fn base64(text: &str) -> Vec<u8> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut have, mut out) = (0u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | digits.iter().position(|d| *d == c).unwrap() as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    out
}

/// The metadata of a rank vocabulary: rules recovered by merging each token below its own rank.
fn metadata_of_ranks(ranks: &str) -> Vec<(String, Meta)> {
    let mut tokens: Vec<(usize, Vec<u8>)> = ranks
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(token, rank)| (rank.trim().parse().unwrap(), base64(token)))
        .collect();
    tokens.sort();
    let rank = |token: &[u8]| tokens.iter().position(|(_, t)| t == token);
    let mut merges = Vec::new();
    for (own, token) in tokens.iter().filter(|(_, token)| token.len() > 1) {
        let mut parts: Vec<Vec<u8>> = token.iter().map(|b| vec![*b]).collect();
        while parts.len() > 2 {
            let pairs = parts.windows(2).enumerate();
            let ranks = pairs.filter_map(|(i, p)| Some((rank(&p.concat())?, i)));
            let Some((best, i)) = ranks.min().filter(|(best, _)| best < own) else {
                break;
            };
            assert!(best < *own);
            let right = parts.remove(i + 1);
            parts[i].extend(right);
        }
        assert_eq!(parts.len(), 2, "a token that merging does not make");
        merges.push(format!("{} {}", visible(&parts[0]), visible(&parts[1])));
    }
    let mut texts: Vec<String> = tokens.iter().map(|(_, token)| visible(token)).collect();
    let mut types = vec![1; texts.len()];
    texts.extend(GLM4_SPECIALS.iter().map(ToString::to_string));
    types.resize(texts.len(), 3);
    texts.extend(["<think>".to_owned(), "[PAD999]".to_owned()]);
    types.extend([4, 5]);
    vec![
        meta("tokenizer.ggml.model", "gpt2"),
        meta("tokenizer.ggml.pre", "glm4"),
        ("tokenizer.ggml.tokens".to_owned(), Meta::Texts(texts)),
        ("tokenizer.ggml.token_type".to_owned(), Meta::I32s(types)),
        ("tokenizer.ggml.merges".to_owned(), Meta::Texts(merges)),
        meta(
            "tokenizer.chat_template",
            "{{ eos_token }}{{ messages[0].content }}",
        ),
        meta("tokenizer.ggml.eos_token_id", tokens.len() as u32),
    ]
}

#[test]
fn a_vocabulary_of_rules_gives_the_ids_of_its_ranks() {
    let text = String::from_utf8(vector("ranks.txt")).unwrap();
    let ranks = RankBpe::from_bytes("ranks.txt", text.as_bytes(), GLM4_SPECIALS).unwrap();
    let file = File::new(&metadata_of_ranks(&text), &[]);
    let tokenizer = file.source().tokenizer().unwrap();
    for name in GLM4_SPECIALS {
        assert_eq!(tokenizer.special(name), ranks.special(name), "{name}");
    }
    let think = ranks.vocab_size() as u32;
    let whole = tokenizer.encode("a<think>b").unwrap();
    let parts = [ranks.encode("a"), vec![think], ranks.encode("b")].concat();
    assert_eq!(whole, parts);
    assert_eq!(tokenizer.decode(&whole, true).unwrap(), "a<think>b");

    let all: Value = serde_json::from_slice(&vector("vectors.json")).unwrap();
    for text in all["texts"].as_array().unwrap() {
        let text = text.as_str().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, ranks.encode(text), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    let config = ProptestConfig::with_cases(300);
    proptest!(config, |(text in "([a-e ]|the|你好|[0-9]|\\PC|\n){0,60}")| {
        prop_assert_eq!(tokenizer.encode(&text).unwrap(), ranks.encode(&text));
    });

    let ChatForm::Template(template) = file.source().chat_form(&tokenizer).unwrap() else {
        panic!("it has a template");
    };
    assert_eq!(template.text(), "{{ eos_token }}{{ messages[0].content }}");
    let options = glm::prompt::ChatOptions::default();
    let message = glm::prompt::Message::new("user", "hi");
    let rendered = template.render(&[message], &options).unwrap();
    assert_eq!(rendered, "<|endoftext|>hi");
}

#[test]
fn a_converted_file_keeps_tokenizer_and_template() {
    let text = String::from_utf8(vector("ranks.txt")).unwrap();
    let case = golden("chatglm3");
    let of_model = metadata("chatglm", &golden_config(&case, "chatglm"));
    let of_tokens = metadata_of_ranks(&text);
    let is_of_tokens = |key: &str| of_tokens.iter().any(|(other, _)| other == key);
    let of_model: Vec<_> = of_model
        .into_iter()
        .filter(|(key, _)| !is_of_tokens(key))
        .collect();
    let tensors = golden_tensors(&case, F32);
    let file = File::new(&[of_model.clone(), of_tokens].concat(), &tensors);
    let ModelSource::Folder(path) = file.source() else {
        unreachable!()
    };
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("converted");
    assert!(
        glm::convert::convert(&path, &target, None)
            .unwrap()
            .tokenizer
    );

    let (source, converted) = (file.source(), ModelSource::Folder(target));
    let (from, to) = (source.tokenizer().unwrap(), converted.tokenizer().unwrap());
    let by_id = |t: &glm::tokenizer::Tokenizer| {
        let mut all: Vec<_> = t.specials().map(|(n, id)| (id, n.to_owned())).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(by_id(&from), by_id(&to));
    let config = ProptestConfig::with_cases(300);
    proptest!(config, |(text in "([a-e ]|the|it's|你好|[0-9]|<think>|\\PC|\n|\t){0,60}")| {
        let ids = from.encode(&text).unwrap();
        prop_assert_eq!(&to.encode(&text).unwrap(), &ids);
        prop_assert_eq!(to.decode(&ids, false).unwrap(), from.decode(&ids, false).unwrap());
    });
    let rendered = |source: &ModelSource, tokenizer| match source.chat_form(tokenizer).unwrap() {
        ChatForm::Template(template) => {
            let message = glm::prompt::Message::new("user", "hi");
            template.render(&[message], &glm::prompt::ChatOptions::default())
        }
        other => panic!("{other:?}"),
    };
    let (wanted, got) = (rendered(&source, &from), rendered(&converted, &to));
    assert_eq!(got.unwrap(), wanted.unwrap());

    let bare = File::new(&of_model, &tensors);
    let ModelSource::Folder(path) = bare.source() else {
        unreachable!()
    };
    let report = glm::convert::convert(&path, &dir.path().join("bare"), None).unwrap();
    assert!(!report.tokenizer);
}

/// Text, score and type of each piece of a SentencePiece model: field 1 of its message.
fn pieces(model: &[u8]) -> Vec<(String, f32, i32)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value;
            }
        }
    }
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let (value, length) = match tag & 7 {
                0 => (varint(&mut bytes), 0),
                5 => (0, 4),
                1 => (0, 8),
                _ => (0, varint(&mut bytes) as usize),
            };
            let (data, rest) = bytes.split_at(length);
            fields.push((tag >> 3, value, data));
            bytes = rest;
        }
        fields
    }
    let of_model = fields(model).into_iter().filter(|f| f.0 == 1);
    let pieces = of_model.map(|(_, _, piece)| {
        let mut found = (String::new(), 0.0, 1);
        for (number, value, data) in fields(piece) {
            match number {
                1 => found.0 = String::from_utf8(data.to_vec()).unwrap(),
                2 => found.1 = f32::from_le_bytes(data.try_into().unwrap()),
                _ => found.2 = value as i32,
            }
        }
        found
    });
    pieces.collect()
}

#[test]
fn pieces_give_the_ids_of_their_model() {
    let model = vector("bpe.model");
    let original = ChatGlm::from_bytes("bpe.model", &model, CHATGLM3_SPECIALS).unwrap();
    let (mut texts, mut scores, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for (text, score, kind) in pieces(&model) {
        texts.push(text);
        scores.push(score);
        types.push(kind);
    }
    texts.extend(CHATGLM3_SPECIALS.iter().map(ToString::to_string));
    texts.push("[PAD1]".to_owned());
    types.resize(texts.len() - 1, 3);
    types.push(5);
    scores.resize(texts.len(), 0.0);
    let file = File::new(
        &[
            meta("tokenizer.ggml.model", "llama"),
            meta("tokenizer.ggml.pre", "chatglm-spm"),
            ("tokenizer.ggml.tokens".to_owned(), Meta::Texts(texts)),
            ("tokenizer.ggml.token_type".to_owned(), Meta::I32s(types)),
            ("tokenizer.ggml.scores".to_owned(), Meta::F32s(scores)),
        ],
        &[],
    );
    let tokenizer = file.source().tokenizer().unwrap();
    for name in CHATGLM3_SPECIALS {
        assert_eq!(tokenizer.special(name), original.special(name), "{name}");
    }
    let all: Value = serde_json::from_slice(&vector("vectors.json")).unwrap();
    for text in all["texts"].as_array().unwrap() {
        let text = text.as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text).unwrap(),
            original.encode(text),
            "{text:?}"
        );
    }
}

#[test]
fn changed_files_are_errors_or_sound() {
    let [stored, _] = quantised(|_| 8);
    let mut seed = std::fs::read(stored.dir.path().join("model.gguf")).unwrap();
    // The head of the file, and a little of the data.
    let head = seed.windows(10).rposition(|w| w == b"ffw_norm.w").unwrap() + 60;
    let tail = seed.split_off(head);
    let mut random = Random(11);
    let mut accepted = 0;
    let rounds = 4000;
    for _ in 0..rounds {
        let mut changed = seed.clone();
        for _ in 0..=random.below(2) {
            let at = random.below(changed.len());
            match random.below(4) {
                0 => changed[at] ^= 1 << random.below(8),
                1 => changed[at] = [0, 1, 255, 127, 128][random.below(5)],
                2 => drop(changed.drain(at..(at + random.below(9)).min(changed.len()))),
                _ => changed.insert(at, random.next() as u8),
            }
        }
        changed.extend(&tail);
        let Ok(checkpoint) = Checkpoint::from_bytes(changed) else {
            continue;
        };
        accepted += 1;
        if let Ok(Some(config)) = checkpoint.config() {
            let _ = Architecture::from_config(&config);
        }
        for name in checkpoint.names() {
            let tensor = checkpoint.tensor(name).unwrap();
            assert_eq!(tensor.data().unwrap().len(), tensor.bytes());
        }
    }
    assert!(0 < accepted && accepted < rounds, "{accepted} of {rounds}");
}
