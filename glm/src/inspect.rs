//! What a model folder holds, as a value to print or to compare.

use std::collections::HashSet;

use hal::{DType, Result, WeightFormat};
use serde::Serialize;

use crate::architecture::{Architecture, Norm, Position};
use crate::checkpoint::{Checkpoint, SCALE_SUFFIX, StoredType};
use crate::config::GenerationConfig;
use crate::model::PREFIX_ENCODER;
use crate::prompt::FormName;
use crate::source::ModelSource;

/// Everything that is known of a model without running it.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Dimensions and choices.
    pub architecture: ArchitectureFacts,
    /// Parameters of all tensors that the layers read; a quantised weight counts its elements.
    pub parameters: u64,
    /// Bytes of all tensors in the files.
    pub stored_bytes: u64,
    /// Format of the layers' matrices in the files: `bf16`, `int4-g32`, `mixed`.
    pub weights: String,
    /// Every tensor in the files.
    pub tensors: Vec<TensorFacts>,
    /// Tensors that the layers need and the files lack.
    pub missing: Vec<String>,
    /// Tensors that the files have and nobody reads: of a fine-tune, or of another model.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than the configuration says, with both shapes.
    pub misshapen: Vec<String>,
    /// Memory that the weights would take in other formats.
    pub sizes: Sizes,
    /// Bytes of the key-value cache per token, in f16.
    pub kv_bytes_per_token: u64,
    /// The tokenizer.
    pub tokenizer: Option<TokenizerFacts>,
    /// Where the chat template comes from.
    pub template: Option<FormName>,
    /// Recommended sampling.
    pub generation: Option<GenerationConfig>,
    /// What kept a part from being read.
    pub problems: Vec<String>,
}

/// Dimensions and choices of an [`Architecture`].
#[derive(Clone, Debug, Serialize)]
pub struct ArchitectureFacts {
    /// `model_type` of the configuration.
    pub model_type: String,
    /// Transformer layers.
    pub layers: usize,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Inner width of the MLP.
    pub ffn: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Element type that it was published for.
    pub dtype: String,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// Normalisation and residual stream.
    pub norm: String,
    /// The position embedding.
    pub position: String,
}

/// A tensor in a file.
#[derive(Clone, Debug, Serialize)]
pub struct TensorFacts {
    /// Its name.
    pub name: String,
    /// Its stored type.
    pub dtype: String,
    /// The format in which it runs unless another is asked for, where that is not how it is stored.
    pub runs_as: Option<String>,
    /// Its stored shape.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: u64,
}

/// The tokenizer of a model.
#[derive(Clone, Debug, Serialize)]
pub struct TokenizerFacts {
    /// The largest id and one.
    pub vocab_size: usize,
    /// Names and ids of special tokens, by id.
    pub specials: Vec<(String, u32)>,
}

/// Bytes of all weights when the layers' matrices have one format and the rest is f16.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub struct Sizes {
    /// f16 matrices.
    pub f16: u64,
    /// int8 matrices, one scale per row.
    pub int8: u64,
    /// int4 matrices, one scale per group of 32; one per row where 32 does not divide the columns.
    pub int4: u64,
}

/// Inspects a model. Tokenizer, template and generation defaults that cannot be read are reported
/// as problems; weights and configuration must be readable.
///
/// # Errors
/// Those of [`Checkpoint::open`] and [`Architecture::load`].
pub fn inspect(source: &ModelSource) -> Result<Inspection> {
    let architecture = source.architecture()?;
    let checkpoint = source.checkpoint()?;
    let mut inspection = of_weights(&architecture, &checkpoint)?;
    let mut problems = Vec::new();
    let mut note = |e: hal::Error| problems.push(e.to_string());
    let tokenizer = source.tokenizer().map_err(&mut note).ok();
    if let Some(tokenizer) = &tokenizer {
        tokenizer
            .check_fits(architecture.vocab)
            .unwrap_or_else(&mut note);
        let form = source.chat_form(tokenizer).map_err(&mut note).ok();
        inspection.template = form.map(|form| form.name());
    }
    inspection.generation = source.generation_config().map_err(&mut note).ok();
    inspection.tokenizer = tokenizer.map(|tokenizer| {
        let specials = tokenizer.specials();
        let mut specials: Vec<_> = specials.map(|(name, id)| (name.to_owned(), id)).collect();
        specials.sort_by_key(|(_, id)| *id);
        TokenizerFacts {
            vocab_size: tokenizer.vocab_size(),
            specials,
        }
    });
    inspection.problems = problems;
    Ok(inspection)
}

