//! The device and its memory.

use std::sync::Arc;

use hal::{
    Buffer, DType, Device, DeviceId, DeviceInfo, Error, ErrorKind, Memory, MemoryInfo, Numerics,
    Result, Stream,
};

use crate::gpu::Gpu;
use crate::stream::WgpuStream;

/// Sizes are multiples of this: of every copy's and every binding's alignment.
const ALIGN: usize = 256;

#[derive(Debug)]
pub(crate) struct WgpuDevice {
    info: DeviceInfo,
    gpu: Arc<Gpu>,
}

impl WgpuDevice {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Self {
        let adapter = &gpu.adapter;
        Self {
            info: DeviceInfo {
                id: gpu.id,
                spec: adapter.spec.clone(),
                name: adapter.name.clone(),
                detail: adapter.detail.clone(),
                // wgpu does not tell how many units there are; this is what surely works in parallel.
                parallelism: adapter.inner.get_info().subgroup_max_size.max(1) as usize,
                native_floats: vec![DType::F32],
                numerics: Numerics::exact(),
            },
            gpu: Arc::clone(gpu),
        }
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// wgpu does not tell.
    fn memory(&self) -> Option<MemoryInfo> {
        None
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        alloc(&self.gpu, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.gpu.alive("make a stream")?;
        Ok(Box::new(WgpuStream::new(&self.gpu)))
    }
}

/// Memory of at least `bytes` bytes. Dropping it is safe at any time: wgpu keeps it while queued work uses it.
///
/// # Errors
/// `OutOfMemory`, `DeviceLost`.
pub(crate) fn alloc(gpu: &Arc<Gpu>, bytes: usize) -> Result<Buffer> {
    gpu.alive("allocate memory")?;
    let doing = || format!("allocate {bytes} B on {}", gpu.adapter.spec);
    let limit = gpu.limits.max_buffer_size;
    // One word more, so that a binding at the very end of the view is never empty.
    let padded = bytes
        .checked_add(4)
        .and_then(|n| n.checked_next_multiple_of(ALIGN))
        .map(|n| n as u64)
        .filter(|&n| n <= limit)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::OutOfMemory,
                doing(),
                format!("one buffer holds at most {limit} B (max_buffer_size)"),
            )
            .next_step("choose a smaller model, --dtype or context")
        })?;
    let descriptor = wgpu::BufferDescriptor {
        label: None,
        size: padded,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    };
    let buffer = gpu.catching(&doing(), || gpu.device.create_buffer(&descriptor))?;
    Ok(Buffer::new(WgpuMemory {
        device: gpu.id,
        bytes,
        buffer,
    }))
}

/// Device memory.
#[derive(Debug)]
pub(crate) struct WgpuMemory {
    device: DeviceId,
    bytes: usize,
    pub(crate) buffer: wgpu::Buffer,
}

impl Memory for WgpuMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}
