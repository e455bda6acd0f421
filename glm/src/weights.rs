//! Weights: from the tensors of a checkpoint to what the plans read.
//!
//! First everything is described and checked against the architecture, from headers alone; then
//! each tensor is read, converted and packed on its own, so that the host never holds more than one
//! beside the packed model.

use std::borrow::Cow;

use hal::{Buffer, DType, Device, Error, Result, Stream, View, WeightFormat};
use ops::{Context, Embedding, EmbeddingArgs, HostWeight, Matmul, MatmulArgs, Op, Plan};

use crate::architecture::{Architecture, Norm, QkvNames};
use crate::checkpoint::{Checkpoint, StoredMatrix};
use crate::packed::Packed;

/// A matrix that will be loaded: names, shape and formats are known and fit.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// Keys in the checkpoint, their rows one under the other.
    keys: Vec<String>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Encoding on the device.
    pub(crate) format: WeightFormat,
    pub(crate) bias: bool,
    /// Rows lie `[head][q | k | v]`: the elements per head.
    per_head: Option<usize>,
}

/// Whether a matrix has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    Yes,
    No,
    /// If the checkpoint has the tensor.
    AsStored,
}

impl Matrix {
    /// Describes `parts` (key and rows each), stacked, `cols` wide, in `format` or as stored.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        parts: &[(String, usize)],
        cols: usize,
        bias: Bias,
        format: Option<WeightFormat>,
    ) -> Result<Self> {
        let mut stored = None;
        for (key, rows) in parts {
            let weight = checkpoint.matrix(key, cols)?;
            if (weight.rows, weight.cols) != (*rows, cols) {
                let given = [weight.rows, weight.cols];
                return Err(shape_error(
                    checkpoint,
                    &weight_name(key),
                    &given,
                    &[*rows, cols],
                ));
            }
            check_convertible(checkpoint, key, weight, format)?;
            stored = Some(match stored {
                Some(before) => joint_format(checkpoint, key, before, weight.format, format)?,
                None => weight.format,
            });
        }
        let (Some((first, _)), Some(stored)) = (parts.first(), stored) else {
            return Err(Error::invalid("describe a weight", "it has no parts"));
        };
        let bias = match bias {
            Bias::Yes => true,
            Bias::No => false,
            Bias::AsStored => checkpoint.has(&bias_name(first)),
        };
        if bias {
            for (key, rows) in parts {
                check_vector(checkpoint, &bias_name(key), *rows)?;
            }
        }
        Ok(Self {
            keys: parts.iter().map(|(key, _)| key.clone()).collect(),
            rows: parts.iter().map(|(_, rows)| rows).sum(),
            cols,
            format: format.unwrap_or(stored),
            bias,
            per_head: None,
        })
    }

    /// Describes the matrices of layer `i` that make query, key and value: one with the rows `[q | k | v]` once loaded;
    /// for the top query layer one with `[k | v]`, and one with `[q]`, whose input is another.
    pub(crate) fn qkv(
        checkpoint: &Checkpoint,
        architecture: &Architecture,
        i: usize,
        format: Option<WeightFormat>,
    ) -> Result<(Self, Option<Self>)> {
        let head_dim = architecture.head_dim;
        let (q, kv) = (
            architecture.heads * head_dim,
            architecture.kv_heads * head_dim,
        );
        let of_layer = |name, rows| (architecture.of_layer(i, name), rows);
        let (parts, per_head) = match architecture.names.qkv {
            QkvNames::Separate { q: qn, k, v } => (
                vec![of_layer(qn, q), of_layer(k, kv), of_layer(v, kv)],
                None,
            ),
            QkvNames::Blocks(name) => (vec![of_layer(name, q + 2 * kv)], None),
            QkvNames::PerHead(name) => (vec![of_layer(name, q + 2 * kv)], Some(head_dim)),
        };
        let bias = match architecture.qkv_bias {
            Some(true) => Bias::Yes,
            Some(false) => Bias::No,
            None => Bias::AsStored,
        };
        let matrix = |parts| Self::new(checkpoint, parts, architecture.hidden, bias, format);
        if architecture.top_query && i + 1 == architecture.layers {
            let (query, key_value) = parts.split_at(1);
            return Ok((matrix(key_value)?, Some(matrix(query)?)));
        }
        Ok((
            Self {
                per_head,
                ..matrix(&parts)?
            },
            None,
        ))
    }

    /// The key; of several, where they differ, each part's own: `layers.3.self_attn.{q_proj,k_proj,v_proj}`.
    fn name(&self) -> String {
        let [first, _, ..] = &self.keys[..] else {
            return self.keys.concat();
        };
        let before = first.rsplit_once('.').map_or("", |(before, _)| before);
        let last = |key: &String| key.rsplit('.').next().map(str::to_owned);
        let parts: Vec<String> = self.keys.iter().filter_map(last).collect();
        format!("{before}.{{{}}}", parts.join(","))
    }

    /// Bytes on the device, before a backend's padding.
    pub(crate) fn bytes(&self) -> usize {
        let bias = if self.bias { self.rows * 4 } else { 0 };
        weight_bytes(self.format, self.rows, self.cols) + bias
    }

    /// The product with this matrix, `out` of type `out`.
    pub(crate) fn matmul(&self, x: DType, out: DType) -> Matmul {
        Matmul {
            out,
            bias: self.bias,
            ..Matmul::new(self.rows, self.cols, x, self.format)
        }
    }

    /// The lookup of rows of this table, `out` of type `out`; of a tied one in the weight of [`Self::matmul`].
    pub(crate) fn embedding(&self, out: DType, tied: bool) -> Embedding {
        Embedding {
            vocab: self.rows,
            dim: self.cols,
            table: self.format,
            out,
            tied,
        }
    }

    /// The whole weight, rows in the order that the layers want.
    fn read<'c>(&self, checkpoint: &'c Checkpoint) -> Result<HostWeight<'c>> {
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        let weight = checkpoint.linear_rows(&keys, self.cols, self.format)?;
        match self.per_head {
            Some(head_dim) => gather_rows(&weight, &blocks_from_heads(self.rows, head_dim)),
            None => Ok(weight),
        }
    }

    fn read_bias(&self, checkpoint: &Checkpoint) -> Result<Vec<f32>> {
        let mut bias = Vec::with_capacity(self.rows);
        for key in &self.keys {
            bias.extend(checkpoint.tensor(&bias_name(key))?.to_f32()?);
        }
        Ok(match self.per_head {
            Some(head_dim) => {
                let order = blocks_from_heads(self.rows, head_dim);
                order.into_iter().map(|r| bias[r]).collect()
            }
            None => bias,
        })
    }
}

