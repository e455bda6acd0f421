//! A checkpoint of random numbers: the tensors that an architecture wants, for measuring speed without a model.
//!
//! Nothing is computed per tensor. For each kind of number one block of random bytes is made, as long as the largest
//! tensor of that kind, from a period that is repeated; every tensor is a window into it that begins at another place.
//! So a model of any size costs the host one tensor of each kind, and the same seed gives the same numbers.

use std::collections::BTreeMap;

use hal::{DType, Result, WeightFormat};
use ops::{HostWeight, philox};

use super::map::Bytes;
use super::{Checkpoint, Entry, Join, Part, Place, SCALE_SUFFIX, StoredType};
use crate::architecture::{Architecture, Norm};

/// Bytes after which a block repeats itself.
const PERIOD_BYTES: usize = 1 << 20;
/// Windows begin at multiples of this: a cache line.
const ALIGN_BYTES: usize = 64;

/// Magnitudes of weights are in `[2^-6, 2^-5)`: sums over some thousands of them stay near 1.
const WEIGHT_EXPONENT: i32 = -6;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Floats of a magnitude in `[2^exponent, 2^(exponent + 1))`.
    Float {
        dtype: DType,
        exponent: i32,
        signed: bool,
    },
    /// Integers in `[-127, 127]`.
    Int8,
    /// Two integers in `[-7, 7]` per byte.
    Int4,
}

impl Kind {
    /// Floats of a magnitude in `[2^exponent, 2^(exponent + 1))`.
    pub(crate) fn floats(dtype: DType, exponent: i32, signed: bool) -> Self {
        Kind::Float {
            dtype,
            exponent,
            signed,
        }
    }

    fn dtype(self) -> DType {
        match self {
            Kind::Float { dtype, .. } => dtype,
            Kind::Int8 => DType::I8,
            Kind::Int4 => DType::U8,
        }
    }

    /// Four random bytes, made numbers of this kind.
    fn shape(self, x: u32) -> [u8; 4] {
        match self {
            Kind::Float {
                dtype,
                exponent,
                signed,
            } => {
                // Sign, exponent and the bits of the fraction, two numbers where they are short.
                let (bias, fraction, short) = match dtype {
                    DType::F16 => (15, 10, true),
                    DType::BF16 => (127, 7, true),
                    _ => (127, 23, false),
                };
                let power = ((exponent + bias) as u32) << fraction;
                let sign = match (signed, short) {
                    (false, _) => 0,
                    (true, true) => 0x8000,
                    (true, false) => 0x8000_0000,
                };
                let number = |x: u32| x & (sign | ((1 << fraction) - 1)) | power;
                match short {
                    true => number(x & 0xffff) | (number(x >> 16) << 16),
                    false => number(x),
                }
                .to_le_bytes()
            }
            Kind::Int8 => x.to_le_bytes().map(|b| if b == 0x80 { 0x81 } else { b }),
            Kind::Int4 => x.to_le_bytes().map(|b| {
                let seven = |nibble: u8| if nibble == 8 { 9 } else { nibble };
                seven(b >> 4) << 4 | seven(b & 15)
            }),
        }
    }

    /// The bytes that a block repeats.
    pub(crate) fn period(self, seed: u64) -> Vec<u8> {
        (0..PERIOD_BYTES as u64 / 16)
            .flat_map(|i| philox(seed, i))
            .flat_map(|x| self.shape(x))
            .collect()
    }

    /// A block of at least `bytes` bytes.
    fn block(self, bytes: usize, seed: u64) -> Vec<u8> {
        let bytes = bytes.next_multiple_of(PERIOD_BYTES);
        let period = self.period(seed);
        let mut block = Vec::with_capacity(bytes);
        while block.len() < bytes {
            block.extend_from_slice(&period);
        }
        block
    }
}

impl Checkpoint {
    /// The tensors that `architecture` wants, of random numbers: matrices in `weights`, tables in `tables`.
    ///
    /// # Errors
    /// `InvalidArgument` when the columns of a matrix do not divide into the groups of its format.
    pub fn random(
        architecture: &Architecture,
        weights: WeightFormat,
        tables: WeightFormat,
        seed: u64,
    ) -> Result<Self> {
        Ok(List::of(architecture, weights, tables)?.checkpoint(Some(seed)))
    }

