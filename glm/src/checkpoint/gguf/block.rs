//! The block formats of ggml: integers with scales, in blocks of columns.
//!
//! Formulas and layouts: `ggml-common.h` and `ggml-quants.c` of <https://github.com/ggml-org/ggml>.
//! Three of them are formats of ours in another order, bit for bit; the others have scales of
//! scales, or offsets, and are brought to 8 bits with a scale per 32 columns:
//! | block | columns | value | runs as |
//! |---|---|---|---|
//! | Q4_0 | 32 | d·(q − 8) | int4-g32, exact |
//! | Q5_0 | 32 | d·(q − 16) | int8-g32, exact |
//! | Q8_0 | 32 | d·q | int8-g32, exact |
//! | Q4_1, Q5_1 | 32 | d·q + m | int8-g32 |
//! | Q4_K, Q5_K | 256 | d·s·q − e·m, s and m per 32 | int8-g32 |
//! | Q6_K | 256 | d·s·(q − 32), s per 16 | int8-g32 |
//!
//! Where it is not exact, a value moves by half a step at most: 1/254 of the largest magnitude among
//! its 32 columns, and 2⁻¹¹ of that for the scale in f16 (for scales above 2⁻¹⁴; smaller ones are
//! coarser). The values themselves are those of ggml: exact products, one rounding to f32 where an
//! offset is added.

use std::fmt;

use hal::{DType, Result, WeightFormat};
use half::f16;
use ops::HostWeight;

/// Elements that one thread decodes at a time: small enough that they stay in its cache.
const PIECE: usize = 1 << 16;

/// A block format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// 4 bits with a scale.
    Q4_0,
    /// 4 bits with a scale and an offset.
    Q4_1,
    /// 5 bits with a scale.
    Q5_0,
    /// 5 bits with a scale and an offset.
    Q5_1,
    /// 8 bits with a scale.
    Q8_0,
    /// 4 bits with scales and offsets of 6 bits.
    Q4K,
    /// 5 bits with scales and offsets of 6 bits.
    Q5K,
    /// 6 bits with scales of 8 bits.
    Q6K,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Block::Q4_0 => "q4_0",
            Block::Q4_1 => "q4_1",
            Block::Q5_0 => "q5_0",
            Block::Q5_1 => "q5_1",
            Block::Q8_0 => "q8_0",
            Block::Q4K => "q4_k",
            Block::Q5K => "q5_k",
            Block::Q6K => "q6_k",
        })
    }
}

impl Block {
    /// By its number in `ggml.h`.
    pub(super) fn of(id: u32) -> Option<Self> {
        Some(match id {
            2 => Block::Q4_0,
            3 => Block::Q4_1,
            6 => Block::Q5_0,
            7 => Block::Q5_1,
            8 => Block::Q8_0,
            12 => Block::Q4K,
            13 => Block::Q5K,
            14 => Block::Q6K,
            _ => return None,
        })
    }

    /// Columns and bytes of a block.
    pub fn size(self) -> (usize, usize) {
        match self {
            Block::Q4_0 => (32, 2 + 16),
            Block::Q4_1 => (32, 2 + 2 + 16),
            Block::Q5_0 => (32, 2 + 4 + 16),
            Block::Q5_1 => (32, 2 + 2 + 4 + 16),
            Block::Q8_0 => (32, 2 + 32),
            Block::Q4K => (256, 2 + 2 + 12 + 128),
            Block::Q5K => (256, 2 + 2 + 12 + 32 + 128),
            Block::Q6K => (256, 128 + 64 + 16 + 2),
        }
    }

    /// The format in which a weight of such blocks runs unless another is asked for.
    pub fn runs_as(self) -> WeightFormat {
        match self {
            Block::Q4_0 => WeightFormat::Int4Group(32),
            _ => WeightFormat::Int8Group(32),
        }
    }

    /// The values of whole blocks.
    pub(in crate::checkpoint) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let (cols, size) = self.size();
        for (b, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(cols)) {
            match self {
                Block::Q4_0 | Block::Q5_0 | Block::Q8_0 => {
                    let (d, q) = self.integers(b);
                    for (x, q) in out.iter_mut().zip(q) {
                        *x = d.to_f32() * f32::from(q);
                    }
                }
                Block::Q4_1 | Block::Q5_1 => {
                    let (d, m) = (half(b, 0), half(b, 2));
                    let (high, q) = match self {
                        Block::Q4_1 => (0, &b[4..]),
                        _ => (word(b, 4), &b[8..]),
                    };
                    for (c, x) in out.iter_mut().enumerate() {
                        *x = d * f32::from(nibble(q, c) | fifth_bit(high, c)) + m;
                    }
                }
                Block::Q4K => {
                    for (c, x) in out.iter_mut().enumerate() {
                        let (scale, offset) = k_scale(b, c / 32);
                        *x = scale * f32::from(k_nibble(&b[16..], c)) - offset;
                    }
                }
                Block::Q5K => {
                    for (c, x) in out.iter_mut().enumerate() {
                        let (scale, offset) = k_scale(b, c / 32);
                        let high = b[16 + c % 32] >> (c / 32) & 1;
                        *x = scale * f32::from(k_nibble(&b[48..], c) | high << 4) - offset;
                    }
                }
                Block::Q6K => {
                    let d = half(b, 208);
                    for (c, x) in out.iter_mut().enumerate() {
                        // Two halves of 128; in each, quarters of 32 share their bytes.
                        let (half, quarter, i) = (c / 128, c / 32 % 4, c % 32);
                        let low = b[64 * half + 32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
                        let high = b[128 + 32 * half + i] >> (2 * quarter) & 3;
                        let scale = b[192 + c / 16] as i8;
                        let q = i16::from(low | high << 4) - 32;
                        *x = d * f32::from(scale) * f32::from(q);
                    }
                }
            }
        }
    }

