//! A model on a device: one set of layers, driven by an [`Architecture`].
//!
//! Design choices:
//! - Everything is planned, checked against free memory and allocated when the model is loaded; a
//!   step allocates nothing.
//! - One call runs any mixture of prefill and decoding of several sequences ([`Chunk`]); each
//!   token's numbers depend on its own sequence only.
//! - Logits are computed for the rows that are asked for, in f32.
//! - A trained prefix is written into each sequence before its first token; nothing else knows of it.

mod blueprint;
mod inputs;
mod plans;
mod prefix;
mod replay;
mod work;

use std::fmt;
use std::sync::Arc;

use hal::{Buffer, DType, Device, Error, ErrorKind, Result, Stream, View, WeightFormat};
use ops::{AttentionArgs, Context, EmbeddingArgs, KvWriteArgs, Mask, RopeKvWriteArgs};

use crate::architecture::{Architecture, Position};
use crate::cache::{CacheShape, KvCache, Sequence, page_size};
use crate::checkpoint::Checkpoint;
use crate::packed::Packed;
use crate::rope::RopeTables;
use crate::weights::{Bias, Linear, Loader, Matrix, NormWeights, Table, check_norm, weight_bytes};
use blueprint::Blueprint;
pub use blueprint::{PlannedOperation, Preview};
use inputs::{Inputs, Part, Picked, Step};
use plans::{Limits, Plans};
pub(crate) use prefix::PREFIX_ENCODER;
use prefix::Prefix;
use replay::Replays;
pub use work::Work;

/// How a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Type of the activations: f32, f16 or bf16. `None`: the checkpoint's type if the device
    /// computes with it natively, else f32.
    pub dtype: Option<DType>,
    /// Encoding of the layers' matrices; `None`: as stored.
    pub weights: Option<WeightFormat>,
    /// Encoding of embedding and output layer; `None`: as stored. They suffer most from
    /// quantisation.
    pub tables: Option<WeightFormat>,
    /// Type of the KV cache: a float, or i8, whose rows have a scale ([`ops::kv_cache`]), on devices whose kernels take it. `None`: that
    /// of the activations where they were named, else the checkpoint's own.
    pub kv: Option<DType>,
    /// The most tokens of a sequence; `None`: 8192, or what the model was made for if that is less.
    pub context: Option<usize>,
    /// Tokens in the KV cache, shared by all sequences; `None`: room for `max_sequences` full ones.
    pub cache_tokens: Option<usize>,
    /// Slots per page of the KV cache. `None`: 64; up to 2048, and an eighth of the context, where steps have one sequence alone and
    /// the device reads long pages faster ([`hal::DeviceInfo::long_pages`]).
    pub page_size: Option<usize>,
    /// The most tokens of one step, over all sequences. `None`: 512; the whole context for models whose prompt must be
    /// computed in one step, since its tokens see each other.
    pub max_tokens: Option<usize>,
    /// The most sequences of one step.
    pub max_sequences: usize,
    /// The most rows of logits of one step.
    pub max_logits: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dtype: None,
            weights: None,
            tables: None,
            kv: None,
            context: None,
            cache_tokens: None,
            page_size: None,
            max_tokens: None,
            max_sequences: 1,
            max_logits: 1,
        }
    }
}

/// The context when none is asked for: the KV cache of more would surprise a laptop.
const DEFAULT_CONTEXT: usize = 8192;
/// Tokens of a step when no limit is asked for: more make no step faster per token.
const DEFAULT_TOKENS: usize = 512;

/// Device memory of a model in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Matrices and norms, before a backend's padding.
    pub weights: usize,
    /// The KV cache.
    pub cache: usize,
    /// Activations, logits, tables and workspace.
    pub buffers: usize,
}

impl Footprint {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights
            .saturating_add(self.cache)
            .saturating_add(self.buffers)
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [weights, cache, buffers] = [self.weights, self.cache, self.buffers].map(mib);
        write!(f, "weights {weights}, KV cache {cache}, buffers {buffers}")
    }
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Where they are appended.
    pub sequence: &'a mut Sequence,
    /// Token ids, at least one.
    pub ids: &'a [u32],
    /// Positions `[streams, ids]`, row-major; `None`: those in the sequence. Models with two
    /// streams need them.
    pub positions: Option<&'a [u32]>,
}

