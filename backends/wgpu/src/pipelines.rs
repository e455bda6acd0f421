//! Compiled pipelines in the driver's own form, kept between runs (Vulkan; elsewhere the driver keeps its own, or none).

use std::path::{Path, PathBuf};

use hal::kept;
use wgpu::Features;

/// A device's cache of pipelines, and where it is kept.
#[derive(Debug)]
pub(crate) struct Pipelines {
    cache: wgpu::PipelineCache,
    place: PathBuf,
    /// What was in the file when the device was opened.
    found: Option<Vec<u8>>,
}

impl Pipelines {
    /// The cache of a device of this adapter, filled with what is kept in `folder`; `None` where there is no such thing.
    pub(crate) fn open(
        device: &wgpu::Device,
        info: &wgpu::AdapterInfo,
        folder: Option<&Path>,
    ) -> Option<Self> {
        if !device.features().contains(Features::PIPELINE_CACHE) {
            return None;
        }
        let key = wgpu::util::pipeline_cache_key(info)?;
        let name = kept::name([&*key, &info.name, &info.driver, &info.driver_info]);
        let place = folder?.join(kept::PIPELINES).join(name);
        let found = kept::read(&place);
        #[expect(unsafe_code, reason = "the driver reads bytes from a file")]
        // SAFETY: the file's checksum is right and its name holds adapter and driver, so `get_data` gave these bytes for
        // them, unless somebody who may write to the user's cache folder forged them; wgpu checks its own header too.
        let cache = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: None,
                data: found.as_deref(),
                fallback: true,
            })
        };
        Some(Self {
            cache,
            place,
            found,
        })
    }

    pub(crate) fn cache(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Keeps what is new.
    pub(crate) fn keep(&self) {
        let data = self.cache.get_data();
        if data.is_some() && data != self.found {
            // A cache that cannot be written is no reason to fail.
            let _ = kept::write(&self.place, &data.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::device::WgpuDevice;
    use crate::{Options, adapter};

    #[test]
    fn pipelines_are_kept_and_damaged_files_replaced() {
        let adapter = match adapter::find("wgpu") {
            Ok(adapter) => adapter,
            Err(e) => return conformance::skip("wgpu", e),
        };
        let folder = std::env::temp_dir().join(format!("glm-pipelines-{}", std::process::id()));
        // Opening compiles the probe's kernel.
        let open = || {
            let gpu = adapter.open_in(&Options::default(), Some(&folder)).unwrap();
            WgpuDevice::new(&gpu).unwrap();
            gpu.pipelines.is_some()
        };
        if !open() {
            return conformance::skip("wgpu", "this adapter's pipelines cannot be kept");
        }
        let file = || {
            let mut files = std::fs::read_dir(folder.join("pipelines")).unwrap();
            let file = files.next().unwrap().unwrap().path();
            assert!(files.next().is_none(), "one adapter, one file");
            file
        };
        let kept = std::fs::read(file()).unwrap();
        open();
        std::fs::write(file(), &kept[..kept.len() / 2]).unwrap();
        open();
        assert_eq!(std::fs::read(file()).unwrap().len(), kept.len());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
