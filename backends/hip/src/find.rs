//! The devices of this machine.

use std::ffi::c_int;
use std::path::{Path, PathBuf};

use backend_runtime::{Abilities, Code, Runtime, SUCCESS, spec};
use backend_simt::{Facts, Limits};
use hal::{DType, Error, Numerics, Result};

use crate::device::Hip;
use crate::failure::failure;
use crate::hiprtc::Hiprtc;
use crate::libraries;
use crate::own;
use crate::symbols::Driver;

/// Most work-items of a group: DCUs refuse more where a kernel does not ask for them, and no kernel here needs more.
const MAX_GROUP: usize = 256;

/// What a runtime says of an attribute that it does not have.
const INVALID_VALUE: Code = 1;

/// Chips that compute in f16 and not in bf16, by what their names begin with: Vega and RDNA 1 and 2 of AMD, Z100 and K100 of
/// Hygon.
const NO_BF16: [&str; 4] = ["gfx90", "gfx926", "gfx101", "gfx103"];
/// Those whose names begin so, and which have bf16.
const BF16: [&str; 2] = ["gfx908", "gfx90a"];

/// The numbers of device attributes, which differ between the vendors.
#[derive(Debug)]
pub(crate) struct Attributes {
    pub(crate) max_group: c_int,
    pub(crate) local_bytes: c_int,
    pub(crate) wave: c_int,
    pub(crate) units: c_int,
    /// Whether there is memory in the order of a stream; `None`: the vendor has no such attribute that is known.
    pub(crate) pools: Option<c_int>,
}

/// Of ROCm 5, 6 and 7.
pub(crate) const ROCM: Attributes = Attributes {
    max_group: 56,
    local_bytes: 74,
    wave: 87,
    units: 63,
    pools: Some(88),
};

/// Of Hygon's DTK, as users of DTK 26.04 have published them (that of `max_group` by its place in the older list that these
/// continue). There was no such device to try them on.
const DTK: Attributes = Attributes {
    max_group: 18,
    local_bytes: 25,
    wave: 27,
    units: 32,
    pools: None,
};

/// A device that can be opened.
#[derive(Clone, Debug)]
pub struct Found {
    /// Opens it: `hip:0`.
    pub spec: String,
    /// The vendor's name of it.
    pub name: String,
    /// What to compile for, in the runtime's own words: `gfx90a:sramecc+:xnack-`.
    pub target: String,
    /// The runtime's version: 60342134 is 6.3.42134.
    pub runtime_version: i32,
    /// What it allows.
    pub limits: Limits,
    /// Devices whose memory it can reach without the host.
    pub peers: Vec<String>,
    device: c_int,
    /// Whether memory can be taken in the order of a stream.
    pools: bool,
}

/// The runtime, initialised.
#[derive(Debug)]
pub(crate) struct Started {
    path: PathBuf,
    driver: Driver,
    version: c_int,
}

impl Started {
    pub(crate) fn new() -> Result<Self> {
        let (path, driver) = libraries::driver()?;
        let ask = |code| check(&driver, "start HIP's runtime", code);
        // SAFETY: the only flags are 0.
        ask(unsafe { (driver.calls.hipInit)(0) })?;
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        ask(unsafe { (driver.calls.hipRuntimeGetVersion)(&mut version) })?;
        Ok(Self {
            path,
            driver,
            version,
        })
    }

    pub(crate) fn devices(&self) -> Result<Vec<Found>> {
        let mut count = 0;
        // SAFETY: `count` outlives the call.
        let code = unsafe { (self.driver.calls.hipGetDeviceCount)(&mut count) };
        check(&self.driver, "list the HIP devices", code)?;
        (0..count).map(|n| self.describe(n, count)).collect()
    }

    /// Opens the device that `spec` names.
    pub(crate) fn open(self, spec: &str) -> Result<Runtime<Hip>> {
        let n = number(spec)?;
        let all = self.devices()?;
        let found = all.get(n).ok_or_else(|| {
            let specs = all.iter().map(|found| found.spec.as_str());
            spec::missing(spec, specs, "the runtime has no device")
        })?;
        // First, because without it a device is of no use, and to open one takes time.
        let compiler = Hiprtc::of(&self.path)?;
        let has = Abilities {
            pools: found.pools,
            captures: self.driver.graphs.is_some(),
        };
        let mut facts = found.facts(&compiler, has);
        let mut device = Hip::new(self.driver, found.device, compiler, found.target.clone());
        let blas = device.find_blas()?;
        facts.numerics.rounds_weights = blas.is_ok();
        let products = blas.unwrap_or_else(|e| {
            let (doing, why) = (e.doing(), e.detail());
            format!("products by own kernels only ({doing}: {why})")
        });
        facts.detail.push_str(&format!(", {products}"));
        Runtime::new(device, facts, found.limits.clone(), has)
    }

