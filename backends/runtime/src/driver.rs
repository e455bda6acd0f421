//! The driver of the portable kernels: programs, kernels, queues, marks and graphs of one device.

use std::any::Any;
use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backend_simt::{
    Argument, Compiled, Facts, Limits, MAX_ARGUMENTS, Recorded, SimtDriver, Source,
};
use hal::{Error, ErrorKind, Result};

use crate::api::{Api, Code, Handle, NOT_READY};
use crate::context::{Context, Event, Stream};
use crate::memory::{Allocation, Heap};
use crate::staging::{Ring, SLOT, SLOTS};

/// One open device.
#[derive(Debug)]
pub struct Runtime<A: Api> {
    context: Arc<Context<A>>,
    heap: Arc<Heap<A>>,
    facts: Facts,
    limits: Limits,
    captures: bool,
}

/// What a device may lack.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// Memory in the order of a stream.
    pub pools: bool,
    /// Launches that a stream records.
    pub captures: bool,
}

impl<A: Api> Runtime<A> {
    /// The device of `api`.
    ///
    /// # Errors
    /// What the runtime reports.
    pub fn new(api: A, facts: Facts, limits: Limits, has: Abilities) -> Result<Self> {
        let context = Context::new(api);
        context.enter("open a device")?;
        Ok(Self {
            heap: Arc::new(Heap::new(&context, has.pools)?),
            facts,
            limits,
            captures: has.captures,
            context,
        })
    }

    /// The runtime's calls.
    pub fn api(&self) -> &A {
        &self.context.api
    }

    /// Lets a library of the vendor's queue work of its own: `call` is given the stream, and where the memory among `arguments`
    /// begins, in their order. The device is current meanwhile; a capture keeps the memory.
    ///
    /// # Errors
    /// `DeviceLost`; those of `call`.
    pub fn with_stream<T>(
        &self,
        doing: &'static str,
        queue: &mut Queue<A>,
        arguments: &[Argument<'_, Arc<Allocation<A>>>],
        call: impl FnOnce(Handle, &[u64]) -> Result<T>,
    ) -> Result<T> {
        queue.enter(doing)?;
        let mut pointers = [0; MAX_ARGUMENTS];
        let mut count = 0;
        for argument in arguments {
            if let Argument::Memory(memory, at) = argument {
                pointers[count] = memory.pointer + *at as u64;
                count += 1;
                queue.keep(memory);
            }
        }
        call(queue.stream.handle, &pointers[..count])
    }

    /// A module of `code`, which is kept beside it.
    fn load(&self, source: &Source, mut code: Vec<u8>) -> Result<Module<A>> {
        // A text, whose end the runtime must find.
        if code.last() != Some(&0) {
            code.push(0);
        }
        let mut handle = ptr::null_mut();
        // SAFETY: the image is an ELF file with its sizes inside, or a text that ends with 0.
        let status = unsafe { self.context.api.module(&mut handle, code.as_ptr().cast()) };
        self.context.check("load a module", status)?;
        Ok(Module {
            context: Arc::clone(&self.context),
            handle,
            code,
            begins_early: source.begins_early,
        })
    }
}

/// For back ends that queue work of an operator library.
impl<A: Api> Runtime<A> {
    /// The result of a call to the device, whose failure may be its last.
    ///
    /// # Errors
    /// What the code means.
    pub fn check(&self, doing: &'static str, code: Code) -> Result<()> {
        self.context.check(doing, code)
    }
}

impl<A: Api> Drop for Runtime<A> {
    fn drop(&mut self) {
        // Queues and memory are gone, programs go next: not under a kernel that still runs.
        self.context.enter_to_free();
        // SAFETY: the device is open.
        let code = unsafe { self.context.api.finish() };
        self.context.note(code);
    }
}

/// A loaded program.
pub struct Module<A: Api> {
    context: Arc<Context<A>>,
    handle: Handle,
    code: Vec<u8>,
    /// Whether its functions may begin while the work before them ends.
    begins_early: bool,
}

// SAFETY: modules may be used by any thread.
unsafe impl<A: Api> Send for Module<A> {}
// SAFETY: as above, by several at once.
unsafe impl<A: Api> Sync for Module<A> {}

impl<A: Api> Drop for Module<A> {
    fn drop(&mut self) {
        self.context.enter_to_free();
        // SAFETY: its kernels hold it, and the device has finished what was launched.
        let code = unsafe { self.context.api.module_unload(self.handle) };
        self.context.note(code);
    }
}

/// An entry of a program.
pub struct Kernel<A: Api> {
    function: Handle,
    /// Local memory that each launch gives it.
    local_bytes: u32,
    module: Arc<Module<A>>,
}

// SAFETY: functions may be launched by any thread.
unsafe impl<A: Api> Send for Kernel<A> {}
// SAFETY: as above, by several at once.
unsafe impl<A: Api> Sync for Kernel<A> {}

/// An in-order queue.
pub struct Queue<A: Api> {
    stream: Stream<A>,
    heap: Arc<Heap<A>>,
    /// Under which the heap knows it.
    id: u64,
    /// Allocations that it has waited for.
    seen: u64,
    /// For transfers; from the first one on.
    ring: Option<Ring<A>>,
    /// The memory of the launches in a capture.
    capture: Option<Vec<Arc<Allocation<A>>>>,
    /// Memory for one launch at a time, and its bytes.
    scratch: Option<(Arc<Allocation<A>>, usize)>,
    /// What the back end keeps with it.
    kept: Option<Box<dyn Any + Send>>,
}

impl<A: Api> fmt::Debug for Queue<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("queue")
    }
}

