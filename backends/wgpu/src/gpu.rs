//! What device, memory, streams and kernels share: the wgpu device, its losses and failures, its pipelines.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hal::{DeviceId, Error, ErrorKind, Result};
use wgpu::{ErrorFilter, Features};

use crate::Adapter;
use crate::counters::Counters;
use crate::groups::Groups;
use crate::kernel::{Program, Text};
use crate::pipelines::Pipelines;

/// An open wgpu device.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) id: DeviceId,
    pub(crate) adapter: Adapter,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) features: Features,
    pub(crate) limits: wgpu::Limits,
    faults: Arc<Faults>,
    /// Programs that were compiled, by their text.
    programs: Mutex<HashMap<Text, Arc<Program>>>,
    layouts: Mutex<HashMap<Vec<bool>, wgpu::BindGroupLayout>>,
    pub(crate) pipelines: Option<Pipelines>,
    pub(crate) groups: Groups,
    /// The last buffer's number.
    buffers: AtomicU64,
    pub(crate) counters: Arc<Counters>,
    /// What a probe found when the device was opened.
    pub(crate) arithmetic: OnceLock<Arithmetic>,
    /// Writes single bytes, see `stream`.
    pub(crate) patch: OnceLock<Arc<Program>>,
}

/// What WGSL leaves to the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arithmetic {
    /// Products lose numbers below 2⁻¹²⁶.
    pub(crate) flushes: bool,
    /// Its own conversion of f16 to f32 is exact for every number.
    pub(crate) native_half: bool,
}

/// What wgpu's callbacks leave behind.
#[derive(Debug, Default)]
struct Faults {
    lost: AtomicBool,
    why_lost: Mutex<String>,
    failed: Mutex<Option<Error>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    pub(crate) fn new(
        adapter: &Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        features: Features,
        folder: Option<&Path>,
    ) -> Arc<Self> {
        let faults = Arc::new(Faults::default());
        let on_lost = Arc::clone(&faults);
        device.set_device_lost_callback(move |reason, message| {
            *lock(&on_lost.why_lost) = format!("{reason:?}: {message}");
            on_lost.lost.store(true, Ordering::SeqCst);
        });
        let on_error = Arc::clone(&faults);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&on_error.failed).get_or_insert(translate("run queued work", e));
        }));
        Arc::new(Self {
            id: DeviceId::new(),
            adapter: adapter.clone(),
            limits: device.limits(),
            pipelines: Pipelines::open(&device, &adapter.info(), folder),
            device,
            queue,
            features,
            faults,
            programs: Mutex::default(),
            layouts: Mutex::default(),
            groups: Groups::default(),
            buffers: AtomicU64::new(0),
            counters: Arc::default(),
            arithmetic: OnceLock::new(),
            patch: OnceLock::new(),
        })
    }

    /// A number that no other buffer of this device has.
    pub(crate) fn number(&self) -> u64 {
        self.buffers.fetch_add(1, Ordering::Relaxed)
    }

    /// `DeviceLost` once the device is; then whatever queued work failed with, once.
    pub(crate) fn alive(&self, doing: &'static str) -> Result<()> {
        if self.faults.lost.load(Ordering::SeqCst) {
            let why = lock(&self.faults.why_lost).clone();
            return Err(Error::new(ErrorKind::DeviceLost, doing, why).next_step(
                "open the device again; the system log may say why the driver gave up",
            ));
        }
        match lock(&self.faults.failed).take() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// What `f` gives, or the error that wgpu raised meanwhile.
    pub(crate) fn catching<T>(&self, doing: &str, f: impl FnOnce() -> T) -> Result<T> {
        let scopes = [
            ErrorFilter::Internal,
            ErrorFilter::Validation,
            ErrorFilter::OutOfMemory,
        ]
        .map(|filter| self.device.push_error_scope(filter));
        let made = f();
        let mut raised = None;
        for scope in scopes.into_iter().rev() {
            raised = raised.or(pollster::block_on(scope.pop()));
        }
        match raised {
            Some(e) => Err(translate(doing, e)),
            None => Ok(made),
        }
    }

    /// The compiled program of this text.
    ///
    /// # Errors
    /// `CompileFailed`, `DeviceLost`.
    pub(crate) fn program(&self, text: Text) -> Result<Arc<Program>> {
        self.alive("compile a kernel")?;
        let mut programs = lock(&self.programs);
        if let Some(program) = programs.get(&text) {
            return Ok(Arc::clone(program));
        }
        let program = Arc::new(Program::compile(self, &text)?);
        programs.insert(text, Arc::clone(&program));
        Ok(program)
    }

    /// The layout of bindings that are read-only or not.
    pub(crate) fn layout(&self, read_only: &[bool], uniform: bool) -> wgpu::BindGroupLayout {
        let mut key = read_only.to_vec();
        key.push(uniform);
        let make = || {
            let entry = |i: usize, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset,
                    min_binding_size: None,
                },
                count: None,
            };
            let mut entries: Vec<_> = read_only
                .iter()
                .enumerate()
                .map(|(i, &read_only)| {
                    entry(i, wgpu::BufferBindingType::Storage { read_only }, false)
                })
                .collect();
            if uniform {
                entries.push(entry(
                    read_only.len(),
                    wgpu::BufferBindingType::Uniform,
                    true,
                ));
            }
            self.device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                    label: None,
                    entries: &entries,
                })
        };
        lock(&self.layouts).entry(key).or_insert_with(make).clone()
    }

    /// How many rows of so many bytes one binding surely holds; at least one.
    pub(crate) fn binding_rows(&self, row_bytes: usize) -> usize {
        // The start of a binding may lie an alignment before its view, its end a few words behind.
        let margin = 2 * self.limits.min_storage_buffer_offset_alignment as usize;
        let bytes = self.limits.max_storage_buffer_binding_size as usize - margin;
        (bytes / row_bytes.max(1)).max(1)
    }

    /// Whether kernels may use the device's own conversion of f16.
    pub(crate) fn native_half(&self) -> bool {
        self.arithmetic.get().is_some_and(|found| found.native_half)
    }

    /// Whether parameters travel as immediates.
    pub(crate) fn immediates(&self) -> bool {
        self.features.contains(Features::IMMEDIATES)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if let Some(pipelines) = &self.pipelines
            && !self.faults.lost.load(Ordering::SeqCst)
        {
            pipelines.keep();
        }
    }
}

