//! `config.json` and `generation_config.json`: from keys to an [`Architecture`] and to sampling
//! defaults.
//!
//! Keys without which no layer can be built are required; the others have the defaults of the
//! official code (transformers 5 `configuration_glm.py`, `configuration_chatglm.py` of the
//! checkpoints). A value that asks for something that we do not compute is an error, never ignored:
//! a model that runs slightly wrong is worse than none.

use std::path::Path;

use hal::{DType, Error, Result};
use ops::{Act, Half, Mask, RopeLayout};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::architecture::{
    Architecture, CHATGLM_NAMES, CODEGEEX_NAMES, GLM_NAMES, HF_GLM4_NAMES, HF_NAMES, Norm,
    ORIGINAL_GLM_NAMES, Position, Residual, RopeRecipe, RopeRounding, RopeScaling, TrainedPrefix,
};
use crate::blank::BlankPositions;
use crate::files;

/// The `model_type`s that [`Architecture::from_config`] reads.
pub const SUPPORTED: [&str; 6] = ["glm", "glm4", "chatglm", "glm130b", "glm10b", "codegeex"];

// Far above every published model, and small enough that no product of them overflows 64 bits.
const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_FFN: usize = 1 << 22;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 28;
pub(crate) const MAX_PREFIX: usize = 1 << 16;

/// Which of the two codes that call themselves `chatglm` a checkpoint was made for. They differ in
/// the rotary embedding only: ChatGLM2 rounds every step of it to the model's type and divides
/// positions by `rope_ratio`; ChatGLM3 and GLM-4 round the table and multiply the base by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatGlmCode {
    /// `modeling_chatglm.py` of ChatGLM2-6B, CodeGeeX2.
    V2,
    /// `modeling_chatglm.py` of ChatGLM3-6B, GLM-4-9B, CodeGeeX4.
    V3,
}

impl ChatGlmCode {
    /// The code that a configuration was written for. The configuration does not say; the first
    /// that applies decides:
    /// 1. `_name_or_path` or `auto_map` names a model of one generation;
    /// 2. `padded_vocab_size` is not the 65024 of ChatGLM2 and ChatGLM3: V3 (GLM-4);
    /// 3. `rope_ratio` divides `seq_length` into a power of two (16 and 32768 in ChatGLM2-32k): an
    ///    interpolation, V2; any other ratio (50, 500, 10000): V3;
    /// 4. `seq_length` is 32768 without a ratio: V2; else V3.
    pub fn of(config: &Value) -> Self {
        const V2_NAMES: [&str; 2] = ["chatglm2", "codegeex2"];
        const V3_NAMES: [&str; 6] = [
            "chatglm3",
            "glm-4",
            "glm4",
            "codegeex4",
            "longwriter",
            "longcite",
        ];
        for hint in hints(config) {
            let names = |list: &[&str]| list.iter().any(|name| hint.contains(name));
            match (names(&V2_NAMES), names(&V3_NAMES)) {
                (true, false) => return Self::V2,
                (false, true) => return Self::V3,
                _ => {}
            }
        }
        if config["padded_vocab_size"] != 65024 {
            return Self::V3;
        }
        let length = config["seq_length"].as_u64().unwrap_or(0);
        let interpolates = match config["rope_ratio"].as_f64() {
            Some(ratio) if ratio != 1.0 => {
                let original = length as f64 / ratio;
                original.fract() == 0.0 && (original as u64).is_power_of_two()
            }
            _ => length == 32768,
        };
        if interpolates { Self::V2 } else { Self::V3 }
    }
}

/// The names of models in a configuration, in lower case.
fn hints(config: &Value) -> impl Iterator<Item = String> + '_ {
    let auto_map = config["auto_map"].as_object().into_iter().flatten();
    let hints = [&config["_name_or_path"]]
        .into_iter()
        .chain(auto_map.map(|(_, value)| value));
    hints.filter_map(Value::as_str).map(str::to_lowercase)
}

/// Whether a configuration names one of `names`.
pub(crate) fn is_named(config: &Value, names: &[&str]) -> bool {
    hints(config).any(|hint| names.iter().any(|name| hint.contains(name)))
}

impl Architecture {
    /// The architecture that a `config.json` describes.
    ///
    /// # Errors
    /// `Unsupported` for another `model_type`, or an option that the layers do not compute;
    /// `Corrupt` for a missing key, a value of the wrong type, or one that no model can have.
    pub fn from_config(config: &Value) -> Result<Self> {
        Self::from_config_as(config, ChatGlmCode::of(config))
    }

    /// As [`Architecture::from_config`], with the code of a `chatglm` configuration given instead
    /// of inferred.
    ///
    /// # Errors
    /// As [`Architecture::from_config`].
    pub fn from_config_as(config: &Value, chatglm: ChatGlmCode) -> Result<Self> {
        let keys = Keys::new("config.json", config)?;
        let has = |key| keys.map.contains_key(key);
        let architecture = match keys.text("model_type")? {
            // The original GLM and the class of GLM-4 share a name, but not their keys.
            Some("glm") if has("num_layers") && !has("num_hidden_layers") => {
                from_original_glm(&keys, "glm")?
            }
            Some("glm") => from_glm(&keys, "glm")?,
            Some("glm4") => Self {
                residual: Residual::Sandwich,
                names: HF_GLM4_NAMES,
                ..from_glm(&keys, "glm4")?
            },
            Some("chatglm") if has("position_encoding_2d") || has("inner_hidden_size") => {
                from_chatglm_6b(&keys)?
            }
            Some("chatglm") => from_chatglm(&keys, chatglm)?,
            Some("glm130b") => from_glm_130b(&keys)?,
            Some("glm10b") => from_original_glm(&keys, "glm10b")?,
            Some("codegeex") => from_codegeex(&keys)?,
            other => {
                let supported = SUPPORTED.join(", ");
                let detail = match other {
                    Some(other) => format!("model_type `{other}`"),
                    None => "it has no model_type".to_owned(),
                };
                return Err(Error::unsupported("read config.json", detail)
                    .next_step(format!("supported are {supported}")));
            }
        };
        check(&keys, &architecture)?;
        Ok(architecture)
    }

    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// `NotFound`, `Io`; as [`Architecture::from_config`].
    pub fn load(folder: &Path) -> Result<Self> {
        Self::from_config(&files::read_json(&folder.join("config.json"))?)
    }
}

