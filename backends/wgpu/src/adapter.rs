//! Adapters: what wgpu finds on this machine, in order of preference, and how one is opened.

use std::path::Path;
use std::sync::Arc;

use hal::{Error, ErrorKind, Result};
use wgpu::{Backend, Backends, DeviceType, Features};

use crate::Options;
use crate::gpu::Gpu;

/// Storage buffers that the widest kernel binds: attention with prefixes.
const STORAGE_BUFFERS: u32 = 8;

/// One adapter of this machine.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What opens it: `wgpu:vulkan:0`.
    pub spec: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: &'static str,
    /// The vendor's name of it.
    pub name: String,
    /// Kind of device, driver, and the features that kernels use.
    pub detail: String,
    /// The largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// The largest part of a buffer that one kernel can see, in bytes.
    pub max_binding_bytes: u64,
    pub(crate) inner: wgpu::Adapter,
}

/// Every adapter that can compute: discrete GPUs first, software last; one device may appear under two back ends.
///
/// # Errors
/// `NotFound` when there is none.
pub fn devices() -> Result<Vec<Adapter>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: Backends::PRIMARY | Backends::SECONDARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut found = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    found.retain(|adapter| lacks(adapter).is_none());
    if found.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            "find a wgpu adapter",
            "no Vulkan, Metal, DX12 or OpenGL device that computes",
        )
        .next_step(
            "install the GPU vendor's driver, or a software one: on Debian `apt-get install libvulkan1 \
             mesa-vulkan-drivers`",
        ));
    }
    found.sort_by_key(|adapter| {
        let info = adapter.get_info();
        (info.backend == Backend::Gl, rank(info.device_type))
    });
    let mut adapters: Vec<Adapter> = Vec::new();
    for inner in found {
        let backend = backend_name(inner.get_info().backend);
        let n = adapters.iter().filter(|a| a.backend == backend).count();
        adapters.push(Adapter::new(inner, backend, n));
    }
    Ok(adapters)
}

/// What an adapter is missing to run the kernels.
fn lacks(adapter: &wgpu::Adapter) -> Option<&'static str> {
    let flags = adapter.get_downlevel_capabilities().flags;
    let limits = adapter.limits();
    if !flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS) {
        return Some("compute shaders");
    }
    (limits.max_storage_buffers_per_shader_stage < STORAGE_BUFFERS
        || limits.max_compute_invocations_per_workgroup < crate::kernel::WORKGROUP)
        .then_some("storage buffers or invocations")
}

fn rank(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Vulkan => "vulkan",
        Backend::Metal => "metal",
        Backend::Dx12 => "dx12",
        Backend::Gl => "gl",
        _ => "other",
    }
}

/// The adapter that `spec` names.
pub(crate) fn find(spec: &str) -> Result<Adapter> {
    let doing = format!("open device '{spec}'");
    let wrong = |why: &str| {
        Err(Error::invalid(doing.clone(), why).next_step("write wgpu, wgpu:1 or wgpu:vulkan:0"))
    };
    let mut parts = spec.split(':');
    if parts.next() != Some("wgpu") {
        return wrong("the spec does not start with wgpu");
    }
    let parts: Vec<&str> = parts.collect();
    let (backend, number) = match parts[..] {
        [] => (None, "0"),
        [number] if number.bytes().all(|b| b.is_ascii_digit()) => (None, number),
        [backend] => (Some(backend), "0"),
        [backend, number] => (Some(backend), number),
        _ => return wrong("too many parts"),
    };
    let Ok(number) = number.parse::<usize>() else {
        return wrong("the last part is not a number");
    };
    if let Some(name) = backend
        && !["vulkan", "metal", "dx12", "gl"].contains(&name)
    {
        return wrong("the back ends are vulkan, metal, dx12 and gl");
    }
    let all = devices()?;
    let names: Vec<String> = all
        .iter()
        .map(|a| format!("{} ({})", a.spec, a.name))
        .collect();
    let mut matching = all
        .into_iter()
        .filter(|a| backend.is_none_or(|b| b == a.backend));
    matching.nth(number).ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            doing,
            format!("the adapters are {}", names.join(", ")),
        )
        .next_step("choose one of them")
    })
}

