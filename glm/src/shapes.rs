//! Shapes of published GLMs by name, for measuring a device without a checkpoint.

use hal::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::architecture::Architecture;

/// The shapes by name: what their `config.json` says, and `tiny`, which is no published model and fits any device.
pub const NAMES: [&str; 8] = [
    "chatglm-6b",
    "chatglm2-6b",
    "chatglm3-6b",
    "glm-4-9b",
    "glm-edge-1.5b",
    "glm-edge-4b",
    "glm-130b",
    "tiny",
];

/// The architecture of a shape, with its first `layers` layers only where that is given: a slice computes every layer as
/// the whole model does.
///
/// # Errors
/// `NotFound` for a name that is not in [`NAMES`]; `InvalidArgument` for no layers, or more than the model has.
pub fn architecture(name: &str, layers: Option<usize>) -> Result<Architecture> {
    let config = config(name).ok_or_else(|| {
        let doing = format!("find the shape '{name}'");
        Error::new(ErrorKind::NotFound, doing, "there is none of this name")
            .next_step(format!("choose one of {}", NAMES.join(", ")))
    })?;
    let whole = Architecture::from_config(&config)?;
    let layers = layers.unwrap_or(whole.layers);
    if !(1..=whole.layers).contains(&layers) {
        let detail = format!("{layers} layers; it has {}", whole.layers);
        return Err(Error::invalid(format!("cut the shape '{name}'"), detail)
            .next_step("choose at least one, and no more than it has"));
    }
    Ok(Architecture { layers, ..whole })
}

fn config(name: &str) -> Option<Value> {
    // ChatGLM2, ChatGLM3 and GLM-4 in their own format.
    let chatglm = |vocab: usize, length: usize, more: Value| {
        let mut config = json!({
            "model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "ffn_hidden_size": 13696,
            "kv_channels": 128, "num_attention_heads": 32, "multi_query_attention": true,
            "multi_query_group_num": 2, "add_qkv_bias": true, "padded_vocab_size": vocab,
            "seq_length": length, "torch_dtype": "float16",
        });
        add(&mut config, more);
        config
    };
    // GLM-Edge, as Hugging Face's class has it.
    let edge = |layers: usize, hidden: usize, heads: usize, kv_heads: usize, ffn: usize| {
        json!({
            "model_type": "glm", "num_hidden_layers": layers, "hidden_size": hidden,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 128,
            "intermediate_size": ffn, "vocab_size": 59264, "max_position_embeddings": 8192,
            "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
            "attention_bias": false, "torch_dtype": "bfloat16",
        })
    };
    Some(match name {
        "chatglm-6b" => json!({
            "model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32,
            "inner_hidden_size": 16384, "vocab_size": 130528, "max_sequence_length": 2048,
            "position_encoding_2d": true, "torch_dtype": "float16",
        }),
        "chatglm2-6b" => chatglm(65024, 32768, json!({ "_name_or_path": "chatglm2-6b" })),
        "chatglm3-6b" => chatglm(65024, 8192, json!({ "_name_or_path": "chatglm3-6b" })),
        "glm-4-9b" => chatglm(
            151_552,
            131_072,
            json!({
                "num_layers": 40, "rope_ratio": 500, "layernorm_epsilon": 1.5625e-7,
                "torch_dtype": "bfloat16", "_name_or_path": "glm-4-9b-chat",
            }),
        ),
        "glm-edge-1.5b" => edge(28, 2048, 16, 4, 6144),
        "glm-edge-4b" => edge(40, 3072, 24, 6, 8192),
        "glm-130b" => json!({
            "model_type": "glm130b", "num_layers": 70, "hidden_size": 12288, "num_attention_heads": 96,
            "inner_hidden_size": 32768, "vocab_size": 150_528, "max_sequence_length": 2048,
        }),
        "tiny" => json!({
            "model_type": "chatglm", "num_layers": 2, "hidden_size": 128, "ffn_hidden_size": 256,
            "kv_channels": 32, "num_attention_heads": 4, "multi_query_attention": true,
            "multi_query_group_num": 2, "add_qkv_bias": true, "padded_vocab_size": 512,
            "seq_length": 4096, "torch_dtype": "float32",
        }),
        _ => return None,
    })
}

/// Puts the keys of `more` into `config`.
fn add(config: &mut Value, more: Value) {
    if let (Value::Object(config), Value::Object(more)) = (config, more) {
        config.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_parameters_that_were_published() {
        // Billions as the model cards and papers give them.
        for (name, billions) in [
            ("chatglm-6b", 6.17),
            ("chatglm2-6b", 6.24),
            ("chatglm3-6b", 6.24),
            ("glm-4-9b", 9.40),
            ("glm-edge-1.5b", 1.5),
            ("glm-130b", 130.0),
        ] {
            let parameters = architecture(name, None).unwrap().parameters() as f64;
            assert!(
                (parameters / 1e9 / billions - 1.0).abs() < 0.02,
                "{name}: {parameters}"
            );
        }
        for name in NAMES {
            let one = architecture(name, Some(1)).unwrap();
            let whole = architecture(name, None).unwrap();
            assert_eq!((one.layers, one.residual), (1, whole.residual));
        }
    }

    #[test]
    fn other_names_and_layers_are_refused() {
        let e = architecture("chatglm4", None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.next().is_some_and(|next| next.contains("glm-4-9b")));
        for layers in [0, 41] {
            let e = architecture("glm-4-9b", Some(layers)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{layers}");
        }
    }
}
