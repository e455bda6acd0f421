//! Streams, events and graphs.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, Result, View};

/// An in-order queue of work on one device. Work of two streams is ordered only by events.
pub trait Stream: Any + Send + Debug {
    /// Copies host bytes into a contiguous view. `src` may be reused on return.
    ///
    /// # Errors
    /// `InvalidArgument` when sizes differ or `dst` is not contiguous; `DeviceLost`.
    fn upload(&mut self, dst: &View<'_>, src: &[u8]) -> Result<()>;

    /// Copies a contiguous view to host bytes after all earlier work; `dst` is filled on return.
    ///
    /// # Errors
    /// As [`Stream::upload`].
    fn download(&mut self, dst: &mut [u8], src: &View<'_>) -> Result<()>;

    /// A mark after all work queued so far.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn record(&mut self) -> Result<Event>;

    /// Later work waits until `event`, of any stream of this device, has passed.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn wait(&mut self, event: &Event) -> Result<()>;

    /// Returns when all queued work is done.
    ///
    /// # Errors
    /// `DeviceLost`, and whatever queued work failed with.
    fn synchronize(&mut self) -> Result<()>;

    /// From now on launches are recorded, and not carried out, until [`Stream::end_capture`]. Until then the stream
    /// takes nothing else: transfers, events, waits, `synchronize`, graphs and a second capture are refused, and the
    /// capture goes on as if they had not been tried. Work queued before is not part of it.
    ///
    /// # Errors
    /// `Unsupported` when this device's streams record nothing, which is the default; `InvalidArgument` during a
    /// capture; `DeviceLost`.
    fn begin_capture(&mut self) -> Result<()> {
        Err(no_capture())
    }

    /// Ends the capture: what was launched since [`Stream::begin_capture`], to be launched again as one.
    ///
    /// # Errors
    /// `InvalidArgument` without a capture; otherwise as [`Stream::begin_capture`].
    fn end_capture(&mut self) -> Result<Graph> {
        Err(no_capture())
    }
}

fn no_capture() -> Error {
    Error::unsupported("capture a stream", "this device's streams record nothing")
        .next_step("launch the operations one by one")
}

impl dyn Stream {
    /// The backend's own type, when `S` is it.
    pub fn downcast<S: Stream>(&mut self) -> Option<&mut S> {
        (self as &mut dyn Any).downcast_mut()
    }
}

/// What a backend implements for its events.
pub trait EventState: Any + Send + Sync + Debug {
    /// Waits on the host until the mark has passed.
    ///
    /// # Errors
    /// `DeviceLost`.
    fn synchronize(&self) -> Result<()>;

    /// Device time from `earlier` to this mark. Both must have passed.
    ///
    /// # Errors
    /// `InvalidArgument` when `earlier` is of another backend or either has not passed.
    fn since(&self, earlier: &Event) -> Result<Duration>;
}

/// A mark in a stream's order.
#[derive(Clone, Debug)]
pub struct Event(Arc<dyn EventState>);

impl Event {
    /// Wraps a backend's event.
    pub fn new(state: impl EventState) -> Self {
        Self(Arc::new(state))
    }

    /// Waits on the host until the mark has passed.
    ///
    /// # Errors
    /// `DeviceLost`.
    pub fn synchronize(&self) -> Result<()> {
        self.0.synchronize()
    }

    /// Device time from `earlier` to this mark.
    ///
    /// # Errors
    /// As [`EventState::since`].
    pub fn since(&self, earlier: &Event) -> Result<Duration> {
        self.0.since(earlier)
    }

    /// The backend's own type, when `E` is it.
    pub fn downcast<E: EventState>(&self) -> Option<&E> {
        (&*self.0 as &dyn Any).downcast_ref()
    }
}

/// What a backend implements for its graphs.
pub trait GraphState: Any + Send + Sync + Debug {
    /// Queues the recorded launches, in their order, as if they were launched now.
    ///
    /// # Errors
    /// As [`Graph::launch`].
    fn launch(&self, stream: &mut dyn Stream) -> Result<()>;
}

/// Launches that were recorded once, to be repeated at the price of one.
///
/// It keeps the buffers of its launches alive, and their addresses: every launch reads what these buffers hold *then*.
/// What must change from launch to launch (positions, lengths, the last token) therefore lies in device memory.
#[derive(Clone, Debug)]
pub struct Graph(Arc<dyn GraphState>);

impl Graph {
    /// Wraps a backend's graph.
    pub fn new(state: impl GraphState) -> Self {
        Self(Arc::new(state))
    }

    /// Queues the recorded launches on any stream of their device, in order with the stream's other work.
    ///
    /// # Errors
    /// `InvalidArgument` when `stream` is of another device, or in a capture; `DeviceLost`.
    pub fn launch(&self, stream: &mut dyn Stream) -> Result<()> {
        self.0.launch(stream)
    }

    /// The backend's own type, when `G` is it.
    pub fn downcast<G: GraphState>(&self) -> Option<&G> {
        (&*self.0 as &dyn Any).downcast_ref()
    }
}

/// The rule that every backend's `upload` and `download` enforce: a contiguous view of `host_bytes` bytes.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_transfer(doing: &'static str, view: &View<'_>, host_bytes: usize) -> Result<()> {
    if !view.is_contiguous() || view.bytes() != host_bytes {
        return Err(Error::invalid(
            doing,
            format!(
                "{view:?} ({} B, must be contiguous) and {host_bytes} host bytes",
                view.bytes()
            ),
        ));
    }
    Ok(())
}
