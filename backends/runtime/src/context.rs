//! An open device, its streams and events, and what its codes mean for the accelerator.

use std::fmt;
use std::sync::{Arc, OnceLock};

use hal::{Error, ErrorKind, Result};

use crate::api::{Api, Code, Handle, SUCCESS};

/// One open device.
#[derive(Debug)]
pub(crate) struct Context<A> {
    pub(crate) api: A,
    /// Why nothing will come of it any more, and what to do.
    lost: OnceLock<(String, String)>,
}

impl<A: Api> Context<A> {
    pub(crate) fn new(api: A) -> Arc<Self> {
        let lost = OnceLock::new();
        Arc::new(Self { api, lost })
    }

    /// Makes this thread's calls go to this device; the first reason when it was lost.
    pub(crate) fn enter(&self, doing: &'static str) -> Result<()> {
        if let Some((why, next)) = self.lost.get() {
            let why = format!("the device was lost before: {why}");
            return Err(Error::new(ErrorKind::DeviceLost, doing, why).next_step(next));
        }
        self.check(doing, self.set_current())
    }

    /// As [`Self::enter`], for drops: whatever became of the device, and without a way to report.
    pub(crate) fn enter_to_free(&self) {
        self.note(self.set_current());
    }

    fn set_current(&self) -> Code {
        // SAFETY: the device is open.
        unsafe { self.api.set_current() }
    }

    /// The result of a call, whose failure may be the device's last.
    pub(crate) fn check(&self, doing: &'static str, code: Code) -> Result<()> {
        match code {
            SUCCESS => Ok(()),
            _ => {
                let e = self.api.failure(doing, code);
                if A::is_last(code) {
                    let next = e.next().unwrap_or_default().to_owned();
                    let _ = self.lost.set((format!("{doing}: {}", e.detail()), next));
                }
                Err(e)
            }
        }
    }

    /// The result of a call that has nobody to report to. Whether it was done.
    pub(crate) fn note(&self, code: Code) -> bool {
        self.check("free what a device holds", code).is_ok()
    }
}

/// A stream.
pub(crate) struct Stream<A: Api> {
    pub(crate) context: Arc<Context<A>>,
    pub(crate) handle: Handle,
}

// SAFETY: streams may be used by any thread.
unsafe impl<A: Api> Send for Stream<A> {}
// SAFETY: as above, by several at once.
unsafe impl<A: Api> Sync for Stream<A> {}

impl<A: Api> Stream<A> {
    /// A stream of the device that is current.
    pub(crate) fn new(context: &Arc<Context<A>>, doing: &'static str) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call.
        let code = unsafe { context.api.stream(&mut handle) };
        context.check(doing, code)?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    /// Returns when its work is done.
    pub(crate) fn synchronize(&self, doing: &'static str) -> Result<()> {
        // SAFETY: the stream is alive.
        let code = unsafe { self.context.api.stream_synchronize(self.handle) };
        self.context.check(doing, code)
    }

    /// Later work waits for `event`.
    pub(crate) fn wait(&self, doing: &'static str, event: &Event<A>) -> Result<()> {
        // SAFETY: both are alive; the runtime keeps what it needs of the event.
        let code = unsafe { self.context.api.stream_wait(self.handle, event.handle) };
        self.context.check(doing, code)
    }
}

impl<A: Api> Drop for Stream<A> {
    fn drop(&mut self) {
        self.context.enter_to_free();
        // SAFETY: not used again; its work goes on until it is done.
        let code = unsafe { self.context.api.stream_destroy(self.handle) };
        self.context.note(code);
    }
}

/// An event.
pub struct Event<A: Api> {
    context: Arc<Context<A>>,
    handle: Handle,
}

// SAFETY: events may be used by any thread.
unsafe impl<A: Api> Send for Event<A> {}
// SAFETY: as above, by several at once.
unsafe impl<A: Api> Sync for Event<A> {}

impl<A: Api> fmt::Debug for Event<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("event")
    }
}

impl<A: Api> Event<A> {
    /// An event that only orders.
    pub(crate) fn new(context: &Arc<Context<A>>, doing: &'static str) -> Result<Self> {
        Self::with(context, doing, false)
    }

    /// An event that also says when it passed.
    pub(crate) fn with_time(context: &Arc<Context<A>>, doing: &'static str) -> Result<Self> {
        Self::with(context, doing, true)
    }

    fn with(context: &Arc<Context<A>>, doing: &'static str, timed: bool) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call.
        let code = unsafe { context.api.event(&mut handle, timed) };
        context.check(doing, code)?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    /// Marks the end of the work that `stream` has by now.
    pub(crate) fn record(&self, doing: &'static str, stream: Handle) -> Result<()> {
        // SAFETY: both are alive, and of one device.
        let code = unsafe { self.context.api.event_record(self.handle, stream) };
        self.context.check(doing, code)
    }

    /// Returns when it has passed; at once when it was never recorded.
    pub(crate) fn synchronize(&self, doing: &'static str) -> Result<()> {
        // SAFETY: the event is alive.
        let code = unsafe { self.context.api.event_synchronize(self.handle) };
        self.context.check(doing, code)
    }

    /// Milliseconds from `earlier` to this event, and the runtime's code.
    pub(crate) fn since(&self, earlier: &Self) -> (f32, Code) {
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive, and `milliseconds` outlives the call.
        let code = unsafe {
            self.context
                .api
                .event_elapsed(&mut milliseconds, earlier.handle, self.handle)
        };
        (milliseconds, code)
    }
}

impl<A: Api> Drop for Event<A> {
    fn drop(&mut self) {
        self.context.enter_to_free();
        // SAFETY: not used again; who waits for it in a stream goes on waiting.
        let code = unsafe { self.context.api.event_destroy(self.handle) };
        self.context.note(code);
    }
}
