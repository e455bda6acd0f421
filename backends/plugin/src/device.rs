//! `hal`'s device, memory, streams, events and graphs over the table.

use std::sync::Arc;
use std::time::Duration;

use hal::{
    Buffer, Device, DeviceId, DeviceInfo, Error, Event, EventState, Graph, GraphState, Memory,
    MemoryInfo, Result, Stream, View, check_transfer,
};

use crate::abi::RawMemory;
use crate::chip::{Chip, Object};
use crate::launch::PlanHandle;

#[derive(Debug)]
pub(crate) struct PluginDevice(pub(crate) Arc<Chip>);

impl Device for PluginDevice {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn memory(&self) -> Option<MemoryInfo> {
        let memory = self.0.table.device_memory?;
        let mut raw = RawMemory {
            struct_size: size_of::<RawMemory>() as u32,
            reserved: 0,
            total_bytes: 0,
            free_bytes: 0,
        };
        let asked = self.0.call("ask for memory", "device_memory", |error| {
            // SAFETY: an open device, and places to write to.
            unsafe { memory(self.0.device.0, &mut raw, error) }
        });
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        asked.ok().map(|()| MemoryInfo {
            total_bytes: size(raw.total_bytes),
            free_bytes: size(raw.free_bytes),
        })
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let doing = format!("allocate {bytes} B on {}", self.0.info.spec);
        let object = self.0.make(&doing, "buffer_alloc", |buffer, error| {
            // SAFETY: an open device, and places to write to.
            unsafe { (self.0.table.buffer_alloc)(self.0.device.0, bytes as u64, buffer, error) }
        })?;
        Ok(Buffer::new(PluginMemory {
            chip: Arc::clone(&self.0),
            object,
            bytes,
        }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let object = self
            .0
            .make("open a stream", "stream_open", |stream, error| {
                // SAFETY: an open device, and places to write to.
                unsafe { (self.0.table.stream_open)(self.0.device.0, stream, error) }
            })?;
        Ok(Box::new(PluginStream {
            chip: Arc::clone(&self.0),
            object,
            recorded: None,
        }))
    }
}

#[derive(Debug)]
pub(crate) struct PluginMemory {
    pub(crate) chip: Arc<Chip>,
    pub(crate) object: Object,
    pub(crate) bytes: usize,
}

impl Memory for PluginMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.chip.id()
    }
}

impl Drop for PluginMemory {
    fn drop(&mut self) {
        // SAFETY: freed once; the plugin delays it until queued work is done.
        unsafe { (self.chip.table.buffer_free)(self.chip.device.0, self.object.0) }
    }
}

impl Chip {
    /// The plugin's object under a buffer of this device.
    pub(crate) fn object_of(&self, doing: &str, buffer: &Buffer) -> Result<Object> {
        buffer
            .downcast::<PluginMemory>()
            .filter(|memory| memory.device() == self.id())
            .map(|memory| memory.object)
            .ok_or_else(|| Error::invalid(doing, "the view lies on another device than the stream"))
    }
}

/// What the launches of a graph use.
type Recorded = Vec<(Arc<PlanHandle>, Vec<Buffer>)>;

#[derive(Debug)]
pub(crate) struct PluginStream {
    pub(crate) chip: Arc<Chip>,
    pub(crate) object: Object,
    /// What a capture has seen so far.
    pub(crate) recorded: Option<Recorded>,
}

impl PluginStream {
    fn refuse_in_capture(&self, doing: &'static str) -> Result<()> {
        match self.recorded {
            None => Ok(()),
            Some(_) => Err(Error::invalid(doing, "the stream is in a capture")
                .next_step("end the capture first: it records launches only")),
        }
    }
}

impl Drop for PluginStream {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { (self.chip.table.stream_drop)(self.object.0) }
    }
}

