//! The CPU as a device. Its streams work at once: when a call returns, the work is done.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hal::{
    Buffer, DType, Device, DeviceId, DeviceInfo, Error, Event, EventState, MemoryInfo, Numerics,
    Result, Stream, View, check_transfer,
};

use crate::isa::Isa;
use crate::memory::{CpuMemory, elements, elements_mut, memory_info};
use crate::pool::Pool;

/// What every kernel holds: the threads, the instruction set, and where to allocate packed weights.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) pool: Arc<Pool>,
    pub(crate) isa: Isa,
    /// [`Numerics::rounds_activations`].
    pub(crate) rounds_activations: bool,
    pub(crate) id: DeviceId,
}

#[derive(Debug)]
pub(crate) struct CpuDevice {
    info: DeviceInfo,
}

impl CpuDevice {
    pub(crate) fn new(cpu: &Cpu) -> Self {
        let mut native_floats = vec![DType::F32];
        let mut numerics = Numerics::exact();
        numerics.rounds_activations = cpu.rounds_activations;
        numerics.int8_cache = true;
        // Where bf16 is converted in registers, a model gains nothing by activations of it.
        if cpu.isa.has_bf16() {
            native_floats.push(DType::BF16);
            // The instructions for bf16 products (vdpbf16ps, tdpbf16ps, bfdot) treat numbers below the normal range as zero.
            numerics.flushes.push(DType::BF16);
        }
        numerics.rounds_probabilities = cpu.isa.has_pairs();
        Self {
            info: DeviceInfo {
                id: cpu.id,
                spec: "cpu".into(),
                name: cpu_name(),
                detail: match cpu.rounds_activations {
                    true => format!("{}, activations of eight bits", cpu.isa),
                    false => cpu.isa.to_string(),
                },
                parallelism: cpu.pool.threads(),
                native_floats,
                numerics,
                long_pages: cpu.isa.reads_long_pages(),
            },
        }
    }
}

/// The processor's own name for itself.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'));
    name.map_or_else(
        || std::env::consts::ARCH.to_string(),
        |(_, name)| name.trim().to_string(),
    )
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Option<MemoryInfo> {
        memory_info()
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        Ok(Buffer::new(CpuMemory::new(bytes, self.info.id)?))
    }

    fn alloc_zeroed(&self, bytes: usize, _stream: &mut dyn Stream) -> Result<Buffer> {
        self.alloc(bytes)
    }

    fn map(&self, file: &File, offset: u64, bytes: usize) -> Result<Option<Buffer>> {
        let memory = CpuMemory::map(file, offset, bytes, self.info.id)?;
        Ok(Some(Buffer::new(memory)))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CpuStream {
            device: self.info.id,
        }))
    }
}

#[derive(Debug)]
struct CpuStream {
    device: DeviceId,
}

impl CpuStream {
    fn check(&self, doing: &'static str, view: &View<'_>, host_bytes: usize) -> Result<()> {
        if view.buffer().device() != self.device {
            return Err(Error::invalid(
                doing,
                "the view lies on another device than the stream",
            ));
        }
        check_transfer(doing, view, host_bytes)
    }
}

impl Stream for CpuStream {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        self.check("upload", dst, src.len())?;
        // SAFETY: contiguous and on this device, as checked; streams order who writes.
        unsafe { elements_mut::<u8>(dst) }.copy_from_slice(src);
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        self.check("download", src, dst.len())?;
        // SAFETY: as above.
        dst.copy_from_slice(unsafe { elements::<u8>(src) });
        Ok(())
    }

    fn record(&mut self) -> Result<Event> {
        Ok(Event::new(CpuEvent(Instant::now())))
    }

    fn wait(&mut self, _event: &Event) -> Result<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct CpuEvent(Instant);

impl EventState for CpuEvent {
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn since(&self, earlier: &Event) -> Result<Duration> {
        let earlier = earlier.downcast::<CpuEvent>().ok_or_else(|| {
            Error::invalid("measure between events", "they are of different backends")
        })?;
        Ok(self.0.saturating_duration_since(earlier.0))
    }
}