/// The tokens of a batch that logits are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows<'a> {
    /// None: this is not the last chunk of a prompt.
    None,
    /// The last one of each sequence.
    Last,
    /// All.
    All,
    /// These, counted over the whole batch.
    Given(&'a [usize]),
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    device: Arc<dyn Device>,
    stream: Box<dyn Stream>,
    limits: Limits,
    footprint: Footprint,
    prefix: Option<Prefix>,
    network: Network,
    replays: Replays,
    logits_rows: usize,
}

/// What a step is launched from.
#[derive(Debug)]
struct Network {
    architecture: Architecture,
    dtype: DType,
    context: usize,
    plans: Plans,
    embedding: Table,
    /// Tables of learned positions, one per stream.
    positions: Vec<Table>,
    layers: Vec<Layer>,
    top_query: Option<TopQuery>,
    final_norm: NormWeights,
    head: Linear,
    angles: Option<Angles>,
    cache: KvCache,
    inputs: Inputs,
    buffers: Buffers,
}

/// What asks in the last layer, instead of the hidden state.
#[derive(Debug)]
struct TopQuery {
    /// A row per position.
    table: Table,
    query: Linear,
}

/// Cosines and sines of the rotary embedding, f32 `[positions, pairs]`.
#[derive(Debug)]
struct Angles {
    cos: Buffer,
    sin: Buffer,
    pairs: usize,
}

#[derive(Debug)]
struct Layer {
    input_norm: NormWeights,
    /// Rows `[q | k | v]`; `[k | v]` in the top query layer.
    qkv: Linear,
    dense: Linear,
    attention_out_norm: Option<NormWeights>,
    mlp_norm: NormWeights,
    up: Linear,
    down: Linear,
    mlp_out_norm: Option<NormWeights>,
}

/// Activations of a step: rows = tokens, of the activations' type but the logits.
#[derive(Debug)]
struct Buffers {
    /// Residual stream `[tokens, hidden]`; its sum of two, with DeepNorm.
    x: Buffer,
    /// Input of a sublayer `[tokens, hidden]`.
    a: Buffer,
    /// Output of a sublayer `[tokens, hidden]`.
    b: Buffer,
    /// `[tokens, qkv_rows]`
    qkv: Buffer,
    /// `[tokens, heads · head_dim]`
    attention: Buffer,
    /// `[tokens, up_rows]`
    up: Buffer,
    /// `[tokens, ffn]`
    act: Buffer,
    /// Hidden states that logits are wanted for `[logits, hidden]`.
    picked: Buffer,
    /// f32 `[logits, vocab]`
    logits: Buffer,
    workspace: Buffer,
}

/// The matrices of a model, described and checked.
struct Matrices {
    embedding: Matrix,
    positions: Vec<Matrix>,
    layers: Vec<[Matrix; 4]>,
    /// Table and query matrix of the top query layer.
    top_query: Option<[Matrix; 2]>,
    /// `None`: the embedding.
    head: Option<Matrix>,
}

