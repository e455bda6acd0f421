//! The driver: programs, kernels, memory, queues and marks of one OpenCL device.

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backend_simt::{Argument, Compiled, Facts, Limits, SimtDriver, Source};
use hal::{DType, Error, ErrorKind, Result};
use opencl3::command_queue::{CL_QUEUE_PROFILING_ENABLE, CommandQueue, enqueue_write_buffer};
use opencl3::context::Context;
use opencl3::error_codes::ClError;
use opencl3::event::{CL_COMPLETE, Event};
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE, ClMem};
use opencl3::program::Program;
use opencl3::types::{CL_BLOCKING, CL_NON_BLOCKING, cl_bool, cl_device_id, cl_mem, cl_uint};

use crate::counters::Counters;
use crate::failure::{Call, failure};
use crate::find::Found;

/// Staging memory of a queue: the uploads of a few decode steps with a long page table.
const STAGING_BYTES: usize = 256 << 10;

/// One open device.
#[derive(Debug)]
pub(crate) struct OpenCl {
    device: Root,
    context: Context,
    options: String,
    facts: Facts,
    limits: Limits,
    kernels: AtomicUsize,
    counters: Arc<Counters>,
    lost: AtomicBool,
}

/// A device id, which is a pointer that the runtime owns.
#[derive(Clone, Copy, Debug)]
struct Root(cl_device_id);

// SAFETY: ids of root devices are valid for the life of the process, and OpenCL's calls on them are thread-safe.
unsafe impl Send for Root {}
// SAFETY: as above.
unsafe impl Sync for Root {}

impl OpenCl {
    pub(crate) fn new(found: &Found) -> Result<Self> {
        let context = Context::from_device(&found.device)
            .map_err(|e| failure("open an OpenCL device", Call::Make, e))?;
        let mut options = match found.subgroups {
            Some(language) => format!("-cl-std={language} -D SUBGROUPS"),
            None => String::from("-cl-std=CL1.2"),
        };
        // A processor without f16 of its own: its compiler calls a function for each conversion.
        if found.limits.wide_items
            && !found.native_floats.contains(&DType::F16)
            && found.numerics.flushes.is_empty()
        {
            options.push_str(" -D F16_BITS");
        }
        if found.exact_division {
            options.push_str(" -cl-fp32-correctly-rounded-divide-sqrt");
        }
        let Found {
            spec,
            name,
            vendor,
            platform,
            driver,
            language,
            limits,
            ..
        } = found;
        Ok(Self {
            facts: Facts {
                spec: spec.clone(),
                name: name.clone(),
                detail: format!(
                    "{platform}, {language}, driver {driver}, {} KiB local memory, groups of up to {}{}",
                    limits.local_bytes >> 10,
                    limits.max_group,
                    if found.subgroups.is_some() {
                        ", sub-groups"
                    } else {
                        ""
                    },
                ),
                fingerprint: Some(format!(
                    "{platform}\n{vendor}\n{name}\n{driver}\n{language}\n{options}"
                )),
                native_floats: found.native_floats.clone(),
                numerics: found.numerics.clone(),
            },
            limits: limits.clone(),
            device: Root(found.device.id()),
            context,
            options,
            kernels: AtomicUsize::new(0),
            counters: Arc::default(),
            lost: AtomicBool::new(false),
        })
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn alive(&self, doing: &'static str) -> Result<()> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(
                Error::new(ErrorKind::DeviceLost, doing, "the device was lost before")
                    .next_step("open the device again"),
            );
        }
        Ok(())
    }

    /// The result of a call, whose failure may be the device's last.
    fn check<T>(&self, doing: &'static str, call: Call, result: Result<T, ClError>) -> Result<T> {
        result.map_err(|e| {
            let e = failure(doing, call, e);
            if e.kind() == ErrorKind::DeviceLost {
                self.lost.store(true, Ordering::Relaxed);
            }
            e
        })
    }

    /// Writes `src` from byte `at` on.
    ///
    /// # Safety
    /// Unless it blocks, `src` keeps its bytes until the queue has carried out the command.
    unsafe fn write(
        &self,
        queue: &Queue,
        dst: &ClMemory,
        at: usize,
        src: *const u8,
        len: usize,
        blocking: cl_bool,
    ) -> Result<()> {
        let (queue, dst) = (queue.queue.get(), dst.0.get());
        // SAFETY: the caller's promise; the range of `dst` was checked by the stream.
        let event = unsafe {
            enqueue_write_buffer(queue, dst, blocking, at, len, src.cast(), 0, ptr::null())
        };
        let event = event.map(Event::new).map_err(ClError);
        self.check("upload to an OpenCL device", Call::Queue, event)
            .map(drop)
    }

    /// Waits for the queue, whose staging memory is free then. A call that blocks would not do: Intel's CPU runtime
    /// (2026.22) returns from one while earlier writes, which did not block, still read their bytes.
    fn drain(&self, queue: &mut Queue) -> Result<()> {
        let done = queue.queue.finish();
        self.check("finish an OpenCL queue", Call::Wait, done)?;
        queue.staged = 0;
        Ok(())
    }

    fn build(&self, source: &Source, options: &str) -> Result<Program> {
        const DOING: &str = "compile a kernel";
        let program = Program::create_from_source(&self.context, &source.text());
        let mut program = self.check(DOING, Call::Make, program)?;
        if let Err(e) = program.build(self.context.devices(), options) {
            let log = program.get_build_log(self.device.0).unwrap_or_default();
            let e = failure(DOING, Call::Make, e);
            return Err(Error::new(
                ErrorKind::CompileFailed,
                format!("compile {} for {}", source.name, self.facts.spec),
                format!("{}, options {options}, log:\n{}", e.detail(), log.trim()),
            )
            .with_source(e));
        }
        Ok(program)
    }

    fn load(&self, binary: &[u8], options: &str) -> Option<Program> {
        // SAFETY: the device is the context's own.
        let program = unsafe {
            Program::create_from_binary(&self.context, self.context.devices(), &[binary])
        };
        let mut program = program.ok()?;
        program.build(self.context.devices(), options).ok()?;
        Some(program)
    }
}

