//! A model of random weights in the shape of GLM-Edge-1.5B.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use glm::architecture::Architecture;
use hal::{Error, ErrorKind, Result, WeightFormat};
use serde_json::{Map, Value, json};

/// A checkpoint of the shape of GLM-Edge-1.5B, with small random bf16 weights, in a folder that goes when this does.
pub struct RandomModel(PathBuf);

impl RandomModel {
    /// Writes one of so many layers; all 28 are 3.2 GB.
    ///
    /// # Errors
    /// `Io`.
    pub fn new(layers: usize) -> Result<Self> {
        let name = format!("glm-random-{}", std::process::id());
        let model = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&model.0)
            .and_then(|()| write(&model.0, layers))
            .map_err(|e| Error::new(ErrorKind::Io, "write a random model", e.to_string()))?;
        Ok(model)
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for RandomModel {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {e}", self.0.display());
        }
    }
}

/// Multiply-adds per token in the layers.
pub fn matrix_parameters(a: &Architecture) -> usize {
    let per_layer = a.qkv_rows() + a.heads * a.head_dim + a.up_rows() + a.ffn;
    a.layers * per_layer * a.hidden
}

/// Bytes that a decoded token reads: the layers' matrices in `format`, and the head in bf16.
pub fn decode_bytes(a: &Architecture, format: WeightFormat) -> usize {
    let layers = matrix_parameters(a);
    // Rows of `hidden` elements: what few are longer have as many scales per element, or fewer.
    let rows = layers / a.hidden;
    let (scales, scale) = format.row_scales(a.hidden);
    rows * (format.row_bytes(a.hidden) + scales * scale.bytes()) + 2 * a.vocab * a.hidden
}

fn write(folder: &Path, layers: usize) -> std::io::Result<()> {
    let (hidden, heads, kv_heads, head_dim, ffn, vocab) = (2048, 16, 4, 128, 6144, 59264);
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