fn from_glm(keys: &Keys<'_>, model_type: &str) -> Result<Architecture> {
    let act = keys.text("hidden_act")?.unwrap_or("silu");
    if !matches!(act, "silu" | "swish") {
        return Err(keys.unsupported("hidden_act", "only silu is"));
    }
    let hidden = keys.size("hidden_size", MAX_WIDTH)?;
    let heads = keys.size("num_attention_heads", MAX_WIDTH)?;
    let head_dim = match keys.optional_size("head_dim", MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None => keys.divide(("hidden_size", hidden), ("num_attention_heads", heads))?,
    };
    let context = keys.size("max_position_embeddings", MAX_CONTEXT)?;
    let rope = hf_rope(keys, head_dim, context)?;
    Ok(Architecture {
        model_type: model_type.to_owned(),
        layers: keys.size("num_hidden_layers", MAX_LAYERS)?,
        hidden,
        heads,
        kv_heads: keys.size("num_key_value_heads", MAX_WIDTH)?,
        head_dim,
        ffn: keys.size("intermediate_size", MAX_FFN)?,
        vocab: keys.size("vocab_size", MAX_VOCAB)?,
        context: match rope.scaling {
            RopeScaling::Yarn {
                factor,
                original_context,
            } => context.max((factor * original_context as f64) as usize),
            _ => context,
        },
        norm: Norm::Rms(keys.epsilon("rms_norm_eps", 1.5625e-7)?),
        residual: Residual::PreNorm,
        position: Position::Rope(rope),
        top_query: false,
        mask: Mask::Causal,
        blank: BlankPositions::None,
        prefix: None,
        act: Act::Silu,
        gate: Some(Half::First),
        qkv_bias: keys.flag("attention_bias")?,
        dense_bias: false,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        dtype: keys.dtype()?,
        names: HF_NAMES,
    })
}

/// The rotary embedding of the Hugging Face classes: `rope_parameters` (transformers 5), or
/// `rope_theta`, `partial_rotary_factor` and `rope_scaling` (before).
fn hf_rope(keys: &Keys<'_>, head_dim: usize, context: usize) -> Result<RopeRecipe> {
    let nested = |key| match keys.map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => Keys::new(format!("{} of {}", key, keys.file), value).map(Some),
    };
    let parameters = nested("rope_parameters")?;
    let scaling = match parameters {
        Some(_) => nested("rope_parameters")?,
        None => nested("rope_scaling")?,
    };
    let of = |key: &str, default: f64| -> Result<f64> {
        let new = parameters.as_ref().map(|p| p.number(key)).transpose()?;
        Ok(match new.flatten() {
            Some(value) => value,
            None => keys.number(key)?.unwrap_or(default),
        })
    };
    let base = of("rope_theta", 10_000.0)?;
    let partial = of("partial_rotary_factor", 0.5)?;
    if !(base > 1.0 && base.is_finite()) {
        return Err(keys.corrupt("rope_theta", "must be above 1"));
    }
    if !(partial > 0.0 && partial <= 1.0) {
        return Err(keys.corrupt("partial_rotary_factor", "must be in (0, 1]"));
    }
    Ok(RopeRecipe {
        layout: RopeLayout::Interleaved,
        // Truncated, as the official code does.
        rotary_dim: (head_dim as f64 * partial) as usize,
        base,
        scaling: scaling.map_or(Ok(RopeScaling::None), |s| hf_scaling(&s, context))?,
        rounding: RopeRounding::Table,
    })
}

fn hf_scaling(keys: &Keys<'_>, context: usize) -> Result<RopeScaling> {
    let kind = match keys.text("rope_type")? {
        Some(kind) => Some(kind),
        None => keys.text("type")?,
    };
    let factor = || {
        let factor = keys.number("factor")?;
        factor
            .filter(|f| (1.0..=1e6).contains(f))
            .ok_or_else(|| keys.corrupt("factor", "must be a number of at least 1"))
    };
    for key in [
        "mrope_section",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ] {
        if keys.map.get(key).is_some_and(|value| !value.is_null()) {
            return Err(keys.unsupported(key, "the key is not"));
        }
    }
    for (key, default) in [("beta_fast", 32.0), ("beta_slow", 1.0)] {
        if keys.number(key)?.is_some_and(|value| value != default) {
            return Err(keys.unsupported(key, &format!("only {default} is")));
        }
    }
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::DividePositions(factor()?)),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_context: keys
                .optional_size("original_max_position_embeddings", MAX_CONTEXT)?
                .unwrap_or(context),
        }),
        Some(_) => {
            let key = if keys.map.contains_key("rope_type") {
                "rope_type"
            } else {
                "type"
            };
            Err(keys.unsupported(key, "only default, linear and yarn are"))
        }
    }
}

