//! How weights lie in device memory, and how they get there.
//!
//! Rows of elements, each filled up to 32 bytes, then from a multiple of 256 bytes on the scales of all rows: one f32
//! per row, or the f16 of its groups, filled up to words. Column c of eight int4 columns is in bits 4c of its word.

use std::ops::Range;
use std::sync::Arc;

use hal::{Buffer, DType, Result, WeightFormat};
use ops::HostWeight;

use crate::device::{WgpuMemory, alloc};
use crate::gpu::Gpu;
use crate::kernel::{Bound, Slot, bind_bytes};

/// The text that reads elements and scales.
pub(super) const PACKED: &str = include_str!("../../kernels/packed.wgsl");

/// Bytes that are packed at a time.
const PIECE_BYTES: usize = 16 << 20;

/// Where the rows of a packed weight lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) format: WeightFormat,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Words of one row's elements.
    pub(super) row_words: usize,
    /// Words of one row's scales.
    pub(super) scale_words: usize,
}

impl Layout {
    /// `None` for a format that kernels do not know.
    pub(super) fn new(format: WeightFormat, rows: usize, cols: usize) -> Option<Self> {
        number(format)?;
        let scale_words = match format {
            WeightFormat::Dense(_) => 0,
            WeightFormat::Int8Row | WeightFormat::Int4Row => 1,
            _ => format.row_scales(cols).0.div_ceil(2),
        };
        Some(Self {
            format,
            rows,
            cols,
            // Eight columns of f32 are 32 bytes, of all other formats at most 16.
            row_words: format.row_bytes(cols).next_multiple_of(32) / 4,
            scale_words,
        })
    }

    /// The constant `FORMAT` of the text.
    pub(super) fn constants(&self) -> [(&'static str, u32); 1] {
        [("FORMAT", number(self.format).unwrap_or_default())]
    }

    /// Columns of a group, 0 when rows have one scale or none.
    pub(super) fn group(&self) -> usize {
        self.format.group().unwrap_or(0)
    }

    fn scales_at(&self) -> usize {
        (self.rows * self.row_words * 4).next_multiple_of(256)
    }

    fn bytes(&self) -> usize {
        self.scales_at() + self.rows * self.scale_words * 4
    }

    /// How many rows one binding holds.
    pub(super) fn rows_at_once(&self, gpu: &Gpu) -> usize {
        gpu.binding_rows(self.row_words.max(self.scale_words) * 4)
    }

    /// Binds elements and scales of some rows.
    pub(super) fn bind<'a>(
        &self,
        gpu: &Gpu,
        buffer: &'a Buffer,
        rows: Range<usize>,
    ) -> Result<[Bound<'a>; 2]> {
        let part = |at: usize, words: usize| {
            let bytes = at + rows.start * words * 4..at + rows.end * words * 4;
            bind_bytes(gpu, buffer, bytes, 4)
        };
        Ok([
            part(0, self.row_words)?,
            part(self.scales_at(), self.scale_words)?,
        ])
    }

    /// Brings a weight into device memory, a piece at a time.
    ///
    /// # Errors
    /// `InvalidArgument` for a weight of another format or shape; `OutOfMemory`, `DeviceLost`.
    pub(super) fn pack(&self, gpu: &Arc<Gpu>, weight: &HostWeight<'_>) -> Result<Buffer> {
        weight.expect(self.format, self.rows, self.cols)?;
        let buffer = alloc(gpu, self.bytes())?;
        let to = &buffer
            .downcast::<WgpuMemory>()
            .expect("just made by this back end")
            .buffer;
        let row_bytes = self.row_words * 4;
        let at_once = (PIECE_BYTES / row_bytes.max(1)).max(1);
        let (mut piece, mut at) = (Vec::new(), 0);
        while at < self.rows {
            let rows = at..self.rows.min(at + at_once);
            piece.clear();
            for r in rows.clone() {
                let from = piece.len();
                match self.format {
                    WeightFormat::Int4Row | WeightFormat::Int4Group(_) => {
                        // The even column to the low nibble.
                        piece.extend(weight.row(r).iter().map(|b| b.rotate_left(4)));
                    }
                    _ => piece.extend_from_slice(weight.row(r)),
                }
                piece.resize(from + row_bytes, 0);
            }
            write(gpu, "pack a weight", to, at * row_bytes, &piece)?;
            at = rows.end;
        }
        let (scales, dtype) = self.format.row_scales(self.cols);
        let scale_bytes = scales * dtype.bytes();
        if scale_bytes > 0 {
            let mut all = Vec::with_capacity(self.rows * self.scale_words * 4);
            for row in weight.scales.chunks_exact(scale_bytes) {
                all.extend_from_slice(row);
                all.resize(all.len().next_multiple_of(4), 0);
            }
            write(gpu, "pack a weight", to, self.scales_at(), &all)?;
        }
        Ok(buffer)
    }
}

/// Writes whole words, and waits until the copy of them that wgpu makes can go.
fn write(gpu: &Gpu, doing: &'static str, to: &wgpu::Buffer, at: usize, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    gpu.queue.write_buffer(to, at as u64, bytes);
    if bytes.len() >= PIECE_BYTES / 2 {
        crate::stream::wait(gpu, doing, gpu.queue.submit([]))?;
    }
    gpu.alive(doing)
}

/// The number of a format in the text.
fn number(format: WeightFormat) -> Option<u32> {
    Some(match format {
        WeightFormat::Dense(DType::F32) => 0,
        WeightFormat::Dense(DType::F16) => 1,
        WeightFormat::Dense(DType::BF16) => 2,
        WeightFormat::Int8Row | WeightFormat::Int8Group(_) => 3,
        WeightFormat::Int4Row | WeightFormat::Int4Group(_) => 4,
        _ => return None,
    })
}

/// The bindings of a packed weight.
pub(super) const SLOTS: [Slot; 2] = [Slot::weight("data"), Slot::scales("scales")];
