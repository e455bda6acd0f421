//! Vulkan, Metal, DX12 and OpenGL devices through wgpu: WGSL kernels for every operation.
//!
//! Design choices:
//! - One kernel file per operation (`kernels/<op>.wgsl`). It is written against accessors (`x_at`, `out_put`) whose
//!   text is made from the operation's own signature, so element types cost no copies of kernels.
//! - Storage is `u32` words. 16-bit elements are read and written inside them; where two invocations own halves of
//!   one word, an atomic exclusive-or changes one half and leaves the other.
//! - Rounding, exponentials and comparisons are integer and polynomial code of ours: WGSL promises neither NaN nor
//!   infinities nor subnormals, and its `exp` may be wrong by tens of units in the last place.
//! - Dimensions are parameters, element types are text: few pipelines, all compiled when planned, never at a launch, and
//!   kept between runs in the driver's form where wgpu can (Vulkan).
//! - Parameters travel as immediates where the adapter has them, else in one uniform buffer per batch.
//! - A stream collects launches in one command encoder and submits it when somebody needs the result.
//! - Sub-groups reduce where the adapter has them, workgroup memory does otherwise ([`Options::subgroups`]).
//! - Every storage binding is read-write, so that an output may be the same view as an input; packed weights, which
//!   are buffers of their own, are read-only.
//! - Events are device timestamps where the adapter has them inside encoders. Elsewhere an event's time is when the
//!   host saw it pass, which is later.
//! - When a device is opened, a probe asks it what WGSL leaves open: whether products lose numbers below 2⁻¹²⁶ (the
//!   card says so), and whether its conversion of f16 is exact (kernels then use it).
//! - A product with a weight and attention sum in another order for few rows than for many, so they are not
//!   batch-invariant; all other operations by rows are.
//! - Attention of many tokens goes by tiles through workgroup memory, as large as the adapter has room for.
//!
//! Who validates what: `ops` has checked shapes, types and devices before a kernel runs. Kernels bound the ids, page
//! numbers and lengths that they read from memory, and wgpu bounds every access besides. A view longer than one binding
//! may be is split over launches where rows are independent, else it is `Unsupported` and says which limit.
//!
//! A launch whose arguments were launched before allocates nothing here: bind groups are kept until one of their
//! buffers is dropped, small uploads go through mapped staging memory of the stream. wgpu itself allocates on the host
//! for what it records. Without immediates, its queue stages the parameters of each batch.
//!
//! What ran: the whole suite on lavapipe (Vulkan) and llvmpipe (OpenGL) of Mesa 22.3 and on SwiftShader, which flushes
//! small numbers and has sub-groups of 4. No GPU, and neither Metal nor DX12, has run it yet.
//!
//! ```no_run
//! # fn main() -> hal::Result<()> {
//! for adapter in backend_wgpu::devices()? {
//!     println!("{}: {} ({})", adapter.spec, adapter.name, adapter.detail);
//! }
//! let gpu = backend_wgpu::open("wgpu:vulkan:0")?;
//! println!("{}", gpu.device.info().name);
//! # Ok(()) }
//! ```
#![deny(unsafe_code)]

mod adapter;
mod counters;
mod device;
mod gpu;
mod groups;
mod kernel;
mod ops;
mod pipelines;
mod staging;
mod stream;

use std::sync::Arc;

use ::ops::Accelerator;
use hal::Result;

pub use adapter::{Adapter, devices};
pub use counters::{Counters, Counts};

/// How to open a device.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether to reduce by sub-groups where the adapter has them.
    pub subgroups: bool,
    /// Whether to pass parameters as immediates where the adapter has them.
    pub immediates: bool,
    /// The most bytes of a binding, if less than the adapter's: to try on small arguments what large ones meet.
    pub max_binding_bytes: Option<u64>,
    /// The most bytes of workgroup memory, if less than the adapter's: to try what smaller adapters do.
    pub max_workgroup_bytes: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            subgroups: true,
            immediates: true,
            max_binding_bytes: None,
            max_workgroup_bytes: None,
        }
    }
}

/// Opens the device that `spec` names: `wgpu` (the first one), `wgpu:1`, `wgpu:vulkan:0`. See [`devices`].
///
/// # Errors
/// `NotFound` when there is no such adapter, `InvalidArgument` for a spec that cannot be read, `Unsupported` for an
/// adapter without compute shaders or with too few storage buffers.
pub fn open(spec: &str) -> Result<Accelerator> {
    open_with(spec, &Options::default())
}

/// [`open`], leaving features out.
///
/// # Errors
/// As [`open`].
pub fn open_with(spec: &str, options: &Options) -> Result<Accelerator> {
    open_counted(spec, options).map(|(accelerator, _)| accelerator)
}

/// [`open_with`], with the counts of what it is asked for.
///
/// # Errors
/// As [`open`].
pub fn open_counted(spec: &str, options: &Options) -> Result<(Accelerator, Arc<Counters>)> {
    let gpu = adapter::find(spec)?.open(options)?;
    let accelerator = Accelerator {
        device: Arc::new(device::WgpuDevice::new(&gpu)?),
        ops: ops::table(&gpu),
    };
    Ok((accelerator, Arc::clone(&gpu.counters)))
}
