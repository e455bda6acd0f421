//! Weight matrices of a checkpoint, dense or quantised.
//!
//! A dense matrix is `<key>.weight`, `[rows, cols]`, f32, f16 or bf16. A quantised one has scales
//! in `<key>.weight_scale` (GLM's own name for them):
//! | format | weight | scales |
//! |---|---|---|
//! | int8 | i8 `[rows, cols]` | f32 `[rows]` |
//! | int8, groups of g | i8 `[rows, cols]` | f16 `[rows, cols / g]` |
//! | int4 | u8 `[rows, cols / 2]` | f32 `[rows]` |
//! | int4, groups of g | u8 `[rows, cols / 2]` | f16 `[rows, cols / g]` |
//!
//! Blocks of a GGUF file are one tensor without scales beside it.
//!
//! The official checkpoints (ChatGLM, GLM-130B) store both int8 and int4 as i8: the columns that the
//! model wants tell them apart. Row scales in f16 or bf16, as the official quantisers write them, are
//! widened to f32: that is exact.

use std::borrow::Cow;

use hal::{DType, Error, ErrorKind, Result, WeightFormat};
use ops::HostWeight;

use super::{Checkpoint, StoredTensor, StoredType};

/// What is added to the name of a quantised weight for its scales.
pub const SCALE_SUFFIX: &str = "_scale";

/// What the headers say of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMatrix {
    /// Encoding of the rows; of blocks, the one in which they run.
    pub format: WeightFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl Checkpoint {
    /// What `<key>.weight` is, for a model that wants `cols` columns of it. Reads no elements; the
    /// shape may still be another than the model's.
    ///
    /// # Errors
    /// `NotFound` of the weight, or of the scales of an integer one; `Unsupported` for a type that we
    /// do not compute with; `Corrupt` when weight and scales do not fit.
    pub fn matrix(&self, key: &str, cols: usize) -> Result<StoredMatrix> {
        let name = format!("{key}.weight");
        let weight = self.tensor(&name)?;
        let scale_name = name + SCALE_SUFFIX;
        let doing = || format!("read weight {key} of {}", self.source);
        let [rows, stored_cols] = *weight.shape else {
            return Err(Error::corrupt(
                doing(),
                format!("shape {:?} is not a matrix", weight.shape),
            )
            .next_step("compare `glm inspect` with the model's configuration"));
        };
        if !self.has(&scale_name) {
            return match *weight.dtype {
                StoredType::Known(dtype) if dtype.is_float() => Ok(StoredMatrix {
                    format: WeightFormat::Dense(dtype),
                    rows,
                    cols: stored_cols,
                }),
                StoredType::Blocks(block) => Ok(StoredMatrix {
                    format: block.runs_as(),
                    rows,
                    cols: stored_cols,
                }),
                StoredType::Known(DType::I8 | DType::U8) => Err(Error::new(
                    ErrorKind::NotFound,
                    doing(),
                    format!("it is quantised, and `{scale_name}` is missing"),
                )
                .next_step("copy the whole checkpoint, every shard of it")),
                ref other => Err(Error::unsupported(
                    doing(),
                    format!("{other} without `{scale_name}`"),
                )
                .next_step("use a checkpoint in f32, f16 or bf16, or one of `glm quantize`")),
            };
        }
        let scale = self.tensor(&scale_name)?;
        let Some((format, cols)) = quantised_format(&weight, &scale, stored_cols, cols) else {
            return Err(Error::corrupt(
                doing(),
                format!(
                    "weight {} {:?} with scales {} {:?} is no format that we know",
                    weight.dtype, weight.shape, scale.dtype, scale.shape
                ),
            )
            .next_step("quantise the original again with `glm quantize`"));
        };
        let (scales, _) = format.row_scales(cols);
        if scale.shape.iter().product::<usize>() != rows * scales {
            return Err(Error::corrupt(
                doing(),
                format!("{rows} rows with scales {:?}", scale.shape),
            )
            .next_step("take weight and scales from one checkpoint"));
        }
        Ok(StoredMatrix { format, rows, cols })
    }

    /// The weight matrix `<key>.weight`, of which the model wants `cols` columns; borrowed from the
    /// file where its layout allows.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`] and [`StoredTensor::data`].
    pub fn linear(&self, key: &str, cols: usize) -> Result<HostWeight<'_>> {
        let StoredMatrix { format, rows, cols } = self.matrix(key, cols)?;
        let name = format!("{key}.weight");
        let tensor = self.tensor(&name)?;
        if let StoredType::Blocks(_) = tensor.dtype {
            return self.linear_in(key, cols, format);
        }
        let data = tensor.data()?;
        let scales: Cow<'_, [u8]> = match format {
            WeightFormat::Dense(_) => Cow::Borrowed(&[]),
            _ => {
                let scale = self.tensor(&(name + SCALE_SUFFIX))?;
                let (_, wanted) = format.row_scales(cols);
                match *scale.dtype == StoredType::Known(wanted) {
                    true => scale.data()?,
                    false => {
                        let values = scale.to_f32()?;
                        Cow::Owned(values.iter().flat_map(|s| s.to_le_bytes()).collect())
                    }
                }
            }
        };
        HostWeight::new(format, rows, cols, data, scales).map_err(|e| {
            let doing = format!("read weight {key} of {}", self.source);
            Error::corrupt(doing, e.detail().to_owned()).with_source(e)
        })
    }

    /// As [`Checkpoint::linear`], in `format`: as stored, or rounded from the stored values.
    ///
    /// # Errors
    /// As [`Checkpoint::linear`] and [`HostWeight::convert`].
    pub fn linear_in(
        &self,
        key: &str,
        cols: usize,
        format: WeightFormat,
    ) -> Result<HostWeight<'_>> {
        let named = |e: Error| {
            let doing = format!("read weight {key} of {}", self.source);
            let outer = Error::new(e.kind(), doing, format!("{}: {}", e.doing(), e.detail()));
            match e.next().map(str::to_owned) {
                Some(next) => outer.next_step(next).with_source(e),
                None => outer.with_source(e),
            }
        };
        let tensor = self.tensor(&format!("{key}.weight"))?;
        if let StoredType::Blocks(_) = tensor.dtype {
            return tensor.matrix_in(format).map_err(named);
        }
        in_format(self.linear(key, cols)?, format).map_err(named)
    }

    /// Several matrices of equal width as one in `format`, row under row: separate query, key and
    /// value become one weight.
    ///
    /// # Errors
    /// As [`Checkpoint::linear_in`]; `Corrupt` when widths differ, `InvalidArgument` when `keys` is
    /// empty.
    pub fn linear_rows(
        &self,
        keys: &[&str],
        cols: usize,
        format: WeightFormat,
    ) -> Result<HostWeight<'_>> {
        let Some((first, rest)) = keys.split_first() else {
            return Err(Error::invalid("join weights", "no names were given"));
        };
        let mut joined = self.linear_in(first, cols, format)?;
        for key in rest {
            let next = self.linear_in(key, cols, format)?;
            if next.cols != joined.cols {
                return Err(Error::corrupt(
                    format!("join {first} and {key} of {}", self.source),
                    format!("{} columns and {}", joined.cols, next.cols),
                )
                .next_step("compare `glm inspect` with the model's configuration"));
            }
            joined.rows += next.rows;
            joined.data.to_mut().extend_from_slice(&next.data);
            joined.scales.to_mut().extend_from_slice(&next.scales);
        }
        Ok(joined)
    }

    /// As [`Checkpoint::ask`], of a matrix and its scales.
    pub fn ask_linear(&self, key: &str) {
        let name = format!("{key}.weight");
        self.ask(&name);
        self.ask(&(name + SCALE_SUFFIX));
    }

    /// As [`Checkpoint::release`], of a matrix and its scales.
    pub fn release_linear(&self, key: &str) {
        let name = format!("{key}.weight");
        self.release(&name);
        self.release(&(name + SCALE_SUFFIX));
    }
}

