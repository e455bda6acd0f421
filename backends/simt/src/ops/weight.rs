//! How weights lie in device memory, for products and embeddings: rows padded to 32 bytes, then the scales.

use std::sync::Arc;

use hal::{Buffer, DType, Error, Result, Stream, View, WeightFormat};
use ops::HostWeight;

use crate::device::Chip;
use crate::driver::SimtDriver;

/// Rows of the portable kernels begin at multiples of this many bytes: eight elements of the widest format, which they take
/// at a time.
const ROW_ALIGN: usize = 32;

/// Scales begin at a multiple of this.
const SCALE_ALIGN: usize = 256;

/// Bytes that are staged at a time while a weight travels.
const STAGE_BYTES: usize = 4 << 20;

/// Where the parts of a weight lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// From one row to the next.
    pub row_bytes: usize,
    /// Where the scales begin.
    pub scales_at: usize,
    bytes: usize,
}

impl Layout {
    /// Of a weight for the portable kernels.
    pub fn packed(format: WeightFormat, rows: usize, cols: usize) -> Option<Self> {
        Self::aligned(format, rows, cols, ROW_ALIGN)
    }

    /// Of a weight whose rows begin at multiples of `align` bytes; `None` when its size overflows.
    pub fn aligned(format: WeightFormat, rows: usize, cols: usize, align: usize) -> Option<Self> {
        let row_bytes = format.row_bytes(cols).checked_next_multiple_of(align)?;
        let (scales, dtype) = format.row_scales(cols);
        let scales_at = rows
            .checked_mul(row_bytes)?
            .checked_next_multiple_of(SCALE_ALIGN)?;
        let scale_bytes = rows.checked_mul(scales)?.checked_mul(dtype.bytes())?;
        Some(Self {
            row_bytes,
            scales_at,
            bytes: scales_at.checked_add(scale_bytes)?,
        })
    }

    /// Of a plain dense view.
    pub(super) fn plain(dtype: DType, cols: usize) -> Self {
        let row_bytes = dtype.bytes() * cols;
        Self {
            row_bytes,
            scales_at: 0,
            bytes: 0,
        }
    }
}

/// The kernels' names of a format; `None` when they do not know it.
pub fn defines(format: WeightFormat) -> Option<[(&'static str, String); 3]> {
    let (number, scaled) = match format {
        WeightFormat::Dense(DType::F32) => (0, 0),
        WeightFormat::Dense(DType::F16) => (1, 0),
        WeightFormat::Dense(DType::BF16) => (2, 0),
        WeightFormat::Int8Row => (3, 1),
        WeightFormat::Int8Group(_) => (3, 2),
        WeightFormat::Int4Row => (4, 1),
        WeightFormat::Int4Group(_) => (4, 2),
        _ => return None,
    };
    // Kernels take eight columns at a time under one scale.
    let group = format.group().unwrap_or(0);
    group.is_multiple_of(8).then_some(())?;
    Some([
        ("FORMAT", number.to_string()),
        ("SCALED", scaled.to_string()),
        ("WEIGHT_GROUP", group.to_string()),
    ])
}

/// Brings a weight to the device for the portable kernels.
pub(super) fn pack<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    weight: &HostWeight<'_>,
    wanted: (WeightFormat, usize, usize),
) -> Result<Buffer> {
    pack_rows(chip, weight, wanted, ROW_ALIGN, None)
}

/// Brings a weight to the device, a few rows at a time, each padded with zeros to a multiple of `align` bytes, then put in
/// order by `arrange`.
///
/// # Errors
/// `InvalidArgument` when it is not the weight that was planned for; those of memory and transfers.
pub fn pack_rows<D: SimtDriver>(
    chip: &Arc<Chip<D>>,
    weight: &HostWeight<'_>,
    (format, rows, cols): (WeightFormat, usize, usize),
    align: usize,
    arrange: Option<fn(&mut [u8])>,
) -> Result<Buffer> {
    weight.expect(format, rows, cols)?;
    let layout = Layout::aligned(format, rows, cols, align)
        .ok_or_else(|| Error::invalid("pack a weight", "its size overflows"))?;
    let buffer = chip.alloc(layout.bytes)?;
    let mut stream = chip.stream()?;
    let mut upload = |at: usize, bytes: &[u8]| {
        stream.upload(&View::at(&buffer, at, DType::U8, &[bytes.len()])?, bytes)
    };
    let (given, kept) = (format.row_bytes(cols), layout.row_bytes);
    if given == kept && arrange.is_none() {
        upload(0, &weight.data)?;
        // What lies between is read by nobody, but is defined.
        upload(given * rows, &vec![0; layout.scales_at - given * rows])?;
    } else {
        let some = (STAGE_BYTES / kept).max(1);
        let mut stage = Vec::new();
        for start in (0..rows).step_by(some) {
            stage.clear();
            for r in start..(start + some).min(rows) {
                let at = stage.len();
                stage.extend_from_slice(weight.row(r));
                stage.resize(at + kept, 0);
                if let Some(arrange) = arrange {
                    arrange(&mut stage[at..]);
                }
            }
            upload(start * kept, &stage)?;
        }
        upload(kept * rows, &vec![0; layout.scales_at - kept * rows])?;
    }
    upload(layout.scales_at, &weight.scales)?;
    stream.synchronize()?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_scales_are_aligned_and_sizes_checked() {
        for format in WeightFormat::ALL {
            let layout = Layout::packed(format, 3, 128).unwrap();
            assert!(layout.row_bytes >= format.row_bytes(128), "{format}");
            assert_eq!((layout.row_bytes % 32, layout.scales_at % 256), (0, 0));
            assert!(layout.scales_at >= 3 * layout.row_bytes);
            assert_eq!(Layout::packed(format, usize::MAX / 2, 128), None);
        }
    }
}
