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
pub mod library;
mod ops;
mod program;
mod tune;

use std::path::PathBuf;
use std::sync::Arc;

use ::ops::{Accelerator, Ops};

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
    open_with_own(driver, options, |_, _| {})
}

/// As [`open_with`]; `own` may put planners of its own, made of what [`kit`] has, in place of the portable ones.
pub fn open_with_own<D: SimtDriver>(
    driver: D,
    options: Options,
    own: impl FnOnce(&Arc<kit::Chip<D>>, &mut Ops),
) -> Accelerator {
    let chip = Arc::new(device::Chip::new(driver, options));
    let mut ops = ops::table(&chip);
    own(&chip, &mut ops);
    Accelerator {
        ops,
        device: chip.device(),
    }
}

/// What planners are made of.
pub mod kit {
    pub use crate::device::Chip;
    pub use crate::launch::code as type_code;
    pub use crate::launch::{
        Call, DIALECT, Kernel, Planned, Queue, Wanted, before, first, is_aligned, memory_of,
        native, native_with, queue_of, weighted_with,
    };
    pub use crate::ops::activation_code;
    pub use crate::ops::attention::mask_code;
    pub use crate::ops::kv_write::arguments as kv_write_arguments;
    pub use crate::ops::matmul::arguments as matmul_arguments;
    pub use crate::ops::norm::arguments as norm_arguments;
    pub use crate::ops::rope_kv_write::arguments as rope_kv_write_arguments;
    pub use crate::ops::weight::{Layout, defines as weight_defines, pack_rows};

    /// A part of sources: activation functions.
    pub const ACTIVATE: &str = include_str!("../kernels/activate.h");
    /// A part of sources, for CUDA, HIP and the host: eight elements of 16 bits at a time.
    pub const EIGHT: &str = include_str!("../kernels/eight.h");
    /// A part of sources: sums over a group.
    pub const REDUCE: &str = include_str!("../kernels/reduce.h");
    /// A part of sources: tiles of attention's rows.
    pub const ATTENTION_TILES: &str = include_str!("../kernels/attention_tiles.h");
    /// A part of sources, after [`ACTIVATE`]: what a product does with a sum.
    pub const EPILOGUE: &str = include_str!("../kernels/epilogue.h");
    /// A part of sources: weights as the portable kernels have them.
    pub const WEIGHT: &str = include_str!("../kernels/weight.h");
}
