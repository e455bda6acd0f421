//! Weights as the kernels read them: panels of as many rows as the registers hold sums.
//!
//! A panel is a sequence of runs: columns that share a scale (a group), or all columns. A run holds its elements (see
//! `simd::formats`), then, for groups, one f16 scale per row. After the runs come the f32 scales of the rows.
//! Rows past the end and columns past a whole unit are zeros.

use hal::{Buffer, DType, Error, Result, View, WeightFormat};
use half::{bf16, f16};
use ops::{HostWeight, Matmul};

use crate::device::Cpu;
use crate::memory::{CpuMemory, address};
use crate::simd::{Path, TILE_STEPS};

/// Columns of one packed int4 word.
const WORD: usize = 8;

fn is_int4(format: WeightFormat) -> bool {
    matches!(format, WeightFormat::Int4Row | WeightFormat::Int4Group(_))
}

/// Where everything lies in a packed weight `[n, k]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(super) format: WeightFormat,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Rows of a panel.
    pub(super) panel: usize,
    /// Panels that one row of x is multiplied by at once.
    pub(super) together: usize,
    /// Columns that one instruction multiplies.
    pub(super) step: usize,
    /// [`Path::nibble_step`].
    nibble_step: usize,
    /// [`Path::offset`].
    pub(super) offset: i32,
    /// Columns of x that are rounded together, where they are.
    pub(super) activation_block: Option<usize>,
    /// Steps of all columns, the padding of the last unit included.
    pub(super) steps: usize,
    /// Steps of one run.
    pub(super) run_steps: usize,
    /// Steps that are added up before their scales are applied: those of a run, at most of a part of x.
    pub(super) part_steps: usize,
    /// Parts of x that share a scale, where it is rounded.
    pub(super) block_parts: usize,
    /// Whether it is multiplied by tiles, where there are rows enough.
    pub(super) tiled: bool,
}

impl Layout {
    pub(super) fn new(path: Path, op: &Matmul) -> Self {
        let step = path.step();
        let activation_block = op.activation_block().filter(|_| path.has_integers());
        let unit = if is_int4(op.weight) { WORD } else { step };
        let steps = op.k.next_multiple_of(unit) / step;
        let run_steps = op.weight.group().map_or(steps, |group| group / step);
        let block_steps = activation_block.map_or(run_steps, |block| block / step);
        let part_steps = run_steps.min(block_steps).max(1);
        Self {
            format: op.weight,
            n: op.n,
            k: op.k,
            panel: path.panel(),
            together: path.panels_together(),
            step,
            nibble_step: path.nibble_step(),
            offset: path.offset(),
            activation_block,
            steps,
            run_steps,
            part_steps,
            block_parts: (block_steps / part_steps).max(1),
            // A short part would leave a tile half empty, which takes as long as a whole one.
            tiled: path.has_tiles()
                && (part_steps.is_multiple_of(TILE_STEPS) || part_steps == steps),
        }
    }

    /// The nibble of a word that column `i` of eight lies in.
    fn slot(&self, i: usize) -> usize {
        i % self.nibble_step * (WORD / self.nibble_step) + i / self.nibble_step
    }

    /// Whether its elements are not what is multiplied.
    pub(super) fn is_decoded(&self) -> bool {
        match self.format {
            WeightFormat::Dense(dtype) => dtype.bytes() * self.step != Path::SCALAR_BYTES,
            WeightFormat::Int8Row | WeightFormat::Int8Group(_) => self.step != Path::SCALAR_BYTES,
            _ => true,
        }
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(self.panel)
    }

    /// Parts of a row of x, where it is rounded.
    pub(super) fn parts_of_x(&self) -> usize {
        self.activation_block
            .map_or(0, |_| self.steps.div_ceil(self.part_steps))
    }

    pub(super) fn runs(&self) -> usize {
        match self.format.group() {
            Some(group) => self.k / group,
            None => usize::from(self.k > 0),
        }
    }

    /// Bytes of the elements of one run.
    pub(super) fn run_data_bytes(&self) -> usize {
        self.format
            .row_bytes(self.run_steps * self.step)
            .saturating_mul(self.panel)
    }

    /// Whether each run ends with its scales.
    pub(super) fn has_group_scales(&self) -> bool {
        self.format.group().is_some()
    }

    /// Whether each panel ends with its scales.
    pub(super) fn has_row_scales(&self) -> bool {
        matches!(self.format, WeightFormat::Int8Row | WeightFormat::Int4Row)
    }

