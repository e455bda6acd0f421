//! The devices of this machine.

use std::ffi::c_int;

use backend_runtime::{Abilities, Runtime, SUCCESS, spec};
use backend_simt::{Facts, Limits};
use cudarc::driver::sys::{CUdevice, CUdevice_attribute};
use hal::{DType, Error, ErrorKind, Numerics, Result};

use crate::device::Cuda;
use crate::failure::failure;
use crate::libraries;
use crate::nvrtc::Nvrtc;
use crate::own;
use crate::symbols::Driver;
use crate::vendor::Vendor;

/// A device that can be opened.
#[derive(Clone, Debug)]
pub struct Found {
    /// Opens it: `cuda:0`.
    pub spec: String,
    /// The vendor's name of it.
    pub name: String,
    /// Compute capability: 90 is 9.0.
    pub chip: i32,
    /// The version of CUDA that the driver is of: 13000 is 13.0.
    pub driver_version: i32,
    /// What it allows.
    pub limits: Limits,
    /// Devices whose memory it can reach without the host.
    pub peers: Vec<String>,
    vendor: &'static Vendor,
    pub(crate) device: CUdevice,
    /// Whether memory can be taken in the order of a stream.
    pub(crate) pools: bool,
}

/// The driver, initialised, and its version.
pub(crate) fn start(vendor: &'static Vendor) -> Result<(Driver, c_int)> {
    let driver = libraries::driver(vendor)?;
    let doing = format!("start the {}", vendor.driver.what);
    let ask = |code| check(&driver, &doing, code);
    let mut version = 0;
    // SAFETY: `version` outlives the call, which is allowed before the next one.
    ask(unsafe { (driver.cuDriverGetVersion)(&mut version) })?;
    let (oldest, newer) = vendor.oldest_driver;
    if version < oldest {
        let [is, needed] = [version, oldest].map(|version| dotted(vendor, version));
        let why = format!("it is of {} {is}, {needed} is needed", vendor.title);
        return Err(Error::new(ErrorKind::Unsupported, doing, why).next_step(newer));
    }
    // SAFETY: the only flags are 0.
    ask(unsafe { (driver.cuInit)(0) })?;
    Ok((driver, version))
}

fn check(driver: &Driver, doing: &str, code: u32) -> Result<()> {
    match code {
        SUCCESS => Ok(()),
        _ => Err(failure(driver, doing, code)),
    }
}

/// 13.0 for CUDA's 13000.
fn dotted(vendor: &Vendor, version: c_int) -> String {
    let (major, minor) = (vendor.version)(version);
    format!("{major}.{minor}")
}

pub(crate) fn devices(driver: &Driver, driver_version: c_int) -> Result<Vec<Found>> {
    let doing = format!("list the {} devices", driver.vendor.title);
    let mut count = 0;
    // SAFETY: `count` outlives the call.
    let code = unsafe { (driver.cuDeviceGetCount)(&mut count) };
    check(driver, &doing, code)?;
    let all: Vec<CUdevice> = (0..count)
        .map(|n| {
            let mut device = 0;
            // SAFETY: `device` outlives the call.
            let code = unsafe { (driver.cuDeviceGet)(&mut device, n) };
            check(driver, &doing, code).map(|()| device)
        })
        .collect::<Result<_>>()?;
    let describe = |n| describe(driver, driver_version, &all, n);
    (0..all.len()).map(describe).collect()
}

/// The device that `spec` names.
pub(crate) fn find(driver: &Driver, driver_version: c_int, spec: &str) -> Result<Found> {
    let n = number(driver.vendor, spec)?;
    let all = devices(driver, driver_version)?;
    all.get(n).cloned().ok_or_else(|| {
        let specs = all.iter().map(|found| found.spec.as_str());
        spec::missing(spec, specs, "the driver has no device")
    })
}

/// The number in `cuda:3`; `cuda` is the first device.
pub(crate) fn number(vendor: &Vendor, spec: &str) -> Result<usize> {
    let why = format!("it is no device of {}", vendor.title);
    spec::number(spec, vendor.name, &why)
}

