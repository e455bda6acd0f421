//! `hal`'s device, streams and events over a driver.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hal::{
    Buffer, Device, DeviceId, DeviceInfo, Error, ErrorKind, Event, EventState, Graph, GraphState,
    Memory, MemoryInfo, Result, Stream, View, check_transfer,
};

use crate::Options;
use crate::driver::{Recorded, SimtDriver};
use crate::program::Programs;

/// What device, memory, streams and kernels share.
#[derive(Debug)]
pub struct Chip<D: SimtDriver> {
    pub(crate) driver: D,
    pub(crate) programs: Programs<D>,
    /// Where programs and what was tuned are kept.
    pub(crate) folder: Option<PathBuf>,
    info: DeviceInfo,
    used_bytes: AtomicUsize,
}

impl<D: SimtDriver> Chip<D> {
    pub(crate) fn new(driver: D, options: Options) -> Self {
        let folder = options.folder.or_else(hal::kept::folder);
        let facts = driver.facts();
        let info = DeviceInfo {
            id: DeviceId::new(),
            spec: facts.spec.clone(),
            name: facts.name.clone(),
            detail: facts.detail.clone(),
            parallelism: driver.limits().parallelism.max(1),
            native_floats: facts.native_floats.clone(),
            numerics: facts.numerics.clone(),
            long_pages: false,
        };
        Self {
            programs: Programs::new(
                folder
                    .as_ref()
                    .map(|folder| folder.join(hal::kept::PROGRAMS)),
                options.on_compile,
            ),
            folder,
            info,
            used_bytes: AtomicUsize::new(0),
            driver,
        }
    }

    /// Its driver.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// It, as the rest of the workspace sees it.
    pub fn device(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(SimtDevice(Arc::clone(self)))
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.info.id
    }

    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let limits = self.driver.limits();
        let fail = |why: String| {
            let doing = format!("allocate {bytes} B on {}", self.info.spec);
            Error::new(ErrorKind::OutOfMemory, doing, why)
                .next_step("choose a smaller model, --dtype or context")
        };
        if bytes > limits.max_alloc_bytes {
            let most = limits.max_alloc_bytes;
            return Err(fail(format!("one allocation may have {most} B")));
        }
        let total = limits.memory_bytes;
        let take = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= total);
        self.used_bytes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .map_err(|used| fail(format!("{used} of {total} B are in use")))?;
        // Runtimes refuse memory of no bytes, but a kernel may be given a view of it.
        match self.driver.alloc(bytes.max(1)) {
            Ok(memory) => Ok(Buffer::new(SimtMemory {
                chip: Arc::clone(self),
                bytes,
                memory,
            })),
            Err(e) => {
                self.used_bytes.fetch_sub(bytes, Ordering::SeqCst);
                Err(e)
            }
        }
    }

    pub(crate) fn stream(self: &Arc<Self>) -> Result<SimtStream<D>> {
        Ok(SimtStream {
            queue: self.driver.queue()?,
            chip: Arc::clone(self),
            capturing: false,
        })
    }

    fn memory_of<'a>(&self, doing: &'static str, buffer: &'a Buffer) -> Result<&'a SimtMemory<D>> {
        buffer
            .downcast::<SimtMemory<D>>()
            .filter(|memory| memory.device() == self.id())
            .ok_or_else(|| Error::invalid(doing, "the view lies on another device than the stream"))
    }
}

/// The device as the rest of the workspace sees it.
#[derive(Debug)]
pub(crate) struct SimtDevice<D: SimtDriver>(pub(crate) Arc<Chip<D>>);

impl<D: SimtDriver> Device for SimtDevice<D> {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn memory(&self) -> Option<MemoryInfo> {
        let total_bytes = self.0.driver.limits().memory_bytes;
        let used = self.0.used_bytes.load(Ordering::SeqCst);
        Some(MemoryInfo {
            total_bytes,
            free_bytes: total_bytes.saturating_sub(used),
        })
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        self.0.alloc(bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(self.0.stream()?))
    }
}

/// A buffer.
#[derive(Debug)]
pub(crate) struct SimtMemory<D: SimtDriver> {
    chip: Arc<Chip<D>>,
    bytes: usize,
    pub(crate) memory: D::Memory,
}

impl<D: SimtDriver> Memory for SimtMemory<D> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.chip.id()
    }
}

