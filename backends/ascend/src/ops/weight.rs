//! How weights lie in device memory, for products and embeddings: rows without gaps, then the scales in f32.
//!
//! Weights of half types lie in fractals where the library can fold them: squares of 16 rows and 16 columns, down the rows first,
//! the last ones filled up with zeros. Products need not bring them into this form each time.
//!
//! Integers are bytes, those of four bits too: no operator takes them apart on chips before the 950. Behind the scales of rows may
//! be the same scales in a half type, for the library's own product with integers; the length of the memory tells.

use std::sync::Arc;

use backend_runtime::Runtime;
use backend_simt::kit::{memory_of, queue_of};
use hal::{Buffer, DType, Device, Error, Result, Stream, View, WeightFormat};
use half::{bf16, f16};
use ops::HostWeight;

use crate::arguments::{Argument, FRACTAL, Integers, Telling};
use crate::device::Acl;
use crate::find::Generation;
use crate::planned::{Npu, Pack};
use crate::run::{Run, accept, call};
use crate::tensor::{Kind, Tensor};

/// Scales begin at a multiple of this.
const SCALE_ALIGN: usize = 512;
/// Bytes that are staged at a time while a weight travels.
const STAGE_BYTES: usize = 4 << 20;

/// The type in which two operands are multiplied.
pub(crate) fn product_kind(generation: Generation, a: Kind, b: Kind) -> Kind {
    match generation {
        Generation::First => Kind::F16,
        Generation::Second if a == b => a,
        Generation::Second => Kind::F32,
    }
}

/// Whether the chip multiplies with an `x` of this type; `op` is what is planned.
///
/// # Errors
/// `Unsupported`, with the type that it has.
pub(crate) fn has_products(npu: &Npu, op: &str, x: Kind) -> Result<()> {
    if npu.generation == Generation::Second || x == Kind::F16 {
        return Ok(());
    }
    let info = npu.device.info();
    let doing = format!("plan {op} on {}", info.spec);
    let why = format!("{} has products in f16 alone", info.name);
    Err(Error::unsupported(doing, why).next_step("choose f16: --dtype f16"))
}

/// A weight `[rows, cols]` in device memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    rows: usize,
    cols: usize,
    /// Of the elements.
    kind: Kind,
    /// Of a row; 0 without scales.
    groups: usize,
    scales_at: usize,
    pub(crate) bytes: usize,
    /// Whether the elements are in fractals.
    pub(crate) is_folded: bool,
    /// Type of the second scales, when they are wanted.
    half: Option<Kind>,
}

impl Layout {
    /// Of a weight for `x` of kind `x`; `None` for a format that is not known, or a size that overflows.
    pub(crate) fn new(
        npu: &Npu,
        x: Kind,
        format: WeightFormat,
        rows: usize,
        cols: usize,
    ) -> Option<Self> {
        let (kind, groups) = match format {
            WeightFormat::Dense(dtype) => (product_kind(npu.generation, x, Kind::of(dtype)?), 0),
            WeightFormat::Int8Row | WeightFormat::Int4Row => (Kind::I8, 1),
            WeightFormat::Int8Group(group) | WeightFormat::Int4Group(group) => {
                (Kind::I8, cols / group)
            }
            _ => return None,
        };
        let is_folded =
            npu.folds && kind == x && matches!(x, Kind::F16 | Kind::Bf16) && rows > 1 && cols > 1;
        let [high, wide] = match is_folded {
            true => [
                rows.checked_next_multiple_of(FRACTAL)?,
                cols.checked_next_multiple_of(FRACTAL)?,
            ],
            false => [rows, cols],
        };
        let elements = high.checked_mul(wide)?.checked_mul(kind.bytes())?;
        let scales_at = elements.checked_next_multiple_of(SCALE_ALIGN)?;
        let scales = rows.checked_mul(groups)?.checked_mul(Kind::F32.bytes())?;
        Some(Self {
            rows,
            cols,
            kind,
            groups,
            scales_at,
            bytes: scales_at.checked_add(scales)?,
            is_folded,
            half: None,
        })
    }

    /// With scales of rows in the half type `x` too, where that has all their digits.
    pub(crate) fn with_half_scales(mut self, x: Kind) -> Self {
        let sizes = 1..=65_535;
        let fits = self.groups == 1 && sizes.contains(&self.rows) && sizes.contains(&self.cols);
        self.half = (fits && matches!(x, Kind::F16 | Kind::Bf16)).then_some(x);
        self
    }

    fn half_at(&self) -> usize {
        self.bytes.next_multiple_of(SCALE_ALIGN)
    }

    /// The scales `[rows]` in a half type, in all of the memory of a weight that has them.
    pub(crate) fn half_scales(&self, at: Tensor) -> Option<Tensor> {
        let kind = self.half.filter(|_| at.len() > self.bytes)?;
        let address = at.address + self.half_at() as u64;
        Some(Tensor::new(address, kind, &[self.rows]))
    }

    /// The bytes of scales in the half type; `None` when that is not wanted, or would lose digits.
    fn half_bytes(&self, weight: &HostWeight<'_>) -> Option<Vec<u8>> {
        let kind = self.half?;
        let mut bytes = Vec::with_capacity(2 * self.rows);
        for r in 0..self.rows {
            let scale = weight.scale(r, 0);
            let (back, half) = match kind {
                Kind::Bf16 => (
                    bf16::from_f32(scale).to_f32(),
                    bf16::from_f32(scale).to_le_bytes(),
                ),
                _ => (
                    f16::from_f32(scale).to_f32(),
                    f16::from_f32(scale).to_le_bytes(),
                ),
            };
            if back != scale {
                return None;
            }
            bytes.extend(half);
        }
        Some(bytes)
    }