impl<A: Api> Queue<A> {
    /// Ready to be given work that may use any memory.
    fn enter(&mut self, doing: &'static str) -> Result<()> {
        self.stream.context.enter(doing)?;
        let capturing = self.capture.is_some();
        self.heap
            .catch_up(doing, &self.stream, &mut self.seen, capturing)
    }

    /// Lets a capture keep `memory`, which its launches use.
    fn keep(&mut self, memory: &Arc<Allocation<A>>) {
        if let Some(kept) = &mut self.capture {
            kept.push(Arc::clone(memory));
        }
    }

    fn ring(&mut self, doing: &'static str) -> Result<&mut Ring<A>> {
        match &mut self.ring {
            Some(ring) => Ok(ring),
            none => Ok(none.insert(Ring::take(&self.heap, doing)?)),
        }
    }

    /// Makes this thread's calls go to the device, and gives the stream, ready for work that may use any memory.
    ///
    /// # Errors
    /// `DeviceLost`; what the runtime reports.
    pub fn begin(&mut self, doing: &'static str) -> Result<Handle> {
        self.enter(doing)?;
        Ok(self.stream.handle)
    }

    /// Work that is queued now uses `memory`: a capture keeps it alive.
    pub fn uses(&mut self, memory: &Arc<Allocation<A>>) {
        if let Some(kept) = &mut self.capture {
            kept.push(Arc::clone(memory));
        }
    }

    /// Where at least `bytes` of memory are that belong to one launch after the other. It grows, and is not given back before
    /// the queue is.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn scratch(&mut self, doing: &'static str, bytes: usize) -> Result<u64> {
        if self.scratch.as_ref().is_none_or(|(_, have)| *have < bytes) {
            // The smaller one goes first, when the work on it is done.
            self.scratch = None;
            let whole = bytes.max(1).checked_next_power_of_two().unwrap_or(bytes);
            let memory = Arc::new(self.heap.alloc(whole)?);
            self.uses(&memory);
            self.scratch = Some((memory, whole));
            self.enter(doing)?;
        }
        Ok(self
            .scratch
            .as_ref()
            .map_or(0, |(memory, _)| memory.address()))
    }

    /// What the back end keeps with this queue, made when it is first asked for. It goes before the queue does.
    pub fn kept<T: Any + Send + Default>(&mut self) -> &mut T {
        if !self.kept.as_ref().is_some_and(|kept| kept.is::<T>()) {
            self.kept = Some(Box::new(T::default()));
        }
        let kept = self.kept.as_mut().and_then(|kept| kept.downcast_mut());
        kept.expect("just made of this type")
    }

    /// Ends a capture, whatever came of it.
    fn end_capture(&mut self, doing: &'static str) -> Result<Handle> {
        let Self {
            stream, heap, id, ..
        } = self;
        let mut graph = ptr::null_mut();
        heap.capture(doing, *id, false, || {
            // SAFETY: the stream is alive, and `graph` outlives the call.
            stream.context.check(doing, unsafe {
                stream.context.api.capture_end(stream.handle, &mut graph)
            })
        })?;
        Ok(graph)
    }
}