impl Matrices {
    fn new(a: &Architecture, checkpoint: &Checkpoint, options: &Options) -> Result<Self> {
        let (names, attention) = (&a.names, a.heads * a.head_dim);
        let dense_bias = if a.dense_bias { Bias::Yes } else { Bias::No };
        let table = |key: &str, rows: usize| {
            let parts = [(key.to_owned(), rows)];
            Matrix::new(checkpoint, &parts, a.hidden, Bias::No, options.tables)
        };
        let mut query = None;
        let layer = |i: usize| -> Result<[Matrix; 4]> {
            let matrix = |name: &str, rows: usize, cols: usize| {
                let parts = [(a.of_layer(i, name), rows)];
                Matrix::new(checkpoint, &parts, cols, dense_bias, options.weights)
            };
            let norms = [Some(names.input_norm), Some(names.mlp_norm)];
            let norms = norms
                .into_iter()
                .chain([names.attention_out_norm, names.mlp_out_norm]);
            for name in norms.flatten() {
                check_norm(checkpoint, &a.of_layer(i, name), a.norm, a.hidden)?;
            }
            let (qkv, query_of_top) = Matrix::qkv(checkpoint, a, i, options.weights)?;
            query = query_of_top;
            Ok([
                qkv,
                matrix(names.dense, a.hidden, attention)?,
                matrix(names.up, a.up_rows(), a.hidden)?,
                matrix(names.down, a.hidden, a.ffn)?,
            ])
        };
        check_norm(checkpoint, names.final_norm, a.norm, a.hidden)?;
        let layers = (0..a.layers).map(layer).collect::<Result<_>>()?;
        let (mut positions, mut top_query) = (Vec::new(), None);
        if let Position::Learned { rows } = a.position {
            let tables = names.positions.iter().map(|name| table(name, rows));
            positions = tables.collect::<Result<_>>()?;
            if let Some(query) = query {
                top_query = Some([table(names.top_query, rows)?, query]);
            }
        }
        let head = (!a.tied).then(|| table(names.head, a.vocab));
        Ok(Self {
            embedding: table(names.embedding, a.vocab)?,
            positions,
            layers,
            top_query,
            head: head.transpose()?,
        })
    }

    /// Bytes of all; whether the embedding and a tied output layer share theirs.
    fn bytes(&self, shared: bool) -> usize {
        let twice = (self.head.is_none() && !shared).then_some(&self.embedding);
        self.all().chain(twice).map(Matrix::bytes).sum()
    }

    /// Bytes of the largest.
    fn largest_bytes(&self) -> usize {
        self.all().map(Matrix::bytes).max().unwrap_or(0)
    }

    fn all(&self) -> impl Iterator<Item = &Matrix> {
        std::iter::once(&self.embedding)
            .chain(&self.head)
            .chain(&self.positions)
            .chain(self.top_query.iter().flatten())
            .chain(self.layers.iter().flatten())
    }
}

impl Model {
    /// Loads a model, with the trained prefix that the architecture says the checkpoint has. `progress` hears bytes done
    /// and in all.
    ///
    /// # Errors
    /// `NotFound` and `Corrupt` for tensors that are missing or of other shapes than the
    /// architecture says; `Unsupported` when the device lacks an operation or the type would
    /// overflow; `OutOfMemory`, before anything is loaded, when weights, cache and buffers exceed
    /// the free memory; `InvalidArgument` for options.
    pub fn load(
        context: &Context,
        architecture: &Architecture,
        checkpoint: &Checkpoint,
        options: &Options,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let prefix = architecture.prefix.map(|_| checkpoint);
        Self::load_tuned(context, architecture, checkpoint, prefix, options, progress)
    }

    /// As [`Self::load`], with the trained prefix (P-Tuning v2) of another checkpoint: that of a fine-tune, which has
    /// little else.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_tuned(
        context: &Context,
        architecture: &Architecture,
        checkpoint: &Checkpoint,
        prefix: Option<&Checkpoint>,
        options: &Options,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let blueprint = Blueprint::new(context, architecture, checkpoint, prefix, options)?;
        let device = context.device();
        // Observers want the values that a packed weight stands for: they are read.
        let kept = checkpoint.packed().filter(|_| !context.is_observed());
        check_memory(&**device, &blueprint, kept.is_some())?;
        let Blueprint {
            architecture: a,
            dtype,
            context: max_context,
            limits,
            cache,
            prefix,
            matrices,
            plans,
            head: head_plan,
            embedding: embedding_plan,
            positions: position_plans,
            top_query: top_query_plans,
            matmuls,
            buffers,
            footprint,
            ..
        } = blueprint;