impl Adapter {
    fn new(inner: wgpu::Adapter, backend: &'static str, number: usize) -> Self {
        let (info, limits) = (inner.get_info(), inner.limits());
        let used = used_features(&inner, &Options::default());
        let mut notes = vec![format!("{:?}", info.device_type)];
        let driver = [info.driver, info.driver_info];
        let driver: Vec<&str> = driver.iter().map(|s| s.trim()).collect();
        notes.push(driver.join(" ").trim().into());
        if used.contains(Features::SUBGROUP) {
            let (min, max) = (info.subgroup_min_size, info.subgroup_max_size);
            notes.push(format!("sub-groups of {min} to {max}"));
        }
        for (feature, what) in [
            (Features::IMMEDIATES, "immediates"),
            (Features::TIMESTAMP_QUERY_INSIDE_ENCODERS, "timestamps"),
            (Features::PIPELINE_CACHE, "kept pipelines"),
        ] {
            if used.contains(feature) {
                notes.push(what.into());
            }
        }
        let detail = notes.join(", ");
        Self {
            spec: format!("wgpu:{backend}:{number}"),
            backend,
            name: info.name,
            detail,
            max_buffer_bytes: limits.max_buffer_size,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            inner,
        }
    }

    /// What wgpu knows of it.
    pub(crate) fn info(&self) -> wgpu::AdapterInfo {
        self.inner.get_info()
    }

    /// Opens it.
    pub(crate) fn open(&self, options: &Options) -> Result<Arc<Gpu>> {
        self.open_in(options, hal::kept::folder().as_deref())
    }

    /// Opens it, with what is kept between runs in `folder`.
    pub(crate) fn open_in(&self, options: &Options, folder: Option<&Path>) -> Result<Arc<Gpu>> {
        let features = used_features(&self.inner, options);
        let mut limits = self.inner.limits();
        if let Some(bytes) = options.max_binding_bytes {
            limits.max_storage_buffer_binding_size =
                limits.max_storage_buffer_binding_size.min(bytes);
        }
        if let Some(bytes) = options.max_workgroup_bytes {
            limits.max_compute_workgroup_storage_size =
                limits.max_compute_workgroup_storage_size.min(bytes);
        }
        let request = self.inner.request_device(&wgpu::DeviceDescriptor {
            label: None,
            required_features: features,
            required_limits: limits,
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(request).map_err(|e| {
            Error::new(
                ErrorKind::Unexpected,
                format!("open device '{}'", self.spec),
                "the driver refused",
            )
            .with_source(e)
        })?;
        Ok(Gpu::new(self, device, queue, features, folder))
    }
}

/// The features that this crate uses, of those that the adapter has.
fn used_features(adapter: &wgpu::Adapter, options: &Options) -> Features {
    let mut wanted = Features::TIMESTAMP_QUERY
        | Features::TIMESTAMP_QUERY_INSIDE_ENCODERS
        | Features::PIPELINE_CACHE;
    if options.subgroups {
        wanted |= Features::SUBGROUP;
    }
    if options.immediates {
        wanted |= Features::IMMEDIATES;
    }
    let mut has = adapter.features() & wanted;
    if has.contains(Features::IMMEDIATES)
        && (adapter.limits().max_immediate_size as usize) < crate::kernel::PARAMS_BYTES
    {
        has.remove(Features::IMMEDIATES);
    }
    has
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_that_cannot_be_read_are_refused() {
        for spec in [
            "",
            "cuda:0",
            "wgpu:x:0",
            "wgpu:vulkan:x",
            "wgpu:vulkan:0:1",
            "wgpu:",
        ] {
            let kind = find(spec).map_err(|e| e.kind()).err();
            assert_eq!(kind, Some(ErrorKind::InvalidArgument), "{spec}");
        }
    }

    #[test]
    fn a_number_too_large_is_not_found() {
        for spec in ["wgpu:1000", "wgpu:gl:1000"] {
            let error = find(spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.next().is_some());
        }
    }
}