impl Stream for PluginStream {
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()> {
        self.refuse_in_capture("upload")?;
        let buffer = self.chip.object_of("upload", dst.buffer())?;
        check_transfer("upload", dst, src.len())?;
        if src.is_empty() {
            return Ok(());
        }
        let (at, bytes) = (dst.offset_bytes() as u64, src.len() as u64);
        self.chip.call("upload", "upload", |error| {
            let from = src.as_ptr().cast();
            // SAFETY: the view lies inside the buffer, and is as long as `src`.
            unsafe { (self.chip.table.upload)(self.object.0, buffer.0, at, from, bytes, error) }
        })
    }

    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()> {
        self.refuse_in_capture("download")?;
        let buffer = self.chip.object_of("download", src.buffer())?;
        check_transfer("download", src, dst.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        let (at, bytes) = (src.offset_bytes() as u64, dst.len() as u64);
        self.chip.call("download", "download", |error| {
            let to = dst.as_mut_ptr().cast();
            // SAFETY: the view lies inside the buffer, and is as long as `dst`.
            unsafe { (self.chip.table.download)(self.object.0, to, buffer.0, at, bytes, error) }
        })
    }

    fn record(&mut self) -> Result<Event> {
        self.refuse_in_capture("record an event")?;
        let object = self
            .chip
            .make("record an event", "event_record", |event, error| {
                // SAFETY: an open stream, and places to write to.
                unsafe { (self.chip.table.event_record)(self.object.0, event, error) }
            })?;
        Ok(Event::new(PluginEvent {
            chip: Arc::clone(&self.chip),
            object,
        }))
    }

    fn wait(&mut self, event: &Event) -> Result<()> {
        self.refuse_in_capture("wait for an event")?;
        let event = event
            .downcast::<PluginEvent>()
            .filter(|event| event.chip.id() == self.chip.id())
            .ok_or_else(|| Error::invalid("wait for an event", "it is of another device"))?;
        self.chip.call("wait for an event", "event_wait", |error| {
            // SAFETY: both are open, and of this device.
            unsafe { (self.chip.table.event_wait)(self.object.0, event.object.0, error) }
        })
    }

    fn synchronize(&mut self) -> Result<()> {
        self.refuse_in_capture("synchronize")?;
        self.chip.call("synchronize", "synchronize", |error| {
            // SAFETY: an open stream.
            unsafe { (self.chip.table.synchronize)(self.object.0, error) }
        })
    }

    fn begin_capture(&mut self) -> Result<()> {
        self.refuse_in_capture("begin a capture")?;
        let begin = self.chip.table.capture_begin.ok_or_else(no_capture)?;
        self.chip
            .call("begin a capture", "capture_begin", |error| {
                // SAFETY: an open stream.
                unsafe { begin(self.object.0, error) }
            })?;
        self.recorded = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph> {
        let end = self.chip.table.capture_end.ok_or_else(no_capture)?;
        let recorded = self.recorded.take().ok_or_else(|| {
            Error::invalid("end a capture", "there is none").next_step("begin one first")
        })?;
        let object = self
            .chip
            .make("end a capture", "capture_end", |graph, error| {
                // SAFETY: an open stream in a capture.
                unsafe { end(self.object.0, graph, error) }
            })?;
        Ok(Graph::new(PluginGraph {
            chip: Arc::clone(&self.chip),
            object,
            _recorded: recorded,
        }))
    }
}

fn no_capture() -> Error {
    Error::unsupported("capture a stream", "this plugin's streams record nothing")
        .next_step("launch the operations one by one")
}

#[derive(Debug)]
struct PluginEvent {
    chip: Arc<Chip>,
    object: Object,
}

impl Drop for PluginEvent {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { (self.chip.table.event_drop)(self.object.0) }
    }
}

impl EventState for PluginEvent {
    fn synchronize(&self) -> Result<()> {
        self.chip
            .call("wait for an event", "event_synchronize", |error| {
                // SAFETY: an open event.
                unsafe { (self.chip.table.event_synchronize)(self.object.0, error) }
            })
    }

    fn since(&self, earlier: &Event) -> Result<Duration> {
        const DOING: &str = "measure between events";
        let earlier = earlier
            .downcast::<PluginEvent>()
            .filter(|event| event.chip.id() == self.chip.id())
            .ok_or_else(|| Error::invalid(DOING, "they are of different devices"))?;
        let mut nanoseconds = 0;
        self.chip.call(DOING, "event_elapsed", |error| {
            let elapsed = self.chip.table.event_elapsed;
            // SAFETY: both are open, and of this device.
            unsafe { elapsed(earlier.object.0, self.object.0, &mut nanoseconds, error) }
        })?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

#[derive(Debug)]
struct PluginGraph {
    chip: Arc<Chip>,
    object: Object,
    /// Kept alive for the launches.
    _recorded: Recorded,
}

impl Drop for PluginGraph {
    fn drop(&mut self) {
        if let Some(drop) = self.chip.table.graph_drop {
            // SAFETY: dropped once, before what its launches use.
            unsafe { drop(self.object.0) }
        }
    }
}

impl GraphState for PluginGraph {
    fn launch(&self, stream: &mut dyn Stream) -> Result<()> {
        const DOING: &str = "launch a graph";
        let stream = stream
            .downcast::<PluginStream>()
            .filter(|stream| stream.chip.id() == self.chip.id())
            .ok_or_else(|| Error::invalid(DOING, "the stream is of another device"))?;
        stream.refuse_in_capture(DOING)?;
        let launch = self.chip.table.graph_launch.ok_or_else(no_capture)?;
        self.chip.call(DOING, "graph_launch", |error| {
            // SAFETY: both are open, and of this device; what the launches use is kept alive.
            unsafe { launch(self.object.0, stream.object.0, error) }
        })
    }
}