        let mut stream = device.stream()?;
        let prefix = prefix
            .map(|p| p.load(context, &a, &mut *stream, dtype))
            .transpose()?;
        let packed = kept.map(|folder| Packed::open(folder, &**device, checkpoint));
        let mut loader = Loader {
            packed: packed.transpose()?,
            checkpoint,
            context,
            stream: &mut *stream,
            progress: &mut progress,
            done_bytes: 0,
            total_bytes: footprint.weights,
        };
        let names = &a.names;
        let head = matrices.head.as_ref().unwrap_or(&matrices.embedding);
        let head = loader.linear(head, head_plan)?;
        let embedding = match embedding_plan.op().tied {
            true => head.table(embedding_plan),
            false => loader.table(&matrices.embedding, embedding_plan)?,
        };
        let positions = matrices.positions.iter().zip(position_plans);
        let positions = positions
            .map(|(table, plan)| loader.table(table, plan))
            .collect::<Result<_>>()?;
        let mut layers = Vec::with_capacity(a.layers);
        for (i, (matrices, plans)) in matrices.layers.iter().zip(matmuls).enumerate() {
            let [qkv, dense, up, down] = plans;
            let key = |name| a.of_layer(i, name);
            let mut norm = |name| loader.norm(&key(name), a.norm);
            let input_norm = norm(names.input_norm)?;
            let mlp_norm = norm(names.mlp_norm)?;
            let attention_out_norm = names.attention_out_norm.map(&mut norm).transpose()?;
            let mlp_out_norm = names.mlp_out_norm.map(norm).transpose()?;
            layers.push(Layer {
                input_norm,
                qkv: loader.linear(&matrices[0], qkv)?,
                dense: loader.linear(&matrices[1], dense)?,
                attention_out_norm,
                mlp_norm,
                up: loader.linear(&matrices[2], up)?,
                down: loader.linear(&matrices[3], down)?,
                mlp_out_norm,
            });
        }
        let top_query = match (&matrices.top_query, top_query_plans) {
            (Some([table, query]), Some((table_plan, query_plan))) => Some(TopQuery {
                table: loader.table(table, table_plan)?,
                query: loader.linear(query, query_plan)?,
            }),
            _ => None,
        };
        let final_norm = loader.norm(names.final_norm, a.norm)?;
        let angles = match a.position {
            Position::Rope(rope) => {
                let tables = RopeTables::new(&rope, dtype, max_context);
                Some(Angles {
                    cos: loader.upload_f32(&tables.cos)?,
                    sin: loader.upload_f32(&tables.sin)?,
                    pairs: rope.rotary_dim / 2,
                })
            }
            Position::Learned { .. } => None,
        };
        let network = Network {
            inputs: Inputs::new(&**device, limits, a.blank.streams())?,
            architecture: a,
            dtype,
            context: max_context,
            plans,
            embedding,
            positions,
            layers,
            top_query,
            final_norm,
            head,
            angles,
            cache: KvCache::new(&**device, &mut *stream, cache)?,
            buffers: Buffers::new(&**device, buffers)?,
        };
        Ok(Self {
            device: device.clone(),
            stream,
            limits,
            footprint,
            prefix,
            network,
            replays: Replays::new(!context.is_observed()),
            logits_rows: 0,
        })
    }

    /// The architecture.
    pub fn architecture(&self) -> &Architecture {
        &self.network.architecture
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Type of the activations.
    pub fn dtype(&self) -> DType {
        self.network.dtype
    }

    /// The most tokens of a sequence.
    pub fn context(&self) -> usize {
        self.network.context
    }

    /// The most tokens of one step.
    pub fn max_tokens(&self) -> usize {
        self.limits.tokens
    }

    /// The most sequences of one step.
    pub fn max_sequences(&self) -> usize {
        self.limits.sequences
    }

    /// The most rows of logits of one step.
    pub fn max_logits(&self) -> usize {
        self.limits.logits
    }

    /// Device memory in use.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }

    /// The KV cache.
    pub fn cache(&self) -> &KvCache {
        &self.network.cache
    }

    /// A new, empty sequence.
    pub fn sequence(&self) -> Sequence {
        let base = self.prefix.as_ref().map_or(0, |prefix| prefix.tokens);
        self.network.cache.sequence(self.network.context, base)
    }

    /// The stream that steps run on, and the logits of the last one: f32 `[rows, vocab]`.
    ///
    /// # Errors
    /// None in practice: the buffer was made for the largest step.
    pub fn output(&mut self) -> Result<(&mut dyn Stream, View<'_>)> {
        let shape = [self.logits_rows, self.network.architecture.vocab];
        let logits = View::new(&self.network.buffers.logits, DType::F32, &shape)?;
        Ok((&mut *self.stream, logits))
    }

    /// The logits of the last step on the host, row-major.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn read_logits(&mut self) -> Result<Vec<f32>> {
        let (stream, view) = self.output()?;
        let mut logits = vec![0.0; view.len()];
        stream.download(bytemuck::cast_slice_mut(&mut logits), &view)?;
        Ok(logits)
    }

    /// Empties a sequence that holds values which are not finite.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn scrub(&mut self, sequence: &mut Sequence) -> Result<()> {
        self.network.cache.scrub(&mut *self.stream, sequence)
    }

    /// Appends new tokens to their sequences and computes the logits of `rows`, in their order.
    ///
    /// # Errors
    /// `InvalidArgument` for a batch beyond the limits, token ids beyond the vocabulary, or
    /// sequences of another model; `OutOfMemory` when the KV cache is full; `DeviceLost`. The
    /// sequences are as they were then.
    pub fn forward(&mut self, chunks: &mut [Chunk<'_>], rows: Rows<'_>) -> Result<()> {
        if chunks
            .iter()
            .any(|chunk| !self.network.cache.owns(chunk.sequence))
        {
            let detail = "a sequence belongs to another model";
            return Err(Error::invalid("run a batch", detail));
        }
        self.logits_rows = 0;
        let (stream, network) = (&mut *self.stream, &mut self.network);
        let ws = View::of_bytes(&network.buffers.workspace);
        for chunk in chunks.iter_mut() {
            let copy = &network.plans.page_copy;
            network.cache.unshare(stream, copy, &ws, chunk.sequence)?;
        }
        let steady = self.replays.possible();
        let arch = &network.architecture;
        let step = (network.inputs).prepare(stream, arch, chunks, rows, steady)?;
        if let Some(prefix) = &mut self.prefix {
            let ws = View::of_bytes(&network.buffers.workspace);
            for chunk in chunks.iter_mut() {
                let (plans, cache) = (&network.plans, &network.cache);
                prefix.write(stream, plans, cache, chunk.sequence, &ws)?;
            }
        }
        if steady && step.decodes() {
            self.decode(&step)?;
        } else {
            self.network.launch(stream, &step)?;
        }
        for chunk in chunks {
            chunk.sequence.advance(chunk.ids.len());
        }
        self.logits_rows = step.rows.len();
        Ok(())
    }

    /// A step that may have been recorded.
    fn decode(&mut self, step: &Step) -> Result<()> {
        if let Some(graph) = self.replays.find(step) {
            return graph.launch(&mut *self.stream);
        }
        if !self.replays.is_due(step) {
            return self.network.launch(&mut *self.stream, step);
        }
        let launch = |stream: &mut dyn Stream| self.network.launch(stream, step);
        let graph = Replays::record(&mut *self.stream, launch)?;
        let done = match &graph {
            Some(graph) => graph.launch(&mut *self.stream),
            None => self.network.launch(&mut *self.stream, step),
        };
        self.replays.keep(step, graph);
        done
    }
}

