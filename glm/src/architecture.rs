//! An architecture as data: dimensions, names of tensors, and the choices in which the GLM generations differ.
//!
//! One set of layers reads this; no generation has code of its own. A new generation is a new value, and a new
//! variant where it does something that none before it did.

use hal::DType;
use ops::{Act, Half, Mask, RopeLayout};

use crate::blank::BlankPositions;

/// Everything that the layers must know of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// `model_type` of the configuration: one of [`SUPPORTED`](crate::config::SUPPORTED).
    pub model_type: String,
    /// Transformer layers, the top query layer included.
    pub layers: usize,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Inner width of the MLP (of one half, when gated).
    pub ffn: usize,
    /// Rows of the embedding, and logits per token.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Normalisation.
    pub norm: Norm,
    /// How sublayers and residual stream meet.
    pub residual: Residual,
    /// Position embedding.
    pub position: Position,
    /// Whether the query of the last layer is a learned row per position, not the hidden state: the top query layer
    /// of CodeGeeX. It works on what the final norm gives, and no norm follows it.
    pub top_query: bool,
    /// Which earlier tokens a token sees. [`Mask::Prefix`]: those before the generation start see each other.
    pub mask: Mask,
    /// Which positions the tokens of a blank have.
    pub blank: BlankPositions,
    /// A trained prefix in the checkpoint itself.
    pub prefix: Option<TrainedPrefix>,
    /// The MLP's activation.
    pub act: Act,
    /// The activated half of a gated MLP; `None`: not gated.
    pub gate: Option<Half>,
    /// Whether `qkv` has a bias; `None`: as the tensors say.
    pub qkv_bias: Option<bool>,
    /// Whether the other linear layers have a bias.
    pub dense_bias: bool,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// The element type that the checkpoint was published for.
    pub dtype: DType,
    /// Names of tensors.
    pub names: Names,
}

impl Architecture {
    /// Rows of the fused query-key-value matrix: `[q | k | v]`.
    pub fn qkv_rows(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Rows of the first MLP matrix.
    pub fn up_rows(&self) -> usize {
        if self.gate.is_some() {
            2 * self.ffn
        } else {
            self.ffn
        }
    }

    /// The full name of tensor `name` (`weight` or `bias` included by the caller) of layer `i`.
    pub fn of_layer(&self, i: usize, name: &str) -> String {
        if self.top_query && i + 1 == self.layers {
            return self.names.top_layer.to_owned() + name;
        }
        self.names.of_layer(i, name)
    }

    /// The same architecture with the names that a checkpoint has, for models that were published under several.
    /// `has` tells whether a tensor is there.
    #[must_use]
    pub fn named_as(mut self, has: impl Fn(&str) -> bool) -> Self {
        if ORIGINAL_GLM_NAMES.contains(&self.names) {
            // They share the name of the word embedding with others, but not that of the second table.
            let marks = |names: &&Names| has(&format!("{}.weight", names.positions[1]));
            self.names = *ORIGINAL_GLM_NAMES.iter().find(marks).unwrap_or(&self.names);
        }
        self
    }

    /// Keys (without `.weight`), rows and columns of the tables that tokens and positions are looked up in.
    pub fn tables(&self) -> Vec<(&'static str, [usize; 2])> {
        let mut tables = vec![(self.names.embedding, [self.vocab, self.hidden])];
        if let Position::Learned { rows } = self.position {
            let positions = self.names.positions.iter();
            tables.extend(positions.map(|name| (*name, [rows, self.hidden])));
            if self.top_query {
                tables.push((self.names.top_query, [rows, self.hidden]));
            }
        }
        tables
    }

    /// Keys (without `.weight`) and shapes `[rows, cols]` of the matrices of layer `i`.
    pub fn matrices(&self, i: usize) -> Vec<(String, [usize; 2])> {
        let names = &self.names;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let qkv = match names.qkv {
            QkvNames::Separate { q: query, k, v } => vec![(query, q), (k, kv), (v, kv)],
            QkvNames::Blocks(name) | QkvNames::PerHead(name) => vec![(name, q + 2 * kv)],
        };
        let mut matrices: Vec<_> = qkv
            .into_iter()
            .map(|(name, rows)| (name, [rows, self.hidden]))
            .collect();
        matrices.push((names.dense, [self.hidden, q]));
        matrices.push((names.up, [self.up_rows(), self.hidden]));
        matrices.push((names.down, [self.hidden, self.ffn]));
        matrices
            .into_iter()
            .map(|(name, shape)| (self.of_layer(i, name), shape))
            .collect()
    }

    /// Number of parameters of matrices and tables, norms excluded.
    pub fn parameters(&self) -> u64 {
        let per_layer = self.hidden
            * (self.qkv_rows() + self.heads * self.head_dim + self.up_rows() + self.ffn);
        let tables = self
            .tables()
            .into_iter()
            .map(|(_, [rows, cols])| rows * cols);
        let head = if self.tied {
            0
        } else {
            self.vocab * self.hidden
        };
        (self.layers * per_layer + tables.sum::<usize>() + head) as u64
    }
}

/// Normalisation of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// RMS normalisation with this epsilon.
    Rms(f32),
    /// Layer normalisation with bias, with this epsilon.
    Layer(f32),
}