/// A loaded matrix and the product with it.
#[derive(Debug)]
pub(crate) struct Linear {
    plan: Plan<Matmul>,
    weight: Buffer,
    bias: Option<Buffer>,
}

impl Linear {
    /// Bytes of elements and scales, before a backend's padding.
    pub(crate) fn bytes(&self) -> usize {
        let Matmul { n, k, weight, .. } = *self.plan.op();
        weight_bytes(weight, n, k)
    }

    /// The product.
    pub(crate) fn op(&self) -> &Matmul {
        self.plan.op()
    }

    /// The lookup of rows of this matrix, for a tied `plan`.
    pub(crate) fn table(&self, plan: Plan<Embedding>) -> Table {
        let table = self.weight.clone();
        Table { plan, table }
    }

    /// `out[m, n] = x[m, k] · wᵀ (+ bias)`.
    pub(crate) fn run(
        &self,
        stream: &mut dyn Stream,
        out: View<'_>,
        x: View<'_>,
        workspace: &View<'_>,
    ) -> Result<()> {
        let n = self.plan.op().n;
        let bias = self.bias.as_ref().map(|b| View::new(b, DType::F32, &[n]));
        let args = MatmulArgs {
            out,
            x,
            weight: View::of_bytes(&self.weight),
            bias: bias.transpose()?,
            residual: None,
        };
        self.plan.run(stream, args, workspace)
    }
}