    pub(super) fn run_bytes(&self) -> usize {
        self.run_data_bytes()
            + if self.has_group_scales() {
                2 * self.panel
            } else {
                0
            }
    }

    /// Where the row scales start in a panel.
    pub(super) fn runs_bytes(&self) -> usize {
        self.runs() * self.run_bytes()
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.runs_bytes()
            + if self.has_row_scales() {
                4 * self.panel
            } else {
                0
            }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.panels().saturating_mul(self.panel_bytes())
    }

    /// Requires `weight` to be a packed weight of this layout's size, in memory of this device.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn expect(&self, cpu: &Cpu, weight: &View<'_>) -> Result<()> {
        if weight.buffer().device() == cpu.id
            && weight.bytes() == self.bytes()
            && weight.is_contiguous()
        {
            return Ok(());
        }
        Err(Error::invalid(
            "run with a packed weight",
            format!("weight is {weight:?}, expected {} B packed", self.bytes()),
        )
        .next_step("pass what pack() of the same plan returned"))
    }

    /// Packs `weight`, all threads together.
    ///
    /// # Errors
    /// `InvalidArgument` for another format or shape, `OutOfMemory`.
    pub(crate) fn pack(&self, cpu: &Cpu, weight: &HostWeight<'_>) -> Result<Buffer> {
        weight.expect(self.format, self.n, self.k)?;
        let buffer = Buffer::new(CpuMemory::new(self.bytes(), cpu.id)?);
        let panels = Panels(address(&View::of_bytes(&buffer)));
        let words = self.words();
        cpu.pool.split(self.panels(), 1, 0, |part| {
            for p in part {
                // SAFETY: each panel is written by one thread, and nothing else knows the buffer yet.
                let panel = unsafe { panels.slice(p * self.panel_bytes(), self.panel_bytes()) };
                self.pack_panel(weight, &words, p, panel);
            }
        });
        Ok(buffer)
    }

    fn pack_panel(&self, weight: &HostWeight<'_>, words: &Words, p: usize, panel: &mut [u8]) {
        let first = p * self.panel;
        let rows = self.panel.min(self.n - first);
        let run_cols = self.run_steps * self.step;
        // Short pieces of many rows: the lines written stay in the cache until they are full.
        let piece = if self.has_group_scales() {
            run_cols
        } else {
            128
        };
        for start in (0..self.k).step_by(piece.max(1)) {
            let cols = start..(start + piece).min(self.k);
            let run = &mut panel[start / run_cols * self.run_bytes()..][..self.run_data_bytes()];
            for r in 0..rows {
                let row = weight.row(first + r);
                let from = &row[self.format.row_bytes(cols.start)..self.format.row_bytes(cols.end)];
                let at = cols.start % run_cols;
                match self.format {
                    WeightFormat::Dense(dtype) => {
                        self.pack_elements(from, dtype.bytes(), at, r, run)
                    }
                    _ if is_int4(self.format) => self.pack_int4(from, words, at, r, run),
                    _ => self.pack_elements(from, 1, at, r, run),
                }
            }
        }
        for r in 0..rows {
            if self.has_row_scales() {
                let at = self.runs_bytes() + 4 * r;
                panel[at..at + 4].copy_from_slice(&weight.scale(first + r, 0).to_le_bytes());
            }
            if self.has_group_scales() {
                for run in 0..self.runs() {
                    let from = &weight.scales[2 * ((first + r) * self.runs() + run)..][..2];
                    let at = run * self.run_bytes() + self.run_data_bytes() + 2 * r;
                    panel[at..at + 2].copy_from_slice(from);
                }
            }
        }
    }

    /// Elements of so many bytes, from column `at` of row `r` of `run` on.
    fn pack_elements(&self, from: &[u8], bytes: usize, at: usize, r: usize, run: &mut [u8]) {
        let first = at / self.step;
        match self.step * bytes {
            1 => self.pack_steps::<1>(from, first, r, run),
            2 => self.pack_steps::<2>(from, first, r, run),
            4 => self.pack_steps::<4>(from, first, r, run),
            8 => self.pack_steps::<8>(from, first, r, run),
            other => unreachable!("no path multiplies {other} bytes of a row at a time"),
        }
    }

    /// Steps of `N` bytes from step `first` of row `r` on; the last one may be cut.
    fn pack_steps<const N: usize>(&self, from: &[u8], first: usize, r: usize, run: &mut [u8]) {
        let flipped = |byte: u8| byte ^ self.offset as u8;
        let (whole, cut) = from.as_chunks::<N>();
        let (to, _) = run.as_chunks_mut::<N>();
        let mut at = first * self.panel + r;
        for step in whole {
            to[at] = step.map(flipped);
            at += self.panel;
        }
        for (i, &byte) in cut.iter().enumerate() {
            to[at][i] = flipped(byte);
        }
    }

    /// What each byte of a word of eight columns contributes to the packed word.
    fn words(&self) -> Words {
        let flip = u32::from(self.offset as u8 & 15);
        let nibble = |q: usize, column: usize| (q as u32 ^ flip) << (4 * self.slot(column));
        std::array::from_fn(|i| {
            std::array::from_fn(|byte| nibble(byte >> 4, 2 * i) | nibble(byte & 15, 2 * i + 1))
        })
    }

    /// Words of eight columns, from column `at` of row `r` of `run` on; the last one may be cut.
    fn pack_int4(&self, from: &[u8], words: &Words, at: usize, r: usize, run: &mut [u8]) {
        let part = |i: usize, byte: u8| words[i][usize::from(byte)];
        let (whole, cut) = from.as_chunks::<4>();
        let (to, _) = run.as_chunks_mut::<4>();
        let mut at = at / WORD * self.panel + r;
        for &[a, b, c, d] in whole {
            to[at] = (part(0, a) | part(1, b) | part(2, c) | part(3, d)).to_le_bytes();
            at += self.panel;
        }
        if !cut.is_empty() {
            let parts = cut.iter().enumerate().map(|(i, &byte)| part(i, byte));
            to[at] = parts.fold(0, |word, part| word | part).to_le_bytes();
        }
    }
}

