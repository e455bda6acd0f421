//! Device memory: taken and given back in the order of one stream, which waits for the queues that may still use it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{CUdeviceptr, CUmemPool_attribute, CUmemoryPool, CUstream};
use hal::{Error, ErrorKind, Result};

use crate::failure::OUT_OF_MEMORY;
use crate::primary::{Event, Primary, Stream};
use crate::staging::Ring;
use crate::symbols::Code;

const FREE: &str = "free CUDA memory";

/// The memory of one device.
///
/// A queue must not use memory before the memory's stream has come to its allocation: [`Heap::catch_up`].
pub(crate) struct Heap {
    pub(crate) primary: Arc<Primary>,
    /// In whose order memory is taken and given back.
    stream: Stream,
    /// Where the device has stream-ordered memory.
    pool: Option<Pool>,
    /// After the newest allocation.
    allocated: Event,
    allocations: AtomicU64,
    queues: Mutex<BTreeMap<u64, Registered>>,
    /// Page-locked memory that no queue has at the moment.
    pub(crate) rings: Mutex<Vec<Ring>>,
}

/// The default pool, which the device owns.
struct Pool(CUmemoryPool);

// SAFETY: pools may be used by any thread.
unsafe impl Send for Pool {}
// SAFETY: as above, by several at once.
unsafe impl Sync for Pool {}

/// A queue that may use any memory.
struct Registered {
    /// Alive: its queue takes the entry out before it destroys the stream.
    stream: CUstream,
    /// After all its work; in a capture after the work before it, because a capture keeps its memory alive.
    worked: Event,
    capturing: bool,
}