impl<'a> StoredTensor<'a> {
    /// A matrix of floats or of blocks in `format`.
    ///
    /// # Errors
    /// `Unsupported` for other tensors; as [`StoredTensor::data`] and [`HostWeight::convert`].
    pub(crate) fn matrix_in(&self, format: WeightFormat) -> Result<HostWeight<'a>> {
        match (self.dtype, self.shape) {
            (StoredType::Blocks(block), &[rows, cols]) => {
                block.weight(rows, cols, &self.data()?, format)
            }
            (StoredType::Known(dtype), &[rows, cols]) if dtype.is_float() => {
                let dense = WeightFormat::Dense(*dtype);
                in_format(
                    HostWeight::new(dense, rows, cols, self.data()?, &[][..])?,
                    format,
                )
            }
            (dtype, shape) => Err(Error::unsupported(
                format!("read tensor {}", self.name),
                format!("{dtype} {shape:?} is no matrix of numbers"),
            )
            .next_step("compare `glm inspect` with the model's configuration")),
        }
    }
}

/// The weight in `format`; the weight itself when it is.
fn in_format(weight: HostWeight<'_>, format: WeightFormat) -> Result<HostWeight<'_>> {
    if weight.format == format {
        return Ok(weight);
    }
    let converted = weight.convert(format)?;
    let (data, scales) = (converted.data.into_owned(), converted.scales.into_owned());
    HostWeight::new(format, weight.rows, weight.cols, data, scales)
}

/// Format and columns that a weight and its scales stand for; `None` when there is no such format.
fn quantised_format(
    weight: &StoredTensor<'_>,
    scale: &StoredTensor<'_>,
    stored_cols: usize,
    wanted_cols: usize,
) -> Option<(WeightFormat, usize)> {
    let StoredType::Known(scale_type) = *scale.dtype else {
        return None;
    };
    let per_row = scale.shape.len() == 1 && scale_type.is_float();
    let (cols, of_row, of_group): (_, _, fn(usize) -> WeightFormat) = match *weight.dtype {
        StoredType::Known(DType::I8) => match stored_cols.checked_mul(2) {
            Some(cols) if per_row && cols == wanted_cols => {
                return Some((WeightFormat::Int4Row, cols));
            }
            _ => (stored_cols, WeightFormat::Int8Row, WeightFormat::Int8Group),
        },
        StoredType::Known(DType::U8) => (
            stored_cols.checked_mul(2)?,
            WeightFormat::Int4Row,
            WeightFormat::Int4Group,
        ),
        _ => return None,
    };
    if per_row {
        return Some((of_row, cols));
    }
    let [_, groups] = *scale.shape else {
        return None;
    };
    let group = cols.checked_div(groups)?;
    let format = of_group(group);
    let fits = WeightFormat::ALL.contains(&format) && group * groups == cols;
    (fits && scale_type == DType::F16).then_some((format, cols))
}
