//! The operations of one model, planned once: everything but the products with weights, which each
//! weight brings.

use hal::{DType, Error, ErrorKind, Result, Stream, View, WeightFormat};
use ops::{
    Activation, ActivationArgs, AddLayerNorm, AddRmsNorm, ArgList, Attention, Binary, Context,
    Elementwise, ElementwiseArgs, Embedding, Glu, GluArgs, How, KvWrite, LayerNorm, Mask, Matmul,
    Plan, RmsNorm, RopeKvWrite, StridedCopy,
};

use super::PlannedOperation;
use crate::architecture::{Architecture, Norm, Position, Residual};
use crate::cache::CacheShape;
use crate::weights::{Matrix, NormWeights};

/// Sizes that the buffers and workspaces of a model are made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    pub(super) logits: usize,
    pub(super) pages_per_sequence: usize,
}

#[derive(Debug)]
pub(super) struct Plans {
    /// With learned positions: adds them.
    pub(super) add: Option<Plan<Elementwise>>,
    pub(super) norm: NormPlans,
    /// With rotary positions.
    pub(super) rope_kv_write: Option<Plan<RopeKvWrite>>,
    /// Without them, and for a trained prefix.
    pub(super) kv_write: Plan<KvWrite>,
    pub(super) attention: Plan<Attention>,
    pub(super) act: ActPlan,
    /// Picks the rows of hidden states that logits are wanted for.
    pub(super) gather: Plan<Embedding>,
    /// Copies a page that forked sequences share.
    pub(super) page_copy: Plan<StridedCopy>,
    embeddings: Vec<Plan<Embedding>>,
    matmuls: Vec<Plan<Matmul>>,
}

