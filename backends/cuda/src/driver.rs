//! The driver: programs, kernels, queues, marks and graphs of one CUDA device.

use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backend_simt::{
    Argument, Compiled, Facts, Limits, MAX_ARGUMENTS, Recorded, SimtDriver, Source,
};
use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute, CUgraph, CUgraphExec, CUmodule, CUstreamCaptureMode,
};
use hal::{Error, ErrorKind, Result};

use crate::failure::NOT_READY;
use crate::find::Found;
use crate::memory::{Allocation, Heap};
use crate::nvrtc::Nvrtc;
use crate::primary::{Event, Primary, Stream};
use crate::staging::{Ring, SLOT, SLOTS};
use crate::symbols::Driver;

/// One open device.
#[derive(Debug)]
pub(crate) struct Cuda {
    primary: Arc<Primary>,
    heap: Arc<Heap>,
    compiler: Nvrtc,
    target: String,
    facts: Facts,
    limits: Limits,
    /// Compute capability: 90 is 9.0.
    chip: i32,
}

impl Cuda {
    /// Compute capability: 90 is 9.0.
    pub(crate) fn chip(&self) -> i32 {
        self.chip
    }

    pub(crate) fn new(api: Driver, found: &Found) -> Result<Self> {
        // First, because without it a device is of no use, and to open one takes time.
        let compiler = found.compiler()?;
        let target = compiler.target(found.chip);
        let primary = Primary::new(api, found.device)?;
        primary.enter("open a CUDA device")?;
        Ok(Self {
            heap: Arc::new(Heap::new(&primary, found.device, found.pools)?),
            facts: found.facts(&compiler, &target),
            limits: found.limits.clone(),
            chip: found.chip,
            primary,
            compiler,
            target,
        })
    }

    /// A module of `code`, which is kept beside it.
    fn load(&self, mut code: Vec<u8>) -> Result<Module> {
        // PTX is a text, whose end the driver must find.
        if code.last() != Some(&0) {
            code.push(0);
        }
        let mut handle = ptr::null_mut();
        let load = self.primary.api.cuModuleLoadData;
        // SAFETY: the image is an ELF file with its sizes inside, or a text that ends with 0.
        let status = unsafe { load(&mut handle, code.as_ptr().cast()) };
        self.primary.check("load a CUDA module", status)?;
        Ok(Module {
            primary: Arc::clone(&self.primary),
            handle,
            code,
        })
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // Queues and memory are gone, programs go next: not under a kernel that still runs.
        self.primary.enter_to_free();
        // SAFETY: the context is current.
        let code = unsafe { (self.primary.api.cuCtxSynchronize)() };
        self.primary.note(code);
    }
}

/// A loaded program.
pub(crate) struct Module {
    primary: Arc<Primary>,
    handle: CUmodule,
    code: Vec<u8>,
}

// SAFETY: modules may be used by any thread.
unsafe impl Send for Module {}
// SAFETY: as above, by several at once.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        self.primary.enter_to_free();
        // SAFETY: its kernels hold it, and the driver has waited for what was launched.
        let code = unsafe { (self.primary.api.cuModuleUnload)(self.handle) };
        self.primary.note(code);
    }
}

/// An entry of a program.
pub(crate) struct Kernel {
    function: CUfunction,
    /// Shared memory that each launch gives it.
    local_bytes: u32,
    _module: Arc<Module>,
}

// SAFETY: functions may be launched by any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above, by several at once.
unsafe impl Sync for Kernel {}

/// An in-order queue.
pub(crate) struct Queue {
    stream: Stream,
    heap: Arc<Heap>,
    /// Under which the heap knows it.
    id: u64,
    /// Allocations that it has waited for.
    seen: u64,
    /// For transfers; from the first one on.
    ring: Option<Ring>,
    /// The memory of the launches in a capture.
    capture: Option<Vec<Arc<Allocation>>>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CUDA queue")
    }
}

impl Queue {
    /// Ready to be given work that may use any memory.
    fn enter(&mut self, doing: &'static str) -> Result<()> {
        self.stream.primary.enter(doing)?;
        let capturing = self.capture.is_some();
        self.heap
            .catch_up(doing, &self.stream, &mut self.seen, capturing)
    }

