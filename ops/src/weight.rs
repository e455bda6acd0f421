//! Weight matrices on the host, before a backend packs them; quantising and dequantising.
//!
//! Formula of the quantised formats, per row or group: `scale = max|w| / qmax`, `q = round_half_even(w / scale)`
//! clamped to `[-qmax, qmax]`, with qmax 127 (int8) or 7 (int4). For f16 weights both divisions round to f16, which
//! is what GLM-130B's and ChatGLM-6B's own quantisers compute, bit for bit.
//!
//! A quantised weight becomes another format by way of the values that it stands for, in f32; in more bits with the
//! same groups it keeps its integers and scales.

use std::borrow::Cow;

use hal::{DType, Error, Result, WeightFormat};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::reference::Tensor;

/// Elements below which a weight is converted without further threads.
const CONVERT_ALONE: usize = 1 << 18;

/// Elements that are converted at a time; a multiple of every group.
const PIECE: usize = 256;

/// The largest integer of the 8-bit formats.
const INT8_MAX: f32 = 127.0;
/// The largest integer of the 4-bit formats.
const INT4_MAX: f32 = 7.0;

/// A weight matrix `[rows, cols]` in host memory, in its format's canonical layout (see [`WeightFormat`]).
#[derive(Clone, Debug)]
pub struct HostWeight<'a> {
    /// Encoding of the rows.
    pub format: WeightFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Elements, row-major, little-endian.
    pub data: Cow<'a, [u8]>,
    /// Scales, row-major, little-endian, of the type that [`WeightFormat::row_scales`] says; empty for dense formats.
    pub scales: Cow<'a, [u8]>,
}

impl<'a> HostWeight<'a> {
    /// A weight from its parts.
    ///
    /// # Errors
    /// `InvalidArgument` when a length does not fit the format and shape.
    pub fn new(
        format: WeightFormat,
        rows: usize,
        cols: usize,
        data: impl Into<Cow<'a, [u8]>>,
        scales: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Self> {
        let (data, scales) = (data.into(), scales.into());
        let weight = Self {
            format,
            rows,
            cols,
            data,
            scales,
        };
        weight.check()?;
        Ok(weight)
    }

    fn check(&self) -> Result<()> {
        let Self {
            format, rows, cols, ..
        } = *self;
        let fail = |why| {
            Err(Error::invalid(
                format!("make a {format} weight [{rows}, {cols}]"),
                why,
            ))
        };
        if !cols.is_multiple_of(format.cols_multiple()) {
            return fail(format!(
                "columns must be a multiple of {}",
                format.cols_multiple()
            ));
        }
        let (scales, dtype) = format.row_scales(cols);
        let wanted = (
            rows.checked_mul(format.row_bytes(cols)),
            rows.checked_mul(scales * dtype.bytes()),
        );
        if wanted != (Some(self.data.len()), Some(self.scales.len())) {
            return fail(format!(
                "{} bytes of elements and {} of scales do not fit",
                self.data.len(),
                self.scales.len()
            ));
        }
        Ok(())
    }

    /// Requires this format and shape.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn expect(&self, format: WeightFormat, rows: usize, cols: usize) -> Result<()> {
        if (self.format, self.rows, self.cols) == (format, rows, cols) {
            return Ok(());
        }
        Err(Error::invalid(
            "pack a weight",
            format!(
                "{} [{}, {}] given, {format} [{rows}, {cols}] planned",
                self.format, self.rows, self.cols
            ),
        ))
    }

    /// The elements of row `r`.
    pub fn row(&self, r: usize) -> &[u8] {
        let n = self.format.row_bytes(self.cols);
        &self.data[r * n..(r + 1) * n]
    }

    /// Scale `i` of row `r`.
    pub fn scale(&self, r: usize, i: usize) -> f32 {
        let (n, dtype) = self.format.row_scales(self.cols);
        match dtype {
            DType::F16 => f16::from_le_bytes(element(&self.scales, r * n + i)).to_f32(),
            _ => f32::from_le_bytes(element(&self.scales, r * n + i)),
        }
    }