impl Network {
    /// Gives the stream a step's launches.
    fn launch(&self, stream: &mut dyn Stream, step: &Step) -> Result<()> {
        let Self {
            architecture: arch,
            plans,
            inputs,
            buffers,
            ..
        } = self;
        let ws = &View::of_bytes(&buffers.workspace);
        let (t, dtype, residual) = (step.tokens, self.dtype, arch.residual);
        let (heads, kv_heads, head_dim) = (arch.heads, arch.kv_heads, arch.head_dim);
        let rows = |buffer, cols| View::new(buffer, dtype, &[t, cols]);

        let mut x = rows(&buffers.x, arch.hidden)?;
        let mut a = rows(&buffers.a, arch.hidden)?;
        let mut b = rows(&buffers.b, arch.hidden)?;
        let qkv = rows(&buffers.qkv, arch.qkv_rows())?;
        let attention = rows(&buffers.attention, heads * head_dim)?;
        let up = rows(&buffers.up, arch.up_rows())?;
        let act = rows(&buffers.act, arch.ffn)?;

        // Heads [q | k | v] of the fused matrix.
        let all = qkv.split(1, heads + 2 * kv_heads, head_dim)?;
        let (k, v) = (heads..heads + kv_heads, heads + kv_heads..all.dim(1));
        let (q, k, v) = (all.slice(1, 0..heads)?, all.slice(1, k)?, all.slice(1, v)?);
        let rope = match (&plans.rope_kv_write, &self.angles) {
            (Some(plan), Some(angles)) => {
                let shape = [self.context, angles.pairs];
                let cos = View::new(&angles.cos, DType::F32, &shape)?;
                let sin = View::new(&angles.sin, DType::F32, &shape)?;
                Some((plan, [inputs.positions(step)?, cos, sin]))
            }
            _ => None,
        };
        let slots = inputs.vector(Part::Slots, t)?;
        let block_table = inputs.blocks(step)?;
        let q_start = inputs.vector(Part::Starts, step.sequences + 1)?;
        let kv_len = inputs.vector(Part::Lengths, step.sequences)?;
        let prefix = match arch.mask {
            Mask::Prefix => Some(inputs.vector(Part::Prefixes, step.sequences)?),
            _ => None,
        };

        let ids = inputs.vector(Part::Ids, t)?;
        self.embedding.run(stream, x, ids, ws)?;
        for (stream_of_positions, table) in self.positions.iter().enumerate() {
            let positions = inputs.positions_of(step, stream_of_positions)?;
            table.run(stream, b, positions, ws)?;
            plans.add(stream, x, b, ws)?;
        }
        let top = self
            .top_query
            .as_ref()
            .map(|top| (self.layers.len() - 1, top));
        // The norm before layer `i`. The final one comes before the top query layer, and nothing after that.
        let norm_before = |i: usize| match (top, self.layers.get(i)) {
            (Some((last, _)), _) if i == last => Some(&self.final_norm),
            (_, Some(layer)) => Some(&layer.input_norm),
            (None, None) => Some(&self.final_norm),
            (Some(_), None) => None,
        };
        if let Some(norm) = norm_before(0) {
            plans.norm.run(stream, [a, x], norm, ws)?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            match top {
                Some((last, top)) if i == last => {
                    // Its residual stream is what the final norm gives.
                    [x, a] = [a, x];
                    plans.norm.run(stream, [a, x], &layer.input_norm, ws)?;
                    let positions = inputs.positions_of(step, 0)?;
                    top.table.run(stream, b, positions, ws)?;
                    let (q, kv) = (heads * head_dim, arch.qkv_rows());
                    top.query.run(stream, qkv.slice(1, 0..q)?, b, ws)?;
                    layer.qkv.run(stream, qkv.slice(1, q..kv)?, a, ws)?;
                }
                _ => layer.qkv.run(stream, qkv, a, ws)?,
            }
            let (k_pages, v_pages) = self.cache.layer(i)?;
            if let Some((plan, [positions, cos, sin])) = rope {
                let args = RopeKvWriteArgs {
                    qkv: all,
                    k_pages,
                    v_pages,
                    slots,
                    positions,
                    cos,
                    sin,
                };
                plan.run(stream, args, ws)?;
            } else {
                let args = KvWriteArgs {
                    k_pages,
                    v_pages,
                    k,
                    v,
                    slots,
                };
                plans.kv_write.run(stream, args, ws)?;
            }
            let args = AttentionArgs {
                out: attention.split(1, heads, head_dim)?,
                q,
                k_pages,
                v_pages,
                block_table,
                q_start,
                kv_len,
                prefix,
            };
            plans.attention.run(stream, args, ws)?;
            layer.dense.run(stream, b, attention, ws)?;
            let out_norm = layer.attention_out_norm.as_ref();
            let next = &layer.mlp_norm;
            [a, b] = plans
                .norm
                .meet(stream, residual, [x, a, b], out_norm, next, ws)?;

            layer.up.run(stream, up, a, ws)?;
            plans.act.run(stream, act, up, ws)?;
            layer.down.run(stream, b, act, ws)?;
            let out_norm = layer.mlp_out_norm.as_ref();
            match norm_before(i + 1) {
                Some(next) => {
                    [a, b] = plans
                        .norm
                        .meet(stream, residual, [x, a, b], out_norm, next, ws)?;
                }
                None => {
                    plans.add(stream, x, b, ws)?;
                    a = x;
                }
            }
        }

        let n = step.rows.len();
        if n == 0 {
            return Ok(());
        }
        let picked = match &step.rows {
            Picked::Range(range) => a.slice(0, range.clone())?,
            Picked::Listed(n) => {
                let out = View::new(&buffers.picked, dtype, &[*n, arch.hidden])?;
                let args = EmbeddingArgs {
                    out,
                    ids: inputs.vector(Part::Rows, *n)?,
                    table: plans.gather.op().table_view(a.buffer())?,
                };
                plans.gather.run(stream, args, ws)?;
                out
            }
        };
        let logits = View::new(&buffers.logits, DType::F32, &[n, arch.vocab])?;
        self.head.run(stream, logits, picked, ws)
    }
}

