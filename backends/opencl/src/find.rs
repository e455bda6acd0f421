//! Platforms and devices.

use std::sync::{Mutex, PoisonError};

use hal::{DType, Error, ErrorKind, Numerics, Result};
use opencl3::device::{CL_DEVICE_TYPE_ALL, CL_DEVICE_TYPE_CPU, CL_FP_DENORM, Device};
use opencl3::platform::{Platform, get_platforms};

use backend_simt::Limits;

use crate::failure::{Call, failure};

/// `CL_DEVICE_NOT_FOUND`: a platform without devices.
const DEVICE_NOT_FOUND: i32 = -1;

/// `CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT`.
const EXACT_DIVISION: u64 = 1 << 7;

/// A device that can be opened.
#[derive(Clone, Debug)]
pub struct Found {
    /// Opens it: `opencl:0.1`, platform and device.
    pub spec: String,
    /// The vendor's name of it.
    pub name: String,
    /// Who made it.
    pub vendor: String,
    /// The platform's name and version.
    pub platform: String,
    /// Version of the driver.
    pub driver: String,
    /// Version of OpenCL C.
    pub language: String,
    /// What it allows.
    pub limits: Limits,
    pub(crate) numerics: Numerics,
    pub(crate) native_floats: Vec<DType>,
    pub(crate) exact_division: bool,
    /// The language in which the device has sub-groups.
    pub(crate) subgroups: Option<&'static str>,
    pub(crate) device: Device,
}

/// Held while devices are listed: drivers set themselves up at the first call, and PoCL 3.1 crashes when two threads
/// make it.
static LISTING: Mutex<()> = Mutex::new(());

pub(crate) fn devices() -> Result<Vec<Found>> {
    let _one = LISTING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = Vec::new();
    let platforms = get_platforms().map_err(|e| failure("look for OpenCL", Call::Make, e))?;
    for (p, platform) in platforms.iter().enumerate() {
        let ids = match platform.get_devices(CL_DEVICE_TYPE_ALL) {
            Ok(ids) => ids,
            Err(e) if e.0 == DEVICE_NOT_FOUND => continue,
            Err(e) => return Err(failure("list a platform's OpenCL devices", Call::Make, e)),
        };
        for (d, &id) in ids.iter().enumerate() {
            all.push(describe(
                format!("opencl:{p}.{d}"),
                platform,
                Device::new(id),
            )?);
        }
    }
    Ok(all)
}

/// The device that `spec` names.
pub(crate) fn find(spec: &str) -> Result<Found> {
    let doing = || format!("open device '{spec}'");
    let place = match spec {
        "opencl" => "0",
        _ => spec.strip_prefix("opencl:").unwrap_or(""),
    };
    let number = |text: &str| text.parse::<usize>().ok();
    let (platform, device) = match place.split_once('.') {
        Some((platform, device)) => (number(platform).map(Some), number(device)),
        None => (Some(None), number(place)),
    };
    let (Some(platform), Some(device)) = (platform, device) else {
        return Err(Error::invalid(doing(), "it is no device of OpenCL")
            .next_step("write opencl:0, or opencl:PLATFORM.DEVICE"));
    };
    let all = devices()?;
    let found = match platform {
        None => all.get(device),
        Some(platform) => {
            let spec = format!("opencl:{platform}.{device}");
            all.iter().find(|found| found.spec == spec)
        }
    };
    found.cloned().ok_or_else(|| {
        let specs: Vec<&str> = all.iter().map(|found| found.spec.as_str()).collect();
        Error::new(
            ErrorKind::NotFound,
            doing(),
            format!("there are: {}", specs.join(", ")),
        )
        .next_step("`glm devices` lists what can be opened")
    })
}

fn describe(spec: String, platform: &Platform, device: Device) -> Result<Found> {
    let ask = |e| failure("describe an OpenCL device", Call::Make, e);
    let text = |text: String| text.trim_end_matches('\0').trim().to_string();
    let extensions = device.extensions().map_err(ask)?;
    let has = |name: &str| extensions.split_whitespace().any(|e| e == name);
    let floats = device.single_fp_config().map_err(ask)?;
    let mut numerics = Numerics::exact();
    if floats & CL_FP_DENORM == 0 {
        numerics.flushes = vec![DType::F32, DType::BF16];
    }
    let mut native_floats = vec![DType::F32];
    if has("cl_khr_fp16") {
        native_floats.push(DType::F16);
    }
    let sizes = device.max_work_item_sizes().map_err(ask)?;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let kind = device.dev_type().map_err(ask)?;
    let limits = Limits {
        max_group: device
            .max_work_group_size()
            .map_err(ask)?
            .min(sizes.first().copied().unwrap_or(1)),
        local_bytes: size(device.local_mem_size().map_err(ask)?),
        max_alloc_bytes: size(device.max_mem_alloc_size().map_err(ask)?),
        memory_bytes: size(device.global_mem_size().map_err(ask)?),
        wave: 1,
        parallelism: device.max_compute_units().map_err(ask)? as usize,
        wide_items: kind & CL_DEVICE_TYPE_CPU != 0,
    };
    let language = text(device.opencl_c_version().map_err(ask)?);
    let version = language.strip_prefix("OpenCL C ").unwrap_or("");
    let at_most = device.max_num_sub_groups().unwrap_or(0);
    let subgroups = match version.split('.').next() {
        _ if !has("cl_khr_subgroups") || at_most == 0 => None,
        Some("3") => Some("CL3.0"),
        Some("2") => Some("CL2.0"),
        _ => None,
    };
    Ok(Found {
        spec,
        name: text(device.name().map_err(ask)?),
        vendor: text(device.vendor().map_err(ask)?),
        platform: format!(
            "{} {}",
            text(platform.name().map_err(ask)?),
            text(platform.version().map_err(ask)?)
        ),
        driver: text(device.driver_version().map_err(ask)?),
        language,
        limits,
        numerics,
        native_floats,
        exact_division: floats & EXACT_DIVISION != 0,
        subgroups,
        device,
    })
}