    /// Element `(r, c)` as stored: the float itself, or the integer `q` of a quantised format.
    pub fn element(&self, r: usize, c: usize) -> f32 {
        let row = self.row(r);
        match self.format {
            WeightFormat::Dense(DType::F16) => f16::from_le_bytes(element(row, c)).to_f32(),
            WeightFormat::Dense(DType::BF16) => bf16::from_le_bytes(element(row, c)).to_f32(),
            WeightFormat::Dense(_) => f32::from_le_bytes(element(row, c)),
            WeightFormat::Int8Row | WeightFormat::Int8Group(_) => f32::from(row[c] as i8),
            _ => f32::from(nibble(row[c / 2], c)),
        }
    }

    /// The values that the weight stands for.
    pub fn dequantise(&self) -> Tensor {
        let mut out = Tensor::zeros(&[self.rows, self.cols]);
        for r in 0..self.rows {
            for (c, value) in out.row_mut(r).iter_mut().enumerate() {
                let scale = match self.format {
                    WeightFormat::Dense(_) => 1.0,
                    format => self.scale(r, c / format.group().unwrap_or(self.cols)),
                };
                *value = f64::from(self.element(r, c)) * f64::from(scale);
            }
        }
        out
    }

    /// This weight in another format: a quantised one, or another float type (rounded to nearest even).
    ///
    /// # Errors
    /// `InvalidArgument` when the columns do not fit the format or an element is not finite.
    pub fn convert(&self, format: WeightFormat) -> Result<HostWeight<'_>> {
        if format == self.format {
            return Ok(HostWeight {
                data: Cow::Borrowed(&self.data),
                scales: Cow::Borrowed(&self.scales),
                ..*self
            });
        }
        if let (WeightFormat::Int4Group(from), WeightFormat::Int8Group(to)) = (self.format, format)
            && from == to
        {
            let widened = self.data.iter();
            let widened = widened.flat_map(|b| [nibble(*b, 0) as u8, nibble(*b, 1) as u8]);
            let (data, scales): (Vec<u8>, _) = (widened.collect(), &*self.scales);
            return HostWeight::new(format, self.rows, self.cols, data, scales);
        }
        if !self.cols.is_multiple_of(format.cols_multiple()) {
            return Err(Error::invalid(
                format!("convert a weight to {format}"),
                format!(
                    "{} columns are not a multiple of {}",
                    self.cols,
                    format.cols_multiple()
                ),
            ));
        }
        // Rows are independent: a block of them per thread, in order.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let small = self.rows * self.cols < CONVERT_ALONE;
        let block = if small {
            self.rows
        } else {
            self.rows.div_ceil(threads)
        }
        .max(1);
        let blocks: Vec<_> = (0..self.rows).step_by(block).collect();
        let convert = |start: usize| {
            let rows = start..(start + block).min(self.rows);
            let mut data = Vec::with_capacity(rows.len() * format.row_bytes(self.cols));
            let (mut scales, mut row) = (Vec::new(), vec![0.0f32; self.cols]);
            for r in rows {
                self.decode_row(r, &mut row);
                encode_row(format, self.format, &row, &mut data, &mut scales)
                    .map_err(|c| not_finite(r, c, format))?;
            }
            Ok((data, scales))
        };
        let done: Vec<Result<_>> = match blocks[..] {
            [] => Vec::new(),
            [only] => vec![convert(only)],
            _ => std::thread::scope(|scope| {
                let convert = &convert;
                let spawn = |&start| scope.spawn(move || convert(start));
                let threads: Vec<_> = blocks.iter().map(spawn).collect();
                let join = threads
                    .into_iter()
                    .map(|t| t.join().expect("converting does not panic"));
                join.collect()
            }),
        };
        let mut data = Vec::with_capacity(self.rows * format.row_bytes(self.cols));
        let mut scales = Vec::new();
        for block in done {
            let (block_data, block_scales) = block?;
            data.extend(block_data);
            scales.extend(block_scales);
        }
        HostWeight::new(format, self.rows, self.cols, data, scales)
    }

    /// The values of row `r`.
    fn decode_row(&self, r: usize, out: &mut [f32]) {
        fn each<const N: usize>(row: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
            let (elements, _) = row.as_chunks();
            for (x, bytes) in out.iter_mut().zip(elements) {
                *x = decode(*bytes);
            }
        }
        match self.format {
            WeightFormat::Dense(DType::F16) => {
                let mut piece = [f16::ZERO; PIECE];
                for (bytes, out) in self.row(r).chunks(2 * PIECE).zip(out.chunks_mut(PIECE)) {
                    let (elements, _) = bytes.as_chunks();
                    for (x, bytes) in piece.iter_mut().zip(elements) {
                        *x = f16::from_le_bytes(*bytes);
                    }
                    piece[..out.len()].convert_to_f32_slice(out);
                }
            }
            WeightFormat::Dense(DType::BF16) => {
                // A bf16 is the upper half of the f32.
                let widen = |x| f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16);
                each(self.row(r), out, widen);
            }
            WeightFormat::Dense(_) => each(self.row(r), out, f32::from_le_bytes),
            format => {
                let group = format.group().unwrap_or(self.cols).max(1);
                for (i, out) in out.chunks_mut(group).enumerate() {
                    let scale = self.scale(r, i);
                    for (c, x) in out.iter_mut().enumerate() {
                        *x = self.element(r, i * group + c) * scale;
                    }
                }
            }
        }
    }
}