impl Plans {
    pub(super) fn new(
        context: &Context,
        architecture: &Architecture,
        cache: &CacheShape,
        limits: &Limits,
        dtype: DType,
    ) -> Result<Self> {
        let Architecture {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *architecture;
        let (rope_kv_write, add) = match architecture.position {
            Position::Rope(rope) => {
                let plan = context.plan(RopeKvWrite {
                    heads,
                    kv_heads,
                    head_dim,
                    rotary_dim: rope.rotary_dim,
                    streams: architecture.blank.streams(),
                    layout: rope.layout,
                    pages: cache.pages,
                    page_size: cache.page_size,
                    dtype,
                    kv: cache.dtype,
                })?;
                (Some(plan), None)
            }
            Position::Learned { .. } => {
                let add = context.plan(Elementwise {
                    kind: Binary::Add,
                    dtype,
                    alpha: 1.0,
                })?;
                (None, Some(add))
            }
        };
        Ok(Self {
            add,
            norm: NormPlans::new(context, architecture, dtype)?,
            rope_kv_write,
            kv_write: context.plan(KvWrite {
                kv_heads,
                head_dim,
                pages: cache.pages,
                page_size: cache.page_size,
                dtype,
                kv: cache.dtype,
            })?,
            attention: context.plan(Attention {
                heads,
                kv_heads,
                head_dim,
                pages: cache.pages,
                page_size: cache.page_size,
                scale: 1.0 / (head_dim as f32).sqrt(),
                mask: architecture.mask,
                dtype,
                kv: cache.dtype,
            })?,
            act: ActPlan::new(context, architecture, dtype)?,
            gather: context.plan(Embedding {
                vocab: limits.tokens,
                dim: architecture.hidden,
                table: WeightFormat::Dense(dtype),
                out: dtype,
                tied: false,
            })?,
            page_copy: context.plan(StridedCopy { dtype: cache.dtype })?,
            embeddings: Vec::new(),
            matmuls: Vec::new(),
        })
    }

    /// A plan for `op`, made once for all weights of one shape and format.
    pub(super) fn matmul(&mut self, context: &Context, op: Matmul) -> Result<Plan<Matmul>> {
        if let Some(plan) = self.matmuls.iter().find(|plan| *plan.op() == op) {
            return Ok(plan.clone());
        }
        let plan = context.plan(op)?;
        self.matmuls.push(plan.clone());
        Ok(plan)
    }

    /// A plan for `op`, made once for all tables of one shape and format.
    pub(super) fn embedding(
        &mut self,
        context: &Context,
        op: Embedding,
    ) -> Result<Plan<Embedding>> {
        if let Some(plan) = self.embeddings.iter().find(|plan| *plan.op() == op) {
            return Ok(plan.clone());
        }
        let plan = context.plan(op)?;
        self.embeddings.push(plan.clone());
        Ok(plan)
    }

    /// The lookup in the table of a tied output layer that is planned as `head`, where the device can read it as both;
    /// else in a table of its own.
    pub(super) fn tied_embedding(
        &mut self,
        context: &Context,
        table: &Matrix,
        dtype: DType,
        head: How,
    ) -> Result<Plan<Embedding>> {
        match self.embedding(context, table.embedding(dtype, true)) {
            // On another device the table would not be the same bytes.
            Ok(plan) if plan.how() != head => {}
            Err(e) if e.kind() == ErrorKind::Unsupported => {}
            shared => return shared,
        }
        self.embedding(context, table.embedding(dtype, false))
    }

    /// `x += y`, with learned positions.
    pub(super) fn add(
        &self,
        stream: &mut dyn Stream,
        x: View<'_>,
        y: View<'_>,
        workspace: &View<'_>,
    ) -> Result<()> {
        let Some(plan) = &self.add else {
            return Err(Error::unsupported("add rows", "no positions are learned"));
        };
        let args = ElementwiseArgs { out: x, a: x, b: y };
        plan.run(stream, args, workspace)
    }

    /// Every plan, each once.
    pub(super) fn list(&self) -> Vec<PlannedOperation> {
        let of_norm = match &self.norm {
            NormPlans::Rms(norm, add) => [PlannedOperation::of(norm), PlannedOperation::of(add)],
            NormPlans::Layer(norm, add) => [PlannedOperation::of(norm), PlannedOperation::of(add)],
        };
        let act = match &self.act {
            ActPlan::Gated(plan) => PlannedOperation::of(plan),
            ActPlan::Plain(plan, _) => PlannedOperation::of(plan),
        };
        let others = [
            PlannedOperation::of(&self.kv_write),
            PlannedOperation::of(&self.attention),
            act,
            PlannedOperation::of(&self.gather),
            PlannedOperation::of(&self.page_copy),
        ];
        let embeddings = self.embeddings.iter().map(PlannedOperation::of);
        let matmuls = self.matmuls.iter().map(PlannedOperation::of);
        embeddings
            .chain(self.add.iter().map(PlannedOperation::of))
            .chain(of_norm)
            .chain(matmuls)
            .chain(self.rope_kv_write.iter().map(PlannedOperation::of))
            .chain(others)
            .collect()
    }

    /// The largest workspace that any plan may ask for within `limits`, with `prefix` slots of a trained prefix.
    pub(super) fn workspace_bytes(
        &self,
        limits: &Limits,
        rope_positions: usize,
        prefix: usize,
    ) -> usize {
        let Limits {
            tokens: t,
            sequences: s,
            logits,
            pages_per_sequence,
        } = *limits;
        let (op, dim) = (self.attention.op(), self.gather.op().dim);
        let hidden = [t, dim];
        let cache = op.cache();
        let page = [&[1], &cache[1..]].concat();
        let q = [t, op.heads, op.head_dim];
        let written = [t.max(prefix), op.kv_heads, op.head_dim];
        let (blocks, starts, lens) = ([s, pages_per_sequence], [s + 1], [s]);
        let mut attention: Vec<&[usize]> = vec![&q, &q, &cache, &cache, &blocks, &starts, &lens];
        if op.mask == Mask::Prefix {
            attention.push(&lens);
        }
        let matmuls = self.matmuls.iter().map(|plan| {
            let op = plan.op();
            let (out, x, weight) = ([t, op.n], [t, op.k], [op.weight.row_bytes(op.k) * op.n]);
            let mut shapes: Vec<&[usize]> = vec![&out, &x, &weight];
            if op.bias {
                shapes.push(&out[1..]);
            }
            plan.workspace_bytes(&shapes)
        });
        let embeddings = self.embeddings.iter().map(|plan| {
            let table = plan.op();
            let dense = [table.vocab, table.dim];
            let packed = [table.vocab * table.table.row_bytes(table.dim)];
            let shape = table.plain().map_or(&packed[..], |_| &dense);
            plan.workspace_bytes(&[&hidden, &[t], shape])
        });
        let rope_kv_write = self.rope_kv_write.iter().map(|plan| {
            let heads = [t, op.heads + 2 * op.kv_heads, op.head_dim];
            let positions = [plan.op().streams, t];
            let angles = [rope_positions, plan.op().rotary_dim / 2];
            plan.workspace_bytes(&[&heads, &cache, &cache, &[t], &positions, &angles, &angles])
        });
        let add = self.add.iter();
        let add = add.map(|plan| plan.workspace_bytes(&[&hidden, &hidden, &hidden]));
        let others = [
            self.norm.workspace_bytes(&hidden),
            self.kv_write
                .workspace_bytes(&[&cache, &cache, &written, &written, &written[..1]]),
            self.attention.workspace_bytes(&attention),
            self.act.workspace_bytes(t),
            self.gather
                .workspace_bytes(&[&[logits, dim], &[logits], &hidden]),
            self.page_copy.workspace_bytes(&[&page, &page]),
        ];
        let all = matmuls.chain(embeddings).chain(rope_kv_write).chain(add);
        all.chain(others).max().unwrap_or(0)
    }
}

/// Normalisation alone, and together with the residual sum before it.
#[derive(Debug)]
pub(super) enum NormPlans {
    Rms(Plan<RmsNorm>, Plan<AddRmsNorm>),
    Layer(Plan<LayerNorm>, Plan<AddLayerNorm>),
}

impl NormPlans {
    fn new(context: &Context, architecture: &Architecture, dtype: DType) -> Result<Self> {
        let dim = architecture.hidden;
        let alpha = match architecture.residual {
            Residual::DeepNorm(alpha) => alpha,
            Residual::PreNorm | Residual::Sandwich => 1.0,
        };
        Ok(match architecture.norm {
            Norm::Rms(eps) => Self::Rms(
                context.plan(RmsNorm { dim, dtype, eps })?,
                context.plan(AddRmsNorm {
                    dim,
                    dtype,
                    eps,
                    alpha,
                })?,
            ),
            Norm::Layer(eps) => Self::Layer(
                context.plan(LayerNorm { dim, dtype, eps })?,
                context.plan(AddLayerNorm {
                    dim,
                    dtype,
                    eps,
                    alpha,
                })?,
            ),
        })
    }