impl Buffers {
    /// Bytes of each buffer, in the order of the fields.
    fn sizes(a: &Architecture, limits: &Limits, dtype: DType, workspace: usize) -> [usize; 10] {
        let Limits { tokens, logits, .. } = *limits;
        let rows = |cols: usize| tokens * cols * dtype.bytes();
        [
            rows(a.hidden),
            rows(a.hidden),
            rows(a.hidden),
            rows(a.qkv_rows()),
            rows(a.heads * a.head_dim),
            rows(a.up_rows()),
            rows(a.ffn),
            logits * a.hidden * dtype.bytes(),
            logits * a.vocab * 4,
            workspace,
        ]
    }

    fn new(device: &dyn Device, sizes: [usize; 10]) -> Result<Self> {
        let mut sizes = sizes.into_iter();
        let mut next = || device.alloc(sizes.next().unwrap_or(0));
        Ok(Self {
            x: next()?,
            a: next()?,
            b: next()?,
            qkv: next()?,
            attention: next()?,
            up: next()?,
            act: next()?,
            picked: next()?,
            logits: next()?,
            workspace: next()?,
        })
    }
}

/// The type of the activations; refuses one in which the model is known to overflow.
fn activation_type(
    architecture: &Architecture,
    device: &hal::DeviceInfo,
    wanted: Option<DType>,
) -> Result<DType> {
    let overflows = |dtype| overflows(architecture, dtype);
    let dtype = wanted.unwrap_or_else(|| {
        let own = architecture.dtype;
        let good = device.native_floats.contains(&own) && !overflows(own);
        if good { own } else { DType::F32 }
    });
    if !dtype.is_float() {
        let doing = format!("load a {} model in {dtype}", architecture.model_type);
        return Err(Error::invalid(doing, "activations must be floats")
            .next_step("choose f32, f16 or bf16"));
    }
    match refused(architecture, dtype) {
        Some(e) => Err(e),
        None => Ok(dtype),
    }
}

