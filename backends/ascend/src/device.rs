//! AscendCL's calls for one open device.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use backend_runtime::{ABSENT, Api, Code, Handle, NOT_READY, OUT_OF_MEMORY, SUCCESS};
use hal::{Error, Result};

use crate::failure::{failure, is_last, is_no_memory};
use crate::libraries::Library;

/// `ACL_MEM_MALLOC_HUGE_FIRST`.
const HUGE_FIRST: i32 = 0;
/// `ACL_HBM_MEM`, and `ACL_DDR_MEM` of chips without HBM.
const HBM: i32 = 1;
const DDR: i32 = 0;
/// `ACL_MEMCPY_HOST_TO_DEVICE`, `ACL_MEMCPY_DEVICE_TO_HOST`.
const UPLOAD: i32 = 1;
const DOWNLOAD: i32 = 2;
/// `ACL_EVENT_SYNC`, `ACL_EVENT_TIME_LINE`.
const SYNC: u32 = 1;
const TIME_LINE: u32 = 8;
/// `ACL_EVENT_RECORDED_STATUS_COMPLETE`.
const COMPLETE: i32 = 1;
/// `ACL_MODEL_RI_CAPTURE_MODE_RELAXED`.
const RELAXED: i32 = 2;

/// A device.
#[derive(Debug)]
pub(crate) struct Acl {
    pub(crate) library: Library,
    device: i32,
    /// The device's own context, in which all threads work.
    context: Context,
}

#[derive(Debug)]
struct Context(Handle);

// SAFETY: contexts may be current in any thread.
unsafe impl Send for Context {}
// SAFETY: as above, in several at once.
unsafe impl Sync for Context {}

/// An event that knows whether it was recorded: AscendCL does not say what waiting for one that was not does.
struct Event {
    handle: Handle,
    recorded: AtomicBool,
}

/// What was captured: launched as it is, so that it has one life, in the hands of whoever has it last.
struct Captured {
    handle: Handle,
    made: AtomicBool,
}

impl Acl {
    /// Opens a device.
    ///
    /// # Errors
    /// What AscendCL reports.
    pub(crate) fn new(library: Library, device: i32) -> Result<Self> {
        const DOING: &str = "open an Ascend device";
        // SAFETY: AscendCL is initialised.
        let code = unsafe { (library.calls.aclrtSetDevice)(device) };
        if code != SUCCESS {
            return Err(failure(&library, DOING, code));
        }
        // From here on dropping it resets the device.
        let mut opened = Self {
            library,
            device,
            context: Context(ptr::null_mut()),
        };
        // SAFETY: the place outlives the call.
        let code = unsafe { (opened.library.calls.aclrtGetCurrentContext)(&mut opened.context.0) };
        match code {
            SUCCESS => Ok(opened),
            _ => Err(failure(&opened.library, DOING, code)),
        }
    }
}

impl Drop for Acl {
    fn drop(&mut self) {
        // SAFETY: opened once, and everything of it is gone.
        unsafe { (self.library.calls.aclrtResetDevice)(self.device) };
    }
}

macro_rules! call {
    ($table:expr, $name:ident($($argument:expr),*)) => {
        // SAFETY: the caller's own call, under the vendor's name.
        unsafe { ($table.$name)($($argument),*) }
    };
}

/// Of a table that not every release has.
macro_rules! maybe {
    ($table:expr, $name:ident($($argument:expr),*)) => {
        match &$table {
            Some(table) => call!(table, $name($($argument),*)),
            None => ABSENT,
        }
    };
}

fn pointer(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(address as usize)
}

/// The event that [`Api::event`] made.
///
/// # Safety
/// It is alive.
unsafe fn event_of<'a>(handle: Handle) -> &'a Event {
    // SAFETY: the caller's promise.
    unsafe { &*handle.cast::<Event>() }
}

impl Api for Acl {
    fn failure(&self, doing: &str, code: Code) -> Error {
        failure(&self.library, doing, code)
    }
    fn is_last(code: Code) -> bool {
        is_last(code)
    }