/// A loaded table and the lookup in it.
#[derive(Debug)]
pub(crate) struct Table {
    plan: Plan<Embedding>,
    table: Buffer,
}

impl Table {
    /// `out[rows, dim] = table[ids[rows], :]`.
    pub(crate) fn run(
        &self,
        stream: &mut dyn Stream,
        out: View<'_>,
        ids: View<'_>,
        workspace: &View<'_>,
    ) -> Result<()> {
        let table = self.plan.op().table_view(&self.table)?;
        let args = EmbeddingArgs { out, ids, table };
        self.plan.run(stream, args, workspace)
    }
}

/// Weight and, for layer normalisation, bias of a norm, f32 `[dim]`.
#[derive(Debug)]
pub(crate) struct NormWeights {
    pub(crate) weight: Buffer,
    pub(crate) bias: Option<Buffer>,
}

/// Checks that the tensors of norm `key` are there.
pub(crate) fn check_norm(checkpoint: &Checkpoint, key: &str, norm: Norm, dim: usize) -> Result<()> {
    check_vector(checkpoint, &weight_name(key), dim)?;
    match norm {
        Norm::Rms(_) => Ok(()),
        Norm::Layer(_) => check_vector(checkpoint, &bias_name(key), dim),
    }
}

/// Loads described tensors one after the other and tells how far it is.
pub(crate) struct Loader<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) context: &'a Context,
    pub(crate) stream: &'a mut dyn Stream,
    pub(crate) progress: &'a mut dyn FnMut(usize, usize),
    pub(crate) done_bytes: usize,
    pub(crate) total_bytes: usize,
    /// Where packed matrices are kept.
    pub(crate) packed: Option<Packed<'a>>,
}

impl Loader<'_> {
    /// Reads, converts and packs a matrix for `plan`.
    pub(crate) fn linear(&mut self, matrix: &Matrix, plan: Plan<Matmul>) -> Result<Linear> {
        let weight = self.packed_matrix(matrix, plan.op(), |weight, _| plan.pack(weight))?;
        let bias = match matrix.bias {
            true => Some(self.upload_f32(&matrix.read_bias(self.checkpoint)?)?),
            false => None,
        };
        self.count(matrix.bytes());
        Ok(Linear { plan, weight, bias })
    }

    /// Reads and converts a table for `plan`; a dense one is stored as it is.
    pub(crate) fn table(&mut self, matrix: &Matrix, plan: Plan<Embedding>) -> Result<Table> {
        let device = self.context.device();
        let table = self.packed_matrix(matrix, plan.op(), |table, stream| match table.format {
            WeightFormat::Dense(_) => upload(&**device, stream, &table.data),
            _ => plan.pack(table),
        })?;
        self.count(matrix.bytes());
        Ok(Table { plan, table })
    }

    /// What `pack` makes of the matrix for `op`, now or at an earlier start.
    fn packed_matrix(
        &mut self,
        matrix: &Matrix,
        op: &impl Op,
        pack: impl FnOnce(&HostWeight<'_>, &mut dyn Stream) -> Result<Buffer>,
    ) -> Result<Buffer> {
        let (checkpoint, context) = (self.checkpoint, self.context);
        let make = |stream: &mut dyn Stream| {
            converted(checkpoint, context, matrix, |weight| pack(weight, stream))
        };
        match &self.packed {
            Some(packed) => packed.get(&format!("{matrix:?}\n{op:?}"), self.stream, make),
            None => make(self.stream),
        }
    }

    /// Reads the weights of norm `key`.
    pub(crate) fn norm(&mut self, key: &str, norm: Norm) -> Result<NormWeights> {
        let mut vector = |name: String| -> Result<Buffer> {
            let values = self.checkpoint.tensor(&name)?.to_f32()?;
            self.count(values.len() * 4);
            let buffer = self.upload_f32(&values)?;
            self.context.name(key, &buffer, None)?;
            Ok(buffer)
        };
        let weight = vector(weight_name(key))?;
        let bias = match norm {
            Norm::Rms(_) => None,
            Norm::Layer(_) => Some(vector(bias_name(key))?),
        };
        Ok(NormWeights { weight, bias })
    }

    /// A device buffer of these values.
    pub(crate) fn upload_f32(&mut self, values: &[f32]) -> Result<Buffer> {
        upload(
            &**self.context.device(),
            self.stream,
            bytemuck::cast_slice(values),
        )
    }

    fn count(&mut self, bytes: usize) {
        self.done_bytes += bytes;
        (self.progress)(self.done_bytes, self.total_bytes);
    }
}