    fn workspace_bytes(&self, rows: &[usize; 2]) -> usize {
        let vector = &rows[1..];
        match self {
            Self::Rms(norm, add) => norm
                .workspace_bytes(&[rows, rows, vector])
                .max(add.workspace_bytes(&[rows, rows, rows, rows, vector])),
            Self::Layer(norm, add) => norm
                .workspace_bytes(&[rows, rows, vector, vector])
                .max(add.workspace_bytes(&[rows, rows, rows, rows, vector, vector])),
        }
    }

    /// `[out] = norm(x)`; they may be one view.
    pub(super) fn run(
        &self,
        stream: &mut dyn Stream,
        [out, x]: [View<'_>; 2],
        weights: &NormWeights,
        workspace: &View<'_>,
    ) -> Result<()> {
        let args = weights.after(&[out, x], x.dim(1))?;
        match self {
            Self::Rms(norm, _) => norm.run_list(stream, &args, workspace),
            Self::Layer(norm, _) => norm.run_list(stream, &args, workspace),
        }
    }

    /// After a sublayer: its output `b` meets the residual, and the norm `next` makes the input of
    /// the next sublayer.
    ///
    /// `x` is the residual stream; `a` was the sublayer's input. Returns the next input and the
    /// buffer that is free.
    pub(super) fn meet<'v>(
        &self,
        stream: &mut dyn Stream,
        residual: Residual,
        [x, a, b]: [View<'v>; 3],
        out_norm: Option<&NormWeights>,
        next: &NormWeights,
        workspace: &View<'_>,
    ) -> Result<[View<'v>; 2]> {
        if let Some(norm) = out_norm {
            self.run(stream, [b, b], norm, workspace)?;
        }
        match residual {
            Residual::PreNorm | Residual::Sandwich => {
                self.add(stream, [a, x, x, b], next, workspace)?;
                Ok([a, b])
            }
            Residual::DeepNorm(_) => {
                // The normalised input is the residual; the sum itself is needed by nobody.
                self.add(stream, [b, x, b, a], next, workspace)?;
                Ok([b, a])
            }
        }
    }

    /// `sum = x + alpha · residual`, `out = norm(sum)`.
    fn add(
        &self,
        stream: &mut dyn Stream,
        [out, sum, x, residual]: [View<'_>; 4],
        weights: &NormWeights,
        workspace: &View<'_>,
    ) -> Result<()> {
        let args = weights.after(&[out, sum, x, residual], x.dim(1))?;
        match self {
            Self::Rms(_, add) => add.run_list(stream, &args, workspace),
            Self::Layer(_, add) => add.run_list(stream, &args, workspace),
        }
    }
}

impl NormWeights {
    /// `activations`, then the weight and, if there is one, the bias, `[dim]` each: the arguments
    /// of a norm.
    fn after<'a>(&'a self, activations: &[View<'a>], dim: usize) -> Result<ArgList<'a>> {
        let mut args: ArgList<'_> = activations.iter().copied().collect();
        for vector in [Some(&self.weight), self.bias.as_ref()]
            .into_iter()
            .flatten()
        {
            args.push(View::new(vector, DType::F32, &[dim])?);
        }
        Ok(args)
    }
}

/// Between the two matrices of the MLP.
#[derive(Debug)]
pub(super) enum ActPlan {
    Gated(Plan<Glu>),
    Plain(Plan<Activation>, usize),
}

impl ActPlan {
    fn new(context: &Context, architecture: &Architecture, dtype: DType) -> Result<Self> {
        let (act, dim) = (architecture.act, architecture.ffn);
        Ok(match architecture.gate {
            Some(gate) => Self::Gated(context.plan(Glu {
                dim,
                act,
                gate,
                limit: None,
                dtype,
            })?),
            None => Self::Plain(context.plan(Activation { act, dtype })?, dim),
        })
    }

    fn workspace_bytes(&self, tokens: usize) -> usize {
        match self {
            Self::Gated(plan) => {
                let dim = plan.op().dim;
                plan.workspace_bytes(&[&[tokens, dim], &[tokens, 2 * dim]])
            }
            Self::Plain(plan, dim) => plan.workspace_bytes(&[&[tokens, *dim], &[tokens, *dim]]),
        }
    }

    pub(super) fn run(
        &self,
        stream: &mut dyn Stream,
        out: View<'_>,
        x: View<'_>,
        workspace: &View<'_>,
    ) -> Result<()> {
        match self {
            Self::Gated(plan) => plan.run(stream, GluArgs { out, x }, workspace),
            Self::Plain(plan, _) => plan.run(stream, ActivationArgs { out, x }, workspace),
        }
    }
}