/// The part of an [`Inspection`] that needs configuration and weights only: for a model that is
/// part of the executable.
///
/// # Errors
/// `Corrupt` when the table of tensors contradicts itself.
fn of_weights(architecture: &Architecture, checkpoint: &Checkpoint) -> Result<Inspection> {
    let architecture = &architecture.clone().named_as(|name| checkpoint.has(name));
    let mut found = Found::default();
    let mut formats = HashSet::new();
    for i in 0..architecture.layers {
        for (key, shape) in architecture.matrices(i) {
            if let Some(format) = found.matrix(checkpoint, &key, shape) {
                let tensor = checkpoint.tensor(&format!("{key}.weight"))?;
                formats.insert(match tensor.dtype {
                    StoredType::Blocks(block) => format!("{block} as {format}"),
                    _ => format.to_string(),
                });
            }
        }
    }
    for (name, shape) in other_tensors(architecture, checkpoint) {
        found.tensor(checkpoint, &name, &shape);
    }
    if architecture.prefix.is_some() {
        found.prefix(checkpoint);
    }
    let names = &architecture.names;
    let known = |name: &str| {
        found.known.contains(name)
            || names.ignored.iter().any(|part| name.contains(part))
            || (architecture.tied && name == format!("{}.weight", names.head))
    };
    let mut tensors = Vec::with_capacity(checkpoint.names().len());
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name)?;
        tensors.push(TensorFacts {
            name: name.to_owned(),
            dtype: tensor.dtype.to_string(),
            runs_as: match tensor.dtype {
                StoredType::Blocks(block) => Some(block.runs_as().to_string()),
                _ => None,
            },
            shape: tensor.shape.to_vec(),
            bytes: tensor.bytes() as u64,
        });
    }
    let unexpected = checkpoint.names().filter(|name| !known(name));
    let a = architecture;
    Ok(Inspection {
        architecture: facts(a),
        parameters: found.parameters,
        stored_bytes: checkpoint.total_bytes(),
        weights: match formats.len() {
            1 => formats.into_iter().collect(),
            _ => "mixed".to_owned(),
        },
        unexpected: unexpected.map(str::to_owned).collect(),
        tensors,
        missing: found.missing,
        misshapen: found.misshapen,
        sizes: sizes(a, found.parameters),
        kv_bytes_per_token: (a.layers * 2 * a.kv_heads * a.head_dim * DType::F16.bytes()) as u64,
        tokenizer: None,
        template: None,
        generation: None,
        problems: Vec::new(),
    })
}

/// What has been looked for.
#[derive(Default)]
struct Found {
    parameters: u64,
    known: HashSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
}

impl Found {
    /// Looks for a matrix, dense or quantised.
    fn matrix(
        &mut self,
        checkpoint: &Checkpoint,
        key: &str,
        shape: [usize; 2],
    ) -> Option<WeightFormat> {
        let name = format!("{key}.weight");
        self.parameters += (shape[0] * shape[1]) as u64;
        self.known.insert(format!("{name}{SCALE_SUFFIX}"));
        self.known.insert(name.clone());
        if !checkpoint.has(&name) {
            self.missing.push(name);
            return None;
        }
        match checkpoint.matrix(key, shape[1]) {
            Ok(weight) if [weight.rows, weight.cols] == shape => Some(weight.format),
            Ok(weight) => {
                let stored = [weight.rows, weight.cols];
                self.misshapen
                    .push(format!("{name}: {stored:?}, not {shape:?}"));
                Some(weight.format)
            }
            Err(e) => {
                self.misshapen.push(format!("{name}: {}", e.detail()));
                None
            }
        }
    }

    /// Looks for a trained prefix, whose shapes follow from its tensors.
    fn prefix(&mut self, checkpoint: &Checkpoint) {
        let names = checkpoint.names();
        for name in names.filter(|name| name.starts_with(PREFIX_ENCODER)) {
            let shape = checkpoint.tensor(name).map_or(&[][..], |t| t.shape);
            self.parameters += shape.iter().product::<usize>() as u64;
            self.known.insert(name.to_owned());
        }
        let table = format!("{PREFIX_ENCODER}embedding.weight");
        if !checkpoint.has(&table) {
            self.missing.push(table);
        }
    }

