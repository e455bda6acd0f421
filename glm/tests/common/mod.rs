//! Checkpoints without weights: every tensor follows from its name, as in `golden.json`.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

pub mod counting;
pub mod gguf;
pub mod sat;
pub mod steps;
pub mod torch;
pub mod watched;

use std::collections::HashMap;
use std::path::Path;

use glm::tokenizer::Tokenizer;
use ops::Context;
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};

/// The tensor `name` of `shape`, row-major.
///
/// splitmix64 seeded with the FNV-1a hash of the name, mapped to `u` in [-0.5, 0.5): `u` for
/// matrices, `1 + u/2` for weights of norms, `u/4` for other vectors. All values are exact in f32.
pub fn tensor(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let is_norm = name.contains("norm") && name.ends_with("weight");
    let count = shape.iter().product::<usize>() as u64;
    (1..=count)
        .map(|i| {
            let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let u = (z >> 40) as f32 / (1 << 24) as f32 - 0.5;
            match (shape.len(), is_norm) {
                (1, true) => 1.0 + 0.5 * u,
                (1, false) => 0.25 * u,
                _ => u,
            }
        })
        .collect()
}

/// Names and shapes of tensors.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// A case of `golden.json` or `vectors/models.json`: logits of the official code for a tiny model.
pub fn golden(case: &str) -> Value {
    let files = [
        include_str!("../golden.json"),
        include_str!("../vectors/models.json"),
    ];
    let all = files.map(|text| serde_json::from_str::<Value>(text).unwrap());
    let found = all.iter().map(|all| &all["cases"][case]);
    let mut found = found.filter(|case| case.is_object());
    found.next().expect("a golden case").clone()
}

/// The tensors of a golden case.
pub fn golden_shapes(case: &Value) -> Shapes {
    let dims = |v: &Value| -> Vec<usize> {
        let dims = v.as_array().unwrap();
        dims.iter().map(|d| d.as_u64().unwrap() as usize).collect()
    };
    let shapes = case["shapes"].as_object().unwrap();
    shapes.iter().map(|(n, s)| (n.clone(), dims(s))).collect()
}

/// The configuration of a golden case with its `model_type`, which the official classes add on
/// saving.
pub fn golden_config(case: &Value, model_type: &str) -> Value {
    let mut config = case["config"].clone();
    config["model_type"] = json!(model_type);
    config
}

/// Writes a checkpoint of f32 tensors and its `config.json` into `dir`: one file, or two shards and
/// an index.
pub fn write_checkpoint(dir: &Path, shapes: &Shapes, config: &Value, sharded: bool) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    if !sharded {
        write_tensors(&dir.join("model.safetensors"), shapes);
        return;
    }
    let (first, second) = shapes.split_at(shapes.len() / 2);
    let mut map = serde_json::Map::new();
    for (i, part) in [first, second].into_iter().enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", i + 1);
        write_tensors(&dir.join(&file), part);
        for (name, _) in part {
            map.insert(name.clone(), json!(file));
        }
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn write_tensors(path: &Path, shapes: &[(String, Vec<usize>)]) {
    let bytes: HashMap<&str, Vec<u8>> = shapes
        .iter()
        .map(|(name, shape)| (name.as_str(), le_bytes(&tensor(name, shape))))
        .collect();
    let views = shapes.iter().map(|(name, shape)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), &bytes[name.as_str()]);
        (name.as_str(), view.unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// Little-endian bytes of f32 values.
pub fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The CPU with all its kernels.
pub fn cpu() -> Context {
    Context::new(backend_cpu::open(&backend_cpu::Options::default()).unwrap())
}

/// What the ids 0 to 63 of [`letters_tokenizer`] spell.
pub const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A tokenizer with a letter per id.
pub fn letters_tokenizer() -> Tokenizer {
    let letters = LETTERS.chars().enumerate();
    let vocab: HashMap<String, usize> = letters.map(|(i, c)| (c.to_string(), i)).collect();
    let json = json!({
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "/"},
        "decoder": {"type": "Fuse"},
    });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

/// The configuration of a golden case of the first generations.
pub fn first_generation(name: &str, case: &Value) -> Value {
    let v1 = name.starts_with("chatglm_v1");
    golden_config(case, if v1 { "chatglm" } else { "glm130b" })
}