    /// Scale and integers of a block without offset.
    fn integers(self, b: &[u8]) -> (f16, [i8; 32]) {
        let d = f16::from_le_bytes([b[0], b[1]]);
        let q = std::array::from_fn(|c| match self {
            Block::Q4_0 => nibble(&b[2..], c) as i8 - 8,
            Block::Q5_0 => (nibble(&b[6..], c) | fifth_bit(word(b, 2), c)) as i8 - 16,
            _ => b[2 + c] as i8,
        });
        (d, q)
    }

    /// A weight `[rows, cols]` of such blocks in `format`: the same integers where it has them, else
    /// rounded once from the values.
    ///
    /// # Errors
    /// `InvalidArgument` when `data` or `format` do not fit the shape, or a value is not finite.
    pub(in crate::checkpoint) fn weight(
        self,
        rows: usize,
        cols: usize,
        data: &[u8],
        format: WeightFormat,
    ) -> Result<HostWeight<'static>> {
        let (block_cols, block_bytes) = self.size();
        let row_bytes = cols / block_cols * block_bytes;
        // Rows are independent: a run of them per thread, in pieces.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let run = rows.div_ceil(threads).max(1);
        let convert = |data: &[u8]| -> Result<(Vec<u8>, Vec<u8>)> {
            let (mut elements, mut scales) = (Vec::new(), Vec::new());
            if self.is_exact_in(format) {
                for block in data.chunks_exact(block_bytes) {
                    let (scale, q) = self.integers(block);
                    scales.extend(scale.to_le_bytes());
                    match format {
                        WeightFormat::Int4Group(_) => elements.extend(
                            q.chunks_exact(2)
                                .map(|q| (q[0] as u8) << 4 | (q[1] as u8 & 15)),
                        ),
                        _ => elements.extend(q.map(|q| q as u8)),
                    }
                }
                return Ok((elements, scales));
            }
            let piece_rows = (PIECE / cols.max(1)).max(1);
            for piece in data.chunks((piece_rows * row_bytes).max(1)) {
                let rows = piece.len() / row_bytes;
                let mut values = vec![0.0; rows * cols];
                self.decode(piece, &mut values);
                let values: &[u8] = bytemuck::cast_slice(&values);
                let dense = WeightFormat::Dense(DType::F32);
                let weight = HostWeight::new(dense, rows, cols, values, &[][..])?;
                let weight = weight.convert(format)?;
                elements.extend_from_slice(&weight.data);
                scales.extend_from_slice(&weight.scales);
            }
            Ok((elements, scales))
        };
        let done: Vec<Result<_>> = std::thread::scope(|scope| {
            let convert = &convert;
            let runs = data.chunks((run * row_bytes).max(1));
            let threads: Vec<_> = runs.map(|run| scope.spawn(move || convert(run))).collect();
            let join = threads.into_iter();
            join.map(|t| t.join().expect("decoding does not panic"))
                .collect()
        });
        let (mut elements, mut scales) = (Vec::new(), Vec::new());
        for part in done {
            let (part_elements, part_scales) = part?;
            elements.extend(part_elements);
            scales.extend(part_scales);
        }
        HostWeight::new(format, rows, cols, elements, scales)
    }

    /// Whether `format` has the integers and scales of such blocks.
    pub(crate) fn is_exact_in(self, format: WeightFormat) -> bool {
        match format {
            WeightFormat::Int4Group(32) => self == Block::Q4_0,
            WeightFormat::Int8Group(32) => {
                matches!(self, Block::Q4_0 | Block::Q5_0 | Block::Q8_0)
            }
            _ => false,
        }
    }
}

fn half(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Column `c` of a block of 32: byte `j` has column `j` in its low half and `j + 16` in its high one.
fn nibble(q: &[u8], c: usize) -> u8 {
    q[c % 16] >> (4 * (c / 16)) & 15
}

/// Bit 4 of column `c`, in its place.
fn fifth_bit(high: u32, c: usize) -> u8 {
    ((high >> c & 1) << 4) as u8
}

/// Column `c` of a block of 256: in each 32 bytes the low halves come first, then the high ones.
fn k_nibble(q: &[u8], c: usize) -> u8 {
    q[c / 64 * 32 + c % 32] >> (4 * (c / 32 % 2)) & 15
}

/// Scale and offset of columns `32·g` to `32·g + 31` of Q4_K and Q5_K. Both have 6 bits; the upper
/// two of the last four lie above those of the first.
fn k_scale(b: &[u8], g: usize) -> (f32, f32) {
    let s = &b[4..16];
    let (scale, offset) = match g {
        0..4 => (s[g] & 63, s[g + 4] & 63),
        _ => (
            s[g + 4] & 15 | s[g - 4] >> 6 << 4,
            s[g + 4] >> 4 | s[g] >> 6 << 4,
        ),
    };
    (
        half(b, 0) * f32::from(scale),
        half(b, 2) * f32::from(offset),
    )
}
