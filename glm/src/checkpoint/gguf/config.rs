//! `config.json` from the metadata of a GGUF file, with the keys that the model's publisher uses.
//!
//! Source: `conversion/{chatglm,glm}.py` and `src/llama-model.cpp` of
//! <https://github.com/ggml-org/llama.cpp>.

use hal::{DType, Error, Result};
use serde_json::{Value, json};

use super::super::{Checkpoint, StoredType};
use super::Metadata;
use super::names::names;
use crate::architecture::QkvNames;

/// The configuration of a GGUF model whose tensors have their canonical names.
///
/// # Errors
/// `Unsupported` for another architecture, or an option that the layers do not compute; `Corrupt`
/// for a key that is missing or of the wrong type.
pub(in crate::checkpoint) fn config(checkpoint: &Checkpoint, metadata: &Metadata) -> Result<Value> {
    let doing = || format!("read {}", metadata.file());
    let unsupported =
        |what: String, next: &'static str| Err(Error::unsupported(doing(), what).next_step(next));
    let q_name = "model.layers.0.self_attn.q_proj.weight";
    let has = |name: &str| name == "blk.0.attn_q.weight" && checkpoint.has(q_name);
    let architecture = metadata.text("general.architecture")?;
    let Some(names) = names(metadata, has)? else {
        return unsupported(
            format!("architecture `{}`", architecture.unwrap_or("")),
            "supported are chatglm and glm4",
        );
    };
    let arch = architecture.unwrap_or_default();
    let key = |name: &str| format!("{arch}.{name}");
    let number = |name: &str| metadata.number(&key(name));
    let required = |name: &str| metadata.required(&key(name), number(name)?);

    let (hidden, heads) = (
        required("embedding_length")?,
        required("attention.head_count")?,
    );
    let kv_heads = number("attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = match number("attention.key_length")? {
        Some(n) => n,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(metadata.corrupt(&key("attention.head_count"), "it does not divide")),
    };
    if number("attention.value_length")?.is_some_and(|n| n != head_dim) {
        let what = format!("keys of {head_dim} elements with values of another length");
        return unsupported(what, "use another file of this model");
    }
    let sections = key("rope.dimension_sections");
    if metadata.floats(&sections)?.is_some() {
        return unsupported(
            format!("`{sections}`: a model with images"),
            "use a text model",
        );
    }
    let rotary = number("rope.dimension_count")?.unwrap_or(head_dim);
    let epsilon_key = key("attention.layer_norm_rms_epsilon");
    let epsilon = metadata.required(&epsilon_key, metadata.float(&epsilon_key)?)?;
    let base = decimal(metadata.float(&key("rope.freq_base"))?.unwrap_or(10_000.0));
    let context = required("context_length")?;
    let extra_layers = number("nextn_predict_layers")?.unwrap_or(0);
    let layers = required("block_count")?.saturating_sub(extra_layers);
    let embedding = format!("{}.weight", names.embedding);
    let vocab = checkpoint.tensor(&embedding)?.shape.first().copied();

    let mut config = match names.qkv {
        QkvNames::Separate { .. } => json!({
            "model_type": if arch == "glm4" { "glm4" } else { "glm" },
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": required("feed_forward_length")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": vocab,
            "max_position_embeddings": context,
            "rms_norm_eps": decimal(epsilon),
            "rope_theta": base,
            "partial_rotary_factor": rotary as f64 / head_dim as f64,
        }),
        _ => json!({
            "model_type": "chatglm",
            "num_layers": layers,
            "hidden_size": hidden,
            "ffn_hidden_size": required("feed_forward_length")?,
            "num_attention_heads": heads,
            "multi_query_attention": true,
            "multi_query_group_num": kv_heads,
            "kv_channels": head_dim,
            "padded_vocab_size": vocab,
            "seq_length": context,
            "layernorm_epsilon": decimal(epsilon),
        }),
    };
    let separate = matches!(names.qkv, QkvNames::Separate { .. });
    if !separate && rotary != head_dim / 2 {
        let what = format!("{rotary} rotated elements of {head_dim} in the layers of chatglm");
        return unsupported(what, "use a file whose query, key and value are separate");
    }
    if !separate && base != 10_000.0 {
        config["rope_ratio"] = json!(base / 10_000.0);
    }
    let scaling = rope_scaling(metadata, &key)?;
    if !scaling.is_null() {
        if !separate {
            let what = "a scaled rotary embedding in the layers of chatglm".to_owned();
            return unsupported(what, "use another file of this model");
        }
        config["rope_scaling"] = scaling;
    }
    // The generation of `chatglm` is told by the model's name, as in its own configuration.
    if let Some(name) = metadata.text("general.name")? {
        config["_name_or_path"] = json!(name);
    }
    config["tie_word_embeddings"] = json!(!checkpoint.has(&format!("{}.weight", names.head)));
    config["torch_dtype"] = json!(dtype(checkpoint)?);
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let id = metadata.number(&format!("tokenizer.ggml.{name}_token_id"))?;
        ends.extend(id.filter(|id| !ends.contains(id)));
    }
    config["eos_token_id"] = json!(ends);
    Ok(config)
}

/// The scaling of the rotary embedding in the keys of transformers; null: none.
fn rope_scaling(metadata: &Metadata, key: &dyn Fn(&str) -> String) -> Result<Value> {
    let scaling = key("rope.scaling.type");
    let old = key("rope.scale_linear");
    let kind = match metadata.text(&scaling)? {
        None if metadata.float(&old)?.is_some_and(|x| x != 1.0) => "linear",
        None => "none",
        Some(kind) => kind,
    };
    let factor = match metadata.float(&key("rope.scaling.factor"))? {
        Some(factor) => Some(factor),
        None => metadata.float(&old)?,
    };
    let plain = [
        ("rope.scaling.attn_factor", 1.0),
        ("rope.scaling.yarn_ext_factor", 1.0),
        ("rope.scaling.yarn_attn_factor", 1.0),
        ("rope.scaling.yarn_beta_fast", 32.0),
        ("rope.scaling.yarn_beta_slow", 1.0),
    ];
    for (name, default) in plain {
        let value = metadata.float(&key(name))?;
        if kind == "yarn" && value.is_some_and(|x| x != default) {
            return Err(Error::unsupported(
                format!("read {}", metadata.file()),
                format!("`{}` is not {default}", key(name)),
            )
            .next_step("use another file of this model"));
        }
    }
    Ok(match kind {
        "none" => Value::Null,
        // An unknown kind is refused where configurations are read.
        kind => json!({
            "type": kind,
            "factor": metadata.required(&scaling, factor)?,
            "original_max_position_embeddings":
                metadata.number(&key("rope.scaling.original_context_length"))?,
        }),
    })
}

/// The number that an f32 of the file was written for: 1e-5, not 9.999999747e-6.
fn decimal(x: f64) -> f64 {
    (x as f32).to_string().parse().unwrap_or(x)
}

/// The type for activations: that of the matrices, and bf16, whose range none can leave, for blocks.
fn dtype(checkpoint: &Checkpoint) -> Result<&'static str> {
    let mut name = "float32";
    for tensor in checkpoint.names() {
        let tensor = checkpoint.tensor(tensor)?;
        match tensor.dtype {
            StoredType::Blocks(_) | StoredType::Known(DType::BF16) => return Ok("bfloat16"),
            StoredType::Known(DType::F16) if tensor.shape.len() == 2 => name = "float16",
            _ => {}
        }
    }
    Ok(name)
}