    /// As [`Self::random`], all zeros, which take no memory until they are read: for planning a model without its files.
    ///
    /// # Errors
    /// As [`Self::random`].
    pub fn zeros(
        architecture: &Architecture,
        weights: WeightFormat,
        tables: WeightFormat,
    ) -> Result<Self> {
        Ok(List::of(architecture, weights, tables)?.checkpoint(None))
    }
}

/// The tensors so far: name, kind and shape.
#[derive(Default)]
struct List(Vec<(String, Kind, Vec<usize>)>);

impl List {
    /// Those that `a` wants.
    fn of(a: &Architecture, weights: WeightFormat, tables: WeightFormat) -> Result<Self> {
        let mut list = List::default();
        for (key, shape) in a.tables() {
            list.matrix(key, shape, tables)?;
        }
        if !a.tied {
            list.matrix(a.names.head, [a.vocab, a.hidden], tables)?;
        }
        for i in 0..a.layers {
            let matrices = a.matrices(i);
            // All but the last three are parts of the query-key-value matrix.
            let qkv = matrices.len() - 3;
            for (m, (key, shape)) in matrices.iter().enumerate() {
                list.matrix(key, *shape, weights)?;
                let bias = match m < qkv {
                    true => a.qkv_bias.unwrap_or(false),
                    false => a.dense_bias,
                };
                if bias {
                    list.bias(key, shape[0]);
                }
            }
            let norms = [Some(a.names.input_norm), Some(a.names.mlp_norm)];
            let outer = [a.names.attention_out_norm, a.names.mlp_out_norm];
            for name in norms.into_iter().chain(outer).flatten() {
                list.norm(&a.of_layer(i, name), a);
            }
        }
        list.norm(a.names.final_norm, a);
        Ok(list)
    }

    fn add(&mut self, name: String, kind: Kind, shape: &[usize]) {
        self.0.push((name, kind, shape.to_vec()));
    }

    fn matrix(&mut self, key: &str, [rows, cols]: [usize; 2], format: WeightFormat) -> Result<()> {
        if !cols.is_multiple_of(format.cols_multiple()) {
            let multiple = format.cols_multiple();
            let detail =
                format!("{format} needs columns in multiples of {multiple}, {key} has {cols}");
            return Err(hal::Error::invalid("make random weights", detail)
                .next_step("choose int8, or int4 with a smaller group"));
        }
        let name = format!("{key}.weight");
        let (kind, scale_kind) = kinds(format, cols);
        let (scales, _) = format.row_scales(cols);
        if scales > 0 {
            let shape = [rows, scales];
            let shape = match format.group() {
                Some(_) => &shape[..],
                None => &shape[..1],
            };
            self.add(name.clone() + SCALE_SUFFIX, scale_kind, shape);
        }
        let stored_cols = format.row_bytes(cols) / kind.dtype().bytes();
        self.add(name, kind, &[rows, stored_cols]);
        Ok(())
    }

    fn bias(&mut self, key: &str, len: usize) {
        let kind = Kind::floats(DType::F32, WEIGHT_EXPONENT, true);
        self.add(format!("{key}.bias"), kind, &[len]);
    }

    fn norm(&mut self, key: &str, architecture: &Architecture) {
        // Between 1 and 2: a norm neither kills nor blows up what it scales.
        let kind = Kind::floats(DType::F32, 0, false);
        self.add(format!("{key}.weight"), kind, &[architecture.hidden]);
        if let Norm::Layer(_) = architecture.norm {
            self.bias(key, architecture.hidden);
        }
    }

