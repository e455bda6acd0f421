//! The calls of a vendor's runtime.

use std::ffi::{CStr, c_void};
use std::fmt::Debug;

use backend_simt::Source;
use hal::{Error, Result};

/// What a call returns: 0, or a code that newer runtimes add to.
pub type Code = u32;

/// A stream, event, module, function, graph or pool of the runtime.
pub type Handle = *mut c_void;

/// What every call returns that was done.
pub const SUCCESS: Code = 0;
/// There is not enough memory.
pub const OUT_OF_MEMORY: Code = 2;
/// A mark that has not passed.
pub const NOT_READY: Code = 600;
/// What is not there: pools, or kernels in the runtime of an operator library, whose work is queued by [`crate::Queue::begin`].
pub const ABSENT: Code = 801;

/// The runtime of one open device.
///
/// Most calls are the vendor's under one name: they go to the device that [`Self::set_current`] chose for this thread. Those of
/// pools, captures and kernels may be left out.
///
/// # Safety of the calls
/// Handles are alive and of this device, what is written to outlives the call, and memory is not given back under a queue that
/// uses it.
#[expect(
    clippy::missing_safety_doc,
    reason = "the trait says it once, for all of them"
)]
pub trait Api: Send + Sync + Debug + Sized + 'static {
    /// What a code means while `doing` something.
    fn failure(&self, doing: &str, code: Code) -> Error;
    /// Whether nothing else will come of the device after a code.
    fn is_last(code: Code) -> bool;
    /// Code for this device.
    ///
    /// # Errors
    /// `CompileFailed` with the compiler's log.
    fn compile(&self, source: &Source, _defines: &[(&str, String)]) -> Result<Vec<u8>> {
        let doing = format!("compile {}", source.name);
        Err(Error::unsupported(doing, "this runtime takes no kernels"))
    }

    /// Lets this thread's calls go to the device.
    unsafe fn set_current(&self) -> Code;
    /// Returns when all work of the device is done.
    unsafe fn finish(&self) -> Code;
    /// Bytes of the device: free, and all.
    unsafe fn memory_info(&self, free: &mut usize, total: &mut usize) -> Code;

    /// The device's own pool.
    unsafe fn pool(&self, _pool: &mut Handle) -> Code {
        ABSENT
    }
    /// From now on the pool keeps what was given back, up to `bytes`.
    unsafe fn pool_keep(&self, _pool: Handle, _bytes: u64) -> Code {
        ABSENT
    }
    /// Lets the pool give back to the device what nobody uses.
    unsafe fn pool_trim(&self, _pool: Handle) -> Code {
        ABSENT
    }
    /// Memory of the pool, in the order of `stream`.
    unsafe fn pool_alloc(&self, _pointer: &mut u64, _bytes: usize, _stream: Handle) -> Code {
        ABSENT
    }
    /// Gives it back, in the order of `stream`.
    unsafe fn pool_free(&self, _pointer: u64, _stream: Handle) -> Code {
        ABSENT
    }
    /// Memory, in no stream's order.
    unsafe fn alloc(&self, pointer: &mut u64, bytes: usize) -> Code;
    /// Gives it back.
    unsafe fn free(&self, pointer: u64) -> Code;
    /// Page-locked memory of the host.
    unsafe fn host_alloc(&self, pointer: &mut *mut c_void, bytes: usize) -> Code;
    /// Gives it back.
    unsafe fn host_free(&self, pointer: *mut c_void) -> Code;
    /// Copies page-locked memory to the device's.
    unsafe fn upload(&self, to: u64, from: *const c_void, bytes: usize, stream: Handle) -> Code;
    /// Copies the device's memory to page-locked memory.
    unsafe fn download(&self, to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> Code;

    /// A stream that has no order with others.
    unsafe fn stream(&self, stream: &mut Handle) -> Code;
    /// Lets a stream go, whose work goes on until it is done.
    unsafe fn stream_destroy(&self, stream: Handle) -> Code;
    /// Returns when its work is done.
    unsafe fn stream_synchronize(&self, stream: Handle) -> Code;
    /// Lets later work of `stream` wait for `event`.
    unsafe fn stream_wait(&self, stream: Handle, event: Handle) -> Code;

    /// Begins a capture that other threads and streams may go on beside.
    unsafe fn capture_begin(&self, stream: Handle) -> Code;
    /// Ends it.
    unsafe fn capture_end(&self, stream: Handle, graph: &mut Handle) -> Code;
    /// Makes a graph that can be launched.
    unsafe fn graph_make(&self, made: &mut Handle, graph: Handle) -> Code;
    /// Queues its launches.
    unsafe fn graph_launch(&self, made: Handle, stream: Handle) -> Code;
    /// Lets what was captured go.
    unsafe fn graph_destroy(&self, graph: Handle) -> Code;
    /// Lets what was made of it go; launches that were queued go on.
    unsafe fn graph_unmake(&self, made: Handle) -> Code;

    /// An event, that says when it passed if it is `timed`.
    unsafe fn event(&self, event: &mut Handle, timed: bool) -> Code;
    /// Lets it go; who waits for it in a stream goes on waiting.
    unsafe fn event_destroy(&self, event: Handle) -> Code;
    /// Marks the end of the work that `stream` has by now.
    unsafe fn event_record(&self, event: Handle, stream: Handle) -> Code;
    /// Returns when it has passed; at once when it was never recorded.
    unsafe fn event_synchronize(&self, event: Handle) -> Code;
    /// Milliseconds from one event to another; code 600 before both have passed.
    unsafe fn event_elapsed(&self, milliseconds: &mut f32, from: Handle, to: Handle) -> Code;

    /// Loads code, a file of the device's format with its sizes inside, or a text that ends with 0.
    unsafe fn module(&self, _module: &mut Handle, _image: *const c_void) -> Code {
        ABSENT
    }
    /// Lets a module go.
    unsafe fn module_unload(&self, _module: Handle) -> Code {
        ABSENT
    }
    /// A function of a module.
    unsafe fn function(&self, _function: &mut Handle, _module: Handle, _name: &CStr) -> Code {
        ABSENT
    }
    /// Most work-items in a group of a function.
    unsafe fn function_max_group(&self, _most: &mut i32, _function: Handle) -> Code {
        ABSENT
    }
    /// Lets launches give a function so much local memory.
    unsafe fn function_local(&self, _function: Handle, _bytes: u32) -> Code {
        ABSENT
    }
    /// Queues a kernel: `grid` groups of `group` work-items, with `local_bytes` of local memory beside the kernel's own. It
    /// may begin `early`, while the work before it ends.
    #[expect(clippy::too_many_arguments, reason = "the runtimes' own call")]
    unsafe fn launch(
        &self,
        _function: Handle,
        _grid: [u32; 3],
        _group: u32,
        _local_bytes: u32,
        _early: bool,
        _stream: Handle,
        _parameters: *mut *mut c_void,
    ) -> Code {
        ABSENT
    }
}