/// A buffer of bytes.
pub(crate) struct ClMemory(Buffer<u8>);

impl fmt::Debug for ClMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenCL memory")
    }
}

/// An entry of a program, from which each queue makes its own kernel object.
pub(crate) struct Entry {
    program: Arc<Program>,
    name: String,
    /// Its place in a queue's list.
    at: usize,
}

/// An in-order queue, and its kernel objects: OpenCL's hold arguments, so threads cannot share one.
pub(crate) struct Queue {
    queue: CommandQueue,
    kernels: Vec<Option<Kernel>>,
    /// Bytes on their way to the device: the first `staged` ones, until a call has waited for the queue.
    staging: Box<[Cell<u8>]>,
    staged: usize,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenCL queue")
    }
}

impl Queue {
    /// A copy of `src` in staging memory, if there is room.
    fn stage(&mut self, src: &[u8]) -> Option<*const u8> {
        let room = self.staging.get(self.staged..self.staged + src.len())?;
        for (to, &from) in room.iter().zip(src) {
            to.set(from);
        }
        self.staged += src.len();
        Some(room.as_ptr().cast())
    }

    /// This queue's kernel object, made at the first use.
    fn kernel(&mut self, entry: &Entry, counters: &Counters) -> Result<&Kernel, ClError> {
        if self.kernels.len() <= entry.at {
            self.kernels.resize_with(entry.at + 1, || None);
        }
        let place = &mut self.kernels[entry.at];
        match place {
            Some(kernel) => Ok(kernel),
            None => {
                counters.kernels.add();
                Ok(place.insert(Kernel::create(&entry.program, &entry.name)?))
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Work that was queued is owed to whoever reads the buffers; a failure has nobody to go to.
        if self.staged == 0 {
            let _ = self.queue.flush();
        } else if self.queue.finish().is_err() {
            // The runtime may still read it.
            mem::forget(mem::take(&mut self.staging));
        }
    }
}

/// A marker command's event.
pub(crate) struct Mark(Event);

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenCL event")
    }
}