// SAFETY: streams may be used by any thread.
unsafe impl Send for Registered {}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory of a CUDA device")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heap {
    /// The memory of the device that is current; stream-ordered when it has `pools`.
    pub(crate) fn new(primary: &Arc<Primary>, device: i32, pools: bool) -> Result<Self> {
        const DOING: &str = "open a CUDA device's memory";
        let pool = match pools {
            true => Some(Pool::new(primary, device, DOING)?),
            false => None,
        };
        Ok(Self {
            stream: Stream::new(primary, DOING)?,
            allocated: Event::new(primary, DOING)?,
            primary: Arc::clone(primary),
            pool,
            allocations: AtomicU64::new(0),
            queues: Mutex::default(),
            rings: Mutex::default(),
        })
    }

    /// Uninitialised memory.
    ///
    /// # Errors
    /// `OutOfMemory` with what is in use; what the driver reports.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Allocation> {
        const DOING: &str = "allocate CUDA memory";
        self.primary.enter(DOING)?;
        let mut pointer = 0;
        let mut code = self.take(&mut pointer, bytes);
        if code == OUT_OF_MEMORY && self.pool.is_some() {
            // What was given back may still wait for its queues, or lie in the pool in pieces.
            self.stream.synchronize(DOING)?;
            self.trim();
            code = self.take(&mut pointer, bytes);
        }
        if code == OUT_OF_MEMORY {
            return Err(self.out_of_memory(bytes));
        }
        self.primary.check(DOING, code)?;
        let allocation = Allocation {
            heap: Arc::clone(self),
            pointer,
        };
        if self.pool.is_some() {
            self.allocated.record(DOING, self.stream.handle)?;
            self.allocations.fetch_add(1, Ordering::Release);
        }
        Ok(allocation)
    }

    fn take(&self, pointer: &mut CUdeviceptr, bytes: usize) -> Code {
        let api = &self.primary.api;
        match self.pool {
            // SAFETY: `pointer` outlives the call, and the stream is alive.
            Some(_) => unsafe { (api.cuMemAllocAsync)(pointer, bytes, self.stream.handle) },
            // SAFETY: `pointer` outlives the call.
            None => unsafe { (api.cuMemAlloc_v2)(pointer, bytes) },
        }
    }

    fn trim(&self) {
        if let Some(Pool(pool)) = self.pool {
            // SAFETY: the default pool lives as long as its device.
            let code = unsafe { (self.primary.api.cuMemPoolTrimTo)(pool, 0) };
            self.primary.note(code);
        }
    }

    fn out_of_memory(&self, bytes: usize) -> Error {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both outlive the call.
        let code = unsafe { (self.primary.api.cuMemGetInfo_v2)(&mut free, &mut total) };
        let why = match self.primary.note(code) {
            true => format!(
                "{} of {total} B are in use, by all programs",
                total - free.min(total)
            ),
            false => "the driver has no more memory".into(),
        };
        Error::new(
            ErrorKind::OutOfMemory,
            format!("allocate {bytes} B of CUDA memory"),
            why,
        )
        .next_step(
            "choose a smaller model, --dtype or context; close other programs that use the device",
        )
    }

    /// Lets `stream`, which has seen the first `seen` allocations, use all there are.
    pub(crate) fn catch_up(
        &self,
        doing: &'static str,
        stream: &Stream,
        seen: &mut u64,
        capturing: bool,
    ) -> Result<()> {
        let now = self.allocations.load(Ordering::Acquire);
        if now != *seen {
            match capturing {
                // A capture holds no waits for what is outside of it.
                true => self.allocated.synchronize(doing)?,
                false => stream.wait(doing, &self.allocated)?,
            }
            *seen = now;
        }
        Ok(())
    }

    /// From now on memory that is given back waits for the work of `stream`; the name under which it is known.
    pub(crate) fn register(&self, doing: &'static str, stream: &Stream) -> Result<u64> {
        let worked = Event::new(&self.primary, doing)?;
        let mut queues = lock(&self.queues);
        let id = queues.last_key_value().map_or(0, |(id, _)| id + 1);
        queues.insert(
            id,
            Registered {
                stream: stream.handle,
                worked,
                capturing: false,
            },
        );
        Ok(id)
    }

    /// A queue is about to go: memory that is given back later waits for what it was given.
    pub(crate) fn unregister(&self, id: u64) {
        let mut queues = lock(&self.queues);
        if let Some(queue) = queues.remove(&id) {
            self.wait_for(&queue);
        }
    }

    /// Begins or ends a capture, whose `change` of the stream nobody may come between.
    pub(crate) fn capture(
        &self,
        doing: &'static str,
        id: u64,
        begins: bool,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut queues = lock(&self.queues);
        let Some(queue) = queues.get_mut(&id) else {
            return Ok(());
        };
        if begins {
            queue.worked.record(doing, queue.stream)?;
            change()?;
            queue.capturing = true;
            return Ok(());
        }
        queue.capturing = false;
        change()
    }

    /// Lets the memory's stream wait for what `queue` was given.
    fn wait_for(&self, queue: &Registered) {
        let Registered {
            stream,
            worked,
            capturing,
        } = queue;
        let marked = *capturing || worked.record(FREE, *stream).is_ok();
        if !marked || self.stream.wait(FREE, worked).is_err() {
            // Without a mark: wait here. In vain on a device that was lost.
            // SAFETY: the stream is alive.
            let code = unsafe { (self.primary.api.cuStreamSynchronize)(*stream) };
            self.primary.note(code);
        }
    }

    /// Gives memory back once all queues have done the work they have now.
    fn free(&self, pointer: CUdeviceptr) {
        self.primary.enter_to_free();
        let queues = lock(&self.queues);
        for queue in queues.values() {
            self.wait_for(queue);
        }
        let api = &self.primary.api;
        let code = match self.pool {
            // SAFETY: the memory came from the same stream's order, and is not used again.
            Some(_) => unsafe { (api.cuMemFreeAsync)(pointer, self.stream.handle) },
            None => {
                let _ = self.stream.synchronize(FREE);
                // SAFETY: the memory is not used again, and no queue uses it any more.
                unsafe { (api.cuMemFree_v2)(pointer) }
            }
        };
        self.primary.note(code);
    }
}

impl Pool {
    fn new(primary: &Primary, device: i32, doing: &'static str) -> Result<Self> {
        let mut pool = std::ptr::null_mut();
        // SAFETY: `pool` outlives the call.
        let code = unsafe { (primary.api.cuDeviceGetDefaultMemPool)(&mut pool, device) };
        primary.check(doing, code)?;
        // What was given back is kept for the next allocation, all of it.
        let mut keep = u64::MAX;
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let value = std::ptr::from_mut(&mut keep).cast();
        // SAFETY: this attribute is 64 bits, which outlive the call.
        let code = unsafe { (primary.api.cuMemPoolSetAttribute)(pool, threshold, value) };
        primary.check(doing, code)?;
        Ok(Self(pool))
    }
}

/// Device memory, given back on drop when nothing that was queued needs it any more.
pub(crate) struct Allocation {
    heap: Arc<Heap>,
    pub(crate) pointer: CUdeviceptr,
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA memory at {:#x}", self.pointer)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.heap.free(self.pointer);
    }
}
