//! OpenCL devices: the driver under the portable kernels of `backend-simt`, loaded at run time.
//!
//! Design choices:
//! - `libOpenCL.so.1` is loaded when a device is first asked for (`OPENCL_DYLIB_PATH` names another): this crate builds
//!   and starts on machines without it, and says what is missing.
//! - OpenCL C 1.2 without extensions is enough. f16 is a storage type; arithmetic is f32. What a device adds
//!   (sub-groups) shortens reductions, and changes no result beyond the order of sums.
//! - Queues are in order and keep time stamps. Downloads block; kernels do not, nor do small uploads: a queue copies
//!   their bytes into staging memory, which the next call that waits for the queue makes free again.
//! - A kernel object holds its arguments, so each queue has its own: a launch takes no lock.
//! - Freeing memory is left to the runtime, which by the specification waits for commands that were queued before.
//! - A device that stopped answering is poisoned: every later call gives `DeviceLost`.
//!
//! Who validates what: as in `backend-simt`. Here are only the runtime's own errors, with its codes by name.
//!
//! ```
//! match backend_opencl::open("opencl:0") {
//!     Ok(device) => println!("{}", device.device.info().name),
//!     Err(e) => println!("no OpenCL here: {e}"),
//! }
//! ```

mod counters;
mod driver;
mod failure;
mod find;

use std::sync::Arc;

use hal::Result;
use ops::Accelerator;

pub use backend_simt::{Candidate, Limits, Options, Trial, Tuned, Tuning};
pub use counters::{Counters, Counts};
pub use find::Found;

/// Opens the device that `spec` names: `opencl` or `opencl:0` (the first of all devices), `opencl:3`, or
/// `opencl:1.0` (device 0 of platform 1).
///
/// # Errors
/// `NotFound` when there is no OpenCL loader, no driver, or no such device; `InvalidArgument` for another form of
/// `spec`; what the driver reports.
pub fn open(spec: &str) -> Result<Accelerator> {
    open_with(spec, Options::default())
}

/// As [`open`], with options.
///
/// # Errors
/// Those of [`open`].
pub fn open_with(spec: &str, options: Options) -> Result<Accelerator> {
    let driver = driver::OpenCl::new(&find::find(spec)?)?;
    Ok(backend_simt::open_with(driver, options))
}

/// As [`open`], with the counts of what the device is asked for.
///
/// # Errors
/// Those of [`open`].
pub fn open_counted(spec: &str) -> Result<(Accelerator, Arc<Counters>)> {
    let driver = driver::OpenCl::new(&find::find(spec)?)?;
    let counters = Arc::clone(driver.counters());
    Ok((backend_simt::open(driver), counters))
}

/// Measures how the device that `spec` names computes `products` best, and keeps it for later starts.
///
/// # Errors
/// Those of [`open`], and of `backend_simt::tune`.
pub fn tune(
    spec: &str,
    options: Options,
    products: &[ops::Matmul],
    tuning: &Tuning,
) -> Result<Vec<Tuned>> {
    let driver = driver::OpenCl::new(&find::find(spec)?)?;
    backend_simt::tune(driver, options, products, tuning)
}

/// Every OpenCL device of this machine, in the order in which `opencl:N` counts them.
///
/// # Errors
/// `NotFound` when there is no OpenCL loader or no driver; what the driver reports.
pub fn devices() -> Result<Vec<Found>> {
    find::devices()
}