fn from_chatglm(keys: &Keys<'_>, code: ChatGlmCode) -> Result<Architecture> {
    if keys.map.get("vision_config").is_some_and(|v| !v.is_null()) {
        return Err(keys.unsupported("vision_config", "models with images are not"));
    }
    let required = [
        ("rmsnorm", true),
        ("post_layer_norm", true),
        ("original_rope", true),
        ("apply_residual_connection_post_layernorm", false),
        ("add_bias_linear", false),
    ];
    for (key, wanted) in required {
        if keys.flag(key)?.is_some_and(|value| value != wanted) {
            return Err(keys.unsupported(key, &format!("only {wanted} is")));
        }
    }
    let hidden = keys.size("hidden_size", MAX_WIDTH)?;
    let heads = keys.size("num_attention_heads", MAX_WIDTH)?;
    let head_dim = match keys.optional_size("kv_channels", MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None => keys.divide(("hidden_size", hidden), ("num_attention_heads", heads))?,
    };
    let grouped = keys.flag("multi_query_attention")?.unwrap_or(false);
    let ratio = keys.number("rope_ratio")?.unwrap_or(1.0);
    if !(1e-3..=1e6).contains(&ratio) {
        return Err(keys.corrupt("rope_ratio", "must be in [0.001, 1000000]"));
    }
    let (scaling, base, rounding) = match code {
        ChatGlmCode::V2 if ratio != 1.0 => (
            RopeScaling::DividePositions(ratio),
            10_000.0,
            RopeRounding::Everything,
        ),
        ChatGlmCode::V2 => (RopeScaling::None, 10_000.0, RopeRounding::Everything),
        ChatGlmCode::V3 => (RopeScaling::None, 10_000.0 * ratio, RopeRounding::Table),
    };
    Ok(Architecture {
        model_type: "chatglm".to_owned(),
        layers: keys.size("num_layers", MAX_LAYERS)?,
        hidden,
        heads,
        kv_heads: if grouped {
            keys.size("multi_query_group_num", MAX_WIDTH)?
        } else {
            heads
        },
        head_dim,
        ffn: keys.size("ffn_hidden_size", MAX_FFN)?,
        vocab: keys.size("padded_vocab_size", MAX_VOCAB)?,
        context: keys.size("seq_length", MAX_CONTEXT)?,
        norm: Norm::Rms(keys.epsilon("layernorm_epsilon", 1e-5)?),
        residual: Residual::PreNorm,
        position: Position::Rope(RopeRecipe {
            layout: RopeLayout::Interleaved,
            rotary_dim: head_dim / 2,
            base,
            scaling,
            rounding,
        }),
        top_query: false,
        mask: Mask::Causal,
        blank: BlankPositions::None,
        prefix: keys.prefix()?,
        act: Act::Silu,
        gate: Some(Half::First),
        qkv_bias: keys.flag("add_qkv_bias")?,
        dense_bias: false,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        dtype: keys.dtype()?,
        names: CHATGLM_NAMES,
    })
}

/// What GLM-130B, ChatGLM-6B, the original GLM and CodeGeeX share: layer norms, biases everywhere, heads of
/// `hidden_size / num_attention_heads`, logits from the word embedding. The rest is that of ChatGLM-6B.
fn first_generation(keys: &Keys<'_>, model_type: &str) -> Result<Architecture> {
    let hidden = keys.size("hidden_size", MAX_WIDTH)?;
    let heads = keys.size("num_attention_heads", MAX_WIDTH)?;
    let head_dim = keys.divide(("hidden_size", hidden), ("num_attention_heads", heads))?;
    if keys.flag("tie_word_embeddings")? == Some(false) {
        return Err(keys.unsupported("tie_word_embeddings", "only true is"));
    }
    Ok(Architecture {
        model_type: model_type.to_owned(),
        layers: keys.size("num_layers", MAX_LAYERS)?,
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        ffn: keys
            .optional_size("inner_hidden_size", MAX_FFN)?
            .unwrap_or(4 * hidden),
        vocab: keys.size("vocab_size", MAX_VOCAB)?,
        context: keys.size("max_sequence_length", MAX_CONTEXT)?,
        norm: Norm::Layer(keys.epsilon("layernorm_epsilon", 1e-5)?),
        // The code of ChatGLM-6B never passes its number of layers on: 28, whatever the configuration says.
        residual: Residual::DeepNorm(56f32.sqrt()),
        position: Position::Rope(RopeRecipe {
            layout: RopeLayout::HalfSplit,
            rotary_dim: head_dim / 2,
            base: 10_000.0,
            scaling: RopeScaling::None,
            rounding: RopeRounding::F16Frequencies,
        }),
        top_query: false,
        mask: Mask::Prefix,
        blank: BlankPositions::TwoStreams,
        prefix: None,
        act: Act::GeluTanh,
        gate: None,
        qkv_bias: Some(true),
        dense_bias: true,
        tied: true,
        // All were trained and published in f16; the files of some do not say so.
        dtype: keys.dtype_or(DType::F16)?,
        names: GLM_NAMES,
    })
}

fn from_chatglm_6b(keys: &Keys<'_>) -> Result<Architecture> {
    if keys.flag("position_encoding_2d")? == Some(false) {
        return Err(keys.unsupported("position_encoding_2d", "only true is"));
    }
    let architecture = first_generation(keys, "chatglm")?;
    let first_revision = architecture.vocab == 150_528
        || keys
            .number("bos_token_id")?
            .is_some_and(|id| id == 150_004.0);
    Ok(Architecture {
        blank: match first_revision {
            true => BlankPositions::TwoStreamsFirstRevision,
            false => BlankPositions::TwoStreams,
        },
        prefix: keys.prefix()?,
        ..architecture
    })
}

fn from_glm_130b(keys: &Keys<'_>) -> Result<Architecture> {
    let base = first_generation(keys, "glm130b")?;
    Ok(Architecture {
        residual: Residual::DeepNorm((2.0 * base.layers as f32).sqrt()),
        position: match base.position {
            Position::Rope(rope) => Position::Rope(RopeRecipe {
                rotary_dim: base.head_dim,
                ..rope
            }),
            learned => learned,
        },
        blank: BlankPositions::OneStream,
        act: Act::GeluErf,
        gate: Some(Half::Second),
        ..base
    })
}

/// The GLM of ACL 2022 (110 M to 10 B): the configuration of its Hugging Face form, or of SwissArmyTransformer with the
/// `model_type` `glm10b`.
fn from_original_glm(keys: &Keys<'_>, model_type: &str) -> Result<Architecture> {
    if keys.flag("block_position_encoding")? == Some(false) {
        return Err(keys.unsupported("block_position_encoding", "only true is"));
    }
    if keys.flag("relative_encoding")? == Some(true) {
        return Err(keys.unsupported("relative_encoding", "only false is"));
    }
    let base = first_generation(keys, model_type)?;
    // The Hugging Face class makes its tables one row longer than the key says.
    let hf = model_type == "glm";
    let rows = base.context + usize::from(hf);
    Ok(Architecture {
        context: rows,
        residual: Residual::PreNorm,
        position: Position::Learned { rows },
        names: ORIGINAL_GLM_NAMES[usize::from(hf)],
        ..base
    })
}