    /// The elements, in memory that begins at `at`; when they are folded, as if they were not.
    pub(crate) fn elements(&self, at: Tensor) -> Tensor {
        Tensor::new(at.address, self.kind, &[self.rows, self.cols])
    }

    /// The scales `[rows, groups]`; `None` for floats.
    pub(crate) fn scales(&self, at: Tensor) -> Option<Tensor> {
        let address = at.address + self.scales_at as u64;
        let scales = Tensor::new(address, Kind::F32, &[self.rows, self.groups]);
        (self.kind == Kind::I8).then_some(scales)
    }

    /// Brings a weight of `format` into this layout.
    pub(crate) fn packer(self, npu: &Npu, format: WeightFormat) -> Pack {
        let npu = npu.clone();
        Box::new(move |device, weight| self.pack(&npu, device, weight, format))
    }

    fn pack(
        &self,
        npu: &Npu,
        device: &Arc<dyn Device>,
        weight: &HostWeight<'_>,
        format: WeightFormat,
    ) -> Result<Buffer> {
        weight.expect(format, self.rows, self.cols)?;
        let converted;
        let weight = match (weight.format, self.kind) {
            (WeightFormat::Dense(from), Kind::F32) if from != DType::F32 => {
                converted = weight.convert(WeightFormat::Dense(DType::F32))?;
                &converted
            }
            (WeightFormat::Dense(from), Kind::F16) if from != DType::F16 => {
                converted = weight.convert(WeightFormat::Dense(DType::F16))?;
                &converted
            }
            _ => weight,
        };
        let half = self.half_bytes(weight);
        let all = half
            .as_ref()
            .map_or(self.bytes, |half| self.half_at() + half.len());
        let buffer = device.alloc(all)?;
        let mut stream = device.stream()?;
        let mut to = Travel {
            stream: &mut *stream,
            buffer: &buffer,
            at: 0,
            staged: Vec::with_capacity(STAGE_BYTES),
        };
        for r in 0..self.rows {
            let row = weight.row(r);
            match format {
                WeightFormat::Int4Row | WeightFormat::Int4Group(_) => {
                    for &byte in row {
                        to.push(&[ops::nibble(byte, 0) as u8, ops::nibble(byte, 1) as u8])?;
                    }
                }
                _ => to.push(row)?,
            }
        }
        to.skip_to(self.scales_at)?;
        for r in 0..self.rows {
            for i in 0..self.groups {
                to.push(&weight.scale(r, i).to_le_bytes())?;
            }
        }
        if let Some(half) = half {
            to.skip_to(self.half_at())?;
            to.push(&half)?;
        }
        to.send()?;
        if self.is_folded {
            self.fold(npu, &mut *stream, &buffer)?;
        }
        stream.synchronize()?;
        Ok(buffer)
    }

    /// Brings elements without gaps into fractals, where they are.
    fn fold(&self, npu: &Npu, stream: &mut dyn Stream, buffer: &Buffer) -> Result<()> {
        let runtime = npu.chip.driver();
        let queue = queue_of(&npu.chip, stream)?;
        let memory = memory_of::<Runtime<Acl>>(&View::of_bytes(buffer))?;
        queue.uses(memory);
        let elements = Tensor::new(memory.address(), self.kind, &[self.rows, self.cols]);
        let mut run = Run::stream(runtime, queue, 0)?;
        let wanted = folded_len(runtime, elements)?;
        if wanted.saturating_mul(self.kind.bytes()) > self.scales_at {
            let why = format!(
                "this release of CANN wants room for {wanted} elements of {} x {}",
                self.rows, self.cols
            );
            return Err(Error::unsupported("pack a weight", why)
                .next_step("set GLM_ASCEND_NZ=0, and report this with CANN's version"));
        }
        call!(run, TransMatmulWeight(elements))
    }
}

/// How many elements the library says that a weight takes in fractals.
fn folded_len(runtime: &Runtime<Acl>, weight: Tensor) -> Result<usize> {
    let Some(fractals) = &runtime.api().library.fractals else {
        return Ok(usize::MAX);
    };
    let mut telling = Telling::new(runtime);
    let shape = Integers(weight.shape()).tell(&mut telling)?;
    let mut elements = 0;
    // SAFETY: the list and the number outlive the call.
    let status = unsafe {
        (fractals.aclnnCalculateMatmulWeightSizeV2)(shape, weight.kind as i32, &mut elements)
    };
    accept(runtime, "aclnnCalculateMatmulWeightSizeV2", status)?;
    Ok(usize::try_from(elements).unwrap_or(usize::MAX))
}

/// Bytes on their way to a buffer, a few at a time.
struct Travel<'a> {
    stream: &'a mut dyn Stream,
    buffer: &'a Buffer,
    at: usize,
    staged: Vec<u8>,
}

impl Travel<'_> {
    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(STAGE_BYTES - self.staged.len()));
            self.staged.extend_from_slice(now);
            bytes = later;
            if self.staged.len() == STAGE_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let to = View::at(self.buffer, self.at, DType::U8, &[self.staged.len()])?;
        self.stream.upload(&to, &self.staged)?;
        self.at += self.staged.len();
        self.staged.clear();
        Ok(())
    }

    /// What comes next belongs at `at`.
    fn skip_to(&mut self, at: usize) -> Result<()> {
        self.send()?;
        self.at = at;
        Ok(())
    }
}
