//! Streams and events.

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