fn not_finite(row: usize, col: usize, format: WeightFormat) -> Error {
    Error::invalid(
        format!("convert a weight to {format}"),
        format!("element ({row}, {col}) is not finite"),
    )
    .next_step("the checkpoint is damaged or overflowed in training; load it without quantising to see where")
}

/// Appends one row in `format`. `Err` holds the first column that is not finite.
fn encode_row(
    format: WeightFormat,
    source: WeightFormat,
    row: &[f32],
    data: &mut Vec<u8>,
    scales: &mut Vec<u8>,
) -> Result<(), usize> {
    let qmax = match format {
        WeightFormat::Dense(dtype) => {
            for &x in row {
                match dtype {
                    DType::F16 => data.extend(f16::from_f32(x).to_le_bytes()),
                    DType::BF16 => data.extend(bf16::from_f32(x).to_le_bytes()),
                    _ => data.extend(x.to_le_bytes()),
                }
            }
            return Ok(());
        }
        WeightFormat::Int8Row | WeightFormat::Int8Group(_) => INT8_MAX,
        WeightFormat::Int4Row | WeightFormat::Int4Group(_) => INT4_MAX,
        _ => unreachable!("every format is listed above"),
    };
    if !largest(row).is_finite() {
        return Err(row.iter().position(|x| !x.is_finite()).unwrap_or(0));
    }
    // Group scales are stored in f16; row scales of f16 weights are f16 values too, as in the official quantiser.
    let f16_source = source == WeightFormat::Dense(DType::F16);
    let f16_scale = f16_source || format.group().is_some();
    let round = |x: f32, to_f16: bool| if to_f16 { f16::from_f32(x).to_f32() } else { x };
    // A row without columns still has its scale.
    let blocks = match format.group() {
        Some(group) => row.chunks(group).collect(),
        None => vec![row],
    };
    for block in blocks {
        let scale = round(largest(block) / qmax, f16_scale);
        match format.group() {
            Some(_) => scales.extend(f16::from_f32(scale).to_le_bytes()),
            None => scales.extend(scale.to_le_bytes()),
        }
        for piece in block.chunks(PIECE) {
            let mut integers = [0i8; PIECE];
            let integers = &mut integers[..piece.len()];
            quantise(piece, scale, qmax, f16_source, integers);
            match qmax == INT8_MAX {
                true => data.extend(integers.iter().map(|&q| q as u8)),
                false => data.extend(
                    integers
                        .chunks_exact(2)
                        .map(|pair| (pair[0] as u8 & 15) << 4 | (pair[1] as u8 & 15)),
                ),
            }
        }
    }
    Ok(())
}

