//! Device, memory, stream and event. REPLACE all four bodies; the shapes stay.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hal::{
    Buffer, DType, Device, DeviceId, DeviceInfo, Error, ErrorKind, Event, EventState, Memory,
    MemoryInfo, Numerics, Result, Stream, View, check_transfer,
};

#[derive(Debug)]
pub(crate) struct TemplateDevice {
    info: DeviceInfo,
}

impl TemplateDevice {
    pub(crate) fn new() -> Self {
        Self {
            info: DeviceInfo {
                id: DeviceId::new(),
                // REPLACE: what `--device` says, what the vendor calls it, driver and compiler versions.
                spec: "template".into(),
                name: "template".into(),
                detail: "host memory as a placeholder".into(),
                parallelism: 1,
                native_floats: vec![DType::F32],
                // REPLACE: the card of your chip's arithmetic; `glm conform` holds you to it.
                numerics: Numerics::exact(),
                long_pages: false,
            },
        }
    }
}

impl Device for TemplateDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Option<MemoryInfo> {
        None // REPLACE: ask the driver, or leave it if it does not tell.
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        // REPLACE: the driver's allocation.
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|e| {
            let doing = format!("allocate {bytes} B on the template");
            Error::new(ErrorKind::OutOfMemory, doing, e.to_string())
                .next_step("choose a smaller model, --dtype or context")
        })?;
        data.resize(bytes, 0);
        Ok(Buffer::new(TemplateMemory {
            device: self.info.id,
            bytes,
            data: Mutex::new(data),
        }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(TemplateStream {
            device: self.info.id,
        }))
    }
}

/// REPLACE: the driver's handle. Its `Drop` frees; if work may still use it, the free is delayed until that is done.
#[derive(Debug)]
pub(crate) struct TemplateMemory {
    device: DeviceId,
    bytes: usize,
    data: Mutex<Vec<u8>>,
}

impl Memory for TemplateMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}

/// The memory under a view of this back end.
pub(crate) fn memory_of<'a>(doing: &str, view: &View<'a>) -> Result<&'a TemplateMemory> {
    view.buffer()
        .downcast()
        .ok_or_else(|| Error::invalid(doing, "the view lies on another device than the stream"))
}

/// The placeholder's bytes. REPLACE: goes away, for the host does not touch a chip's memory.
pub(crate) fn access(memory: &TemplateMemory) -> MutexGuard<'_, Vec<u8>> {
    memory.data.lock().unwrap_or_else(PoisonError::into_inner)
}

/// REPLACE: the driver's queue. In order; `upload` and `download` may wait, nothing else must.
#[derive(Debug)]
struct TemplateStream {
    device: DeviceId,
}

impl TemplateStream {
    fn memory<'a>(&self, doing: &'static str, view: &View<'a>) -> Result<&'a TemplateMemory> {
        let memory = memory_of(doing, view)?;
        match memory.device == self.device {
            true => Ok(memory),
            false => Err(Error::invalid(
                doing,
                "the view lies on another device than the stream",
            )),
        }
    }
}

impl Stream for TemplateStream {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        check_transfer("upload", dst, src.len())?;
        access(self.memory("upload", dst)?)[dst.range_bytes()].copy_from_slice(src);
        Ok(())
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        check_transfer("download", src, dst.len())?;
        dst.copy_from_slice(&access(self.memory("download", src)?)[src.range_bytes()]);
        Ok(())
    }

    fn record(&mut self) -> Result<Event> {
        Ok(Event::new(TemplateEvent {
            device: self.device,
            at: Instant::now(),
        }))
    }

    fn wait(&mut self, event: &Event) -> Result<()> {
        // REPLACE: let the queue wait on the chip. Here everything has passed when a call returns.
        match event.downcast::<TemplateEvent>() {
            Some(event) if event.device == self.device => Ok(()),
            _ => Err(Error::invalid(
                "wait for an event",
                "it is of another device",
            )),
        }
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(()) // REPLACE: wait for the queue.
    }

    // REPLACE, if the chip has graphs: begin_capture and end_capture. Without them a capture is Unsupported.
}

#[derive(Debug)]
struct TemplateEvent {
    device: DeviceId,
    at: Instant,
}

impl EventState for TemplateEvent {
    fn synchronize(&self) -> Result<()> {
        Ok(()) // REPLACE: wait on the host until the mark has passed.
    }

    fn since(&self, earlier: &Event) -> Result<Duration> {
        // REPLACE: the chip's own clock.
        match earlier.downcast::<TemplateEvent>() {
            Some(earlier) if earlier.device == self.device => {
                Ok(self.at.saturating_duration_since(earlier.at))
            }
            _ => Err(Error::invalid(
                "measure between events",
                "they are of different devices",
            )),
        }
    }
}
