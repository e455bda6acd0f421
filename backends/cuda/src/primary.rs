//! A device's primary context, its streams and events, and what its codes mean for the accelerator.

use std::fmt;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUstream};
use hal::{Error, ErrorKind, Result};

use crate::failure::{SUCCESS, failure, is_last};
use crate::symbols::{Code, Driver};

/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIME: u32 = 2;
/// `CU_STREAM_NON_BLOCKING`: no order with the stream 0 of other libraries.
const NON_BLOCKING: u32 = 1;

/// The primary context of one device, held until this is dropped.
pub(crate) struct Primary {
    pub(crate) api: Driver,
    device: CUdevice,
    context: CUcontext,
    /// Why nothing will come of it any more.
    lost: OnceLock<String>,
}

// SAFETY: a context may be made current in any thread, and the driver's calls on it are thread-safe.
unsafe impl Send for Primary {}
// SAFETY: as above.
unsafe impl Sync for Primary {}

impl fmt::Debug for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "context of CUDA device {}", self.device)
    }
}

impl Primary {
    /// # Errors
    /// What the driver reports.
    pub(crate) fn new(api: Driver, device: CUdevice) -> Result<Arc<Self>> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the device was listed by the driver, and `context` outlives the call.
        let code = unsafe { (api.cuDevicePrimaryCtxRetain)(&mut context, device) };
        if code != SUCCESS {
            return Err(failure(&api, "open a CUDA device", code));
        }
        Ok(Arc::new(Self {
            api,
            device,
            context,
            lost: OnceLock::new(),
        }))
    }

    /// Makes this thread's calls go to this device; the first reason when it was lost.
    pub(crate) fn enter(&self, doing: &'static str) -> Result<()> {
        if let Some(why) = self.lost.get() {
            let why = format!("the device was lost before: {why}");
            return Err(
                Error::new(ErrorKind::DeviceLost, doing, why).next_step("open the device again")
            );
        }
        self.check(doing, self.set_current())
    }

    /// As [`Self::enter`], for drops: whatever became of the device, and without a way to report.
    pub(crate) fn enter_to_free(&self) {
        self.note(self.set_current());
    }

    fn set_current(&self) -> Code {
        // SAFETY: the context is held by this object.
        unsafe { (self.api.cuCtxSetCurrent)(self.context) }
    }

    /// The result of a call, whose failure may be the device's last.
    pub(crate) fn check(&self, doing: &'static str, code: Code) -> Result<()> {
        match code {
            SUCCESS => Ok(()),
            _ => {
                let e = failure(&self.api, doing, code);
                if is_last(code) {
                    let _ = self.lost.set(format!("{doing}: {}", e.detail()));
                }
                Err(e)
            }
        }
    }

    /// The result of a call that has nobody to report to. Whether it was done.
    pub(crate) fn note(&self, code: Code) -> bool {
        self.check("free what a CUDA device holds", code).is_ok()
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // SAFETY: retained once; everything that was made in it has been destroyed, as it holds this object.
        unsafe { (self.api.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

/// A stream.
pub(crate) struct Stream {
    pub(crate) primary: Arc<Primary>,
    pub(crate) handle: CUstream,
}

// SAFETY: streams may be used by any thread.
unsafe impl Send for Stream {}
// SAFETY: as above, by several at once.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream of the context that is current.
    pub(crate) fn new(primary: &Arc<Primary>, doing: &'static str) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call.
        let code = unsafe { (primary.api.cuStreamCreate)(&mut handle, NON_BLOCKING) };
        primary.check(doing, code)?;
        Ok(Self {
            primary: Arc::clone(primary),
            handle,
        })
    }

    /// Returns when its work is done.
    pub(crate) fn synchronize(&self, doing: &'static str) -> Result<()> {
        // SAFETY: the stream is alive.
        let code = unsafe { (self.primary.api.cuStreamSynchronize)(self.handle) };
        self.primary.check(doing, code)
    }

    /// Later work waits for `event`.
    pub(crate) fn wait(&self, doing: &'static str, event: &Event) -> Result<()> {
        // SAFETY: both are alive; the driver keeps what it needs of the event.
        let code = unsafe { (self.primary.api.cuStreamWaitEvent)(self.handle, event.handle, 0) };
        self.primary.check(doing, code)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.primary.enter_to_free();
        // SAFETY: not used again; its work goes on until it is done.
        let code = unsafe { (self.primary.api.cuStreamDestroy_v2)(self.handle) };
        self.primary.note(code);
    }
}

/// An event.
pub(crate) struct Event {
    primary: Arc<Primary>,
    handle: CUevent,
}

// SAFETY: events may be used by any thread.
unsafe impl Send for Event {}
// SAFETY: as above, by several at once.
unsafe impl Sync for Event {}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CUDA event")
    }
}

impl Event {
    /// An event that only orders.
    pub(crate) fn new(primary: &Arc<Primary>, doing: &'static str) -> Result<Self> {
        Self::with(primary, doing, NO_TIME)
    }

    /// An event that also says when it passed.
    pub(crate) fn with_time(primary: &Arc<Primary>, doing: &'static str) -> Result<Self> {
        Self::with(primary, doing, 0)
    }

    fn with(primary: &Arc<Primary>, doing: &'static str, flags: u32) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call.
        let code = unsafe { (primary.api.cuEventCreate)(&mut handle, flags) };
        primary.check(doing, code)?;
        Ok(Self {
            primary: Arc::clone(primary),
            handle,
        })
    }

    /// Marks the end of the work that `stream` has by now.
    pub(crate) fn record(&self, doing: &'static str, stream: CUstream) -> Result<()> {
        // SAFETY: both are alive, and of one context.
        let code = unsafe { (self.primary.api.cuEventRecord)(self.handle, stream) };
        self.primary.check(doing, code)
    }

    /// Returns when it has passed; at once when it was never recorded.
    pub(crate) fn synchronize(&self, doing: &'static str) -> Result<()> {
        // SAFETY: the event is alive.
        let code = unsafe { (self.primary.api.cuEventSynchronize)(self.handle) };
        self.primary.check(doing, code)
    }

    /// Milliseconds from `earlier` to this event, and the driver's code.
    pub(crate) fn since(&self, earlier: &Event) -> (f32, Code) {
        let mut milliseconds = 0.0;
        let elapsed = self.primary.api.cuEventElapsedTime;
        // SAFETY: both events are alive, and `milliseconds` outlives the call.
        let code = unsafe { elapsed(&mut milliseconds, earlier.handle, self.handle) };
        (milliseconds, code)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.primary.enter_to_free();
        // SAFETY: not used again; who waits for it in a stream goes on waiting.
        let code = unsafe { (self.primary.api.cuEventDestroy_v2)(self.handle) };
        self.primary.note(code);
    }
}
