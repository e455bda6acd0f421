//! The CPU as a GLM-HAL device: SIMD kernels chosen at run time, one thread pool.
//!
//! Design choices:
//! - Always present, needs nothing installed; the embedded default and the reference of speed for a laptop.
//! - One [`Isa`] value, detected once, chooses each kernel's variant when it is planned: AVX-512 (with AMX, with VNNI, with BF16
//!   where that is faster than f32), AVX2 with FMA, NEON, or plain Rust. `GLM_CPU_LEVEL` names another.
//! - Kernels split their outputs among threads, never a sum: results do not depend on the number of threads.
//! - Streams work at once on the calling thread and the pool: when a call returns, the work is done.
//!
//! Who validates what: `ops` has checked shapes, types and devices before a kernel runs. Kernels bound the ids, page
//! numbers and lengths that they read from memory.
//!
//! ```
//! # fn main() -> hal::Result<()> {
//! let cpu = backend_cpu::open(&backend_cpu::Options::default())?;
//! println!("{}: {}", cpu.device.info().name, cpu.device.info().detail);
//! # Ok(()) }
//! ```

mod control_group;
mod device;
mod isa;
pub mod limits;
mod memory;
mod ops;
mod pool;
mod simd;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use ::ops::Accelerator;
use hal::{DeviceId, Error, Result};

pub use control_group::{ControlGroup, MemoryLimit};
pub use isa::{Isa, Level};
pub use memory::memory_info;

/// How to open the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Threads in all; `None`: one per available core.
    pub threads: Option<usize>,
    /// The instruction set to use; `None`: `GLM_CPU_LEVEL`, else [`Isa::detect`].
    pub level: Option<Level>,
    /// What products with int8 and int4 weights do with activations.
    pub activations: Activations,
}

/// What products with int8 and int4 weights do with activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Take them as they are.
    #[default]
    Float,
    /// Round them to eight bits, a block at a time ([`::ops::Matmul::activation_block`]), and multiply integers.
    Int8,
}

/// The most threads that can be asked for.
const MAX_THREADS: usize = 1024;

/// Opens the CPU.
///
/// # Errors
/// `InvalidArgument` for a number of threads outside 1..=1024 or an unknown `GLM_CPU_LEVEL`, `Unsupported` for a level
/// that this CPU lacks.
pub fn open(options: &Options) -> Result<Accelerator> {
    let isa = match (options.level, std::env::var("GLM_CPU_LEVEL")) {
        (Some(level), _) => Isa::at(level)?,
        (None, Ok(level)) => Isa::at(level.parse()?)?,
        (None, Err(_)) => Isa::detect(),
    };
    open_at(isa, options)
}

/// As [`open`], at this level.
pub(crate) fn open_at(isa: Isa, options: &Options) -> Result<Accelerator> {
    let threads = match options.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    if !(1..=MAX_THREADS).contains(&threads) {
        return Err(
            Error::invalid("open the CPU", format!("{threads} threads asked for"))
                .next_step(format!("choose 1 to {MAX_THREADS}")),
        );
    }
    let pool = pool::Pool::new(threads)?;
    let cpu = device::Cpu {
        pool: Arc::new(pool),
        isa,
        rounds_activations: options.activations == Activations::Int8,
        id: DeviceId::new(),
    };
    Ok(Accelerator {
        device: Arc::new(device::CpuDevice::new(&cpu)),
        ops: ops::table(&cpu),
    })
}