    /// Makes the blocks, of zeros without a seed, and the windows into them.
    fn checkpoint(self, seed: Option<u64>) -> Checkpoint {
        let bytes =
            |kind: Kind, shape: &[usize]| shape.iter().product::<usize>() * kind.dtype().bytes();
        let mut largest: BTreeMap<Kind, usize> = BTreeMap::new();
        for (_, kind, shape) in &self.0 {
            let most = largest.entry(*kind).or_default();
            *most = bytes(*kind, shape).max(*most);
        }
        let kinds: Vec<Kind> = largest.keys().copied().collect();
        // A window may begin anywhere in the first period.
        let files = largest.iter().map(|(kind, &most)| {
            let block = match seed {
                Some(seed) => kind.block(most + PERIOD_BYTES, seed),
                None => vec![0; most + PERIOD_BYTES],
            };
            (format!("{kind:?}"), Bytes::Owned(block))
        });
        let files = files.collect();
        let places = self
            .0
            .into_iter()
            .enumerate()
            .map(|(i, (name, kind, shape))| {
                let start =
                    philox(!seed.unwrap_or(0), i as u64)[0] as usize % (PERIOD_BYTES / ALIGN_BYTES);
                let (start, bytes) = (start * ALIGN_BYTES, bytes(kind, &shape));
                let dtype = StoredType::Known(kind.dtype());
                let entry = Entry {
                    dtype: dtype.clone(),
                    shape: shape.clone(),
                    range: start..start + bytes,
                    strides: None,
                };
                let file = kinds.iter().position(|k| *k == kind).unwrap_or_default();
                let place = Place {
                    dtype,
                    shape,
                    bytes,
                    parts: vec![Part { file, entry }],
                    join: Join::Same,
                };
                (name, place)
            });
        Checkpoint {
            source: match seed {
                Some(_) => "the random weights".to_owned(),
                None => "the shape".to_owned(),
            },
            folder: None,
            tensors: places.collect(),
            files,
            metadata: None,
            packed: None,
        }
    }
}

/// A matrix `[rows, cols]` of random numbers.
///
/// # Errors
/// `InvalidArgument` when `format` does not fit the columns.
pub(crate) fn random_weight(
    rows: usize,
    cols: usize,
    format: WeightFormat,
    seed: u64,
) -> Result<HostWeight<'static>> {
    let (kind, scale_kind) = kinds(format, cols);
    let (scales, scale) = format.row_scales(cols);
    let block = |kind: Kind, bytes: usize| {
        let mut block = kind.block(bytes, seed);
        block.truncate(bytes);
        block
    };
    let data = block(kind, rows * format.row_bytes(cols));
    let scales = block(scale_kind, rows * scales * scale.bytes());
    HostWeight::new(format, rows, cols, data, scales)
}

/// What the elements of a matrix are, and its scales, if it has any.
fn kinds(format: WeightFormat, cols: usize) -> (Kind, Kind) {
    let (kind, below) = match format {
        WeightFormat::Dense(dtype) => (Kind::floats(dtype, WEIGHT_EXPONENT, true), 0),
        WeightFormat::Int8Row | WeightFormat::Int8Group(_) => (Kind::Int8, 6),
        // Int4, and whatever is packed as tightly.
        _ => (Kind::Int4, 2),
    };
    // The mean magnitude of the integers times a scale is that of dense weights.
    let (_, scale) = format.row_scales(cols);
    (kind, Kind::floats(scale, WEIGHT_EXPONENT - below, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes;

    #[test]
    fn numbers_are_of_their_kind_and_magnitude() {
        let a = shapes::architecture("tiny", None).unwrap();
        let tables = WeightFormat::Dense(DType::BF16);
        for format in WeightFormat::ALL {
            let random = |seed| Checkpoint::random(&a, format, tables, seed).unwrap();
            let checkpoint = random(1);
            let key = "transformer.encoder.layers.1.mlp.dense_4h_to_h";
            let weight = checkpoint.linear(key, 256).unwrap();
            assert_eq!(
                (weight.format, weight.rows, weight.cols),
                (format, 128, 256)
            );
            let values: Vec<f64> = weight.dequantise().data;
            let mean = values.iter().map(|x| x.abs()).sum::<f64>() / values.len() as f64;
            assert!((0.01..0.06).contains(&mean), "{format}: {mean}");
            let positive = values.iter().filter(|x| **x > 0.0).count() as f64;
            assert!(
                (0.4..0.6).contains(&(positive / values.len() as f64)),
                "{format}"
            );
            assert!(values.iter().all(|x| x.abs() < 0.2), "{format}");
            // The same seed, the same numbers.
            let data = |c: &Checkpoint| c.linear(key, 256).unwrap().data.into_owned();
            assert_eq!(data(&checkpoint), data(&random(1)), "{format}");
            assert_ne!(data(&checkpoint), data(&random(2)), "{format}");
        }
    }

    #[test]
    fn groups_that_do_not_divide_are_refused() {
        let a = shapes::architecture("chatglm3-6b", Some(1)).unwrap();
        let tables = WeightFormat::Dense(DType::BF16);
        let g1000 = Checkpoint::random(&a, WeightFormat::Int4Group(1000), tables, 1);
        let e = g1000.unwrap_err();
        assert_eq!(e.kind(), hal::ErrorKind::InvalidArgument);
    }
}