/// wgpu's error as ours.
fn translate(doing: &str, e: wgpu::Error) -> Error {
    let (kind, detail) = match &e {
        wgpu::Error::OutOfMemory { .. } => {
            (ErrorKind::OutOfMemory, "the driver has no more".to_owned())
        }
        other => (ErrorKind::Unexpected, other.to_string()),
    };
    Error::new(kind, doing, detail).with_source(e)
}

#[cfg(test)]
mod tests {
    use hal::{DType, Device, View};

    use super::*;
    use crate::device::WgpuDevice;

    #[test]
    fn a_dropped_buffer_leaves_no_bind_group() {
        let gpu = match crate::adapter::find("wgpu") {
            Ok(adapter) => adapter.open(&crate::Options::default()).unwrap(),
            Err(e) => return conformance::skip("wgpu", e),
        };
        // The probe launches a kernel on a buffer of its own.
        let device = WgpuDevice::new(&gpu).unwrap();
        let counts = gpu.counters.now();
        assert_eq!((counts.launches, counts.bind_groups), (1, 1));
        assert_eq!((gpu.groups.len(), counts.bytes_in_use), (0, 0));
        let buffer = device.alloc(16).unwrap();
        let view = View::at(&buffer, 1, DType::U8, &[2]).unwrap();
        let mut stream = device.stream().unwrap();
        for round in 0..3 {
            // Bytes that are no whole words are patched by a kernel.
            stream.upload(&view, &[round, 9]).unwrap();
            let mut got = [0; 2];
            stream.download(&mut got, &view).unwrap();
            assert_eq!(got, [round, 9]);
            let counts = gpu.counters.now();
            assert_eq!(
                (counts.launches, counts.bind_groups),
                (2 + u64::from(round), 2)
            );
        }
        assert_eq!((gpu.groups.len(), gpu.counters.now().bytes_in_use), (1, 16));
        drop(buffer);
        assert_eq!((gpu.groups.len(), gpu.counters.now().bytes_in_use), (0, 0));
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let gpu = match crate::adapter::find("wgpu") {
            Ok(adapter) => adapter.open(&crate::Options::default()).unwrap(),
            Err(e) => return conformance::skip("wgpu", e),
        };
        let device = WgpuDevice::new(&gpu).unwrap();
        let buffer = device.alloc(16).unwrap();
        let view = View::new(&buffer, DType::U8, &[16]).unwrap();
        let mut stream = device.stream().unwrap();
        stream.upload(&view, &[1; 16]).unwrap();
        gpu.device.destroy();
        // The loss is told to whoever polls.
        let _ = gpu.device.poll(wgpu::PollType::Poll);
        let lost = |result: Result<()>| result.map_err(|e| e.kind()) == Err(ErrorKind::DeviceLost);
        assert!(lost(stream.download(&mut [0; 16], &view)));
        assert!(lost(stream.upload(&view, &[0; 16])));
        assert!(lost(stream.synchronize()));
        assert!(lost(stream.record().map(drop)));
        assert!(lost(device.alloc(16).map(drop)));
        assert!(lost(device.stream().map(drop)));
    }
}
