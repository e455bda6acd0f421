//! Portable kernels, one source per operation, and the planners that run them over a small driver trait.
//!
//! Not a back end by itself: a runtime that speaks OpenCL C, CUDA C or HIP implements [`SimtDriver`] and has every
//! operation.
//!
//! Design choices:
//! - One text per operation, `kernels/<op>.cl.h`, in a common dialect (`kernels/dialect.h`), specialised by macro
//!   definitions, never by copies. Element types and tiles are definitions; lengths, strides and epilogues are
//!   arguments, so that a model needs few programs and compiles them in seconds.
//! - Storage types are converted in registers; everything is computed in f32.
//! - Memory is passed as base and byte offset: views need no sub-buffers, and no alignment beyond their elements'.
//! - Reductions are a tree in local memory, right for any wave; waves shorten it where the driver promises them.
//! - What a kernel reads from memory (ids, pages, lengths, positions) it bounds: wrong values give wrong numbers only.
//! - Programs are compiled once per text and definitions, kept in memory, and on disk (`$GLM_CACHE`, else the user's
//!   cache folder) where the driver gives binaries, under a name that holds text, definitions, device and driver.
//! - A launch fills a list of arguments on the stack and calls the driver: no allocation, lock or wait of ours.
//!
//! Who validates what: `ops` checks arguments; planners decline what their kernels cannot do; the driver reports what
//! the runtime does.

mod device;
mod driver;
mod launch;
mod ops;
mod program;
mod tune;

use std::path::PathBuf;
use std::sync::Arc;

use ::ops::Accelerator;

pub use driver::{
    Argument, Arguments, Compiled, Facts, Limits, MAX_ARGUMENTS, Recorded, SimtDriver, Source,
};
pub use ops::matmul::Tiling;
pub use program::OnCompile;
pub use tune::{Candidate, Timing, Trial, Tuned, Tuning, tune};

/// How an accelerator is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Called after each program that had to be compiled: a first use takes seconds.
    pub on_compile: Option<OnCompile>,
    /// Where programs, and what tuning found, are kept, in place of [`hal::kept::folder`].
    pub folder: Option<PathBuf>,
}

/// An accelerator with every operation over `driver`.
pub fn open<D: SimtDriver>(driver: D) -> Accelerator {
    open_with(driver, Options::default())
}

/// As [`open`], with options.
pub fn open_with<D: SimtDriver>(driver: D, options: Options) -> Accelerator {
    let chip = Arc::new(device::Chip::new(driver, options));
    Accelerator {
        ops: ops::table(&chip),
        device: Arc::new(device::SimtDevice(chip)),
    }
}
