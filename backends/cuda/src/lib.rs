//! NVIDIA devices: the driver under the portable kernels of `backend-simt`, loaded at run time.
//!
//! Design choices:
//! - The driver (`libcuda.so.1`) and the compiler (`libnvrtc.so.13` or `.12`) are looked for when a device is first asked
//!   for: this crate builds and starts on machines without them, and one binary serves CUDA 12 and 13. Folders in
//!   `GLM_CUDA_LIBRARIES` come first; [`libraries`] says what was found.
//! - The library of products (`libcublasLt.so.13` or `.12`) is looked for in the same places, and may be missing: it takes
//!   products of many rows, with quantised weights that were brought to the type of `x` before. The device's detail says which
//!   was found.
//! - Functions are looked up once into a table whose prototypes the compiler compares with `cudarc`'s bindings. Codes stay
//!   numbers, because newer drivers have codes that no enum of today knows.
//! - A vendor of the same calls under other names is a [`Vendor`]: names, places and a few constants (`backends/musa`). It has the
//!   portable kernels; those of this crate, and cuBLASLt, are NVIDIA's alone.
//! - Programs are compiled for the chip (a cubin); a compiler that is older than the chip gives PTX.
//! - Memory, transfers, captures and lost devices are as in `backend-runtime`, which does what CUDA has in common with its like.
//!
//! Who validates what: as in `backend-simt`. Here are only the driver's own errors, with its codes by name.
//!
//! Tests run against a stand-in for the libraries that runs the kernels on the host, and compile the kernels with the real
//! compiler; `scripts/gpu-check.sh` is for a device. An H200 and an H100 have run it (docs/performance.md), no other chip has.
//!
//! ```
//! match backend_cuda::open("cuda:0") {
//!     Ok(device) => println!("{}", device.device.info().name),
//!     Err(e) => println!("no CUDA here: {e}"),
//! }
//! ```

mod device;
mod failure;
mod find;
mod libraries;
mod lt;
mod nvrtc;
mod own;
mod symbols;
mod vendor;

use backend_runtime::{Runtime, spec};
use hal::Result;
use ops::{Accelerator, Matmul};

pub use backend_runtime::{Compilation, Libraries, Place};
pub use backend_simt::{Limits, Options, Tuned, Tuning};
pub use find::Found;
pub use libraries::libraries;
pub use nvrtc::Nvrtc;
pub use own::put_own;
pub use vendor::{Part, Vendor};

use vendor::NVIDIA;

/// Opens the device that `spec` names: `cuda` or `cuda:0` (the driver's first), `cuda:1`, …
///
/// # Errors
/// `NotFound` when there is no driver, no compiler that fits, or no such device; `Unsupported` for a driver before CUDA
/// 12.0; `InvalidArgument` for another form of `spec`; what the driver reports.
pub fn open(spec: &str) -> Result<Accelerator> {
    open_with(spec, Options::default())
}

/// As [`open`], with options.
///
/// # Errors
/// Those of [`open`].
pub fn open_with(spec: &str, options: Options) -> Result<Accelerator> {
    let (driver, capability) = NVIDIA.open_driver(spec)?;
    Ok(backend_simt::open_with_own(driver, options, |chip, ops| {
        let without = std::env::var(WGMMA).is_ok_and(|value| value == "0");
        put_own(chip, ops, capability, lt::OnDevice::library(chip), !without);
    }))
}

/// `0` keeps prompts on sm_90 from attending by wgmma: for comparing it with the kernel of other chips, which is slower.
const WGMMA: &str = "GLM_CUDA_WGMMA";

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
    NVIDIA.tune(spec, options, products, tuning)
}

/// Every CUDA device of this machine, in the driver's order.
///
/// # Errors
/// `NotFound` when there is no driver; `Unsupported` for a driver before CUDA 12.0; what the driver reports.
pub fn devices() -> Result<Vec<Found>> {
    NVIDIA.devices()
}

impl Vendor {
    /// Opens a device of this vendor, with the portable kernels.
    ///
    /// # Errors
    /// Those of [`open`].
    pub fn open(&'static self, spec: &str, options: Options) -> Result<Accelerator> {
        let (driver, _) = self.open_driver(spec)?;
        Ok(backend_simt::open_with(driver, options))
    }

    /// As [`tune`], of this vendor's device.
    ///
    /// # Errors
    /// Those of [`tune`].
    pub fn tune(
        &'static self,
        spec: &str,
        options: Options,
        products: &[Matmul],
        tuning: &Tuning,
    ) -> Result<Vec<Tuned>> {
        backend_simt::tune(self.open_driver(spec)?.0, options, products, tuning)
    }

    /// As [`devices`], of this vendor.
    ///
    /// # Errors
    /// Those of [`devices`].
    pub fn devices(&'static self) -> Result<Vec<Found>> {
        let (driver, version) = find::start(self)?;
        find::devices(&driver, version)
    }

    /// As [`libraries`], of this vendor, without a library of products.
    pub fn libraries(&'static self) -> Libraries {
        libraries::libraries_of(self)
    }

    /// The driver of a device, and the device's compute capability.
    fn open_driver(&'static self, spec: &str) -> Result<(Runtime<device::Cuda>, i32)> {
        find::number(self, spec)?;
        let (driver, version) = find::start(self).map_err(|e| spec::not_started(spec, e))?;
        let found = find::find(&driver, version, spec)?;
        let capability = found.chip;
        Ok((found.open(driver)?, capability))
    }
}
