//! AMD GPUs and Hygon DCUs: HIP under the portable kernels of `backend-simt`, loaded at run time.
//!
//! Design choices:
//! - The runtime (`libamdhip64.so.7`, `.6`, `.5`, or DTK's `libgalaxyhip.so.5`) is looked for when a device is first asked for,
//!   with every function: this crate builds and starts on machines without it, and one binary serves HIP 5.2 to 7. Folders in
//!   `GLM_HIP_LIBRARIES` come first, then the system's loader, `ROCM_PATH`, `HIP_PATH`, `/opt/rocm*` and `/opt/dtk*` with its
//!   `.hyhal`; [`libraries`] says what was found.
//! - The compiler, hiprtc, is inside of the runtime or beside it, and compiles for the architecture that the device names: there
//!   is no list of chips.
//! - The library of products (`librocblas.so.5`, `.4`, `.3`, `.0`) is looked for in the same places, and may be missing: it takes
//!   products of many rows, with quantised weights that were brought to the type of `x` before. The device's detail says which
//!   was found, or why none is used.
//! - Kernels of our own for dot products of two f16 and for matrix units serve where the compiler takes them for the chip
//!   (`GLM_HIP_UNITS=0`: nowhere).
//! - What a device allows is asked by attribute. The attributes have other numbers in DTK than in ROCm; those are taken under
//!   which waves have 32 or 64 work-items. The architecture's name is found in the structure of properties of any release.
//! - Groups have 256 work-items at most, and kernels say so to the compiler.
//! - Memory in the order of a stream and captures are used where the runtime has all of their functions.
//! - Memory, transfers, captures and lost devices are as in `backend-runtime`, which does what HIP has in common with its like.
//!
//! Who validates what: as in `backend-simt`. Here are only the runtime's own errors, with its codes by name.
//!
//! No AMD or Hygon device was at hand: the calls are tested against a stand-in for the library that runs the kernels on the host,
//! in waves of 64 and 32, and the kernels' compilation with the real compiler for gfx906, gfx908 and gfx90a.
//!
//! ```
//! match backend_hip::open("hip:0") {
//!     Ok(device) => println!("{}", device.device.info().name),
//!     Err(e) => println!("no HIP here: {e}"),
//! }
//! ```

mod device;
mod failure;
mod find;
mod hiprtc;
mod libraries;
mod own;
mod rocblas;
mod symbols;

use backend_runtime::{Runtime, spec};
use hal::Result;
use ops::{Accelerator, Matmul};

pub use backend_runtime::{Compilation, Libraries, Place};
pub use backend_simt::{Limits, Options, Tuned, Tuning};
pub use find::Found;
pub use hiprtc::Hiprtc;
pub use libraries::libraries;
pub use own::put_own;
pub use own::units::Units;

/// Opens the device that `spec` names: `hip` or `hip:0` (the runtime's first), `hip:1`, …
///
/// # Errors
/// `NotFound` when there is no runtime, no compiler, or no such device; `InvalidArgument` for another form of `spec`; what the
/// runtime reports.
pub fn open(spec: &str) -> Result<Accelerator> {
    open_with(spec, Options::default())
}

/// As [`open`], with options.
///
/// # Errors
/// Those of [`open`].
pub fn open_with(spec: &str, options: Options) -> Result<Accelerator> {
    let driver = driver(spec)?;
    let target = driver.api().target().to_owned();
    Ok(backend_simt::open_with_own(driver, options, |chip, ops| {
        let library = rocblas::OnDevice::library(chip);
        let asks = std::env::var(UNITS).map_or(true, |value| value != "0");
        let units = move |chip: &_| match asks {
            true => Units::of(chip),
            false => Ok(Units::default()),
        };
        put_own(chip, ops, &target, units, library);
    }))
}

/// `0` leaves dot and matrix units alone, and does not ask for them: a compiler that takes a kernel for a chip without them may end
/// the process.
const UNITS: &str = "GLM_HIP_UNITS";

/// Measures how the device that `spec` names computes `products` best, and keeps it for later starts.
///
/// # Errors
/// Those of [`open`], and of `backend_simt::tune`.
pub fn tune(
    spec: &str,
    options: Options,
    products: &[Matmul],
    tuning: &Tuning,
) -> Result<Vec<Tuned>> {
    backend_simt::tune(driver(spec)?, options, products, tuning)
}

fn driver(spec: &str) -> Result<Runtime<device::Hip>> {
    find::number(spec)?;
    let started = find::Started::new().map_err(|e| spec::not_started(spec, e))?;
    started.open(spec)
}

/// Every HIP device of this machine, in the runtime's order.
///
/// # Errors
/// `NotFound` when there is no runtime; what the runtime reports.
pub fn devices() -> Result<Vec<Found>> {
    find::Started::new()?.devices()
}