/// Why activations of type `dtype` are refused, where the model is known to overflow it.
pub fn refused(architecture: &Architecture, dtype: DType) -> Option<Error> {
    overflows(architecture, dtype).then(|| {
        let doing = format!("load a {} model in {dtype}", architecture.model_type);
        let why = format!("its activations overflow {dtype} and become NaN");
        Error::unsupported(doing, why).next_step("choose bf16 or f32")
    })
}

/// Whether a model is known to overflow a type.
fn overflows(architecture: &Architecture, dtype: DType) -> bool {
    // Its activations reach 71,000; f16 ends at 65,504.
    architecture.model_type == "glm4" && dtype == DType::F16
}

/// The type of the KV cache; refuses one that the device's kernels do not take. A device that computes in f32 for want of the
/// checkpoint's own type still stores that one: its publisher kept no more, and it takes half the memory.
fn cache_type(
    architecture: &Architecture,
    device: &hal::DeviceInfo,
    options: &Options,
    activations: DType,
) -> Result<DType> {
    let own = architecture.dtype;
    let dtype = options.kv.unwrap_or(match options.dtype {
        None if own.is_float() && !overflows(architecture, own) => own,
        _ => activations,
    });
    if dtype == DType::I8 && !device.numerics.int8_cache {
        let doing = format!("load a model with a KV cache of {dtype} on {}", device.spec);
        return Err(Error::unsupported(doing, "its kernels take floats alone")
            .next_step("choose f16 or bf16 for the cache, or the CPU"));
    }
    Ok(dtype)
}