/// CodeGeeX-13B. `num_layers` counts the layers below the top query layer, as the official code does: 39.
fn from_codegeex(keys: &Keys<'_>) -> Result<Architecture> {
    let base = first_generation(keys, "codegeex")?;
    Ok(Architecture {
        layers: base.layers + 1,
        residual: Residual::PreNorm,
        position: Position::Learned { rows: base.context },
        top_query: true,
        mask: Mask::Causal,
        blank: BlankPositions::None,
        act: Act::GeluQuick,
        names: CODEGEEX_NAMES,
        ..base
    })
}

/// What must hold between the values of one architecture.
fn check(keys: &Keys<'_>, a: &Architecture) -> Result<()> {
    let fail = |why: String| {
        Err(Error::corrupt(format!("read {}", keys.file), why)
            .next_step("download the configuration again"))
    };
    if !a.heads.is_multiple_of(a.kv_heads) {
        return fail(format!(
            "{} query heads cannot share {} key-value heads",
            a.heads, a.kv_heads
        ));
    }
    // Both factors are below 2²⁰: no overflow.
    if a.heads * a.head_dim > MAX_FFN {
        return fail(format!("{} heads of {} elements", a.heads, a.head_dim));
    }
    match a.position {
        Position::Rope(RopeRecipe { rotary_dim, .. })
            if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) =>
        {
            fail(format!(
                "{rotary_dim} rotated elements per head; it must be even and not 0"
            ))
        }
        _ => Ok(()),
    }
}

/// Defaults of generation: what the publisher recommends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerationConfig {
    /// Tokens that end a generation.
    pub eos_ids: Vec<u32>,
    /// Whether to draw tokens; otherwise the most probable one is taken.
    pub do_sample: bool,
    /// Divides logits; above 0.
    pub temperature: f32,
    /// Keeps the most probable tokens whose probabilities sum to this; in (0, 1].
    pub top_p: f32,
    /// Keeps this many of the most probable tokens; 0: all.
    pub top_k: usize,
    /// Divides positive and multiplies negative logits of tokens that have occurred; 1: nothing.
    pub repetition_penalty: f32,
    /// Prompt and answer together, in tokens; `None`: the model's context.
    pub max_length: Option<usize>,
}

impl GenerationConfig {
    /// The defaults of `generation_config.json`, and for what it does not say those of the official
    /// code: `chat` of the ChatGLMs samples, the Hugging Face classes take the likeliest token. The stop ids of both
    /// files count.
    ///
    /// # Errors
    /// `Corrupt` for a value of the wrong type or out of its range.
    pub fn from_configs(config: &Value, generation: Option<&Value>) -> Result<Self> {
        let published = Published::of(config);
        let config = Keys::new("config.json", config)?;
        let empty = Value::Object(Map::new());
        let keys = Keys::new("generation_config.json", generation.unwrap_or(&empty))?;
        let mut eos_ids = keys.ids("eos_token_id")?;
        for id in config.ids("eos_token_id")? {
            if !eos_ids.contains(&id) {
                eos_ids.push(id);
            }
        }
        let number = |key: &str, default: f32, range: std::ops::RangeInclusive<f64>| match keys
            .number(key)?
        {
            Some(value) if !range.contains(&value) => Err(keys.corrupt(
                key,
                &format!("must be in [{}, {}]", range.start(), range.end()),
            )),
            value => Ok(value.map_or(default, |v| v as f32)),
        };
        let temperature = number("temperature", published.temperature, 0.0..=100.0)?;
        let do_sample = keys.flag("do_sample")?.unwrap_or(published.do_sample);
        Ok(Self {
            eos_ids,
            // Temperature 0 is how many people write "greedy".
            do_sample: do_sample && temperature > 0.0,
            temperature: if temperature > 0.0 { temperature } else { 1.0 },
            top_p: number("top_p", published.top_p, 1e-6..=1.0)?,
            top_k: number("top_k", published.top_k, 0.0..=MAX_VOCAB as f64)? as usize,
            repetition_penalty: number("repetition_penalty", 1.0, 0.01..=100.0)?,
            max_length: keys
                .optional_size("max_length", MAX_CONTEXT)?
                .or(published.max_length),
        })
    }
}

/// How the official code of a model generates when nobody says otherwise.
///
/// | model | | temperature | top-p | top-k | tokens in all | source |
/// |---|---|---|---|---|---|---|
/// | ChatGLM-6B | samples | 0.95 | 0.7 | 50 | 2048 | `chat` in `modeling_chatglm.py` |
/// | ChatGLM2, ChatGLM3, GLM-4 in their own format | samples | 0.8 | 0.8 | 50 | 8192 | likewise |
/// | CodeGeeX2 | greedy | | | | | its README, `top_k=1` |
/// | GLM-130B | samples | 1 | 0.7 | all | 256 | `scripts/generate.sh` |
/// | CodeGeeX-13B | greedy | 0.8 | 0.95 | all | 1024 | `scripts/test_inference.sh` |
/// | others, Hugging Face classes | greedy | 1 | 1 | 50 | | the defaults of transformers |
///
/// Top-k 50 is a default of transformers, which applies it whether or not a file or a call mentions it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Published {
    do_sample: bool,
    temperature: f32,
    top_p: f32,
    top_k: f32,
    max_length: Option<usize>,
}