/// How sublayers and residual stream meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Residual {
    /// `x + f(norm(x))`: the original GLM, CodeGeeX, ChatGLM2 to GLM-4.
    PreNorm,
    /// `x + norm'(f(norm(x)))`: GLM-4-0414.
    Sandwich,
    /// `alpha · a + f(a)` with `a = norm(x)`: GLM-130B (√140), ChatGLM-6B (√56).
    DeepNorm(f32),
}

/// How a token knows where it stands. There are [`BlankPositions::streams`] positions per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// Queries and keys are turned.
    Rope(RopeRecipe),
    /// A row of a learned table per stream is added to the word embedding: the original GLM, CodeGeeX.
    Learned {
        /// Rows of each table.
        rows: usize,
    },
}

/// How the angles of the rotary embedding are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeRecipe {
    /// Pairing of elements.
    pub layout: RopeLayout,
    /// Rotated elements of a head (of one of its parts, with two streams).
    pub rotary_dim: usize,
    /// Base of the frequencies.
    pub base: f64,
    /// Change of the angles for longer contexts.
    pub scaling: RopeScaling,
    /// Rounding on the way from position to table.
    pub rounding: RopeRounding,
}

/// Change of the angles for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions are divided: ChatGLM2-32k.
    DividePositions(f64),
    /// YaRN (Peng et al., arXiv 2309.00071): GLM-4-0414 beyond 32k.
    Yarn {
        /// How many times the original context.
        factor: f64,
        /// Positions of the original context.
        original_context: usize,
    },
}

/// Rounding on the way from position to table. It changes logits at long positions, so it is part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeRounding {
    /// Frequencies and angles in f32; cosines and sines rounded to the model's type: ChatGLM3, GLM-4.
    Table,
    /// Frequencies, positions, angles and table rounded to the model's type: ChatGLM2.
    Everything,
    /// Frequencies rounded to f16 always, angles and table to the model's type: GLM-130B, ChatGLM-6B.
    F16Frequencies,
}

/// A trained prefix (P-Tuning v2): keys and values before the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainedPrefix {
    /// Slots.
    pub tokens: usize,
    /// Whether two matrices make keys and values of an embedding; otherwise the embedding is they.
    pub projects: bool,
}

/// Names of tensors; `{}` in a layer's prefix is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Word embedding.
    pub embedding: &'static str,
    /// Tables of [`Position::Learned`], one per stream.
    pub positions: &'static [&'static str],
    /// Table of the queries of the top query layer; empty without one.
    pub top_query: &'static str,
    /// Prefix of the tensors of the top query layer; empty without one.
    pub top_layer: &'static str,
    /// Prefix of the tensors of one layer.
    pub layer: &'static str,
    /// Norm before attention.
    pub input_norm: &'static str,
    /// Query, key and value matrices.
    pub qkv: QkvNames,
    /// Output matrix of attention.
    pub dense: &'static str,
    /// Norm after attention, inside its sublayer; with [`Residual::Sandwich`].
    pub attention_out_norm: Option<&'static str>,
    /// Norm before the MLP.
    pub mlp_norm: &'static str,
    /// First matrix of the MLP; gate and up in one when gated.
    pub up: &'static str,
    /// Second matrix of the MLP.
    pub down: &'static str,
    /// Norm after the MLP, inside its sublayer; with [`Residual::Sandwich`].
    pub mlp_out_norm: Option<&'static str>,
    /// Norm after the last layer.
    pub final_norm: &'static str,
    /// Output layer; absent from the checkpoint when tied.
    pub head: &'static str,
    /// Tensors that checkpoints carry and nobody needs: names that contain one of these.
    pub ignored: &'static [&'static str],
}

impl Names {
    /// The full name of tensor `name` of layer `i`, an ordinary one.
    pub fn of_layer(&self, i: usize, name: &str) -> String {
        self.layer.replace("{}", &i.to_string()) + name
    }
}

