//! The CPU, with memory as a test wants it.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{Buffer, Device, DeviceInfo, MemoryInfo, Result, Stream};
use ops::{Accelerator, Context};

/// A device that counts allocations and says how much memory is free.
#[derive(Debug)]
pub struct Watched {
    device: Arc<dyn Device>,
    free_bytes: usize,
    allocations: AtomicUsize,
}

impl Watched {
    /// So far.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }
}

impl Device for Watched {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn memory(&self) -> Option<MemoryInfo> {
        Some(MemoryInfo {
            total_bytes: self.free_bytes,
            free_bytes: self.free_bytes,
        })
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.device.alloc(bytes)
    }

    fn map(&self, file: &File, offset: u64, bytes: usize) -> Result<Option<Buffer>> {
        self.device.map(file, offset, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.device.stream()
    }
}

/// The CPU with so much free memory, and the device that counts.
pub fn watched(free_bytes: usize) -> (Context, Arc<Watched>) {
    let cpu = backend_cpu::open(&backend_cpu::Options::default()).unwrap();
    let device = Arc::new(Watched {
        device: cpu.device.clone(),
        free_bytes,
        allocations: AtomicUsize::new(0),
    });
    let accelerator = Accelerator {
        device: device.clone(),
        ops: cpu.ops,
    };
    (Context::new(accelerator), device)
}