/// The largest magnitude. Magnitudes are ordered as their bits are, NaN above infinity, and integers have a vector instruction for it.
fn largest(x: &[f32]) -> f32 {
    let magnitude = |x: &f32| (x.to_bits() & 0x7fff_ffff) as i32;
    let most = x.iter().fold(0, |most, x| magnitude(x).max(most));
    f32::from_bits(most as u32)
}

/// The integers of at most [`PIECE`] elements: `x / scale`, rounded to f16 when `to_f16`, then half to even.
///
/// Whole slices at a time, so that the compiler and `half` use vector instructions: as many passes as there are
/// roundings.
fn quantise(x: &[f32], scale: f32, qmax: f32, to_f16: bool, out: &mut [i8]) {
    /// Sums with it are multiples of 1, for numbers far below 2²²: the sum rounds half to even, and its low bits are the integer.
    const INTEGERS: f32 = 1.5 * (1 << 23) as f32;
    // A zero scale means a block of zeros (or of values that round to nothing).
    if scale == 0.0 {
        return out.fill(0);
    }
    let mut quotients = [0.0; PIECE];
    let quotients = &mut quotients[..x.len()];
    for (q, x) in quotients.iter_mut().zip(x) {
        *q = x / scale;
    }
    if to_f16 {
        let mut rounded = [f16::ZERO; PIECE];
        let rounded = &mut rounded[..x.len()];
        rounded.convert_from_f32_slice(quotients);
        rounded.convert_to_f32_slice(quotients);
    }
    for (out, q) in out.iter_mut().zip(quotients) {
        *out = (q.clamp(-qmax, qmax) + INTEGERS).to_bits() as i8;
    }
}

/// The int4 value of column `col` in `byte`: even columns in the high nibble, two's complement.
pub fn nibble(byte: u8, col: usize) -> i8 {
    if col.is_multiple_of(2) {
        (byte as i8) >> 4
    } else {
        ((byte << 4) as i8) >> 4
    }
}