/// Where query, key and value matrices lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvNames {
    /// Three tensors.
    Separate {
        /// Query.
        q: &'static str,
        /// Key.
        k: &'static str,
        /// Value.
        v: &'static str,
    },
    /// One tensor, rows `[q | k | v]`: the original GLM, ChatGLM2 and later.
    Blocks(&'static str),
    /// One tensor, rows `[head][q | k | v]`: GLM-130B, ChatGLM-6B.
    PerHead(&'static str),
}

/// Names of the Hugging Face classes `glm` and `glm4`.
pub const HF_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    positions: &[],
    top_query: "",
    top_layer: "",
    layer: "model.layers.{}.",
    input_norm: "input_layernorm",
    qkv: QkvNames::Separate {
        q: "self_attn.q_proj",
        k: "self_attn.k_proj",
        v: "self_attn.v_proj",
    },
    dense: "self_attn.o_proj",
    attention_out_norm: None,
    mlp_norm: "post_attention_layernorm",
    up: "mlp.gate_up_proj",
    down: "mlp.down_proj",
    mlp_out_norm: None,
    final_norm: "model.norm",
    head: "lm_head",
    ignored: &["rotary_emb.inv_freq"],
};

/// Names of `glm4`: those of `glm` and the two norms of the sandwich.
pub const HF_GLM4_NAMES: Names = Names {
    attention_out_norm: Some("post_self_attn_layernorm"),
    mlp_out_norm: Some("post_mlp_layernorm"),
    ..HF_NAMES
};

/// Names of ChatGLM2, ChatGLM3 and GLM-4 in their own format.
pub const CHATGLM_NAMES: Names = Names {
    embedding: "transformer.embedding.word_embeddings",
    positions: &[],
    top_query: "",
    top_layer: "",
    layer: "transformer.encoder.layers.{}.",
    input_norm: "input_layernorm",
    qkv: QkvNames::Blocks("self_attention.query_key_value"),
    dense: "self_attention.dense",
    attention_out_norm: None,
    mlp_norm: "post_attention_layernorm",
    up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    mlp_out_norm: None,
    final_norm: "transformer.encoder.final_layernorm",
    head: "transformer.output_layer",
    ignored: &["rotary_pos_emb.inv_freq"],
};

/// Names of GLM-130B and ChatGLM-6B.
pub const GLM_NAMES: Names = Names {
    embedding: "transformer.word_embeddings",
    positions: &[],
    top_query: "",
    top_layer: "",
    layer: "transformer.layers.{}.",
    input_norm: "input_layernorm",
    qkv: QkvNames::PerHead("attention.query_key_value"),
    dense: "attention.dense",
    attention_out_norm: None,
    mlp_norm: "post_attention_layernorm",
    up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    mlp_out_norm: None,
    final_norm: "transformer.final_layernorm",
    head: "lm_head",
    ignored: &["rotary_emb.inv_freq"],
};

/// Names of the original GLM, as it was published: by SwissArmyTransformer; by `GLMForConditionalGeneration`; by its own
/// code, and as the class without a head.
pub const ORIGINAL_GLM_NAMES: [Names; 3] = [
    Names {
        positions: &[
            "transformer.position_embeddings",
            "mixins.block_position_embedding.block_position_embeddings",
        ],
        qkv: QkvNames::Blocks("attention.query_key_value"),
        ..GLM_NAMES
    },
    Names {
        embedding: "glm.word_embeddings",
        positions: &[
            "glm.transformer.position_embeddings",
            "glm.transformer.block_position_embeddings",
        ],
        layer: "glm.transformer.layers.{}.",
        qkv: QkvNames::Blocks("attention.query_key_value"),
        final_norm: "glm.transformer.final_layernorm",
        ..GLM_NAMES
    },
    Names {
        embedding: "word_embeddings",
        positions: &[
            "transformer.position_embeddings",
            "transformer.block_position_embeddings",
        ],
        qkv: QkvNames::Blocks("attention.query_key_value"),
        ..GLM_NAMES
    },
];

/// Names of CodeGeeX-13B.
pub const CODEGEEX_NAMES: Names = Names {
    embedding: "language_model.embedding.word_embeddings",
    positions: &["language_model.embedding.position_embeddings"],
    top_query: "language_model.topQueryEmbedding.top_query_embeddings",
    top_layer: "language_model.transformer.topQueryLayer.",
    layer: "language_model.transformer.layers.{}.",
    qkv: QkvNames::Separate {
        q: "attention.query",
        k: "attention.key",
        v: "attention.value",
    },
    final_norm: "language_model.transformer.final_layernorm",
    ..GLM_NAMES
};