    /// A device's attribute; `None`: the runtime has none of that number.
    fn attribute(&self, which: c_int, device: c_int) -> Result<Option<usize>> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        let code = unsafe { (self.driver.calls.hipDeviceGetAttribute)(&mut value, which, device) };
        if code == INVALID_VALUE {
            return Ok(None);
        }
        check(&self.driver, "describe a HIP device", code)?;
        Ok(usize::try_from(value).ok())
    }

    /// What `device` allows, asked by the numbers under which it has waves and groups that there can be; and whether there is
    /// memory in the order of a stream.
    fn limits(&self, device: c_int, memory_bytes: usize) -> Result<(Limits, bool)> {
        let ask = |which| self.attribute(which, device);
        for numbers in [&ROCM, &DTK] {
            let (wave, group) = (ask(numbers.wave)?, ask(numbers.max_group)?);
            let (local, units) = (ask(numbers.local_bytes)?, ask(numbers.units)?);
            let pools = match numbers.pools {
                Some(which) => ask(which)?,
                None => None,
            };
            if let (Some(wave @ (32 | 64)), Some(group), Some(local_bytes), Some(parallelism)) =
                (wave, group, local, units)
                && group >= wave
            {
                let limits = Limits {
                    max_group: group.min(MAX_GROUP),
                    local_bytes,
                    max_alloc_bytes: memory_bytes,
                    memory_bytes,
                    wave,
                    parallelism,
                    wide_items: false,
                };
                return Ok((limits, pools.is_some_and(|has| has != 0)));
            }
        }
        let version = dotted(self.version);
        let why = format!("the numbers of HIP {version}'s device attributes are not known");
        Err(Error::unsupported("describe a HIP device", why)
            .next_step("report this with the device's name and the runtime's version"))
    }

    /// The name of the device's architecture. Only the structure of all properties has it; its layout changes between releases
    /// and vendors, and the name is a text that begins with gfx in each.
    fn target(&self, device: c_int) -> Result<String> {
        let mut properties = [0u8; 8192];
        // SAFETY: there is more room than the structure of any release takes: 1472 bytes in HIP 7.
        let code = unsafe { (self.driver.properties)(properties.as_mut_ptr().cast(), device) };
        check(&self.driver, "describe a HIP device", code)?;
        target_in(&properties).ok_or_else(|| {
            let why = "the runtime does not name its architecture";
            Error::unsupported("describe a HIP device", why)
                .next_step("report this with the device's name and the runtime's version")
        })
    }

    fn describe(&self, device: c_int, count: c_int) -> Result<Found> {
        let (calls, ask) = (&self.driver.calls, |code| {
            check(&self.driver, "describe a HIP device", code)
        });
        let mut name = [0u8; 256];
        // SAFETY: there is room for as many bytes as it says.
        ask(unsafe { (calls.hipDeviceGetName)(name.as_mut_ptr().cast(), 255, device) })?;
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let mut memory_bytes = 0;
        // SAFETY: the number outlives the call.
        ask(unsafe { (calls.hipDeviceTotalMem)(&mut memory_bytes, device) })?;
        let mut peers = Vec::new();
        for peer in (0..count).filter(|&peer| peer != device) {
            let mut can = 0;
            // SAFETY: the number outlives the call.
            ask(unsafe { (calls.hipDeviceCanAccessPeer)(&mut can, device, peer) })?;
            if can != 0 {
                peers.push(format!("hip:{peer}"));
            }
        }
        let target = self.target(device)?;
        let (limits, pools) = self.limits(device, memory_bytes)?;
        let name = String::from_utf8_lossy(name).trim().to_owned();
        Ok(Found {
            spec: format!("hip:{device}"),
            // Some runtimes leave it empty.
            name: if name.is_empty() {
                target.clone()
            } else {
                name
            },
            runtime_version: self.version,
            limits,
            target,
            peers,
            device,
            pools: pools && self.driver.pools.is_some(),
        })
    }
}

fn check(driver: &Driver, doing: &str, code: Code) -> Result<()> {
    match code {
        SUCCESS => Ok(()),
        _ => Err(failure(driver, doing, code)),
    }
}

/// 6.3.42134 for 60342134.
fn dotted(version: c_int) -> String {
    let (major, minor) = (version / 10_000_000, version / 100_000 % 100);
    format!("{major}.{minor}.{}", version % 100_000)
}