    fn tensor(&mut self, checkpoint: &Checkpoint, name: &str, shape: &[usize]) {
        self.parameters += shape.iter().product::<usize>() as u64;
        self.known.insert(name.to_owned());
        match checkpoint.tensor(name) {
            Err(_) => self.missing.push(name.to_owned()),
            Ok(tensor) if tensor.shape == shape => {}
            Ok(tensor) => {
                let stored = tensor.shape;
                self.misshapen
                    .push(format!("{name}: {stored:?}, not {shape:?}"));
            }
        }
    }
}

/// Tensors besides the layers' matrices: tables, norms, and biases. Biases of query, key and value
/// are those that exist when the configuration leaves them open.
fn other_tensors(a: &Architecture, checkpoint: &Checkpoint) -> Vec<(String, Vec<usize>)> {
    let names = &a.names;
    let tables = a.tables().into_iter();
    let mut tensors: Vec<_> = tables
        .map(|(name, shape)| (format!("{name}.weight"), shape.to_vec()))
        .collect();
    if !a.tied {
        tensors.push((format!("{}.weight", names.head), vec![a.vocab, a.hidden]));
    }
    let mut norms = vec![names.final_norm.to_owned()];
    for i in 0..a.layers {
        let of_layer = [
            Some(names.input_norm),
            names.attention_out_norm,
            Some(names.mlp_norm),
            names.mlp_out_norm,
        ];
        norms.extend(
            of_layer
                .into_iter()
                .flatten()
                .map(|name| a.of_layer(i, name)),
        );
        let matrices = a.matrices(i);
        // The last three are the output of attention and the two of the MLP.
        let first_dense = matrices.len() - 3;
        for (m, (key, [rows, _])) in matrices.into_iter().enumerate() {
            let name = format!("{key}.bias");
            let wanted = if m < first_dense {
                a.qkv_bias.unwrap_or_else(|| checkpoint.has(&name))
            } else {
                a.dense_bias
            };
            if wanted {
                tensors.push((name, vec![rows]));
            }
        }
    }
    for norm in norms {
        tensors.push((format!("{norm}.weight"), vec![a.hidden]));
        if let Norm::Layer(_) = a.norm {
            tensors.push((format!("{norm}.bias"), vec![a.hidden]));
        }
    }
    tensors
}

fn sizes(a: &Architecture, parameters: u64) -> Sizes {
    let matrices = a.matrices(0);
    let layers = a.layers as u64;
    let elements: usize = matrices.iter().map(|(_, [rows, cols])| rows * cols).sum();
    let rest = (parameters - layers * elements as u64) * 2;
    let of = |format: fn(usize) -> WeightFormat| {
        let bytes = |(_, [rows, cols]): &(String, [usize; 2])| {
            let format = format(*cols);
            let (scales, dtype) = format.row_scales(*cols);
            (rows * (format.row_bytes(*cols) + scales * dtype.bytes())) as u64
        };
        rest + layers * matrices.iter().map(bytes).sum::<u64>()
    };
    Sizes {
        f16: of(|_| WeightFormat::Dense(DType::F16)),
        int8: of(|_| WeightFormat::Int8Row),
        int4: of(|cols| match cols.is_multiple_of(32) {
            true => WeightFormat::Int4Group(32),
            false => WeightFormat::Int4Row,
        }),
    }
}

fn facts(a: &Architecture) -> ArchitectureFacts {
    ArchitectureFacts {
        model_type: a.model_type.clone(),
        layers: a.layers,
        hidden: a.hidden,
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        ffn: a.ffn,
        vocab: a.vocab,
        context: a.context,
        dtype: a.dtype.to_string(),
        tied: a.tied,
        norm: format!("{:?}, {:?}", a.norm, a.residual),
        position: match a.position {
            Position::Rope(rope) => format!(
                "{:?}, {} of {} elements, base {}, scaling {:?}, rounding {:?}",
                rope.layout, rope.rotary_dim, a.head_dim, rope.base, rope.scaling, rope.rounding
            ),
            Position::Learned { rows } => format!(
                "{} learned tables of {rows} rows{}",
                a.names.positions.len(),
                if a.top_query { ", top query layer" } else { "" }
            ),
        },
    }
}
