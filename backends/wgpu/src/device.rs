//! The device and its memory.

use std::sync::Arc;

use hal::{
    Buffer, DType, Device, DeviceId, DeviceInfo, Error, ErrorKind, Memory, MemoryInfo, Numerics,
    Result, Stream, View,
};

use crate::gpu::{Arithmetic, Gpu};
use crate::kernel::{Params, Slot, Text, bind};
use crate::stream::WgpuStream;

/// Sizes are multiples of this: of every copy's and every binding's alignment.
const ALIGN: usize = 256;

#[derive(Debug)]
pub(crate) struct WgpuDevice {
    info: DeviceInfo,
    gpu: Arc<Gpu>,
}

impl WgpuDevice {
    /// # Errors
    /// What the device reports when it is asked for the first time.
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let mut numerics = Numerics::exact();
        let found = probe(gpu)?;
        if gpu.arithmetic.get_or_init(|| found).flushes {
            // f16 becomes f32 numbers of the normal range; bf16 has the range of f32.
            numerics.flushes = vec![DType::F32, DType::BF16];
        }
        let adapter = &gpu.adapter;
        Ok(Self {
            info: DeviceInfo {
                id: gpu.id,
                spec: adapter.spec.clone(),
                name: adapter.name.clone(),
                detail: adapter.detail.clone(),
                // wgpu does not tell how many units there are; this is what surely works in parallel.
                parallelism: adapter.inner.get_info().subgroup_max_size.max(1) as usize,
                native_floats: vec![DType::F32],
                numerics,
                long_pages: false,
            },
            gpu: Arc::clone(gpu),
        })
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// wgpu tells neither how much there is nor what others use; what this process has of it is in
    /// [`Counts`](crate::Counts).
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

/// Asks the device what WGSL leaves to it.
fn probe(gpu: &Arc<Gpu>) -> Result<Arithmetic> {
    let slots = [Slot::words("out")];
    let body = include_str!("../kernels/probe.wgsl");
    let program = gpu.program(Text::new(gpu, "probe", body, &slots, &[]))?;
    let buffer = alloc(gpu, 12)?;
    let view = View::new(&buffer, DType::I32, &[3])?;
    let mut stream = WgpuStream::new(gpu);
    let small = |exponent| 2f32.powi(exponent);
    let params = Params::new()
        .float(small(-130))
        .float(1.0)
        .float(small(-100))
        .float(small(-30));
    stream.dispatch(&program, &[bind(gpu, &view)?], &params, 1)?;
    let mut found = [0u8; 12];
    stream.download(&mut found, &view)?;
    let products = [small(-130).to_le_bytes(); 2];
    Ok(Arithmetic {
        flushes: found[..8] != *products.as_flattened(),
        native_half: found[8..] == [0; 4],
    })
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
    gpu.counters.buffers.add();
    gpu.counters.bytes.more(bytes as u64);
    Ok(Buffer::new(WgpuMemory {
        gpu: Arc::clone(gpu),
        number: gpu.number(),
        bytes,
        buffer,
    }))
}

/// Device memory.
#[derive(Debug)]
pub(crate) struct WgpuMemory {
    gpu: Arc<Gpu>,
    pub(crate) number: u64,
    bytes: usize,
    pub(crate) buffer: wgpu::Buffer,
}

impl Memory for WgpuMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.gpu.id
    }
}

impl Drop for WgpuMemory {
    fn drop(&mut self) {
        self.gpu.groups.forget(self.number);
        self.gpu.counters.bytes.less(self.bytes as u64);
    }
}
