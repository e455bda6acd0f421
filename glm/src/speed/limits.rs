//! What a device could do: bytes that it moves and operations that it carries out, measured before all else.

use std::collections::BTreeMap;

use hal::{DType, ErrorKind, Result, WeightFormat};
use ops::{Context, Plan, StridedCopy};
use serde::{Deserialize, Serialize};

use super::operation::Placed;
use super::{Clock, Operation, Product};

/// What a copy reads, at most; it writes as much.
const MOST_COPY_BYTES: usize = 256 << 20;
/// Rows, columns and depth of a product, at most.
const MOST_EDGE: usize = 4096;
/// A size is large enough when it takes this long.
const ENOUGH_SECONDS: f64 = 5e-3;

/// What a back end measures of its own device by loops that do nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnLimits {
    /// Bytes read per second.
    pub bytes_per_second: f64,
    /// Operations per second with numbers of a type.
    pub operations_per_second: Vec<(DType, f64)>,
}

/// The limits that figures are held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes read, or read and written, per second.
    pub bytes_per_second: f64,
    /// What was measured for that.
    pub bytes_by: String,
    /// Operations per second by type of number.
    pub operations_per_second: BTreeMap<String, f64>,
    /// What was measured for that.
    pub operations_by: String,
}

impl Limits {
    /// Those of `own`, where the back end has loops of its own; else those of large copies and products through the same
    /// operations that a model uses.
    ///
    /// # Errors
    /// `Unsupported` when the device cannot copy; what launches report.
    pub fn measure(context: &Context, clock: &mut Clock, own: Option<OwnLimits>) -> Result<Self> {
        if let Some(own) = own {
            return Ok(own.into());
        }
        let (bytes_per_second, bytes) = copy(context, clock)?;
        let (peaks, edge) = products(context, clock)?;
        Ok(Self {
            bytes_per_second,
            bytes_by: format!(
                "a copy of {:.0} MiB, read and written",
                bytes / (1 << 20) as f64
            ),
            operations_per_second: by_name(peaks),
            operations_by: format!("the device's own products of {edge} x {edge} x {edge}"),
        })
    }

    /// The mean of both.
    pub(super) fn mean(&self, other: &Self) -> Self {
        let mut mean = self.clone();
        mean.bytes_per_second = (self.bytes_per_second + other.bytes_per_second) / 2.0;
        for (name, peak) in &mut mean.operations_per_second {
            let other = other.operations_per_second.get(name);
            *peak = (*peak + other.copied().unwrap_or(*peak)) / 2.0;
        }
        mean
    }

    /// Operations per second with numbers of `dtype`: those of f32 where the device has no faster way.
    pub fn peak(&self, dtype: DType) -> Option<f64> {
        let of = |dtype: DType| self.operations_per_second.get(dtype.name()).copied();
        of(dtype).into_iter().chain(of(DType::F32)).reduce(f64::max)
    }
}

impl From<OwnLimits> for Limits {
    fn from(own: OwnLimits) -> Self {
        Self {
            bytes_per_second: own.bytes_per_second,
            bytes_by: "reading memory".into(),
            operations_per_second: by_name(own.operations_per_second),
            operations_by: "multiply-adds in registers".into(),
        }
    }
}

fn by_name(list: Vec<(DType, f64)>) -> BTreeMap<String, f64> {
    list.into_iter()
        .map(|(d, x)| (d.name().into(), x))
        .collect()
}

/// Bytes per second of the largest copy that fits and does not take long, and the bytes that it read.
fn copy(context: &Context, clock: &mut Clock) -> Result<(f64, f64)> {
    let plan = context.plan(StridedCopy { dtype: DType::F32 })?;
    let mut largest = None;
    let mut bytes = 64 << 10;
    loop {
        let moved = 2.0 * bytes as f64;
        let seconds = copy_of(context, clock, &plan, bytes);
        let seconds = match (seconds, largest) {
            (Err(e), Some(largest)) if e.kind() == ErrorKind::OutOfMemory => return Ok(largest),
            (seconds, _) => seconds?,
        };
        if bytes >= MOST_COPY_BYTES || seconds > 10.0 * ENOUGH_SECONDS {
            return Ok((moved / seconds, bytes as f64));
        }
        largest = Some((moved / seconds, bytes as f64));
        bytes *= 4;
    }
}

/// Seconds of a copy of `bytes` bytes.
fn copy_of(
    context: &Context,
    clock: &mut Clock,
    plan: &Plan<StridedCopy>,
    bytes: usize,
) -> Result<f64> {
    let (device, shape) = (&**context.device(), [bytes / 4]);
    let args = vec![
        Placed::unwritten(device, DType::F32, &shape)?,
        Placed::random(device, clock.stream(), DType::F32, &shape)?,
    ];
    let mut operation = Operation::new(context, plan, args, [2.0 * bytes as f64, 0.0])?;
    Ok(clock.time(&mut operation)?.least)
}

/// Operations per second of products of each type that the device has, and the largest edge of these.
fn products(context: &Context, clock: &mut Clock) -> Result<(Vec<(DType, f64)>, usize)> {
    let (mut peaks, mut largest) = (Vec::new(), 0);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let (mut peak, mut edge) = (None, 64);
        loop {
            match product_of(context, clock, dtype, edge) {
                Ok([operations, seconds]) => {
                    peak = Some(operations / seconds);
                    largest = largest.max(edge);
                    if edge >= MOST_EDGE || seconds > ENOUGH_SECONDS {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Unsupported => break,
                Err(e) if e.kind() == ErrorKind::OutOfMemory && peak.is_some() => break,
                Err(e) => return Err(e),
            }
            edge *= 2;
        }
        peaks.extend(peak.map(|peak| (dtype, peak)));
    }
    Ok((peaks, largest))
}

/// Operations and seconds of a product of this edge.
fn product_of(context: &Context, clock: &mut Clock, dtype: DType, edge: usize) -> Result<[f64; 2]> {
    let product = Product::warm(context, [edge, edge], dtype, WeightFormat::Dense(dtype))?;
    let mut operation = product.rows(context, edge)?;
    let seconds = clock.time(&mut operation)?.least;
    Ok([operation.amounts.operations(), seconds])
}