/// The number in `hip:3`; `hip` is the first device.
pub(crate) fn number(spec: &str) -> Result<usize> {
    spec::number(spec, "hip", "it is no device of HIP")
}

/// The architecture in a structure of properties, which begins with 256 bytes for the device's name.
fn target_in(properties: &[u8]) -> Option<String> {
    let rest = &properties[256..];
    let at = rest.windows(3).position(|bytes| bytes == b"gfx")?;
    let text = rest[at..].split(|&b| b == 0).next()?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b":+-".contains(b);
    let whole = text.len() > 3 && text.iter().all(plain);
    whole.then(|| String::from_utf8_lossy(text).into_owned())
}

/// Float types that a chip computes with natively.
fn native_floats(target: &str) -> Vec<DType> {
    let is = |names: &[&str]| names.iter().any(|name| target.starts_with(name));
    let mut floats = vec![DType::F32, DType::F16];
    if is(&BF16) || !is(&NO_BF16) {
        floats.push(DType::BF16);
    }
    floats
}

impl Found {
    /// What it is, compiled by `compiler`.
    fn facts(&self, compiler: &Hiprtc, has: Abilities) -> Facts {
        let runtime = dotted(self.runtime_version);
        let Limits {
            local_bytes,
            parallelism,
            memory_bytes,
            wave,
            ..
        } = self.limits;
        let mut detail = format!(
            "HIP {runtime} runtime, {} for {}, {parallelism} compute units, waves of {wave}, {} MiB memory, {} KiB local memory",
            file_name(compiler.path()),
            self.target,
            memory_bytes >> 20,
            local_bytes >> 10,
        );
        for (there, lacks) in [(has.pools, "memory pools"), (has.captures, "captures")] {
            if !there {
                detail += &format!(", no {lacks}");
            }
        }
        if !self.peers.is_empty() {
            detail += &format!(", reaches {}", self.peers.join(" "));
        }
        let (major, minor) = compiler.version();
        Facts {
            spec: self.spec.clone(),
            name: self.name.clone(),
            detail,
            fingerprint: Some(format!(
                "{}\nHIP {runtime}\n{} {major}.{minor}\n{}",
                self.name,
                compiler.path().display(),
                self.target
            )),
            native_floats: native_floats(&self.target),
            numerics: Numerics {
                flushes: match own::flushes(&self.target) {
                    true => vec![DType::BF16],
                    false => Vec::new(),
                },
                ..Numerics::exact()
            },
        }
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use hal::ErrorKind;

    use super::*;

    #[test]
    fn specs_are_read_as_numbers_only() {
        for (spec, n) in [("hip", 0), ("hip:0", 0), ("hip:17", 17)] {
            assert_eq!(number(spec).unwrap(), n, "{spec}");
        }
        let huge = format!("hip:{}0", usize::MAX);
        for spec in [
            "", "hip:", "hip:x", "hip:-1", "hip:+1", "hip:0.1", "cpu", &huge,
        ] {
            let e = number(spec).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{spec}");
        }
    }

    #[test]
    fn the_architecture_is_found_wherever_it_lies() {
        // As in HIP 5 and as in HIP 6.
        for at in [396, 1160] {
            let mut properties = [0u8; 8192];
            properties[..9].copy_from_slice(b"AMD gfx1x");
            for target in [
                "gfx906:sramecc-:xnack-",
                "gfx936",
                "gfx9-4-generic:sramecc+",
            ] {
                properties[at..at + 64].fill(0);
                properties[at..at + target.len()].copy_from_slice(target.as_bytes());
                assert_eq!(target_in(&properties).as_deref(), Some(target));
            }
            properties[at..at + 4].copy_from_slice(b"gfx\0");
            assert_eq!(target_in(&properties), None);
            properties[at..at + 64].fill(0);
            assert_eq!(target_in(&properties), None);
        }
    }

    #[test]
    fn chips_before_bf16_do_not_claim_it() {
        for (target, has) in [
            ("gfx900", false),
            ("gfx906:sramecc-:xnack-", false),
            ("gfx90c", false),
            ("gfx926", false),
            ("gfx1030", false),
            ("gfx908", true),
            ("gfx90a:sramecc+", true),
            ("gfx928", true),
            ("gfx936:sramecc+:xnack-", true),
            ("gfx942", true),
            ("gfx1100", true),
        ] {
            let floats = native_floats(target);
            assert_eq!(floats.contains(&DType::BF16), has, "{target}");
            assert!(floats.contains(&DType::F16), "{target}");
        }
    }

    #[test]
    fn versions_are_dotted() {
        assert_eq!(dotted(50_221_153), "5.2.21153");
        assert_eq!(dotted(71_460_850), "7.14.60850");
    }
}
