//! The names of llama.cpp for the tensors of GLM, and those of the models' own checkpoints.
//!
//! Source: `gguf-py/gguf/constants.py`, `tensor_mapping.py` and `conversion/{chatglm,glm}.py` of
//! <https://github.com/ggml-org/llama.cpp>. Tensors keep their rows there: `attn_qkv` is
//! `[q | k | v]`, `ffn_up` has the gate first, the rotary embedding is interleaved.

use std::collections::BTreeMap;

use hal::Result;

use super::super::Place;
use super::Metadata;
use crate::architecture::{CHATGLM_NAMES, HF_GLM4_NAMES, HF_NAMES, Names, QkvNames};

/// The names that the tensors of a GGUF file get; `None`: of another architecture than GLM's.
///
/// `chatglm` is both ChatGLM2 to GLM-4 in their own format, with one matrix for query, key and
/// value, and the `glm` of transformers, with three.
pub(super) fn names(metadata: &Metadata, has: impl Fn(&str) -> bool) -> Result<Option<Names>> {
    Ok(match metadata.text("general.architecture")? {
        Some("chatglm") if has("blk.0.attn_q.weight") => Some(HF_NAMES),
        Some("chatglm") => Some(CHATGLM_NAMES),
        Some("glm4") => Some(HF_GLM4_NAMES),
        _ => None,
    })
}

/// `tensors` under the names of the model's own checkpoint; what has none keeps its name.
pub(in crate::checkpoint) fn rename(
    metadata: &Metadata,
    tensors: BTreeMap<String, Place>,
) -> Result<BTreeMap<String, Place>> {
    match names(metadata, |name| tensors.contains_key(name))? {
        None => Ok(tensors),
        Some(names) => Ok(tensors
            .into_iter()
            .map(|(name, place)| (canonical(&names, &name).unwrap_or(name), place))
            .collect()),
    }
}

fn canonical(names: &Names, name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let renamed = match stem {
        "token_embd" => names.embedding.to_owned(),
        "output_norm" => names.final_norm.to_owned(),
        "output" => names.head.to_owned(),
        // Frequencies that follow from the base.
        "rope_freqs" => return Some((*names.ignored.first()?).to_owned()),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            // Only the canonical form: two names must not become one.
            let layer: usize = (layer.parse().ok()).filter(|i: &usize| layer == i.to_string())?;
            names.of_layer(layer, of_part(names, part)?)
        }
    };
    Some(format!("{renamed}.{kind}"))
}

fn of_part(names: &Names, part: &str) -> Option<&'static str> {
    match (part, names.qkv) {
        ("attn_norm", _) => Some(names.input_norm),
        ("attn_qkv", QkvNames::Blocks(qkv)) => Some(qkv),
        ("attn_q", QkvNames::Separate { q, .. }) => Some(q),
        ("attn_k", QkvNames::Separate { k, .. }) => Some(k),
        ("attn_v", QkvNames::Separate { v, .. }) => Some(v),
        ("attn_output", _) => Some(names.dense),
        ("post_attention_norm", _) => names.attention_out_norm,
        ("ffn_norm", _) => Some(names.mlp_norm),
        ("ffn_up", _) => Some(names.up),
        ("ffn_down", _) => Some(names.down),
        ("post_ffw_norm", _) => names.mlp_out_norm,
        _ => None,
    }
}
