//! The configuration that names and shapes of tensors imply, for checkpoints that are published
//! without `config.json`.
//!
//! | `model_type` | known by | heads | positions |
//! |---|---|---|---|
//! | `glm130b` | the names of SwissArmyTransformer, a gated MLP | hidden / 128 | 2048 |
//! | `glm10b` | the same, with tables of positions and block positions | hidden / 64 | rows of the table (1025, 513) |
//! | `glm` | the same with `word_embeddings` outside of `transformer` (GLM's own training) | hidden / 64 | rows, less one |
//! | `codegeex` | `language_model.` | hidden / 128 | rows of the table (2048) |
//!
//! Sources: `configs/model_glm_130b.sh` of GLM-130B, `config_tasks/model_blocklm_*.sh` of GLM,
//! `configs/codegeex_13b.sh` of CodeGeeX.

use hal::{Error, Result};
use serde_json::{Value, json};

use super::{Checkpoint, StoredType};

/// The `model_type`s that this module knows.
const TYPES: [&str; 3] = ["glm130b", "glm10b", "codegeex"];
/// Keys that follow from shapes for certain.
const CERTAIN: [&str; 4] = [
    "num_layers",
    "vocab_size",
    "hidden_size",
    "inner_hidden_size",
];

impl Checkpoint {
    /// A configuration in the place of `config.json`, when names and shapes imply one: GLM-130B,
    /// GLM-10B and its smaller siblings, CodeGeeX-13B.
    pub fn implied_config(&self) -> Option<Value> {
        self.implied_glm().or_else(|| self.implied_codegeex())
    }

    /// Adds to `config`, of one of these models, what it does not say. Its own keys stay.
    ///
    /// # Errors
    /// `Corrupt` when it contradicts the shapes of the tensors.
    pub(crate) fn complete(&self, config: Value) -> Result<Value> {
        let (Some(implied), Value::Object(mut given)) = (self.implied_config(), config.clone())
        else {
            return Ok(config);
        };
        for (key, value) in implied.as_object().into_iter().flatten() {
            match given.get(key) {
                Some(other) if other != value && CERTAIN.contains(&key.as_str()) => {
                    return Err(Error::corrupt(
                        format!("read config.json of {}", self.source),
                        format!("{key} is {other}; the tensors have {value}"),
                    )
                    .next_step("take config.json and weights from the same model"));
                }
                Some(_) => {}
                None => drop(given.insert(key.clone(), value.clone())),
            }
        }
        Ok(Value::Object(given))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// How many layers have tensor `name`, counted from the first; `{}` is a layer's number.
    fn layers(&self, name: &str) -> usize {
        let has = |i: &usize| self.has(&name.replace("{}", &i.to_string()));
        (0..).take_while(has).count()
    }

    fn implied_glm(&self) -> Option<Value> {
        let sat = self.shape("transformer.word_embeddings.weight");
        let &[vocab, hidden] = sat.or_else(|| self.shape("word_embeddings.weight"))? else {
            return None;
        };
        let layers = self.layers("transformer.layers.{}.attention.query_key_value.weight");
        let down = "transformer.layers.0.mlp.dense_4h_to_h.weight";
        let &[_, stored_inner] = self.shape(down)? else {
            return None;
        };
        // Two columns in a byte when they are fewer than those of the layer before.
        let qkv = "transformer.layers.0.attention.query_key_value.weight";
        let packed = matches!(self.tensors.get(down)?.dtype, StoredType::Known(t) if !t.is_float())
            && self.shape(qkv)?.get(1)?.checked_mul(2) == Some(hidden);
        let inner = stored_inner.checked_mul(if packed { 2 } else { 1 })?;
        let &[up, _] = self.shape("transformer.layers.0.mlp.dense_h_to_4h.weight")? else {
            return None;
        };
        let mut config = json!({
            "num_layers": layers, "vocab_size": vocab, "hidden_size": hidden,
            "inner_hidden_size": inner,
        });
        if let Some(&[rows, _]) = self.shape("transformer.position_embeddings.weight") {
            // The published table of 1025 rows is counted whole by SwissArmyTransformer, and without
            // the row for padding by GLM's own code.
            let (model_type, positions) = match sat {
                Some(_) => ("glm10b", rows),
                None => ("glm", rows.saturating_sub(1)),
            };
            config["model_type"] = json!(model_type);
            config["num_attention_heads"] = json!(hidden / 64);
            config["max_sequence_length"] = json!(positions);
        } else if inner.checked_mul(2) == Some(up) {
            config["model_type"] = json!("glm130b");
            config["num_attention_heads"] = json!(hidden / 128);
            config["max_sequence_length"] = json!(2048);
        } else {
            // ChatGLM-6B has these names too, and a config.json.
            return None;
        }
        Some(config)
    }

    fn implied_codegeex(&self) -> Option<Value> {
        let words = "language_model.embedding.word_embeddings.weight";
        let &[vocab, hidden] = self.shape(words)? else {
            return None;
        };
        let layers = self.layers("language_model.transformer.layers.{}.attention.query.weight");
        let up = "language_model.transformer.layers.0.mlp.dense_h_to_4h.weight";
        let &[inner, _] = self.shape(up)? else {
            return None;
        };
        let positions = "language_model.embedding.position_embeddings.weight";
        let positions = self.shape(positions)?.first()?;
        Some(json!({
            "model_type": "codegeex", "num_layers": layers, "vocab_size": vocab,
            "hidden_size": hidden, "inner_hidden_size": inner,
            "num_attention_heads": hidden / 128, "max_sequence_length": positions,
        }))
    }
}

/// Whether a configuration is of a model that this module knows.
pub(crate) fn is_known(config: &Value) -> bool {
    TYPES
        .iter()
        .any(|model_type| config["model_type"] == *model_type)
}
