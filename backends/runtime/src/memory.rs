//! Device memory: taken and given back in the order of one stream, which waits for the queues that may still use it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hal::{Error, ErrorKind, Result};

use crate::api::{Api, Code, Handle, OUT_OF_MEMORY};
use crate::context::{Context, Event, Stream};
use crate::staging::Ring;

const FREE: &str = "free device memory";

/// The memory of one device.
///
/// A queue must not use memory before the memory's stream has come to its allocation: [`Heap::catch_up`].
pub(crate) struct Heap<A: Api> {
    pub(crate) context: Arc<Context<A>>,
    /// In whose order memory is taken and given back.
    stream: Stream<A>,
    /// Where the device has stream-ordered memory.
    pool: Option<Pool>,
    /// After the newest allocation.
    allocated: Event<A>,
    allocations: AtomicU64,
    queues: Mutex<BTreeMap<u64, Registered<A>>>,
    /// Page-locked memory that no queue has at the moment.
    pub(crate) rings: Mutex<Vec<Ring<A>>>,
}

/// The default pool, which the device owns.
struct Pool(Handle);

// SAFETY: pools may be used by any thread.
unsafe impl Send for Pool {}
// SAFETY: as above, by several at once.
unsafe impl Sync for Pool {}

/// A queue that may use any memory.
struct Registered<A: Api> {
    /// Alive: its queue takes the entry out before it destroys the stream.
    stream: Handle,
    /// After all its work; in a capture after the work before it, because a capture keeps its memory alive.
    worked: Event<A>,
    capturing: bool,
}

// SAFETY: streams may be used by any thread.
unsafe impl<A: Api> Send for Registered<A> {}

impl<A: Api> fmt::Debug for Heap<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory of a device")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<A: Api> Heap<A> {
    /// The memory of the device that is current; stream-ordered when it has `pools`.
    pub(crate) fn new(context: &Arc<Context<A>>, pools: bool) -> Result<Self> {
        const DOING: &str = "open a device's memory";
        let pool = match pools {
            true => Some(Pool::new(context, DOING)?),
            false => None,
        };
        Ok(Self {
            stream: Stream::new(context, DOING)?,
            allocated: Event::new(context, DOING)?,
            context: Arc::clone(context),
            pool,
            allocations: AtomicU64::new(0),
            queues: Mutex::default(),
            rings: Mutex::default(),
        })
    }

    /// Uninitialised memory.
    ///
    /// # Errors
    /// `OutOfMemory` with what is in use; what the runtime reports.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Allocation<A>> {
        const DOING: &str = "allocate device memory";
        self.context.enter(DOING)?;
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
        self.context.check(DOING, code)?;
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

    fn take(&self, pointer: &mut u64, bytes: usize) -> Code {
        let api = &self.context.api;
        match self.pool {
            // SAFETY: `pointer` outlives the call, and the stream is alive.
            Some(_) => unsafe { api.pool_alloc(pointer, bytes, self.stream.handle) },
            // SAFETY: `pointer` outlives the call.
            None => unsafe { api.alloc(pointer, bytes) },
        }
    }

    fn trim(&self) {
        if let Some(Pool(pool)) = self.pool {
            // SAFETY: the default pool lives as long as its device.
            let code = unsafe { self.context.api.pool_trim(pool) };
            self.context.note(code);
        }
    }

    fn out_of_memory(&self, bytes: usize) -> Error {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both outlive the call.
        let code = unsafe { self.context.api.memory_info(&mut free, &mut total) };
        let why = match self.context.note(code) {
            true => format!(
                "{} of {total} B are in use, by all programs",
                total - free.min(total)
            ),
            false => "the device has no more memory".into(),
        };
        Error::new(
            ErrorKind::OutOfMemory,
            format!("allocate {bytes} B of device memory"),
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
        stream: &Stream<A>,
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
    pub(crate) fn register(&self, doing: &'static str, stream: &Stream<A>) -> Result<u64> {
        let worked = Event::new(&self.context, doing)?;
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
    fn wait_for(&self, queue: &Registered<A>) {
        let Registered {
            stream,
            worked,
            capturing,
        } = queue;
        let marked = *capturing || worked.record(FREE, *stream).is_ok();
        if !marked || self.stream.wait(FREE, worked).is_err() {
            // Without a mark: wait here. In vain on a device that was lost.
            // SAFETY: the stream is alive.
            let code = unsafe { self.context.api.stream_synchronize(*stream) };
            self.context.note(code);
        }
    }

    /// Gives memory back once all queues have done the work they have now.
    fn free(&self, pointer: u64) {
        self.context.enter_to_free();
        let queues = lock(&self.queues);
        for queue in queues.values() {
            self.wait_for(queue);
        }
        let api = &self.context.api;
        let code = match self.pool {
            // SAFETY: the memory came from the same stream's order, and is not used again.
            Some(_) => unsafe { api.pool_free(pointer, self.stream.handle) },
            None => {
                if self.stream.synchronize(FREE).is_err() {
                    // Not under a queue that still uses it. In vain on a device that was lost.
                    // SAFETY: the device is open.
                    let code = unsafe { api.finish() };
                    self.context.note(code);
                }
                // SAFETY: the memory is not used again, and no queue uses it any more.
                unsafe { api.free(pointer) }
            }
        };
        self.context.note(code);
    }
}

impl Pool {
    fn new<A: Api>(context: &Context<A>, doing: &'static str) -> Result<Self> {
        let mut pool = std::ptr::null_mut();
        // SAFETY: `pool` outlives the call.
        let code = unsafe { context.api.pool(&mut pool) };
        context.check(doing, code)?;
        // What was given back is kept for the next allocation, all of it.
        // SAFETY: the pool is the device's.
        let code = unsafe { context.api.pool_keep(pool, u64::MAX) };
        context.check(doing, code)?;
        Ok(Self(pool))
    }
}

/// Device memory, given back on drop when nothing that was queued needs it any more.
pub struct Allocation<A: Api> {
    heap: Arc<Heap<A>>,
    pub(crate) pointer: u64,
}

impl<A: Api> Allocation<A> {
    /// Where it is, in the device's addresses.
    pub fn address(&self) -> u64 {
        self.pointer
    }
}

impl<A: Api> fmt::Debug for Allocation<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device memory at {:#x}", self.pointer)
    }
}

impl<A: Api> Drop for Allocation<A> {
    fn drop(&mut self) {
        self.heap.free(self.pointer);
    }
}