    fn ring(&mut self, doing: &'static str) -> Result<&mut Ring> {
        match &mut self.ring {
            Some(ring) => Ok(ring),
            none => Ok(none.insert(Ring::take(&self.heap, doing)?)),
        }
    }

    /// Ends a capture, whatever came of it.
    fn end_capture(&mut self, doing: &'static str) -> Result<CUgraph> {
        let Self {
            stream, heap, id, ..
        } = self;
        let mut graph = ptr::null_mut();
        let end = stream.primary.api.cuStreamEndCapture;
        heap.capture(doing, *id, false, || {
            // SAFETY: the stream is alive, and `graph` outlives the call.
            stream
                .primary
                .check(doing, unsafe { end(stream.handle, &mut graph) })
        })?;
        Ok(graph)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let primary = Arc::clone(&self.stream.primary);
        primary.enter_to_free();
        if self.capture.take().is_some()
            && let Ok(graph) = self.end_capture("drop a queue in a capture")
        {
            // SAFETY: nobody else has it.
            let code = unsafe { (primary.api.cuGraphDestroy)(graph) };
            primary.note(code);
        }
        self.heap.unregister(self.id);
        if let Some(ring) = self.ring.take() {
            ring.leave(&self.heap, &self.stream);
        }
    }
}

/// Launches that were captured.
struct Graph {
    primary: Arc<Primary>,
    /// The driver does not order calls on one graph.
    graph: Mutex<Handle>,
    /// Freed after the graph is gone.
    _kept: Vec<Arc<Allocation>>,
}

struct Handle(CUgraphExec);

// SAFETY: graphs may be used by any thread, by one at a time.
unsafe impl Send for Handle {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CUDA graph")
    }
}

impl Recorded<Cuda> for Graph {
    fn launch(&self, _: &Cuda, queue: &mut Queue) -> Result<()> {
        const DOING: &str = "launch a CUDA graph";
        queue.enter(DOING)?;
        let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both are alive and of one context; the memory of its launches is kept.
        let code = unsafe { (self.primary.api.cuGraphLaunch)(graph.0, queue.stream.handle) };
        self.primary.check(DOING, code)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.primary.enter_to_free();
        let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: not launched again; launches that were queued go on.
        let code = unsafe { (self.primary.api.cuGraphExecDestroy)(graph.0) };
        self.primary.note(code);
    }
}

impl SimtDriver for Cuda {
    type Memory = Arc<Allocation>;
    type Program = Arc<Module>;
    type Kernel = Kernel;
    type Queue = Queue;
    type Mark = Event;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<Allocation>> {
        Ok(Arc::new(self.heap.alloc(bytes)?))
    }

    fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        binary: Option<&[u8]>,
    ) -> Result<Compiled<Arc<Module>>> {
        self.primary.enter("load a CUDA module")?;
        let made = |module, fresh| Compiled {
            program: Arc::new(module),
            fresh,
        };
        if let Some(binary) = binary {
            match self.load(binary.to_vec()) {
                Err(e) if e.kind() == ErrorKind::CompileFailed => {}
                loaded => return loaded.map(|module| made(module, false)),
            }
        }
        let compiled = self.compiler.compile(source, defines, &self.target, &[])?;
        Ok(made(self.load(compiled.code)?, true))
    }

    fn binary(&self, program: &Arc<Module>) -> Option<Vec<u8>> {
        Some(program.code.clone())
    }

    fn kernel(&self, program: &Arc<Module>, name: &str, group: usize) -> Result<Kernel> {
        const DOING: &str = "make a CUDA kernel";
        let fail = |why: String| {
            let doing = format!("make the kernel {name} for {}", self.facts.spec);
            Error::new(ErrorKind::CompileFailed, doing, why)
        };
        self.primary.enter(DOING)?;
        let text = CString::new(name).map_err(|_| fail("its name contains a zero byte".into()))?;
        let api = &self.primary.api;
        let mut function = ptr::null_mut();
        // SAFETY: the module is alive, the name ends with 0, and `function` outlives the call.
        let code =
            unsafe { (api.cuModuleGetFunction)(&mut function, program.handle, text.as_ptr()) };
        self.primary.check(DOING, code)?;
        let mut most = 0;
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        // SAFETY: the function is its module's, and `most` outlives the call. It also brings the code to the device, which
        // a capture could not.
        let code = unsafe { (api.cuFuncGetAttribute)(&mut most, which, function) };
        self.primary.check(DOING, code)?;
        if usize::try_from(most).unwrap_or(0) < group {
            return Err(fail(format!(
                "its groups may have {most} work-items here, {group} are needed"
            )));
        }
        Ok(Kernel {
            function,
            local_bytes: 0,
            _module: Arc::clone(program),
        })
    }

    fn kernel_with_local(
        &self,
        program: &Arc<Module>,
        name: &str,
        group: usize,
        local_bytes: usize,
    ) -> Result<Kernel> {
        const DOING: &str = "give a CUDA kernel shared memory";
        let mut kernel = self.kernel(program, name, group)?;
        let bytes = i32::try_from(local_bytes)
            .map_err(|_| Error::invalid(DOING, format!("{local_bytes} B")))?;
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is its module's.
        let code = unsafe { (self.primary.api.cuFuncSetAttribute)(kernel.function, which, bytes) };
        self.primary.check(DOING, code)?;
        kernel.local_bytes = bytes.cast_unsigned();
        Ok(kernel)
    }

    fn queue(&self) -> Result<Queue> {
        const DOING: &str = "make a CUDA queue";
        self.primary.enter(DOING)?;
        let stream = Stream::new(&self.primary, DOING)?;
        Ok(Queue {
            id: self.heap.register(DOING, &stream)?,
            heap: Arc::clone(&self.heap),
            stream,
            seen: 0,
            ring: None,
            capture: None,
        })
    }

    fn upload(
        &self,
        queue: &mut Queue,
        dst: &Arc<Allocation>,
        at: usize,
        src: &[u8],
    ) -> Result<()> {
        const DOING: &str = "upload to a CUDA device";
        queue.enter(DOING)?;
        let stream = queue.stream.handle;
        let copy = self.primary.api.cuMemcpyHtoDAsync_v2;
        let mut to = dst.pointer + at as u64;
        for part in src.chunks(SLOT) {
            let room = queue.ring(DOING)?.room(DOING, stream, part.len())?;
            // SAFETY: the ring gave room for as many bytes, which no copy uses.
            unsafe { room.copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            // SAFETY: the stream checked the range of the memory, and the ring keeps the bytes until they are copied.
            let code = unsafe { copy(to, room.cast(), part.len(), stream) };
            self.primary.check(DOING, code)?;
            to += part.len() as u64;
        }
        Ok(())
    }

    fn download(
        &self,
        queue: &mut Queue,
        dst: &mut [u8],
        src: &Arc<Allocation>,
        at: usize,
    ) -> Result<()> {
        const DOING: &str = "download from a CUDA device";
        queue.enter(DOING)?;
        let stream = queue.stream.handle;
        let copy = self.primary.api.cuMemcpyDtoHAsync_v2;
        let mut from = src.pointer + at as u64;
        // A slot less than there are: a part of the first one may be in use.
        for parts in dst.chunks_mut(SLOT * (SLOTS - 1)) {
            let mut rooms = [ptr::null_mut(); SLOTS - 1];
            for (part, room) in parts.chunks(SLOT).zip(&mut rooms) {
                *room = queue.ring(DOING)?.room(DOING, stream, part.len())?;
                // SAFETY: the stream checked the range of the memory, and the ring gave room for as many bytes.
                let code = unsafe { copy(room.cast(), from, part.len(), stream) };
                self.primary.check(DOING, code)?;
                from += part.len() as u64;
            }
            queue.stream.synchronize(DOING)?;
            for (part, room) in parts.chunks_mut(SLOT).zip(rooms) {
                // SAFETY: the copy has filled as many bytes, and the ring has not given the slot out again.
                unsafe { room.copy_to_nonoverlapping(part.as_mut_ptr(), part.len()) };
            }
        }
        Ok(())
    }

    unsafe fn launch(
        &self,
        queue: &mut Queue,
        kernel: &Kernel,
        grid: [usize; 3],
        group: usize,
        arguments: &[Argument<'_, Arc<Allocation>>],
    ) -> Result<()> {
        const DOING: &str = "launch a CUDA kernel";
        queue.enter(DOING)?;
        // Memory is two parameters.
        let mut values = [0u64; 2 * MAX_ARGUMENTS];
        let mut count = 0;
        let mut push = |value: u64| {
            values[count] = value;
            count += 1;
        };
        for argument in arguments {
            match argument {
                Argument::Memory(memory, at) => {
                    push(memory.pointer);
                    push(*at as u64);
                    if let Some(kept) = &mut queue.capture {
                        kept.push(Arc::clone(memory));
                    }
                }
                // The driver reads as many of the bytes as the parameter has, from the lowest on.
                Argument::I32(n) => push(u64::from((*n).cast_unsigned())),
                Argument::I64(n) => push((*n).cast_unsigned()),
                Argument::F32(x) => push(u64::from(x.to_bits())),
            }
        }
        let mut pointers = [ptr::null_mut::<c_void>(); 2 * MAX_ARGUMENTS];
        for (pointer, value) in pointers.iter_mut().zip(&mut values) {
            *pointer = ptr::from_mut(value).cast();
        }
        let size = |n: usize| {
            u32::try_from(n).map_err(|_| Error::invalid(DOING, format!("a size of {n}")))
        };
        let [x, y, z] = [size(grid[0])?, size(grid[1])?, size(grid[2])?];
        // SAFETY: the function's module and the stream are alive; the caller vouches for the arguments, which the driver has
        // copied on return.
        let code = unsafe {
            (self.primary.api.cuLaunchKernel)(
                kernel.function,
                x,
                y,
                z,
                size(group)?,
                1,
                1,
                kernel.local_bytes,
                queue.stream.handle,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.primary.check(DOING, code)
    }

    fn record(&self, queue: &mut Queue) -> Result<Event> {
        const DOING: &str = "record a CUDA event";
        queue.enter(DOING)?;
        let event = Event::with_time(&self.primary, DOING)?;
        event.record(DOING, queue.stream.handle)?;
        Ok(event)
    }

    fn wait(&self, queue: &mut Queue, mark: &Event) -> Result<()> {
        const DOING: &str = "wait for a CUDA event";
        queue.enter(DOING)?;
        queue.stream.wait(DOING, mark)
    }

    fn synchronize(&self, queue: &mut Queue) -> Result<()> {
        const DOING: &str = "finish a CUDA queue";
        self.primary.enter(DOING)?;
        queue.stream.synchronize(DOING)
    }

    fn finish(&self, mark: &Event) -> Result<()> {
        const DOING: &str = "wait for a CUDA event";
        self.primary.enter(DOING)?;
        mark.synchronize(DOING)
    }

    fn elapsed(&self, from: &Event, to: &Event) -> Result<Option<Duration>> {
        const DOING: &str = "measure between CUDA events";
        self.primary.enter(DOING)?;
        let (milliseconds, code) = to.since(from);
        if code == NOT_READY {
            return Ok(None);
        }
        self.primary.check(DOING, code)?;
        // A negative time is one of marks in the other order.
        Ok(Some(Duration::from_secs_f32(
            milliseconds.max(0.0) / 1000.0,
        )))
    }

    fn begin_capture(&self, queue: &mut Queue) -> Result<()> {
        const DOING: &str = "begin a CUDA capture";
        queue.enter(DOING)?;
        // Other threads and queues may go on with what they do.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let (stream, begin) = (
            queue.stream.handle,
            self.primary.api.cuStreamBeginCapture_v2,
        );
        self.heap.capture(DOING, queue.id, true, || {
            // SAFETY: the stream is alive.
            self.primary.check(DOING, unsafe { begin(stream, mode) })
        })?;
        queue.capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self, queue: &mut Queue) -> Result<Box<dyn Recorded<Self>>> {
        const DOING: &str = "end a CUDA capture";
        // First, because the queue must be left usable.
        let kept = queue.capture.take().unwrap_or_default();
        self.primary.enter(DOING)?;
        let graph = queue.end_capture(DOING)?;
        let api = &self.primary.api;
        let mut launched = ptr::null_mut();
        // SAFETY: the graph is alive, and `launched` outlives the call.
        let code = unsafe { (api.cuGraphInstantiateWithFlags)(&mut launched, graph, 0) };
        let made = self.primary.check(DOING, code);
        // SAFETY: what was made of it does not need it.
        let code = unsafe { (api.cuGraphDestroy)(graph) };
        self.primary.note(code);
        made?;
        Ok(Box::new(Graph {
            primary: Arc::clone(&self.primary),
            graph: Mutex::new(Handle(launched)),
            _kept: kept,
        }))
    }
}
