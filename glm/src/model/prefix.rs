//! A trained prefix (P-Tuning v2): keys and values that every token sees, without positions.
//!
//! `embedding [tokens, width]`, with a projection `W₂ · tanh(W₁ · e + b₁) + b₂`, gives rows
//! `[layers][key | value][kv_heads, head_dim]` for the first slots of every sequence.
//!
//! Sources: Liu et al., "P-Tuning v2", arXiv 2110.07602; `PrefixEncoder` in `modeling_chatglm.py` of ChatGLM-6B and
//! ChatGLM3-6B.

use hal::{Buffer, DType, Device, Error, Result, Stream, View, WeightFormat};
use ops::{Context, HostWeight, KvWriteArgs};

use super::plans::Plans;
use crate::architecture::Architecture;
use crate::cache::{KvCache, Sequence};
use crate::checkpoint::Checkpoint;
use crate::config::MAX_PREFIX;
use crate::weights::{Bias, Loader, Matrix, upload};

/// Beginning of the names of its tensors.
pub(crate) const PREFIX_ENCODER: &str = "transformer.prefix_encoder.";

fn key(name: &str) -> String {
    format!("{PREFIX_ENCODER}{name}")
}

/// The tensors of a prefix, described and checked.
pub(super) struct PrefixTensors<'c> {
    checkpoint: &'c Checkpoint,
    pub(super) tokens: usize,
    /// Columns of the embedding.
    width: usize,
    projection: Option<[Matrix; 2]>,
}

impl<'c> PrefixTensors<'c> {
    /// Those in `checkpoint`, for the layers of `a`.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` for other shapes than the architecture says.
    pub(super) fn new(a: &Architecture, checkpoint: &'c Checkpoint) -> Result<Self> {
        let name = key("embedding.weight");
        let table = checkpoint.tensor(&name)?;
        let wrong = |why: String| {
            Error::corrupt(format!("read {name}"), why)
                .next_step("take a prefix that was trained for this very model")
        };
        let row = row(a);
        let projects = checkpoint.has(&key("trans.0.weight"));
        let &[tokens, width] = table.shape else {
            return Err(wrong(format!("its shape is {:?}", table.shape)));
        };
        if !(1..=MAX_PREFIX).contains(&tokens) || (!projects && width != row) {
            let why = format!(
                "its shape is {:?}; the layers need {row} columns",
                table.shape
            );
            return Err(wrong(why));
        }
        let projection = match projects {
            false => None,
            true => {
                let matrix = |name, rows, cols| {
                    Matrix::new(checkpoint, &[(key(name), rows)], cols, Bias::Yes, None)
                };
                Some([
                    matrix("trans.0", a.hidden, width)?,
                    matrix("trans.2", row, a.hidden)?,
                ])
            }
        };
        let tensors = Self {
            checkpoint,
            tokens,
            width,
            projection,
        };
        match a.prefix {
            Some(said) if (said.tokens, said.projects) != (tokens, projects) => {
                let projection = |projects| if projects { "with" } else { "without" };
                Err(wrong(format!(
                    "{tokens} tokens {} a projection; the configuration says {} {} one",
                    projection(projects),
                    said.tokens,
                    projection(said.projects)
                )))
            }
            _ => Ok(tensors),
        }
    }

    /// Bytes on the device for good, with activations of type `dtype`.
    pub(super) fn bytes(&self, a: &Architecture, dtype: DType) -> usize {
        self.tokens * (row(a) * dtype.bytes() + 4)
    }

    /// Bytes on the device while [`Self::load`] runs, before a backend's padding.
    pub(super) fn work_bytes(&self, a: &Architecture, dtype: DType) -> usize {
        let projection = self.projection.iter().flatten();
        let weights: usize = projection.map(Matrix::bytes).sum();
        weights + self.tokens * (self.width + a.hidden + row(a)) * 4 + self.bytes(a, dtype)
    }