impl SimtDriver for OpenCl {
    type Memory = ClMemory;
    type Program = Arc<Program>;
    type Kernel = Entry;
    type Queue = Queue;
    type Mark = Mark;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn alloc(&self, bytes: usize) -> Result<ClMemory> {
        const DOING: &str = "allocate OpenCL memory";
        self.alive(DOING)?;
        // SAFETY: no host pointer is given.
        let buffer =
            unsafe { Buffer::create(&self.context, CL_MEM_READ_WRITE, bytes, ptr::null_mut()) };
        self.counters.buffers.add();
        Ok(ClMemory(self.check(DOING, Call::Make, buffer)?))
    }

    fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        binary: Option<&[u8]>,
    ) -> Result<Compiled<Arc<Program>>> {
        self.alive("compile a kernel")?;
        self.counters.programs.add();
        let mut options = self.options.clone();
        for (name, value) in defines {
            options.push_str(&format!(" -D {name}={value}"));
        }
        let loaded = binary.and_then(|binary| self.load(binary, &options));
        let fresh = loaded.is_none();
        let program = match loaded {
            Some(program) => program,
            None => self.build(source, &options)?,
        };
        Ok(Compiled {
            program: Arc::new(program),
            fresh,
        })
    }

    fn binary(&self, program: &Arc<Program>) -> Option<Vec<u8>> {
        let binary = program.get_binaries().ok()?.into_iter().next()?;
        (!binary.is_empty()).then_some(binary)
    }

    fn kernel(&self, program: &Arc<Program>, name: &str, group: usize) -> Result<Entry> {
        const DOING: &str = "make an OpenCL kernel";
        self.counters.kernels.add();
        let kernel = self.check(DOING, Call::Make, Kernel::create(program, name))?;
        let most = self.check(DOING, Call::Make, kernel.get_work_group_size(self.device.0))?;
        if most < group {
            return Err(Error::new(
                ErrorKind::CompileFailed,
                format!("make the kernel {name} for {}", self.facts.spec),
                format!("its groups may have {most} work-items here, {group} are needed"),
            ));
        }
        Ok(Entry {
            program: Arc::clone(program),
            name: name.into(),
            at: self.kernels.fetch_add(1, Ordering::Relaxed),
        })
    }

    fn queue(&self) -> Result<Queue> {
        const DOING: &str = "make an OpenCL queue";
        self.alive(DOING)?;
        // SAFETY: the device is the context's own.
        let queue = unsafe {
            CommandQueue::create(&self.context, self.device.0, CL_QUEUE_PROFILING_ENABLE)
        };
        Ok(Queue {
            queue: self.check(DOING, Call::Make, queue)?,
            kernels: Vec::new(),
            staging: vec![Cell::new(0); STAGING_BYTES].into(),
            staged: 0,
        })
    }

    fn upload(&self, queue: &mut Queue, dst: &ClMemory, at: usize, src: &[u8]) -> Result<()> {
        self.alive("upload to an OpenCL device")?;
        if queue.staged + src.len() > STAGING_BYTES {
            self.counters.waits.add();
            self.drain(queue)?;
        }
        match queue.stage(src) {
            // SAFETY: staging memory is written again, or freed, only after the queue was waited for.
            Some(copy) => unsafe { self.write(queue, dst, at, copy, src.len(), CL_NON_BLOCKING) },
            // SAFETY: the call blocks.
            None => unsafe { self.write(queue, dst, at, src.as_ptr(), src.len(), CL_BLOCKING) },
        }
    }

    fn download(&self, queue: &mut Queue, dst: &mut [u8], src: &ClMemory, at: usize) -> Result<()> {
        const DOING: &str = "download from an OpenCL device";
        self.alive(DOING)?;
        self.counters.waits.add();
        // SAFETY: the call blocks, so `dst` outlives the command; the range was checked by the stream.
        let done = unsafe {
            queue
                .queue
                .enqueue_read_buffer(&src.0, CL_BLOCKING, at, dst, &[])
        };
        self.check(DOING, Call::Wait, done)?;
        self.drain(queue)
    }

    unsafe fn launch(
        &self,
        queue: &mut Queue,
        kernel: &Entry,
        grid: [usize; 3],
        group: usize,
        arguments: &[Argument<'_, ClMemory>],
    ) -> Result<()> {
        const DOING: &str = "launch an OpenCL kernel";
        self.alive(DOING)?;
        self.counters.launches.add();
        let object = self.check(DOING, Call::Queue, queue.kernel(kernel, &self.counters))?;
        let mut at: cl_uint = 0;
        for argument in arguments {
            let done = match argument {
                Argument::Memory(memory, offset) => {
                    let (memory, offset): (cl_mem, i64) = (memory.0.get(), *offset as i64);
                    // SAFETY: the kernel declares memory here, as the caller promises.
                    let done = unsafe { object.set_arg(at, &memory) };
                    self.check(DOING, Call::Queue, done)?;
                    at += 1;
                    // SAFETY: the offset follows it.
                    unsafe { object.set_arg(at, &offset) }
                }
                // SAFETY: the kernel declares this type here, as the caller promises.
                Argument::I32(n) => unsafe { object.set_arg(at, n) },
                // SAFETY: as above.
                Argument::I64(n) => unsafe { object.set_arg(at, n) },
                // SAFETY: as above.
                Argument::F32(x) => unsafe { object.set_arg(at, x) },
            };
            self.check(DOING, Call::Queue, done)?;
            at += 1;
        }
        let (global, local) = ([grid[0] * group, grid[1], grid[2]], [group, 1, 1]);
        let object = object.get();
        // SAFETY: all arguments are set; sizes are of three dimensions.
        let event = unsafe {
            queue.queue.enqueue_nd_range_kernel(
                object,
                3,
                ptr::null(),
                global.as_ptr(),
                local.as_ptr(),
                &[],
            )
        };
        self.check(DOING, Call::Queue, event).map(drop)
    }

    fn record(&self, queue: &mut Queue) -> Result<Mark> {
        const DOING: &str = "record an OpenCL event";
        self.alive(DOING)?;
        // SAFETY: no events are waited for.
        let event = unsafe { queue.queue.enqueue_marker_with_wait_list(&[]) };
        let event = self.check(DOING, Call::Queue, event)?;
        // Another queue may wait for it, which alone would not start this one.
        self.check(DOING, Call::Queue, queue.queue.flush())?;
        Ok(Mark(event))
    }

    fn wait(&self, queue: &mut Queue, mark: &Mark) -> Result<()> {
        const DOING: &str = "wait for an OpenCL event";
        self.alive(DOING)?;
        // SAFETY: the event is of this driver's context, as the stream checked.
        let event = unsafe { queue.queue.enqueue_barrier_with_wait_list(&[mark.0.get()]) };
        self.check(DOING, Call::Queue, event).map(drop)
    }

    fn synchronize(&self, queue: &mut Queue) -> Result<()> {
        self.alive("finish an OpenCL queue")?;
        self.counters.waits.add();
        self.drain(queue)
    }

    fn finish(&self, mark: &Mark) -> Result<()> {
        const DOING: &str = "wait for an OpenCL event";
        self.alive(DOING)?;
        self.counters.waits.add();
        self.check(DOING, Call::Wait, mark.0.wait())
    }

    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<Option<Duration>> {
        const DOING: &str = "measure between OpenCL events";
        self.alive(DOING)?;
        for mark in [from, to] {
            let status = self.check(DOING, Call::Wait, mark.0.command_execution_status())?;
            if status.0 != CL_COMPLETE {
                return Ok(None);
            }
        }
        let from = self.check(DOING, Call::Wait, from.0.profiling_command_end())?;
        let to = self.check(DOING, Call::Wait, to.0.profiling_command_end())?;
        Ok(Some(Duration::from_nanos(to.saturating_sub(from))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first device, if there is one.
    fn device() -> Option<OpenCl> {
        let found = crate::find::devices()
            .ok()
            .and_then(|all| all.into_iter().next());
        if found.is_none() {
            conformance::skip("opencl", "no OpenCL device");
        }
        Some(OpenCl::new(&found?).unwrap())
    }

    const GOOD: Source = Source {
        name: "good",
        parts: &["__kernel void good(__global int *x, long at) { x[at / 4] = VALUE; }"],
        begins_early: false,
    };

    #[test]
    fn a_source_that_does_not_compile_gives_the_log() {
        let Some(device) = device() else { return };
        let bad = Source {
            name: "bad",
            parts: &["__kernel void bad(__global int *x) { x[0] = undeclared_name; }"],
            begins_early: false,
        };
        let e = device.compile(&bad, &[], None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::CompileFailed);
        assert!(e.to_string().contains("undeclared_name"), "{e}");
        // A definition that is missing.
        let e = device.compile(&GOOD, &[], None).unwrap_err();
        assert!(e.to_string().contains("VALUE"), "{e}");
    }

    #[test]
    fn binaries_load_and_others_are_ignored() {
        let Some(device) = device() else { return };
        let defines = [("VALUE", String::from("7"))];
        let compiled = device.compile(&GOOD, &defines, None).unwrap();
        assert!(compiled.fresh);
        let program = compiled.program;
        let Some(binary) = device.binary(&program) else {
            return println!("SKIPPED: the driver gives no binaries");
        };
        let damaged = vec![0x5a; binary.len()];
        for (kept, fresh) in [(&binary[..], false), (&damaged, true)] {
            let compiled = device.compile(&GOOD, &defines, Some(kept)).unwrap();
            assert_eq!(compiled.fresh, fresh);
            let program = compiled.program;
            let kernel = device.kernel(&program, "good", 1).unwrap();
            let mut queue = device.queue().unwrap();
            let memory = device.alloc(8).unwrap();
            let arguments = [Argument::Memory(&memory, 4)];
            // SAFETY: these are the kernel's two parameters, and it writes bytes 4 to 8.
            unsafe { device.launch(&mut queue, &kernel, [1; 3], 1, &arguments) }.unwrap();
            let mut bytes = [0; 4];
            device.download(&mut queue, &mut bytes, &memory, 4).unwrap();
            assert_eq!(i32::from_le_bytes(bytes), 7);
        }
        assert!(device.kernel(&program, "nothing", 1).is_err());
    }

    #[test]
    fn small_uploads_wait_only_when_staging_memory_is_full() {
        let Some(device) = device() else { return };
        let mut queue = device.queue().unwrap();
        let piece = STAGING_BYTES / 3;
        let memory = device.alloc(8 * piece).unwrap();
        let mut src = vec![0; piece];
        for i in 0..8 {
            // The last upload's bytes are written over, whether they have arrived or not.
            src.fill(i as u8 + 1);
            device.upload(&mut queue, &memory, i * piece, &src).unwrap();
        }
        assert_eq!(device.counters.now().waits, 2);
        let mut got = vec![0; 8 * piece];
        device.download(&mut queue, &mut got, &memory, 0).unwrap();
        assert_eq!(device.counters.now().waits, 3);
        let expected = |at: usize| (at / piece) as u8 + 1;
        assert!(got.iter().enumerate().all(|(at, &x)| x == expected(at)));
        // Work of a queue that is dropped is still done.
        device.upload(&mut queue, &memory, 0, &[77; 9]).unwrap();
        drop(queue);
        let mut queue = device.queue().unwrap();
        device
            .download(&mut queue, &mut got[..9], &memory, 0)
            .unwrap();
        assert_eq!(got[..10], [77, 77, 77, 77, 77, 77, 77, 77, 77, 1]);
    }
}