impl Published {
    fn of(config: &Value) -> Self {
        let greedy = Self {
            do_sample: false,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 50.0,
            max_length: None,
        };
        let first =
            !config["position_encoding_2d"].is_null() || !config["inner_hidden_size"].is_null();
        match config["model_type"].as_str() {
            Some("chatglm") if first => Self {
                do_sample: true,
                temperature: 0.95,
                top_p: 0.7,
                max_length: Some(2048),
                ..greedy
            },
            Some("chatglm") if is_named(config, &["codegeex2"]) => greedy,
            Some("chatglm") => Self {
                do_sample: true,
                temperature: 0.8,
                top_p: 0.8,
                max_length: Some(8192),
                ..greedy
            },
            Some("glm130b") => Self {
                do_sample: true,
                top_p: 0.7,
                top_k: 0.0,
                max_length: Some(256),
                ..greedy
            },
            Some("codegeex") => Self {
                temperature: 0.8,
                top_p: 0.95,
                top_k: 0.0,
                max_length: Some(1024),
                ..greedy
            },
            _ => greedy,
        }
    }
}

/// Typed reading of a JSON object; errors name the file and the key.
struct Keys<'a> {
    file: String,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn new(file: impl Into<String>, value: &'a Value) -> Result<Self> {
        let file = file.into();
        match value.as_object() {
            Some(map) => Ok(Self { file, map }),
            None => Err(
                Error::corrupt(format!("read {file}"), "it is not an object")
                    .next_step("download it again"),
            ),
        }
    }

    fn shown(&self, key: &str) -> String {
        match self.map.get(key) {
            None => format!("`{key}` is missing"),
            Some(value) => {
                // A hostile value may be long; its beginning tells enough.
                let text: String = value.to_string().chars().take(60).collect();
                format!("`{key}` is {text}")
            }
        }
    }

    fn corrupt(&self, key: &str, rule: &str) -> Error {
        Error::corrupt(
            format!("read {}", self.file),
            format!("{}; it {rule}", self.shown(key)),
        )
        .next_step("download the file again")
    }

    fn unsupported(&self, key: &str, rule: &str) -> Error {
        Error::unsupported(
            format!("read {}", self.file),
            format!("{}; {rule} supported", self.shown(key)),
        )
        .next_step("use another checkpoint of this model")
    }

    /// The value of a key that is there and not null, as `read` sees it.
    fn optional<T>(
        &self,
        key: &str,
        rule: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.corrupt(key, rule)),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.optional(key, "must be text", Value::as_str)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.optional(key, "must be true or false", Value::as_bool)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.optional(key, "must be a number", Value::as_f64)
    }

    fn optional_size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        self.optional(key, &format!("must be a whole number in [1, {max}]"), |v| {
            let n = usize::try_from(v.as_u64()?).ok()?;
            (1..=max).contains(&n).then_some(n)
        })
    }

    fn size(&self, key: &str, max: usize) -> Result<usize> {
        self.optional_size(key, max)?
            .ok_or_else(|| self.corrupt(key, "must be a whole number"))
    }

    fn epsilon(&self, key: &str, default: f32) -> Result<f32> {
        match self.number(key)? {
            None => Ok(default),
            Some(value) if value > 0.0 && value < 1.0 => Ok(value as f32),
            Some(_) => Err(self.corrupt(key, "must be in (0, 1)")),
        }
    }

    fn divide(&self, (a_key, a): (&str, usize), (b_key, b): (&str, usize)) -> Result<usize> {
        if a.is_multiple_of(b) && a / b <= MAX_HEAD_DIM {
            return Ok(a / b);
        }
        Err(self.corrupt(a_key, &format!("must be a multiple of `{b_key}`, {b}")))
    }

    /// The keys of P-Tuning v2 in `chatglm`; the official files have null or 0 for none.
    fn prefix(&self) -> Result<Option<TrainedPrefix>> {
        let tokens = match self.number("pre_seq_len")? {
            None | Some(0.0) => return Ok(None),
            Some(_) => self.size("pre_seq_len", MAX_PREFIX)?,
        };
        let projects = self.flag("prefix_projection")?.unwrap_or(false);
        Ok(Some(TrainedPrefix { tokens, projects }))
    }

    /// `dtype` (transformers 5) or `torch_dtype`; f32, PyTorch's default, when the file is silent.
    fn dtype(&self) -> Result<DType> {
        self.dtype_or(DType::F32)
    }

    fn dtype_or(&self, silent: DType) -> Result<DType> {
        let key = if self.map.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        match self.text(key)? {
            None => Ok(silent),
            Some("auto" | "float32") => Ok(DType::F32),
            Some("float16" | "half") => Ok(DType::F16),
            Some("bfloat16") => Ok(DType::BF16),
            Some(_) => Err(self.unsupported(key, "float32, float16 and bfloat16 are")),
        }
    }

    /// A number or a list of numbers.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| u32::try_from(v.as_u64()?).ok();
        let ids = self.optional(key, "must be a token id or a list of them", |v| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            _ => id(v).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use hal::ErrorKind;
    use serde_json::json;

    use super::*;

    fn glm_4_9b() -> Value {
        json!({
            "model_type": "glm", "attention_bias": true, "head_dim": 128, "hidden_act": "silu",
            "eos_token_id": [151329, 151336, 151338], "hidden_size": 4096,
            "intermediate_size": 13696, "max_position_embeddings": 131072,
            "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 2,
            "rms_norm_eps": 1.5625e-07, "rope_theta": 5000000.0, "torch_dtype": "bfloat16",
            "tie_word_embeddings": false, "vocab_size": 151552
        })
    }

    fn chatglm(extra: Value) -> Value {
        let mut config = json!({
            "model_type": "chatglm", "add_bias_linear": false, "add_qkv_bias": true,
            "apply_residual_connection_post_layernorm": false, "ffn_hidden_size": 13696,
            "hidden_size": 4096, "kv_channels": 128, "layernorm_epsilon": 1e-05,
            "multi_query_attention": true, "multi_query_group_num": 2,
            "num_attention_heads": 32, "num_layers": 28, "original_rope": true,
            "padded_vocab_size": 65024, "post_layer_norm": true, "rmsnorm": true,
            "seq_length": 8192, "tie_word_embeddings": false, "torch_dtype": "float16"
        });
        merge(&mut config, extra);
        config
    }

    fn merge(config: &mut Value, extra: Value) {
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
    }

    fn read(config: &Value) -> Architecture {
        Architecture::from_config(config).unwrap()
    }

    fn rope(architecture: &Architecture) -> RopeRecipe {
        match architecture.position {
            Position::Rope(rope) => rope,
            Position::Learned { .. } => panic!("{} has no rope", architecture.model_type),
        }
    }

    #[test]
    fn counts_the_parameters_of_published_models() {
        // The counts that the publisher's own code prints; norms and biases of qkv are added here.
        let glm4 = read(&glm_4_9b());
        assert_eq!((glm4.qkv_rows(), glm4.up_rows()), (4608, 27392));
        assert_eq!(rope(&glm4).rotary_dim, 64);
        assert_eq!(glm4.qkv_bias, Some(true));
        let whole = |a: &Architecture| {
            let norms = (2 * a.layers + 1) * a.hidden;
            a.parameters() + (norms + a.layers * a.qkv_rows()) as u64
        };
        assert_eq!(whole(&glm4), 9_399_951_360);
        assert_eq!(whole(&read(&chatglm(json!({})))), 6_243_584_000);
    }

    #[test]
    fn old_and_new_rope_keys_mean_the_same() {
        let mut old = glm_4_9b();
        merge(
            &mut old,
            json!({
                "model_type": "glm4", "partial_rotary_factor": 0.5, "rope_theta": 10000.0,
                "max_position_embeddings": 32768,
                "rope_scaling": {
                    "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768
                }
            }),
        );
        let mut new = old.clone();
        let map = new.as_object_mut().unwrap();
        for key in ["rope_scaling", "rope_theta", "partial_rotary_factor"] {
            map.remove(key);
        }
        map.insert(
            "rope_parameters".to_owned(),
            json!({
                "rope_type": "yarn", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                "factor": 4.0, "original_max_position_embeddings": 32768
            }),
        );
        let (old, new) = (read(&old), read(&new));
        assert_eq!(old, new);
        assert_eq!((old.context, old.residual), (131_072, Residual::Sandwich));
        assert!(old.names.mlp_out_norm.is_some());
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32768,
        };
        assert_eq!(rope(&old).scaling, yarn);
    }

    #[test]
    fn defaults_are_those_of_the_official_class() {
        let mut config = glm_4_9b();
        for key in [
            "attention_bias",
            "rms_norm_eps",
            "rope_theta",
            "head_dim",
            "torch_dtype",
        ] {
            config.as_object_mut().unwrap().remove(key);
        }
        let a = read(&config);
        assert_eq!((a.qkv_bias, a.norm), (None, Norm::Rms(1.5625e-7)));
        assert_eq!(
            (rope(&a).base, a.head_dim, a.dtype),
            (10_000.0, 128, DType::F32)
        );
    }

    #[test]
    fn tells_the_chatglm_codes_apart() {
        use ChatGlmCode::{V2, V3};
        let cases = [
            (
                json!({"_name_or_path": "THUDM/chatglm2-6b", "seq_length": 32768}),
                V2,
            ),
            (json!({"_name_or_path": "THUDM/codegeex2-6b"}), V2),
            (json!({"seq_length": 32768}), V2),
            (json!({"seq_length": 32768, "rope_ratio": 16}), V2),
            (json!({"seq_length": 32768, "rope_ratio": 50}), V3),
            (json!({"seq_length": 131072, "rope_ratio": 500}), V3),
            (json!({}), V3),
            (
                json!({"auto_map": {"AutoModel": "THUDM/chatglm2-6b--modeling_chatglm.X"}}),
                V2,
            ),
            (
                json!({"_name_or_path": "/data/ChatGLM3-6B-32k", "seq_length": 32768}),
                V3,
            ),
            (
                json!({"padded_vocab_size": 151552, "seq_length": 32768}),
                V3,
            ),
            (
                json!({"padded_vocab_size": 151552, "seq_length": 131072, "rope_ratio": 500}),
                V3,
            ),
        ];
        for (extra, code) in cases {
            assert_eq!(ChatGlmCode::of(&chatglm(extra.clone())), code, "{extra}");
        }
    }

    #[test]
    fn rope_ratio_divides_positions_or_multiplies_the_base() {
        let config = chatglm(json!({"seq_length": 32768, "rope_ratio": 16}));
        let v2 = rope(&read(&config));
        assert_eq!(v2.scaling, RopeScaling::DividePositions(16.0));
        assert_eq!((v2.base, v2.rounding), (10_000.0, RopeRounding::Everything));
        let forced = Architecture::from_config_as(&config, ChatGlmCode::V3).unwrap();
        let forced = rope(&forced);
        assert_eq!(forced.scaling, RopeScaling::None);
        assert_eq!(
            (forced.base, forced.rounding),
            (160_000.0, RopeRounding::Table)
        );
    }

    /// `position` of the published long-context revisions, by the keys that their files differ in.
    #[test]
    fn long_context_revisions_are_told_apart() {
        use RopeRounding::{Everything, Table};
        let divided = RopeScaling::DividePositions(16.0);
        let none = RopeScaling::None;
        let cases = [
            ("chatglm2-6b", 32768, None, (1e4, none, Everything)),
            (
                "chatglm2-6b-32k",
                32768,
                Some(16),
                (1e4, divided, Everything),
            ),
            ("codegeex2-6b", 8192, None, (1e4, none, Everything)),
            ("chatglm3-6b", 8192, None, (1e4, none, Table)),
            ("chatglm3-6b-32k", 32768, Some(50), (50e4, none, Table)),
            ("chatglm3-6b-128k", 131_072, Some(500), (500e4, none, Table)),
        ];
        for (name, length, ratio, expected) in cases {
            let mut extra = json!({"seq_length": length, "_name_or_path": format!("THUDM/{name}")});
            if let Some(ratio) = ratio {
                extra["rope_ratio"] = json!(ratio);
            }
            let a = read(&chatglm(extra));
            let r = rope(&a);
            assert_eq!((r.base, r.scaling, r.rounding), expected, "{name}");
            assert_eq!(a.context, length, "{name}");
        }
    }

    fn chatglm_6b(extra: Value) -> Value {
        let mut config = json!({
            "model_type": "chatglm", "bos_token_id": 130004, "eos_token_id": 130005,
            "mask_token_id": 130000, "gmask_token_id": 130001, "pad_token_id": 3,
            "hidden_size": 4096, "inner_hidden_size": 16384, "layernorm_epsilon": 1e-5,
            "max_sequence_length": 2048, "num_attention_heads": 32, "num_layers": 28,
            "position_encoding_2d": true, "torch_dtype": "float16", "vocab_size": 130528
        });
        merge(&mut config, extra);
        config
    }

    fn first(model_type: &str, sizes: [usize; 5]) -> Value {
        let [layers, hidden, heads, vocab, context] = sizes;
        json!({
            "model_type": model_type, "num_layers": layers, "hidden_size": hidden,
            "num_attention_heads": heads, "vocab_size": vocab, "max_sequence_length": context
        })
    }

    #[test]
    fn counts_the_parameters_of_the_first_generation() {
        let mut glm130b = first("glm130b", [70, 12288, 96, 150_528, 2048]);
        glm130b["inner_hidden_size"] = json!(32768);
        let cases = [
            (glm130b, 128.698),
            (chatglm_6b(json!({})), 6.173),
            (first("glm10b", [48, 4096, 64, 50304, 1025]), 9.881),
            (first("glm", [48, 4096, 64, 50304, 1024]), 9.881),
            (first("glm", [24, 1024, 16, 30592, 512]), 0.335),
            (first("codegeex", [39, 5120, 40, 52224, 2048]), 12.874),
        ];
        for (config, billions) in cases {
            let a = read(&config);
            // Layer norms and the biases of all matrices.
            let per_layer = a.qkv_rows() + a.hidden + a.up_rows() + a.hidden + 4 * a.hidden;
            let small = (a.layers * per_layer + 2 * a.hidden) as u64;
            let count = (a.parameters() + small) as f64 / 1e9;
            assert!((count - billions).abs() < 5e-4, "{config}: {count}");
        }
    }

    #[test]
    fn the_first_generations_differ_as_published() {
        let glm130b = read(&first("glm130b", [70, 12288, 96, 150_528, 2048]));
        assert_eq!(glm130b.residual, Residual::DeepNorm(140f32.sqrt()));
        assert_eq!(
            (glm130b.gate, glm130b.act),
            (Some(Half::Second), Act::GeluErf)
        );
        assert_eq!(rope(&glm130b).rotary_dim, 128);
        assert_eq!(glm130b.blank, BlankPositions::OneStream);

        let v1 = read(&chatglm_6b(json!({"num_layers": 3})));
        assert_eq!(v1.residual, Residual::DeepNorm(56f32.sqrt()));
        assert_eq!((v1.gate, rope(&v1).rotary_dim), (None, 64));
        for (extra, blank) in [
            (json!({}), BlankPositions::TwoStreams),
            (
                json!({"vocab_size": 150_528}),
                BlankPositions::TwoStreamsFirstRevision,
            ),
            (
                json!({"vocab_size": 64, "bos_token_id": 150_004}),
                BlankPositions::TwoStreamsFirstRevision,
            ),
            (json!({"quantization_bit": 4}), BlankPositions::TwoStreams),
        ] {
            assert_eq!(read(&chatglm_6b(extra.clone())).blank, blank, "{extra}");
        }

        let hf = read(&first("glm", [48, 4096, 64, 50304, 1024]));
        let sat = read(&first("glm10b", [48, 4096, 64, 50304, 1025]));
        assert_eq!(hf.position, Position::Learned { rows: 1025 });
        assert_eq!((hf.position, hf.context), (sat.position, sat.context));
        assert_eq!(
            (hf.names.embedding, hf.dtype),
            ("glm.word_embeddings", DType::F16)
        );
        let bare = "transformer.block_position_embeddings.weight";
        let bare = hf.clone().named_as(|name| name == bare);
        assert_eq!(bare.names.embedding, "word_embeddings");
        assert_eq!(hf.clone().named_as(|_| false), hf);

        let codegeex = read(&first("codegeex", [39, 5120, 40, 52224, 2048]));
        assert_eq!((codegeex.layers, codegeex.mask), (40, Mask::Causal));
        let query = codegeex.of_layer(38, "attention.query");
        assert_eq!(
            query,
            "language_model.transformer.layers.38.attention.query"
        );
        let query = codegeex.of_layer(39, "attention.query");
        assert_eq!(
            query,
            "language_model.transformer.topQueryLayer.attention.query"
        );
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        use ErrorKind::{Corrupt, Unsupported};
        let glm = [
            (
                json!({"model_type": "llama"}),
                Unsupported,
                "glm, glm4, chatglm",
            ),
            (json!({"model_type": null}), Unsupported, "no model_type"),
            (json!({"model_type": 7}), Corrupt, "`model_type` is 7"),
            (json!({"hidden_act": "gelu"}), Unsupported, "hidden_act"),
            (
                json!({"num_attention_heads": 0}),
                Corrupt,
                "`num_attention_heads` is 0",
            ),
            (json!({"num_attention_heads": -3}), Corrupt, "-3"),
            (
                json!({"num_key_value_heads": 5}),
                Corrupt,
                "5 key-value heads",
            ),
            (
                json!({"num_hidden_layers": 1_000_000_000_000u64}),
                Corrupt,
                "1000000000000",
            ),
            (
                json!({"num_hidden_layers": 1e300}),
                Corrupt,
                "num_hidden_layers",
            ),
            (json!({"hidden_size": 1u64 << 40}), Corrupt, "hidden_size"),
            (
                json!({"num_attention_heads": 1 << 20}),
                Corrupt,
                "heads of 128",
            ),
            (
                json!({"head_dim": 126, "partial_rotary_factor": 0.5}),
                Corrupt,
                "63 rotated",
            ),
            (
                json!({"head_dim": null, "hidden_size": 4097}),
                Corrupt,
                "multiple of",
            ),
            (json!({"rms_norm_eps": 0}), Corrupt, "rms_norm_eps"),
            (
                json!({"partial_rotary_factor": 1.5}),
                Corrupt,
                "partial_rotary_factor",
            ),
            (json!({"rope_theta": 0}), Corrupt, "rope_theta"),
            (
                json!({"torch_dtype": "float8_e4m3fn"}),
                Unsupported,
                "float8_e4m3fn",
            ),
            (
                json!({"rope_scaling": {"type": "longrope"}}),
                Unsupported,
                "longrope",
            ),
            (
                json!({"rope_scaling": {"type": "yarn", "factor": 0.1}}),
                Corrupt,
                "factor",
            ),
            (
                json!({"rope_scaling": {"type": "yarn", "mscale": 2}}),
                Unsupported,
                "mscale",
            ),
            (json!({"rope_parameters": [1]}), Corrupt, "rope_parameters"),
        ];
        let old = [
            (
                json!({"position_encoding_2d": false}),
                Unsupported,
                "position_encoding_2d",
            ),
            (
                json!({"model_type": "glm130b", "vocab_size": 64, "max_sequence_length": 0,
                    "tie_word_embeddings": true}),
                Corrupt,
                "max_sequence_length",
            ),
            (
                json!({"model_type": "glm10b", "block_position_encoding": false}),
                Unsupported,
                "block_position_encoding",
            ),
            (json!({"model_type": "codegeex"}), Unsupported, "tie_word"),
            (json!({"vision_config": {}}), Unsupported, "vision_config"),
            (json!({"pre_seq_len": 1 << 20}), Corrupt, "pre_seq_len"),
            (json!({"rmsnorm": false}), Unsupported, "rmsnorm"),
            (json!({"rope_ratio": 0}), Corrupt, "rope_ratio"),
            (json!({"kv_channels": 2}), Corrupt, "1 rotated"),
            (json!({"seq_length": null}), Corrupt, "seq_length"),
        ];
        let glm = glm.into_iter().map(|(extra, kind, text)| {
            let mut config = glm_4_9b();
            merge(&mut config, extra);
            (config, kind, text)
        });
        let old = old
            .into_iter()
            .map(|(e, kind, text)| (chatglm(e), kind, text));
        for (config, kind, text) in glm.chain(old) {
            let e = Architecture::from_config(&config).unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(
                e.to_string().contains(text) && e.next().is_some(),
                "{text}: {e}"
            );
        }
        assert!(Architecture::from_config(&json!([])).is_err());
    }

    #[test]
    fn generation_defaults() {
        let config = glm_4_9b();
        let file = json!({
            "eos_token_id": [151329], "do_sample": true, "temperature": 0.8, "top_p": 0.7,
            "max_length": 128000
        });
        let g = GenerationConfig::from_configs(&config, Some(&file)).unwrap();
        assert_eq!(g.eos_ids, [151329, 151336, 151338]);
        assert_eq!((g.do_sample, g.temperature, g.top_p), (true, 0.8, 0.7));
        assert_eq!((g.top_k, g.max_length), (50, Some(128_000)));

        let greedy = GenerationConfig::from_configs(&config, None).unwrap();
        assert_eq!((greedy.do_sample, greedy.max_length), (false, None));

        let chat = chatglm(json!({"eos_token_id": 2}));
        let chat = GenerationConfig::from_configs(&chat, None).unwrap();
        assert_eq!((chat.eos_ids, chat.do_sample), (vec![2], true));
        assert_eq!((chat.temperature, chat.max_length), (0.8, Some(8192)));
        // What a file does not say is as the code has it.
        let file = json!({"temperature": 0.5});
        let chat = GenerationConfig::from_configs(&chatglm(json!({})), Some(&file)).unwrap();
        assert_eq!(
            (chat.do_sample, chat.temperature, chat.top_p),
            (true, 0.5, 0.8)
        );

        let names =
            |model_type: &str, more: &str| json!({"model_type": model_type, "_name_or_path": more});
        let mut first = names("chatglm", "THUDM/chatglm-6b");
        first["position_encoding_2d"] = json!(true);
        first["eos_token_id"] = json!(130_005);
        for (config, do_sample, temperature, top_p, top_k, max_length) in [
            (first, true, 0.95, 0.7, 50, Some(2048)),
            (
                names("chatglm", "THUDM/chatglm2-6b"),
                true,
                0.8,
                0.8,
                50,
                Some(8192),
            ),
            (
                names("chatglm", "THUDM/chatglm3-6b"),
                true,
                0.8,
                0.8,
                50,
                Some(8192),
            ),
            (
                names("chatglm", "THUDM/glm-4-9b-chat"),
                true,
                0.8,
                0.8,
                50,
                Some(8192),
            ),
            (
                names("chatglm", "THUDM/codegeex2-6b"),
                false,
                1.0,
                1.0,
                50,
                None,
            ),
            (names("glm130b", ""), true, 1.0, 0.7, 0, Some(256)),
            (names("glm10b", ""), false, 1.0, 1.0, 50, None),
            (names("codegeex", ""), false, 0.8, 0.95, 0, Some(1024)),
            (names("glm4", ""), false, 1.0, 1.0, 50, None),
        ] {
            let g = GenerationConfig::from_configs(&config, None).unwrap();
            let got = (g.do_sample, g.temperature, g.top_p, g.top_k, g.max_length);
            assert_eq!(
                got,
                (do_sample, temperature, top_p, top_k, max_length),
                "{config}"
            );
            assert_eq!(
                g.eos_ids.first(),
                (top_p == 0.7 && top_k == 50).then_some(&130_005)
            );
        }

        let zero = json!({"do_sample": true, "temperature": 0.0});
        let zero = GenerationConfig::from_configs(&config, Some(&zero)).unwrap();
        assert!(!zero.do_sample);
        for wrong in [
            json!({"temperature": -1}),
            json!({"top_p": 1.5}),
            json!({"top_k": "many"}),
            json!({"eos_token_id": [1, "x"]}),
            json!({"eos_token_id": -1}),
            json!({"max_length": 0}),
        ] {
            let e = GenerationConfig::from_configs(&config, Some(&wrong)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{wrong}");
        }
    }
}