    /// Computes keys and values in f32, as the official code does, and stores them in `dtype`.
    pub(super) fn load(
        &self,
        context: &Context,
        a: &Architecture,
        stream: &mut dyn Stream,
        dtype: DType,
    ) -> Result<Prefix> {
        let device = &**context.device();
        let mut values = self.checkpoint.tensor(&key("embedding.weight"))?.to_f32()?;
        for (i, matrix) in self.projection.iter().flatten().enumerate() {
            if i == 1 {
                values.iter_mut().for_each(|x| *x = x.tanh());
            }
            values = self.project(context, stream, matrix, &values)?;
        }
        let bytes = bytemuck::cast_slice(&values);
        let dense = |dtype| WeightFormat::Dense(dtype);
        let rows = HostWeight::new(dense(DType::F32), self.tokens, row(a), bytes, &[][..])?;
        let rows = rows.convert(dense(dtype))?;
        Ok(Prefix {
            tokens: self.tokens,
            dtype,
            kv: upload(device, stream, &rows.data)?,
            slots: device.alloc(self.tokens * 4)?,
            host_slots: Vec::with_capacity(self.tokens),
        })
    }

    /// `x · wᵀ + b` on the device.
    fn project(
        &self,
        context: &Context,
        stream: &mut dyn Stream,
        matrix: &Matrix,
        x: &[f32],
    ) -> Result<Vec<f32>> {
        let device: &dyn Device = &**context.device();
        let plan = context.plan(matrix.matmul(DType::F32, DType::F32))?;
        let (t, n, k) = (self.tokens, matrix.rows, matrix.cols);
        let weight_bytes = matrix.format.row_bytes(k) * n;
        let workspace = plan.workspace_bytes(&[&[t, n], &[t, k], &[weight_bytes], &[n]]);
        let workspace = device.alloc(workspace)?;
        let (input, out) = (
            upload(device, stream, bytemuck::cast_slice(x))?,
            device.alloc(t * n * 4)?,
        );
        let mut loader = Loader {
            checkpoint: self.checkpoint,
            context,
            stream,
            progress: &mut |_, _| {},
            done_bytes: 0,
            total_bytes: 0,
            packed: None,
        };
        let linear = loader.linear(matrix, plan)?;
        let out = View::new(&out, DType::F32, &[t, n])?;
        let input = View::new(&input, DType::F32, &[t, k])?;
        linear.run(stream, out, input, &View::of_bytes(&workspace))?;
        let mut values = vec![0.0f32; t * n];
        stream.download(bytemuck::cast_slice_mut(&mut values), &out)?;
        Ok(values)
    }
}

/// Elements per token: keys and values of all layers.
fn row(a: &Architecture) -> usize {
    2 * a.layers * a.kv_heads * a.head_dim
}

/// Keys and values on the device.
#[derive(Debug)]
pub(super) struct Prefix {
    pub(super) tokens: usize,
    dtype: DType,
    /// `[tokens, layers, 2, kv_heads, head_dim]`
    kv: Buffer,
    /// i32 `[tokens]`
    slots: Buffer,
    host_slots: Vec<i32>,
}

impl Prefix {
    /// Writes keys and values of all layers into the first slots of `sequence`, if they are not there yet.
    pub(super) fn write(
        &mut self,
        stream: &mut dyn Stream,
        plans: &Plans,
        cache: &KvCache,
        sequence: &mut Sequence,
        workspace: &View<'_>,
    ) -> Result<()> {
        let Some(slots) = sequence.claim_base() else {
            return Ok(());
        };
        self.host_slots.clear();
        // Slots were checked to fit an i32 when the cache was made.
        self.host_slots.extend(slots.map(|slot| slot as i32));
        let slots = View::new(&self.slots, DType::I32, &[self.tokens])?;
        stream.upload(&slots, bytemuck::cast_slice(&self.host_slots))?;
        let shape = *cache.shape();
        let head = shape.kv_heads * shape.head_dim;
        let strides = [2 * shape.layers * head, shape.head_dim, 1];
        let part = |i: usize| {
            let (at, shape) = (
                i * head * self.dtype.bytes(),
                [self.tokens, shape.kv_heads, shape.head_dim],
            );
            View::strided(&self.kv, at, self.dtype, &shape, &strides)
        };
        for layer in 0..shape.layers {
            let (k_pages, v_pages) = cache.layer(layer)?;
            let args = KvWriteArgs {
                k_pages,
                v_pages,
                k: part(2 * layer)?,
                v: part(2 * layer + 1)?,
                slots,
            };
            plans.kv_write.run(stream, args, workspace)?;
        }
        Ok(())
    }
}