impl<D: SimtDriver> Drop for SimtMemory<D> {
    fn drop(&mut self) {
        self.chip.used_bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// An in-order queue.
#[derive(Debug)]
pub(crate) struct SimtStream<D: SimtDriver> {
    pub(crate) chip: Arc<Chip<D>>,
    pub(crate) queue: D::Queue,
    capturing: bool,
}

impl<D: SimtDriver> SimtStream<D> {
    /// Refuses what a capture cannot hold.
    fn not_in_capture(&self, doing: &'static str) -> Result<()> {
        match self.capturing {
            true => Err(Error::invalid(doing, "the stream is in a capture")
                .next_step("end the capture first")),
            false => Ok(()),
        }
    }
}

impl<D: SimtDriver> Stream for SimtStream<D> {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        self.not_in_capture("upload")?;
        check_transfer("upload", dst, src.len())?;
        let memory = self.chip.memory_of("upload", dst.buffer())?;
        if src.is_empty() {
            return Ok(());
        }
        let (driver, memory) = (&self.chip.driver, &memory.memory);
        driver.upload(&mut self.queue, memory, dst.offset_bytes(), src)
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        self.not_in_capture("download")?;
        check_transfer("download", src, dst.len())?;
        let memory = self.chip.memory_of("download", src.buffer())?;
        if dst.is_empty() {
            return Ok(());
        }
        let (driver, memory) = (&self.chip.driver, &memory.memory);
        driver.download(&mut self.queue, dst, memory, src.offset_bytes())
    }

    fn record(&mut self) -> Result<Event> {
        self.not_in_capture("record an event")?;
        Ok(Event::new(SimtEvent {
            mark: self.chip.driver.record(&mut self.queue)?,
            chip: Arc::clone(&self.chip),
        }))
    }

    fn wait(&mut self, event: &Event) -> Result<()> {
        self.not_in_capture("wait for an event")?;
        let event = event
            .downcast::<SimtEvent<D>>()
            .filter(|event| event.chip.id() == self.chip.id())
            .ok_or_else(|| Error::invalid("wait for an event", "it is of another device"))?;
        self.chip.driver.wait(&mut self.queue, &event.mark)
    }

    fn synchronize(&mut self) -> Result<()> {
        self.not_in_capture("synchronize")?;
        self.chip.driver.synchronize(&mut self.queue)
    }

    fn begin_capture(&mut self) -> Result<()> {
        self.not_in_capture("begin a capture")?;
        self.chip.driver.begin_capture(&mut self.queue)?;
        self.capturing = true;
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph> {
        if !std::mem::take(&mut self.capturing) {
            return Err(Error::invalid("end a capture", "none has begun")
                .next_step("call begin_capture first"));
        }
        Ok(Graph::new(SimtGraph {
            recorded: self.chip.driver.end_capture(&mut self.queue)?,
            chip: Arc::clone(&self.chip),
        }))
    }
}

#[derive(Debug)]
struct SimtGraph<D: SimtDriver> {
    recorded: Box<dyn Recorded<D>>,
    chip: Arc<Chip<D>>,
}

impl<D: SimtDriver> GraphState for SimtGraph<D> {
    fn launch(&self, stream: &mut dyn Stream) -> Result<()> {
        const DOING: &str = "launch a graph";
        let stream = stream
            .downcast::<SimtStream<D>>()
            .filter(|stream| stream.chip.id() == self.chip.id())
            .ok_or_else(|| Error::invalid(DOING, "the stream is of another device"))?;
        stream.not_in_capture(DOING)?;
        self.recorded.launch(&self.chip.driver, &mut stream.queue)
    }
}

#[derive(Debug)]
struct SimtEvent<D: SimtDriver> {
    chip: Arc<Chip<D>>,
    mark: D::Mark,
}

impl<D: SimtDriver> EventState for SimtEvent<D> {
    fn synchronize(&self) -> Result<()> {
        self.chip.driver.finish(&self.mark)
    }

    fn since(&self, earlier: &Event) -> Result<Duration> {
        const DOING: &str = "measure between events";
        let earlier = earlier
            .downcast::<SimtEvent<D>>()
            .filter(|event| event.chip.id() == self.chip.id())
            .ok_or_else(|| Error::invalid(DOING, "they are of different devices"))?;
        let driver = &self.chip.driver;
        driver
            .elapsed(&earlier.mark, &self.mark)?
            .ok_or_else(|| Error::invalid(DOING, "one of them has not passed"))
    }
}