fn describe(driver: &Driver, driver_version: c_int, all: &[CUdevice], n: usize) -> Result<Found> {
    use CUdevice_attribute as A;
    let device = all[n];
    let vendor = driver.vendor;
    let doing = format!("describe a {} device", vendor.title);
    let ask = |code| check(driver, &doing, code);
    let attribute = |which: A| -> Result<usize> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        ask(unsafe { (driver.cuDeviceGetAttribute)(&mut value, which, device) })?;
        Ok(usize::try_from(value).unwrap_or(0))
    };
    let mut name = [0u8; 256];
    // SAFETY: there is room for as many bytes as it says.
    ask(unsafe { (driver.cuDeviceGetName)(name.as_mut_ptr().cast(), 255, device) })?;
    let name = name.split(|&b| b == 0).next().unwrap_or_default();
    let mut memory_bytes = 0;
    // SAFETY: the number outlives the call.
    ask(unsafe { (driver.cuDeviceTotalMem_v2)(&mut memory_bytes, device) })?;
    let mut peers = Vec::new();
    for (other, &peer) in all.iter().enumerate().filter(|&(other, _)| other != n) {
        let mut can = 0;
        // SAFETY: the number outlives the call.
        ask(unsafe { (driver.cuDeviceCanAccessPeer)(&mut can, device, peer) })?;
        if can != 0 {
            peers.push(format!("{}:{other}", vendor.name));
        }
    }
    let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Found {
        vendor,
        spec: format!("{}:{n}", vendor.name),
        name: String::from_utf8_lossy(name).trim().into(),
        chip: i32::try_from(major * 10 + minor).unwrap_or(0),
        driver_version,
        limits: Limits {
            max_group: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            local_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
            max_alloc_bytes: memory_bytes,
            memory_bytes,
            wave: (vendor.wave)(attribute(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?),
            parallelism: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            wide_items: false,
        },
        peers,
        device,
        pools: vendor.asks_for_pools
            && attribute(A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
    })
}

impl Found {
    /// Opens it.
    ///
    /// # Errors
    /// `NotFound` without a compiler for it; what the driver reports.
    pub(crate) fn open(&self, driver: Driver) -> Result<Runtime<Cuda>> {
        // First, because without it a device is of no use, and to open one takes time.
        let compiler = self.compiler()?;
        let target = compiler.target(self.chip);
        let mut facts = self.facts(&compiler, &target);
        let mut device = Cuda::new(driver, self.device, compiler, target, self.chip)?;
        if self.has_own() {
            let found = device.find_lt(self.chip, self.driver_version)?;
            facts.numerics.rounds_weights = found.is_ok();
            let products = found.unwrap_or_else(|e| {
                format!(
                    "products by own kernels only ({}: {})",
                    e.doing(),
                    e.detail()
                )
            });
            facts.detail.push_str(&format!(", {products}"));
        }
        let has = Abilities {
            pools: self.pools,
            captures: true,
        };
        Runtime::new(device, facts, self.limits.clone(), has)
    }

    /// Whether there are kernels for it besides the portable ones.
    fn has_own(&self) -> bool {
        self.vendor.own_kernels && own::are_for(self.chip)
    }

    /// The compiler for it.
    fn compiler(&self) -> Result<Nvrtc> {
        let Vendor {
            chip: chips,
            oldest_chip: oldest,
            ..
        } = self.vendor;
        if self.chip < *oldest {
            let why = format!(
                "{} is {chips}{}, {chips}{oldest} is needed",
                self.name, self.chip
            );
            return Err(Error::unsupported(format!("open {}", self.spec), why)
                .next_step("choose another device"));
        }
        Nvrtc::find_of(self.vendor, self.chip, self.driver_version)
    }

    /// What it is, compiled by `compiler` for `target`.
    fn facts(&self, compiler: &Nvrtc, target: &str) -> Facts {
        let driver = dotted(self.vendor, self.driver_version);
        let (major, minor) = compiler.version();
        let compiler = format!("{} {major}.{minor}", self.vendor.compiler.what);
        let mut native_floats = vec![DType::F32, DType::F16];
        if self.chip >= self.vendor.bf16_from {
            native_floats.push(DType::BF16);
        }
        let Limits {
            local_bytes,
            parallelism,
            memory_bytes,
            ..
        } = self.limits;
        let memory = match self.pools {
            true => "",
            false => ", no memory pools",
        };
        let peers = match self.peers.is_empty() {
            true => String::new(),
            false => format!(", reaches {}", self.peers.join(" ")),
        };
        Facts {
            spec: self.spec.clone(),
            name: self.name.clone(),
            detail: format!(
                "{} {driver} driver, {compiler} for {target}, {parallelism} multiprocessors, {} MiB memory, {} KiB shared \
                 memory{memory}{peers}",
                self.vendor.title,
                memory_bytes >> 20,
                local_bytes >> 10,
            ),
            fingerprint: Some(format!(
                "{}\ndriver {driver}\n{compiler}\n{target}",
                self.name
            )),
            native_floats,
            numerics: Numerics {
                rounds_probabilities: self.has_own(),
                ..Numerics::exact()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::NVIDIA;

    #[test]
    fn specs_are_read_as_numbers_only() {
        for (spec, n) in [("cuda", 0), ("cuda:0", 0), ("cuda:17", 17)] {
            assert_eq!(number(&NVIDIA, spec).unwrap(), n, "{spec}");
        }
        let huge = format!("cuda:{}0", usize::MAX);
        for spec in [
            "", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:0.1", "cpu", &huge,
        ] {
            let e = number(&NVIDIA, spec).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{spec}");
        }
    }
}