/// What `pack` makes of the matrix, read and converted.
fn converted(
    checkpoint: &Checkpoint,
    context: &Context,
    matrix: &Matrix,
    pack: impl FnOnce(&HostWeight<'_>) -> Result<Buffer>,
) -> Result<Buffer> {
    for key in &matrix.keys {
        checkpoint.ask_linear(key);
    }
    let weight = matrix.read(checkpoint)?;
    let packed = pack(&weight).and_then(|buffer| {
        context.name(&matrix.name(), &buffer, Some(&weight))?;
        Ok(buffer)
    });
    drop(weight);
    // Packed it is in memory once; the file's pages would be a second time.
    for key in &matrix.keys {
        checkpoint.release_linear(key);
    }
    packed.map_err(|e| loading(checkpoint, &matrix.keys[0], e))
}

pub(crate) fn upload(device: &dyn Device, stream: &mut dyn Stream, bytes: &[u8]) -> Result<Buffer> {
    let buffer = device.alloc(bytes.len())?;
    stream.upload(&View::new(&buffer, DType::U8, &[bytes.len()])?, bytes)?;
    Ok(buffer)
}

/// Bytes of a weight's elements and scales.
pub(crate) fn weight_bytes(format: WeightFormat, rows: usize, cols: usize) -> usize {
    let (scales, dtype) = format.row_scales(cols);
    rows * (format.row_bytes(cols) + scales * dtype.bytes())
}

fn weight_name(key: &str) -> String {
    format!("{key}.weight")
}

fn bias_name(key: &str) -> String {
    format!("{key}.bias")
}

fn check_vector(checkpoint: &Checkpoint, name: &str, len: usize) -> Result<()> {
    let tensor = checkpoint.tensor(name)?;
    if tensor.shape != [len] {
        return Err(shape_error(checkpoint, name, tensor.shape, &[len]));
    }
    Ok(())
}

/// The format of two parts of one matrix. Quantisers of GGUF give the parts of an attention layer
/// different blocks, whose groups have the same columns: 8 bits hold them all.
fn joint_format(
    checkpoint: &Checkpoint,
    key: &str,
    before: WeightFormat,
    this: WeightFormat,
    wanted: Option<WeightFormat>,
) -> Result<WeightFormat> {
    match (before, this) {
        _ if before == this || wanted.is_some() => Ok(before),
        (WeightFormat::Int8Group(a), WeightFormat::Int4Group(b))
        | (WeightFormat::Int4Group(b), WeightFormat::Int8Group(a))
            if a == b =>
        {
            Ok(WeightFormat::Int8Group(a))
        }
        _ => Err(Error::corrupt(
            doing(checkpoint, &weight_name(key)),
            format!("it is {this}, what it is joined with {before}"),
        )
        .next_step("quantise the original again, all parts alike, or name a --dtype")),
    }
}

fn check_convertible(
    checkpoint: &Checkpoint,
    key: &str,
    weight: StoredMatrix,
    format: Option<WeightFormat>,
) -> Result<()> {
    let Some(format) = format.filter(|f| *f != weight.format) else {
        return Ok(());
    };
    let doing = || doing(checkpoint, &weight_name(key));
    let multiple = format.cols_multiple();
    if !weight.cols.is_multiple_of(multiple) {
        let detail = format!(
            "{format} needs columns in multiples of {multiple}, it has {}",
            weight.cols
        );
        return Err(Error::unsupported(doing(), detail)
            .next_step("choose int8, or int4 with a smaller group"));
    }
    Ok(())
}

fn shape_error(checkpoint: &Checkpoint, name: &str, given: &[usize], wanted: &[usize]) -> Error {
    Error::corrupt(
        doing(checkpoint, name),
        format!("its shape is {given:?}, the configuration says {wanted:?}"),
    )
    .next_step("take config.json and weights from the same revision of the model")
}

/// `e`, with the tensor and the place it came from.
fn loading(checkpoint: &Checkpoint, key: &str, e: Error) -> Error {
    let detail = format!("{}: {}", e.doing(), e.detail());
    let named = Error::new(e.kind(), doing(checkpoint, &weight_name(key)), detail);
    match e.next().map(str::to_owned) {
        Some(next) => named.next_step(next),
        None => named,
    }
    .with_source(e)
}

fn doing(checkpoint: &Checkpoint, name: &str) -> String {
    match checkpoint.folder() {
        Some(folder) => format!("load {name} from {}", folder.display()),
        None => format!("load {name} from the embedded model"),
    }
}

/// For each row of `[q | k | v]`, its place in `[head][q | k | v]`; both have `rows` rows.
fn blocks_from_heads(rows: usize, head_dim: usize) -> Vec<usize> {
    let heads = rows / (3 * head_dim);
    let mut order = Vec::with_capacity(rows);
    for part in 0..3 {
        for head in 0..heads {
            let start = (head * 3 + part) * head_dim;
            order.extend(start..start + head_dim);
        }
    }
    order
}

/// The rows of `weight` in another order.
fn gather_rows(weight: &HostWeight<'_>, order: &[usize]) -> Result<HostWeight<'static>> {
    let gather = |bytes: &[u8]| -> Cow<'static, [u8]> {
        let len = bytes.len() / weight.rows;
        let rows = order.iter().map(|r| &bytes[r * len..(r + 1) * len]);
        rows.collect::<Vec<_>>().concat().into()
    };
    let (data, scales) = (gather(&weight.data), gather(&weight.scales));
    HostWeight::new(weight.format, weight.rows, weight.cols, data, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of `[head][q | k | v]` with 2 heads of 2 elements, each row full of its own number.
    fn per_head(format: WeightFormat) -> HostWeight<'static> {
        let data: Vec<u8> = (0..12u8)
            .flat_map(|r| vec![r; format.row_bytes(32)])
            .collect();
        let (n, dtype) = format.row_scales(32);
        let scales: Vec<u8> = (100..112u8)
            .flat_map(|r| vec![r; n * dtype.bytes()])
            .collect();
        HostWeight::new(format, 12, 32, data, scales).unwrap()
    }

    #[test]
    fn rows_of_heads_become_blocks_with_their_scales() {
        let order = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11];
        assert_eq!(blocks_from_heads(12, 2), order);
        for format in WeightFormat::ALL {
            if !32usize.is_multiple_of(format.cols_multiple()) {
                continue;
            }
            let blocks = gather_rows(&per_head(format), &order).unwrap();
            let row_bytes = format.row_bytes(32);
            let firsts: Vec<usize> = (0..12).map(|r| blocks.data[r * row_bytes].into()).collect();
            assert_eq!(firsts, order, "{format}");
            let scale_bytes = blocks.scales.len() / 12;
            if scale_bytes > 0 {
                let of = |r: usize| usize::from(blocks.scales[r * scale_bytes]) - 100;
                assert_eq!((0..12).map(of).collect::<Vec<_>>(), order, "{format}");
            }
        }
    }
}