impl<A: Api> Drop for Queue<A> {
    fn drop(&mut self) {
        let context = Arc::clone(&self.stream.context);
        context.enter_to_free();
        self.kept = None;
        if self.capture.take().is_some()
            && let Ok(graph) = self.end_capture("drop a queue in a capture")
        {
            // SAFETY: nobody else has it.
            let code = unsafe { context.api.graph_destroy(graph) };
            context.note(code);
        }
        self.heap.unregister(self.id);
        if let Some(ring) = self.ring.take() {
            ring.leave(&self.heap, &self.stream);
        }
    }
}

/// Launches that were captured.
struct Graph<A: Api> {
    context: Arc<Context<A>>,
    /// Runtimes do not order calls on one graph.
    graph: Mutex<Made>,
    /// Freed after the graph is gone.
    _kept: Vec<Arc<Allocation<A>>>,
}

struct Made(Handle);

// SAFETY: graphs may be used by any thread, by one at a time.
unsafe impl Send for Made {}

impl<A: Api> fmt::Debug for Graph<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("graph")
    }
}

impl<A: Api> Recorded<Runtime<A>> for Graph<A> {
    fn launch(&self, _: &Runtime<A>, queue: &mut Queue<A>) -> Result<()> {
        const DOING: &str = "launch a graph";
        queue.enter(DOING)?;
        let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: both are alive and of one device; the memory of its launches is kept.
        let code = unsafe { self.context.api.graph_launch(graph.0, queue.stream.handle) };
        self.context.check(DOING, code)
    }
}

impl<A: Api> Drop for Graph<A> {
    fn drop(&mut self) {
        self.context.enter_to_free();
        let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: not launched again; launches that were queued go on.
        let code = unsafe { self.context.api.graph_unmake(graph.0) };
        self.context.note(code);
    }
}

impl<A: Api> SimtDriver for Runtime<A> {
    type Memory = Arc<Allocation<A>>;
    type Program = Arc<Module<A>>;
    type Kernel = Kernel<A>;
    type Queue = Queue<A>;
    type Mark = Event<A>;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<Allocation<A>>> {
        Ok(Arc::new(self.heap.alloc(bytes)?))
    }

    fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        binary: Option<&[u8]>,
    ) -> Result<Compiled<Arc<Module<A>>>> {
        self.context.enter("load a module")?;
        let made = |module, fresh| Compiled {
            program: Arc::new(module),
            fresh,
        };
        if let Some(binary) = binary {
            match self.load(source, binary.to_vec()) {
                Err(e) if e.kind() == ErrorKind::CompileFailed => {}
                loaded => return loaded.map(|module| made(module, false)),
            }
        }
        let code = self.context.api.compile(source, defines)?;
        Ok(made(self.load(source, code)?, true))
    }

    fn binary(&self, program: &Arc<Module<A>>) -> Option<Vec<u8>> {
        Some(program.code.clone())
    }

    fn kernel(&self, program: &Arc<Module<A>>, name: &str, group: usize) -> Result<Kernel<A>> {
        const DOING: &str = "make a kernel";
        let fail = |why: String| {
            let doing = format!("make the kernel {name} for {}", self.facts.spec);
            Error::new(ErrorKind::CompileFailed, doing, why)
        };
        self.context.enter(DOING)?;
        let text = CString::new(name).map_err(|_| fail("its name contains a zero byte".into()))?;
        let api = &self.context.api;
        let mut function = ptr::null_mut();
        // SAFETY: the module is alive, the name ends with 0, and `function` outlives the call.
        let code = unsafe { api.function(&mut function, program.handle, &text) };
        self.context.check(DOING, code)?;
        let mut most = 0;
        // SAFETY: the function is its module's, and `most` outlives the call. It also brings the code to the device, which
        // a capture could not.
        let code = unsafe { api.function_max_group(&mut most, function) };
        self.context.check(DOING, code)?;
        if usize::try_from(most).unwrap_or(0) < group {
            return Err(fail(format!(
                "its groups may have {most} work-items here, {group} are needed"
            )));
        }
        Ok(Kernel {
            function,
            local_bytes: 0,
            module: Arc::clone(program),
        })
    }

    fn kernel_with_local(
        &self,
        program: &Arc<Module<A>>,
        name: &str,
        group: usize,
        local_bytes: usize,
    ) -> Result<Kernel<A>> {
        const DOING: &str = "give a kernel local memory";
        let mut kernel = self.kernel(program, name, group)?;
        kernel.local_bytes = u32::try_from(local_bytes)
            .map_err(|_| Error::invalid(DOING, format!("{local_bytes} B")))?;
        // SAFETY: the function is its module's.
        let code = unsafe {
            self.context
                .api
                .function_local(kernel.function, kernel.local_bytes)
        };
        self.context.check(DOING, code)?;
        Ok(kernel)
    }

    fn queue(&self) -> Result<Queue<A>> {
        const DOING: &str = "make a queue";
        self.context.enter(DOING)?;
        let stream = Stream::new(&self.context, DOING)?;
        Ok(Queue {
            id: self.heap.register(DOING, &stream)?,
            heap: Arc::clone(&self.heap),
            stream,
            seen: 0,
            ring: None,
            capture: None,
            scratch: None,
            kept: None,
        })
    }

    fn upload(
        &self,
        queue: &mut Queue<A>,
        dst: &Arc<Allocation<A>>,
        at: usize,
        src: &[u8],
    ) -> Result<()> {
        const DOING: &str = "upload to a device";
        queue.enter(DOING)?;
        let stream = queue.stream.handle;
        let mut to = dst.pointer + at as u64;
        for part in src.chunks(SLOT) {
            let room = queue.ring(DOING)?.room(DOING, stream, part.len())?;
            // SAFETY: the ring gave room for as many bytes, which no copy uses.
            unsafe { room.copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            // SAFETY: the stream checked the range of the memory, and the ring keeps the bytes until they are copied.
            let code = unsafe { self.context.api.upload(to, room.cast(), part.len(), stream) };
            self.context.check(DOING, code)?;
            to += part.len() as u64;
        }
        Ok(())
    }

    fn download(
        &self,
        queue: &mut Queue<A>,
        dst: &mut [u8],
        src: &Arc<Allocation<A>>,
        at: usize,
    ) -> Result<()> {
        const DOING: &str = "download from a device";
        queue.enter(DOING)?;
        let stream = queue.stream.handle;
        let mut from = src.pointer + at as u64;
        // A slot less than there are: a part of the first one may be in use.
        for parts in dst.chunks_mut(SLOT * (SLOTS - 1)) {
            let mut rooms = [ptr::null_mut(); SLOTS - 1];
            for (part, room) in parts.chunks(SLOT).zip(&mut rooms) {
                *room = queue.ring(DOING)?.room(DOING, stream, part.len())?;
                // SAFETY: the stream checked the range of the memory, and the ring gave room for as many bytes.
                let code = unsafe {
                    self.context
                        .api
                        .download(room.cast(), from, part.len(), stream)
                };
                self.context.check(DOING, code)?;
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
        queue: &mut Queue<A>,
        kernel: &Kernel<A>,
        grid: [usize; 3],
        group: usize,
        arguments: &[Argument<'_, Arc<Allocation<A>>>],
    ) -> Result<()> {
        const DOING: &str = "launch a kernel";
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
                    queue.keep(memory);
                }
                // Runtimes read as many of the bytes as the parameter has, from the lowest on.
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
        let grid = [size(grid[0])?, size(grid[1])?, size(grid[2])?];
        // SAFETY: the function's module and the stream are alive; the caller vouches for the arguments, which the runtime
        // has copied on return.
        let code = unsafe {
            self.context.api.launch(
                kernel.function,
                grid,
                size(group)?,
                kernel.local_bytes,
                kernel.module.begins_early,
                queue.stream.handle,
                pointers.as_mut_ptr(),
            )
        };
        self.context.check(DOING, code)
    }

    fn record(&self, queue: &mut Queue<A>) -> Result<Event<A>> {
        const DOING: &str = "record an event";
        queue.enter(DOING)?;
        let event = Event::with_time(&self.context, DOING)?;
        event.record(DOING, queue.stream.handle)?;
        Ok(event)
    }

    fn wait(&self, queue: &mut Queue<A>, mark: &Event<A>) -> Result<()> {
        const DOING: &str = "wait for an event";
        queue.enter(DOING)?;
        queue.stream.wait(DOING, mark)
    }

    fn synchronize(&self, queue: &mut Queue<A>) -> Result<()> {
        const DOING: &str = "finish a queue";
        self.context.enter(DOING)?;
        queue.stream.synchronize(DOING)
    }

    fn finish(&self, mark: &Event<A>) -> Result<()> {
        const DOING: &str = "wait for an event";
        self.context.enter(DOING)?;
        mark.synchronize(DOING)
    }

    fn elapsed(&self, from: &Event<A>, to: &Event<A>) -> Result<Option<Duration>> {
        const DOING: &str = "measure between events";
        self.context.enter(DOING)?;
        let (milliseconds, code) = to.since(from);
        if code == NOT_READY {
            return Ok(None);
        }
        self.context.check(DOING, code)?;
        // A negative time is one of marks in the other order.
        Ok(Some(Duration::from_secs_f32(
            milliseconds.max(0.0) / 1000.0,
        )))
    }

    fn begin_capture(&self, queue: &mut Queue<A>) -> Result<()> {
        const DOING: &str = "begin a capture";
        if !self.captures {
            return Err(Error::unsupported(DOING, "this runtime records nothing")
                .next_step("launch the operations one by one"));
        }
        queue.enter(DOING)?;
        // What a capture's launches use is the graph's alone.
        queue.scratch = None;
        let stream = queue.stream.handle;
        self.heap.capture(DOING, queue.id, true, || {
            // SAFETY: the stream is alive.
            self.context
                .check(DOING, unsafe { self.context.api.capture_begin(stream) })
        })?;
        queue.capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self, queue: &mut Queue<A>) -> Result<Box<dyn Recorded<Self>>> {
        const DOING: &str = "end a capture";
        // First, because the queue must be left usable.
        let kept = queue.capture.take().unwrap_or_default();
        queue.scratch = None;
        self.context.enter(DOING)?;
        let graph = queue.end_capture(DOING)?;
        let api = &self.context.api;
        let mut launched = ptr::null_mut();
        // SAFETY: the graph is alive, and `launched` outlives the call.
        let code = unsafe { api.graph_make(&mut launched, graph) };
        let made = self.context.check(DOING, code);
        // SAFETY: what was made of it does not need it.
        let code = unsafe { api.graph_destroy(graph) };
        self.context.note(code);
        made?;
        Ok(Box::new(Graph {
            context: Arc::clone(&self.context),
            graph: Mutex::new(Made(launched)),
            _kept: kept,
        }))
    }
}