    unsafe fn set_current(&self) -> Code {
        call!(self.library.calls, aclrtSetCurrentContext(self.context.0))
    }
    unsafe fn finish(&self) -> Code {
        call!(self.library.calls, aclrtSynchronizeDevice())
    }
    unsafe fn memory_info(&self, free: &mut usize, total: &mut usize) -> Code {
        let code = call!(self.library.calls, aclrtGetMemInfo(HBM, free, total));
        match code == SUCCESS && *total == 0 {
            true => call!(self.library.calls, aclrtGetMemInfo(DDR, free, total)),
            false => code,
        }
    }

    unsafe fn alloc(&self, address: &mut u64, bytes: usize) -> Code {
        // Devices have 64-bit machines.
        let to = ptr::from_mut(address).cast();
        let code = call!(self.library.calls, aclrtMalloc(to, bytes, HUGE_FIRST));
        match is_no_memory(code) {
            true => OUT_OF_MEMORY,
            false => code,
        }
    }
    unsafe fn free(&self, address: u64) -> Code {
        call!(self.library.calls, aclrtFree(pointer(address)))
    }
    unsafe fn host_alloc(&self, address: &mut *mut c_void, bytes: usize) -> Code {
        call!(self.library.calls, aclrtMallocHost(address, bytes))
    }
    unsafe fn host_free(&self, address: *mut c_void) -> Code {
        call!(self.library.calls, aclrtFreeHost(address))
    }
    unsafe fn upload(&self, to: u64, from: *const c_void, bytes: usize, stream: Handle) -> Code {
        let to = pointer(to);
        call!(
            self.library.calls,
            aclrtMemcpyAsync(to, bytes, from, bytes, UPLOAD, stream)
        )
    }
    unsafe fn download(&self, to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> Code {
        let from = pointer(from);
        call!(
            self.library.calls,
            aclrtMemcpyAsync(to, bytes, from, bytes, DOWNLOAD, stream)
        )
    }

    unsafe fn stream(&self, stream: &mut Handle) -> Code {
        call!(self.library.calls, aclrtCreateStream(stream))
    }
    unsafe fn stream_destroy(&self, stream: Handle) -> Code {
        call!(self.library.calls, aclrtDestroyStream(stream))
    }
    unsafe fn stream_synchronize(&self, stream: Handle) -> Code {
        call!(self.library.calls, aclrtSynchronizeStream(stream))
    }
    unsafe fn stream_wait(&self, stream: Handle, event: Handle) -> Code {
        // SAFETY: the caller's promise.
        let event = unsafe { event_of(event) };
        match event.recorded.load(Ordering::Acquire) {
            true => call!(
                self.library.calls,
                aclrtStreamWaitEvent(stream, event.handle)
            ),
            false => SUCCESS,
        }
    }

    unsafe fn capture_begin(&self, stream: Handle) -> Code {
        maybe!(self.library.captures, aclmdlRICaptureBegin(stream, RELAXED))
    }
    unsafe fn capture_end(&self, stream: Handle, graph: &mut Handle) -> Code {
        let mut handle = ptr::null_mut();
        let code = maybe!(
            self.library.captures,
            aclmdlRICaptureEnd(stream, &mut handle)
        );
        if code == SUCCESS {
            let made = AtomicBool::new(false);
            *graph = Box::into_raw(Box::new(Captured { handle, made })).cast();
        }
        code
    }
    unsafe fn graph_make(&self, made: &mut Handle, graph: Handle) -> Code {
        // SAFETY: what `capture_end` gave.
        let captured = unsafe { &*graph.cast::<Captured>() };
        captured.made.store(true, Ordering::Release);
        *made = graph;
        SUCCESS
    }
    unsafe fn graph_launch(&self, made: Handle, stream: Handle) -> Code {
        // SAFETY: what `capture_end` gave.
        let handle = unsafe { (*made.cast::<Captured>()).handle };
        maybe!(self.library.captures, aclmdlRIExecuteAsync(handle, stream))
    }
    unsafe fn graph_destroy(&self, graph: Handle) -> Code {
        // SAFETY: what `capture_end` gave.
        let made = unsafe { (*graph.cast::<Captured>()).made.load(Ordering::Acquire) };
        match made {
            true => SUCCESS,
            // SAFETY: nobody else has it.
            false => unsafe { self.graph_unmake(graph) },
        }
    }
    unsafe fn graph_unmake(&self, made: Handle) -> Code {
        // SAFETY: what `capture_end` gave, and nobody has it any more.
        let captured = unsafe { Box::from_raw(made.cast::<Captured>()) };
        maybe!(self.library.captures, aclmdlRIDestroy(captured.handle))
    }

    unsafe fn event(&self, event: &mut Handle, timed: bool) -> Code {
        let mut handle = ptr::null_mut();
        let flags = if timed { SYNC | TIME_LINE } else { SYNC };
        let code = match &self.library.flagged {
            Some(flagged) => call!(flagged, aclrtCreateEventExWithFlag(&mut handle, flags)),
            None => call!(self.library.calls, aclrtCreateEvent(&mut handle)),
        };
        if code == SUCCESS {
            let recorded = AtomicBool::new(false);
            *event = Box::into_raw(Box::new(Event { handle, recorded })).cast();
        }
        code
    }
    unsafe fn event_destroy(&self, event: Handle) -> Code {
        // SAFETY: made by `event`, and not used again.
        let event = unsafe { Box::from_raw(event.cast::<Event>()) };
        call!(self.library.calls, aclrtDestroyEvent(event.handle))
    }
    unsafe fn event_record(&self, event: Handle, stream: Handle) -> Code {
        // SAFETY: the caller's promise.
        let event = unsafe { event_of(event) };
        let code = call!(self.library.calls, aclrtRecordEvent(event.handle, stream));
        if code == SUCCESS {
            event.recorded.store(true, Ordering::Release);
        }
        code
    }
    unsafe fn event_synchronize(&self, event: Handle) -> Code {
        // SAFETY: the caller's promise.
        let event = unsafe { event_of(event) };
        match event.recorded.load(Ordering::Acquire) {
            true => call!(self.library.calls, aclrtSynchronizeEvent(event.handle)),
            false => SUCCESS,
        }
    }
    unsafe fn event_elapsed(&self, milliseconds: &mut f32, from: Handle, to: Handle) -> Code {
        for event in [from, to] {
            // SAFETY: the caller's promise.
            let event = unsafe { event_of(event) };
            let mut status = 0;
            let code = call!(
                self.library.calls,
                aclrtQueryEventStatus(event.handle, &mut status)
            );
            if code != SUCCESS {
                return code;
            }
            if status != COMPLETE {
                return NOT_READY;
            }
        }
        // SAFETY: the caller's promise.
        let (from, to) = unsafe { (event_of(from).handle, event_of(to).handle) };
        call!(
            self.library.calls,
            aclrtEventElapsedTime(milliseconds, from, to)
        )
    }
}

/// The numbers above, and those of other files, by the vendor's names: for the test that compares them.
#[cfg(test)]
pub(crate) fn numbers() -> Vec<(&'static str, i64)> {
    use crate::arguments::{ND, NZ};
    use crate::failure::ALREADY;
    use crate::tensor::Kind;
    let mut all = vec![
        ("ACL_MEM_MALLOC_HUGE_FIRST", HUGE_FIRST.into()),
        ("ACL_HBM_MEM", HBM.into()),
        ("ACL_DDR_MEM", DDR.into()),
        ("ACL_MEMCPY_HOST_TO_DEVICE", UPLOAD.into()),
        ("ACL_MEMCPY_DEVICE_TO_HOST", DOWNLOAD.into()),
        ("ACL_EVENT_SYNC", SYNC.into()),
        ("ACL_EVENT_TIME_LINE", TIME_LINE.into()),
        ("ACL_EVENT_RECORDED_STATUS_COMPLETE", COMPLETE.into()),
        ("ACL_MODEL_RI_CAPTURE_MODE_RELAXED", RELAXED.into()),
        ("ACL_ERROR_REPEAT_INITIALIZE", ALREADY.into()),
        ("ACL_FORMAT_ND", ND.into()),
        ("ACL_FORMAT_FRACTAL_NZ", NZ.into()),
    ];
    let kinds = [
        ("ACL_FLOAT", Kind::F32),
        ("ACL_FLOAT16", Kind::F16),
        ("ACL_BF16", Kind::Bf16),
        ("ACL_INT8", Kind::I8),
        ("ACL_UINT8", Kind::U8),
        ("ACL_INT32", Kind::I32),
        ("ACL_INT64", Kind::I64),
        ("ACL_BOOL", Kind::Bool),
    ];
    all.extend(kinds.map(|(name, kind)| (name, kind as i64)));
    all
}
