//! The safetensors container: 8 bytes with the header's length, a JSON header, data.
//!
//! Source: the format section of <https://github.com/huggingface/safetensors>. Checked here rather
//! than by that crate's reader because an error must name the tensor, and because that reader keeps
//! the last of two equal names.

use hal::{DType, Error, Result};
use safetensors::{Dtype, tensor::TensorInfo};
use serde_json::value::RawValue;

use super::{Entry, StoredType};
use crate::files::{self, UniqueMap};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The table of tensors of `file`, in the order of their data.
///
/// # Errors
/// `Corrupt`, naming the file and the tensor, when anything contradicts the format: a length that
/// the file does not have, unknown types, equal names, data that overlaps, leaves gaps or does not
/// end with the file.
pub(super) fn table(file: &str, bytes: &[u8]) -> Result<Vec<(String, Entry)>> {
    let corrupt = |why: String| {
        Error::corrupt(format!("read {file}"), why).next_step("copy or download the file again")
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(corrupt(format!(
            "{} bytes; a safetensors file begins with 8 bytes of length",
            bytes.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(corrupt(format!(
            "header claims {length} bytes; the file has {}, the format allows {MAX_HEADER_BYTES}",
            rest.len()
        )));
    }
    let (header, data) = rest.split_at(length as usize);
    let UniqueMap(header) = files::parse_json::<UniqueMap<&RawValue>>(file, header)?;

    let mut tensors = Vec::with_capacity(header.len());
    for (name, value) in header {
        if name == "__metadata__" {
            serde_json::from_str::<UniqueMap<String>>(value.get())
                .map_err(|e| corrupt(format!("__metadata__: {e}")))?;
            continue;
        }
        let info: TensorInfo = serde_json::from_str(value.get())
            .map_err(|e| corrupt(format!("tensor `{name}`: {e}")))?;
        tensors.push((name, info));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);

    let start = 8 + length as usize;
    let mut end_of_previous = 0;
    let mut table = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if from != end_of_previous || to < from {
            let how = if from < end_of_previous {
                "overlap those of another tensor"
            } else {
                "leave a gap or run backwards"
            };
            return Err(corrupt(format!(
                "bytes {from}..{to} of tensor `{name}` {how}"
            )));
        }
        if to > data.len() {
            return Err(corrupt(format!(
                "tensor `{name}` ends at byte {to} of the data, which has {} (truncated?)",
                data.len()
            )));
        }
        let bits = info
            .shape
            .iter()
            .try_fold(info.dtype.bitsize(), |n, &d| n.checked_mul(d));
        if bits.is_none_or(|bits| !bits.is_multiple_of(8) || bits / 8 != to - from) {
            return Err(corrupt(format!(
                "tensor `{name}`: {} bytes for {} {:?}",
                to - from,
                info.dtype,
                info.shape
            )));
        }
        end_of_previous = to;
        table.push((
            name,
            Entry {
                dtype: stored_type(info.dtype),
                shape: info.shape,
                range: start + from..start + to,
                strides: None,
            },
        ));
    }
    if end_of_previous != data.len() {
        return Err(corrupt(format!(
            "tensors end at byte {end_of_previous} of the data, which has {}",
            data.len()
        )));
    }
    Ok(table)
}

fn stored_type(dtype: Dtype) -> StoredType {
    StoredType::Known(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::I32 => DType::I32,
        other => return StoredType::Other(other.to_string()),
    })
}