/// By the place of a byte in a word, and its value.
type Words = [[u32; 256]; 4];

/// Reading rows back: an embedding that shares its table with the output layer.
impl Layout {
    /// Columns `cols` of row `r` of the packed `weight`, as f32: exact for floats, `q · scale` rounded once else.
    pub(crate) fn read(
        &self,
        weight: &[u8],
        r: usize,
        cols: std::ops::Range<usize>,
        to: &mut [f32],
    ) {
        let panel = &weight[r / self.panel * self.panel_bytes()..][..self.panel_bytes()];
        let r = r % self.panel;
        let row_scale = match self.has_row_scales() {
            true => f32_at(panel, self.runs_bytes() + 4 * r),
            false => 1.0,
        };
        let run_cols = self.run_steps * self.step;
        for (k, x) in cols.zip(to) {
            let (run, k) = (k / run_cols, k % run_cols);
            let data = &panel[run * self.run_bytes()..][..self.run_bytes()];
            let scale = match self.has_group_scales() {
                true => f16_at(data, self.run_data_bytes() + 2 * r),
                false => row_scale,
            };
            let element = (k / self.step * self.panel + r) * self.step + k % self.step;
            *x = match self.format {
                WeightFormat::Dense(DType::F32) => f32_at(data, 4 * element),
                WeightFormat::Dense(DType::F16) => f16_at(data, 2 * element),
                WeightFormat::Dense(_) => bf16::from_le_bytes(bytes_at(data, 2 * element)).to_f32(),
                _ if is_int4(self.format) => f32::from(self.int4_at(data, r, k)) * scale,
                _ => f32::from((data[element] ^ self.offset as u8) as i8) * scale,
            };
        }
    }

    /// Column `k` of a run.
    fn int4_at(&self, data: &[u8], r: usize, k: usize) -> i8 {
        let word = u32::from_le_bytes(bytes_at(data, (k / WORD * self.panel + r) * 4));
        let nibble = ((word >> (4 * self.slot(k % WORD))) as u8 ^ self.offset as u8) & 15;
        // The sign of four bits.
        (nibble << 4) as i8 >> 4
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(bytes_at(bytes, at))
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(bytes_at(bytes, at)).to_f32()
}

/// The start of a buffer that threads fill, each its own panels.
struct Panels(*mut u8);

// SAFETY: `slice` makes its caller keep the parts apart.
unsafe impl Sync for Panels {}

impl Panels {
    /// # Safety
    /// The bytes lie in the buffer, and nothing else uses them meanwhile.
    #[expect(clippy::mut_from_ref, reason = "parts of one buffer for many threads")]
    unsafe fn slice(&self, at: usize, bytes: usize) -> &mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), bytes) }
    }
}
