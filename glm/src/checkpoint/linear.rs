//! Weight matrices of a checkpoint, dense or quantised.
//!
//! A dense matrix is `<key>.weight`, `[rows, cols]`, f32, f16 or bf16. A quantised one has scales
//! in `<key>.weight_scale` (GLM's own name for them):
//! | format | weight | scales |
//! |---|---|---|
//! | int8 | i8 `[rows, cols]` | f32 `[rows]` |
//! | int4 | u8 `[rows, cols / 2]` | f32 `[rows]` |
//! | int4, groups of g | u8 `[rows, cols / 2]` | f16 `[rows, cols / g]` |
//!
//! Row scales in f16, as the official quantiser writes them, are widened: that is exact.

use std::borrow::Cow;

use hal::{DType, Error, Result, WeightFormat};
use ops::HostWeight;

use super::{Checkpoint, StoredTensor, StoredType};

/// What is added to the name of a quantised weight for its scales.
pub const SCALE_SUFFIX: &str = "_scale";

impl Checkpoint {
    /// The weight matrix `<key>.weight`, borrowed from the file where its layout allows.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` for a type that we do not compute with; `Corrupt` when weight and
    /// scales do not fit.
    pub fn linear(&self, key: &str) -> Result<HostWeight<'_>> {
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
            return match weight.dtype {
                StoredType::Known(dtype) if dtype.is_float() => HostWeight::new(
                    WeightFormat::Dense(*dtype),
                    rows,
                    stored_cols,
                    weight.data,
                    Cow::Borrowed(&[][..]),
                ),
                other => Err(Error::unsupported(
                    doing(),
                    format!("{other} without `{scale_name}`"),
                )
                .next_step("use a checkpoint in f32, f16 or bf16, or one of `glm quantize`")),
            };
        }
        let scale = self.tensor(&scale_name)?;
        let Some((format, cols)) = quantised_format(&weight, &scale, stored_cols) else {
            return Err(Error::corrupt(
                doing(),
                format!(
                    "weight {} {:?} with scales {} {:?} is no format that we know",
                    weight.dtype, weight.shape, scale.dtype, scale.shape
                ),
            )
            .next_step("quantise the original again with `glm quantize`"));
        };
        let widen = format.row_scales(cols).1 == DType::F32
            && *scale.dtype == StoredType::Known(DType::F16);
        let scales: Cow<'_, [u8]> = if widen {
            let values = scale.to_f32()?;
            Cow::Owned(values.iter().flat_map(|s| s.to_le_bytes()).collect())
        } else {
            Cow::Borrowed(scale.data)
        };
        HostWeight::new(format, rows, cols, weight.data, scales)
            .map_err(|e| Error::corrupt(doing(), e.detail().to_owned()).with_source(e))
    }

    /// Several matrices of equal width as one, row under row: separate query, key and value become
    /// one weight.
    ///
    /// # Errors
    /// As [`Checkpoint::linear`]; `Corrupt` when formats or widths differ, `InvalidArgument` when
    /// `keys` is empty.
    pub fn linear_rows(&self, keys: &[&str]) -> Result<HostWeight<'_>> {
        let Some((first, rest)) = keys.split_first() else {
            return Err(Error::invalid("join weights", "no names were given"));
        };
        let mut joined = self.linear(first)?;
        for key in rest {
            let next = self.linear(key)?;
            if (next.format, next.cols) != (joined.format, joined.cols) {
                return Err(Error::corrupt(
                    format!("join {first} and {key} of {}", self.source),
                    format!(
                        "{} with {} columns and {} with {}",
                        joined.format, joined.cols, next.format, next.cols
                    ),
                )
                .next_step("quantise the original again, all parts alike"));
            }
            joined.rows += next.rows;
            joined.data.to_mut().extend_from_slice(&next.data);
            joined.scales.to_mut().extend_from_slice(&next.scales);
        }
        Ok(joined)
    }
}

/// Format and columns that a weight and its scales stand for; `None` when there is no such format.
fn quantised_format(
    weight: &StoredTensor<'_>,
    scale: &StoredTensor<'_>,
    stored_cols: usize,
) -> Option<(WeightFormat, usize)> {
    let StoredType::Known(scale_type) = *scale.dtype else {
        return None;
    };
    let per_row = scale.shape.len() == 1 && matches!(scale_type, DType::F32 | DType::F16);
    match *weight.dtype {
        StoredType::Known(DType::I8) if per_row => Some((WeightFormat::Int8Row, stored_cols)),
        StoredType::Known(DType::U8) => {
            let cols = stored_cols.checked_mul(2)?;
            if per_row {
                return Some((WeightFormat::Int4Row, cols));
            }
            let [_, groups] = *scale.shape else {
                return None;
            };
            let group = cols.checked_div(groups)?;
            let fits = matches!(group, 32 | 64 | 128) && group * groups == cols;
            (fits && scale_type == DType::F16).then_some((WeightFormat::Int4Group(group), cols))
        }
        _ => None,
    }
}
