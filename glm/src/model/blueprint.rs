//! What a model takes of a device, known before anything is loaded: operations, sizes, memory.

use std::fmt::Debug;

use hal::{DType, Result, WeightFormat};
use ops::{Context, Embedding, How, Matmul, Op, Plan, Sample};
use serde::Serialize;

use super::inputs::Inputs;
use super::plans::{Limits, Plans};
use super::prefix::PrefixTensors;
use super::{Buffers, Footprint, Matrices, Model, Options, activation_type, norm_bytes, sizes};
use crate::architecture::{Architecture, Position};
use crate::cache::CacheShape;
use crate::checkpoint::Checkpoint;
use crate::weights::Matrix;

/// A model that is planned, and whose memory is counted.
pub(super) struct Blueprint<'c> {
    pub(super) architecture: Architecture,
    pub(super) dtype: DType,
    pub(super) context: usize,
    pub(super) limits: Limits,
    pub(super) cache: CacheShape,
    pub(super) prefix: Option<PrefixTensors<'c>>,
    pub(super) matrices: Matrices,
    pub(super) plans: Plans,
    pub(super) head: Plan<Matmul>,
    /// Of a tied output layer, where the device reads one weight as both, in that.
    pub(super) embedding: Plan<Embedding>,
    pub(super) positions: Vec<Plan<Embedding>>,
    /// Table and query of the top query layer.
    pub(super) top_query: Option<(Plan<Embedding>, Plan<Matmul>)>,
    /// Per layer, as in [`Matrices`].
    pub(super) matmuls: Vec<[Plan<Matmul>; 4]>,
    /// Bytes of each buffer.
    pub(super) buffers: [usize; 10],
    pub(super) footprint: Footprint,
    /// Bytes that the prefix takes while it is computed, first and alone.
    pub(super) prefix_work: usize,
}

impl<'c> Blueprint<'c> {
    pub(super) fn new(
        context: &Context,
        architecture: &Architecture,
        checkpoint: &Checkpoint,
        prefix: Option<&'c Checkpoint>,
        options: &Options,
    ) -> Result<Self> {
        let a = architecture.clone().named_as(|name| checkpoint.has(name));
        let device = context.device().info();
        let dtype = activation_type(&a, device, options.dtype)?;
        let prefix = prefix.map(|p| PrefixTensors::new(&a, p)).transpose()?;
        let base = prefix.as_ref().map_or(0, |p| p.tokens);
        let (max_context, limits, cache) = sizes(&a, device, options, dtype, base)?;
        let matrices = Matrices::new(&a, checkpoint, options)?;

        let mut plans = Plans::new(context, &a, &cache, &limits, dtype)?;
        let head = matrices.head.as_ref().unwrap_or(&matrices.embedding);
        let head_plan = plans.matmul(context, head.matmul(dtype, DType::F32))?;
        let embedding = match a.tied {
            true => plans.tied_embedding(context, head, dtype, head_plan.how())?,
            false => plans.embedding(context, matrices.embedding.embedding(dtype, false))?,
        };
        let mut lookup = |m: &Matrix| plans.embedding(context, m.embedding(dtype, false));
        let positions = matrices.positions.iter().map(&mut lookup);
        let positions = positions.collect::<Result<_>>()?;
        let top_query = match &matrices.top_query {
            Some([table, query]) => {
                let table = lookup(table)?;
                Some((table, plans.matmul(context, query.matmul(dtype, dtype))?))
            }
            None => None,
        };
        let mut matmuls = Vec::with_capacity(a.layers);
        for layer in &matrices.layers {
            let mut plan = |m: &Matrix| plans.matmul(context, m.matmul(dtype, dtype));
            matmuls.push([
                plan(&layer[0])?,
                plan(&layer[1])?,
                plan(&layer[2])?,
                plan(&layer[3])?,
            ]);
        }

        let workspace = plans.workspace_bytes(&limits, max_context, base);
        let buffers = Buffers::sizes(&a, &limits, dtype, workspace);
        let tables_bytes = match a.position {
            Position::Rope(rope) => max_context * rope.rotary_dim * 4,
            Position::Learned { .. } => 0,
        };
        let prefix_bytes = prefix.as_ref().map_or(0, |p| p.bytes(&a, dtype));
        let footprint = Footprint {
            weights: matrices.bytes(embedding.op().tied) + norm_bytes(&a),
            cache: cache.bytes(),
            buffers: buffers.iter().sum::<usize>()
                + tables_bytes
                + prefix_bytes
                + Inputs::bytes(&limits, a.blank.streams()),
        };
        let prefix_work = prefix.as_ref().map_or(0, |p| p.work_bytes(&a, dtype));
        Ok(Self {
            architecture: a,
            dtype,
            context: max_context,
            limits,
            cache,
            prefix,
            matrices,
            plans,
            head: head_plan,
            embedding,
            positions,
            top_query,
            matmuls,
            buffers,
            footprint,
            prefix_work,
        })
    }

    /// The most bytes that it takes at once.
    pub(super) fn needed_bytes(&self) -> usize {
        self.footprint.total().max(self.prefix_work)
    }
}

/// What loading a model would take of a device.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Type of the activations.
    pub dtype: DType,
    /// Type of the KV cache.
    pub kv: DType,
    /// Encodings of the layers' matrices, each once.
    pub weights: Vec<WeightFormat>,
    /// The most tokens of a sequence.
    pub context: usize,
    /// Tokens in the KV cache, over all sequences.
    pub cache_tokens: usize,
    /// Device memory.
    pub footprint: Footprint,
    /// The most bytes at once.
    pub needed_bytes: usize,
    /// Every operation that a step launches, each specification once.
    pub operations: Vec<PlannedOperation>,
}

/// An operation as it is planned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedOperation {
    /// Its name.
    pub op: &'static str,
    /// Its specification, as people read it.
    pub spec: String,
    /// How it would be carried out.
    pub how: How,
}

impl PlannedOperation {
    pub(super) fn of<O: Op>(plan: &Plan<O>) -> Self {
        Self {
            op: O::NAME,
            spec: format!("{:?}", plan.op()),
            how: plan.how(),
        }
    }
}

impl Model {
    /// Plans a model as [`Self::load_tuned`] does, and the sampling that an engine adds, and loads nothing. That it does not
    /// fit is no error here.
    ///
    /// # Errors
    /// As [`Self::load_tuned`], but `OutOfMemory`.
    pub fn preview(
        context: &Context,
        architecture: &Architecture,
        checkpoint: &Checkpoint,
        prefix: Option<&Checkpoint>,
        options: &Options,
    ) -> Result<Preview> {
        let plan = Blueprint::new(context, architecture, checkpoint, prefix, options)?;
        let sample = context.plan(Sample {
            vocab: plan.architecture.vocab,
        })?;
        let mut operations = plan.plans.list();
        operations.push(PlannedOperation::of(&sample));
        let mut weights: Vec<WeightFormat> = Vec::new();
        for matrix in plan.matrices.layers.iter().flatten() {
            if !weights.contains(&matrix.format) {
                weights.push(matrix.format);
            }
        }
        Ok(Preview {
            dtype: plan.dtype,
            kv: plan.cache.dtype,
            weights,
            context: plan.context,
            cache_tokens: plan.cache.pages * plan.cache.page_size,
            footprint: plan.footprint,
            needed_bytes: plan.needed_bytes(),
            operations,
        })
    }
}