fn element<const N: usize>(bytes: &[u8], i: usize) -> [u8; N] {
    bytes[i * N..][..N].try_into().expect("N bytes were sliced")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(rows: usize, cols: usize, f: impl Fn(usize) -> f32) -> HostWeight<'static> {
        let data: Vec<u8> = (0..rows * cols).flat_map(|i| f(i).to_le_bytes()).collect();
        HostWeight::new(
            WeightFormat::Dense(DType::F32),
            rows,
            cols,
            data,
            Vec::new(),
        )
        .unwrap()
    }

    #[test]
    fn high_nibble_is_the_even_column() {
        assert_eq!(
            (nibble(0x7f, 0), nibble(0x7f, 1), nibble(0x92, 0)),
            (7, -1, -7)
        );
    }

    #[test]
    fn error_is_at_most_half_a_step() {
        let w = dense(3, 64, |i| ((i * 37 % 101) as f32 - 50.0) / 17.0);
        for format in [
            WeightFormat::Int8Row,
            WeightFormat::Int8Group(32),
            WeightFormat::Int4Row,
            WeightFormat::Int4Group(32),
        ] {
            let q = w.convert(format).unwrap();
            let (a, b) = (w.dequantise(), q.dequantise());
            for r in 0..3 {
                for c in 0..64 {
                    let scale = f64::from(q.scale(r, c / format.group().unwrap_or(64)));
                    // f16 scales may be half a unit short, which clamping turns into at most 7·2⁻¹¹ steps more.
                    assert!(
                        (a.at(&[r, c]) - b.at(&[r, c])).abs() <= scale * (0.5 + 0.004),
                        "{format}"
                    );
                }
            }
        }
    }

    /// The formula as the official quantisers write it, one element at a time.
    fn one_by_one(x: f32, scale: f32, qmax: f32, to_f16: bool) -> i8 {
        let q = if scale == 0.0 { 0.0 } else { x / scale };
        let q = match to_f16 {
            true => f16::from_f32(q).to_f32(),
            false => q,
        };
        q.round_ties_even().clamp(-qmax, qmax) as i8
    }

    #[test]
    fn slices_are_quantised_as_their_elements() {
        let all = (0..=u16::MAX).map(f16::from_bits).filter(|x| x.is_finite());
        let all: Vec<f32> = all.map(f16::to_f32).collect();
        for scale in [0.0, 6e-8, 0.0079, 0.069_458, 0.5, 1.0, 515.0] {
            for (qmax, to_f16) in [(127.0, true), (7.0, true), (127.0, false), (7.0, false)] {
                for piece in all.chunks(PIECE) {
                    let mut got = vec![0; piece.len()];
                    quantise(piece, scale, qmax, to_f16, &mut got);
                    let wanted = piece.iter().map(|&x| one_by_one(x, scale, qmax, to_f16));
                    assert!(got.into_iter().eq(wanted), "{scale} {qmax} {to_f16}");
                }
            }
        }
    }

    #[test]
    fn quantised_weights_convert_by_their_values() {
        let w = dense(3, 256, |i| ((i * 37 % 101) as f32 - 50.0) / 17.0);
        for from in WeightFormat::ALL {
            let first = w.convert(from).unwrap();
            let values = first.dequantise();
            let exact = dense(3, 256, |i| values.data[i] as f32);
            for to in WeightFormat::ALL.into_iter().filter(|to| *to != from) {
                let got = first.convert(to).unwrap();
                if (from, to) == (WeightFormat::Int4Group(32), WeightFormat::Int8Group(32)) {
                    assert_eq!(got.dequantise().data, values.data, "{from} to {to}");
                    assert_eq!(got.scales, first.scales);
                    continue;
                }
                // An f16 source rounds its quotients: there the values alone do not decide.
                if from == WeightFormat::Dense(DType::F16) {
                    continue;
                }
                let wanted = exact.convert(to).unwrap();
                assert_eq!(got.data, wanted.data, "{from} to {to}");
                assert_eq!(got.scales, wanted.scales, "{from} to {to}");
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(
            dense(1, 48, |_| 0.0)
                .convert(WeightFormat::Int4Group(32))
                .is_err()
        );
        let damaged = dense(1, 4, |i| if i == 2 { f32::NAN } else { 1.0 });
        let e = damaged.convert(WeightFormat::Int8Row).unwrap_err();
        assert!(e.to_string().contains("(0, 2)"));
        assert!(HostWeight::new(WeightFormat::Int8Row, 2, 3, vec![0; 6], vec![0; 4]).is_err());
        assert!(HostWeight::new(WeightFormat::Int8Row, usize::MAX, 3, vec![0; 6], vec![]).is_err());
    }

    #[test]
    fn empty_rows_convert() {
        for format in WeightFormat::ALL {
            let w = dense(2, 0, |_| 0.0).convert(format).unwrap().dequantise();
            assert_eq!(w.shape, [2, 0], "{format}");
        }
    }

    #[test]
    fn threads_do_not_show() {
        let w = dense(2 * 1031, CONVERT_ALONE / 1024, |i| (i as f32 * 0.37).sin());
        for format in WeightFormat::ALL {
            let whole = w.convert(format).unwrap();
            let row = |r: usize| {
                let bytes = w.row(r).to_vec();
                HostWeight::new(w.format, 1, w.cols, bytes, Vec::new()).unwrap()
            };
            for r in [0, 1030, 1031, 2061] {
                let alone = row(r);
                let alone = alone.convert(format).unwrap();
                assert_eq!(whole.row(r), &*alone.data, "{format} row {r}");
                let scales = whole.scales.len() / w.rows;
                assert_eq!(whole.scales[r * scales..][..scales], *alone.scales);
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let w = dense(2, 32, |_| 0.0);
        for format in WeightFormat::ALL {
            if w.cols.is_multiple_of(format.cols_multiple()) {
                assert!(
                    w.convert(format)
                        .unwrap()
                        .dequantise()
                        .data
                        .iter()
                        .all(|&x| x == 0.0)
                );
            }
        }
    }
}