/// Context, limits of a step, and the cache.
///
/// `base` is the number of slots before the first token of a sequence.
fn sizes(
    a: &Architecture,
    device: &hal::DeviceInfo,
    options: &Options,
    dtype: DType,
    base: usize,
) -> Result<(usize, Limits, CacheShape)> {
    let fail = |why: String| Error::invalid("load a model", why);
    let context = options.context.unwrap_or(a.context.min(DEFAULT_CONTEXT));
    if context > a.context {
        let detail = format!("a context of {context}; it was made for {}", a.context);
        return Err(fail(detail).next_step("choose a shorter context"));
    }
    let max_tokens = options.max_tokens.unwrap_or(match a.mask {
        Mask::Prefix => context,
        _ => DEFAULT_TOKENS,
    });
    let alone = options.max_sequences == 1 && options.cache_tokens.is_none();
    let page_size = (options.page_size)
        .unwrap_or_else(|| page_size(device, alone, context.saturating_add(base)));
    let sizes = [
        ("context", context),
        ("page_size", page_size),
        ("max_tokens", max_tokens),
        ("max_sequences", options.max_sequences),
        ("max_logits", options.max_logits),
        ("layers", a.layers),
        ("hidden", a.hidden),
        ("heads", a.heads),
        ("kv_heads", a.kv_heads),
        ("head_dim", a.head_dim),
        ("ffn", a.ffn),
        ("vocab", a.vocab),
    ];
    if let Some((name, n)) = sizes.iter().find(|(_, n)| !(1..1 << 28).contains(n)) {
        let detail = format!("{name} = {n}");
        return Err(fail(detail).next_step("choose a positive number below 2^28"));
    }
    let kv = cache_type(a, device, options, dtype)?;
    let pages_per_sequence = (context + base).div_ceil(page_size);
    let pages = match options.cache_tokens {
        Some(tokens) => tokens
            .saturating_add(base.saturating_mul(options.max_sequences))
            .div_ceil(page_size),
        None => pages_per_sequence.saturating_mul(options.max_sequences),
    };
    if pages == 0 || pages.saturating_mul(page_size) >= 1 << 31 {
        let detail = format!("a KV cache of {pages} pages of {page_size}");
        return Err(fail(detail).next_step("choose 1 to 2^31 - 1 tokens"));
    }
    let tokens = max_tokens.min(context * options.max_sequences);
    let limits = Limits {
        tokens,
        sequences: options.max_sequences,
        logits: options.max_logits.min(tokens),
        pages_per_sequence,
    };
    let cache = CacheShape {
        layers: a.layers,
        pages,
        kv_heads: a.kv_heads,
        page_size,
        head_dim: a.head_dim,
        dtype: kv,
    };
    Ok((context, limits, cache))
}

/// Bytes of all norms.
fn norm_bytes(a: &Architecture) -> usize {
    let outer = [a.names.attention_out_norm, a.names.mlp_out_norm];
    let norms = a.layers * (2 + outer.iter().flatten().count()) + 1;
    let vectors = match a.norm {
        crate::architecture::Norm::Rms(_) => 1,
        crate::architecture::Norm::Layer(_) => 2,
    };
    norms * vectors * weight_bytes(WeightFormat::Dense(DType::F32), 1, a.hidden)
}

/// Refuses before loading what would fail, or push the machine into swapping, in the middle of it. Weights that are `kept` as
/// files are mapped, one after the other: the system takes their memory back where it has to.
fn check_memory(device: &dyn Device, blueprint: &Blueprint<'_>, kept: bool) -> Result<()> {
    let Some(memory) = device.memory() else {
        return Ok(());
    };
    let footprint = &blueprint.footprint;
    let needed = match kept {
        true => blueprint.needed_bytes() - footprint.weights + blueprint.matrices.largest_bytes(),
        false => blueprint.needed_bytes(),
    };
    if needed <= memory.free_bytes {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::OutOfMemory,
        format!("load the model on {}", device.info().spec),
        format!(
            "{} are needed ({footprint}), {} are free",
            mib(needed),
            mib(memory.free_bytes)
        ),
    )
    .next_step("choose int8 or int4 weights, a shorter context, or another device"))
}
