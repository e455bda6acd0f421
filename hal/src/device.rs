//! Devices.

use std::fmt::Debug;
use std::fs::File;

use crate::{Buffer, DType, DeviceId, Result, Stream, View};

/// What is known of a device once it is open.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Identity within this process.
    pub id: DeviceId,
    /// The device spec that opens it: `cpu`, `cuda:0`, `opencl:0.1`.
    pub spec: String,
    /// The vendor's name of it: `AMD EPYC 9R14`, `NVIDIA A100-SXM4-80GB`.
    pub name: String,
    /// What else a person wants to know: instruction sets, driver and compiler versions.
    pub detail: String,
    /// Threads, cores or compute units that work in parallel.
    pub parallelism: usize,
    /// Float types the device computes with natively (others are converted in registers).
    pub native_floats: Vec<DType>,
    /// How it computes products and sums.
    pub numerics: Numerics,
    /// Whether attention of one token reads a KV cache faster where the slots of a head lie together in long pages.
    pub long_pages: bool,
}

/// How a device computes products and sums: what it declares, and the conformance suite's probes check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numerics {
    /// The type that products are added up in.
    pub accumulator: DType,
    /// Bits of the significand that f32 operands of products keep: 24, or 11 (TF32), or 8 (bf16).
    pub operand_bits: u32,
    /// Whether attention rounds its probabilities to the cache's type, of a cache of int8 to bf16, before they meet the values,
    /// as matrix units want it: always, or where query rows are many.
    pub rounds_probabilities: bool,
    /// Whether products of many rows round the elements of a quantised weight, scale included, to the type of `x`.
    pub rounds_weights: bool,
    /// Whether products with quantised weights round `x` to eight bits, a block of columns at a time, as
    /// `ops::Matmul::activation_block` says.
    pub rounds_activations: bool,
    /// Operand types whose products treat numbers below 2⁻¹²⁶ as zero.
    pub flushes: Vec<DType>,
    /// Whether the KV cache may be of int8 rows with a scale each, as `ops::kv_cache` says.
    pub int8_cache: bool,
    /// Float types that kernels take. A specification with another type may be declined.
    pub floats: Vec<DType>,
}

impl Numerics {
    /// f32 sums of unrounded operands, nothing flushed, every float type, no cache of int8.
    pub fn exact() -> Self {
        Self {
            accumulator: DType::F32,
            operand_bits: 24,
            rounds_probabilities: false,
            rounds_weights: false,
            rounds_activations: false,
            int8_cache: false,
            flushes: Vec::new(),
            floats: vec![DType::F32, DType::F16, DType::BF16],
        }
    }
}

/// Memory of a device in bytes, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// All memory that this process may use (on Linux hosts: the cgroup's limit, if any).
    pub total_bytes: usize,
    /// What an allocation could get at this moment.
    pub free_bytes: usize,
}

/// An open device: gives memory and streams. Shared by all threads.
pub trait Device: Send + Sync + Debug {
    /// Fixed facts.
    fn info(&self) -> &DeviceInfo;

    /// Memory, now; `None` when the device does not tell.
    fn memory(&self) -> Option<MemoryInfo>;

    /// Uninitialised memory of at least `bytes` bytes, aligned for every kernel of this device.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    fn alloc(&self, bytes: usize) -> Result<Buffer>;

    /// As [`Self::alloc`], but all zero for what is queued on `stream` later. A device whose fresh memory is zero anyway
    /// writes none.
    ///
    /// # Errors
    /// `OutOfMemory`, `DeviceLost`.
    fn alloc_zeroed(&self, bytes: usize, stream: &mut dyn Stream) -> Result<Buffer> {
        /// Host memory that this may take.
        const CHUNK_BYTES: usize = 1 << 20;
        let buffer = self.alloc(bytes)?;
        let zeros = vec![0; CHUNK_BYTES.min(bytes)];
        for at in (0..bytes).step_by(CHUNK_BYTES) {
            let len = zeros.len().min(bytes - at);
            stream.upload(&View::at(&buffer, at, DType::U8, &[len])?, &zeros[..len])?;
        }
        Ok(buffer)
    }

    /// Memory that holds the `bytes` of `file` from `offset` on: read when touched, shared with other processes, given back under
    /// pressure. What is written to it is seen by this process alone. `None` on devices that do not use memory of files.
    /// The file must not be changed or cut while the memory is in use; replacing it by another of its name is no change.
    ///
    /// # Errors
    /// `InvalidArgument` for a range outside the file or an offset at which no buffer starts, `Io`.
    fn map(&self, _file: &File, _offset: u64, _bytes: usize) -> Result<Option<Buffer>> {
        Ok(None)
    }

    /// A new in-order queue.
    ///
    /// # Errors
    /// `DeviceLost`, `OutOfMemory`.
    fn stream(&self) -> Result<Box<dyn Stream>>;
}
