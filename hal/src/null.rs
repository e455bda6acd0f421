//! A device without memory or arithmetic: it accepts everything and computes nothing.
//!
//! For wiring tests and for measuring what the layers above cost by themselves.
//! Uploads are dropped, downloads give zeros.

use std::time::Duration;

use crate::{
    Buffer, Device, DeviceId, DeviceInfo, Event, EventState, Memory, MemoryInfo, Numerics, Result,
    Stream, View, check_transfer,
};

/// The null device.
#[derive(Debug)]
pub struct NullDevice {
    info: DeviceInfo,
}

impl NullDevice {
    /// A new null device; each has an identity of its own.
    #[expect(clippy::new_without_default, reason = "each call gives another device")]
    pub fn new() -> Self {
        Self {
            info: DeviceInfo {
                id: DeviceId::new(),
                spec: "null".into(),
                name: "null device".into(),
                detail: "computes nothing".into(),
                parallelism: 1,
                native_floats: Vec::new(),
                numerics: Numerics::exact(),
                long_pages: false,
            },
        }
    }
}

impl Device for NullDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Option<MemoryInfo> {
        None
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        Ok(Buffer::new(NullMemory {
            bytes,
            device: self.info.id,
        }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(NullStream))
    }
}

#[derive(Debug)]
struct NullMemory {
    bytes: usize,
    device: DeviceId,
}

impl Memory for NullMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}

#[derive(Debug)]
struct NullStream;

impl Stream for NullStream {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        check_transfer("upload", dst, src.len())
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        check_transfer("download", src, dst.len())?;
        dst.fill(0);
        Ok(())
    }

    fn record(&mut self) -> Result<Event> {
        Ok(Event::new(NullEvent))
    }

    fn wait(&mut self, _event: &Event) -> Result<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct NullEvent;

impl EventState for NullEvent {
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn since(&self, _earlier: &Event) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
}
