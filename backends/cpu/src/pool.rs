//! One set of threads that run every kernel together.
//!
//! A run hands one closure to all threads and waits for them: no queue, no allocation. Workers spin for a short
//! while after each run, since the next kernel of a decode step follows within microseconds, and then sleep.
//! Kernels split their *outputs* among threads, so results do not depend on how many there are.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

use hal::{Error, ErrorKind, Result};

/// How often a waiting thread looks before it sleeps: about 50 µs.
const SPINS: usize = 2_000;

type Task = (*const (), unsafe fn(*const (), usize, usize));

struct Shared {
    /// The closure of the current run. Written before `epoch` is raised, read after.
    task: UnsafeCell<Task>,
    /// Number of runs started.
    epoch: AtomicUsize,
    /// Workers still busy with the current run.
    pending: AtomicUsize,
    /// Set while a run is under way.
    busy: AtomicBool,
    /// Set when a worker's closure panicked.
    panicked: AtomicBool,
    /// Workers that sleep, or are about to.
    sleeping: AtomicUsize,
    stop: AtomicBool,
    threads: usize,
}

// SAFETY: `task` is written only by the thread that holds `busy`, while no worker reads it (`pending` is 0).
unsafe impl Sync for Shared {}
// SAFETY: the pointers in `task` are used only during `run`, which outlives their use.
unsafe impl Send for Shared {}

/// The threads of one CPU device. The calling thread is one of them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl Pool {
    /// A pool of `threads` threads in all, the caller's included.
    ///
    /// # Errors
    /// `Io` when the system refuses a thread.
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            task: UnsafeCell::new((std::ptr::null(), |_, _, _| {})),
            epoch: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            threads: threads.max(1),
        });
        let mut pool = Self {
            shared,
            workers: Vec::new(),
        };
        for index in 1..threads.max(1) {
            let shared = pool.shared.clone();
            let handle = std::thread::Builder::new()
                .name(format!("glm-cpu-{index}"))
                .spawn(move || shared.work(index))
                .map_err(|e| {
                    let doing = format!("start {threads} threads");
                    Error::new(ErrorKind::Io, doing, e.to_string())
                        .next_step("choose fewer, by --threads")
                        .with_source(e)
                })?;
            pool.workers.push((handle.thread().clone(), Some(handle)));
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `f(thread, threads)` on every thread and returns when all are done.
    /// When another thread is inside `run` already, the caller does all the work alone: `f(0, 1)`.
    ///
    /// # Panics
    /// When `f` panicked on any thread.
    pub(crate) fn run<F: Fn(usize, usize) + Sync>(&self, f: F) {
        let shared = &*self.shared;
        if shared.threads == 1 || shared.busy.swap(true, Ordering::Acquire) {
            return f(0, 1);
        }
        unsafe fn call<F: Fn(usize, usize)>(f: *const (), thread: usize, threads: usize) {
            // SAFETY: `run` passes a pointer to its own `f`, which it keeps until all threads are done.
            unsafe { (*f.cast::<F>())(thread, threads) }
        }
        // SAFETY: `busy` is ours and `pending` is 0: no worker reads the task now.
        unsafe { *shared.task.get() = ((&raw const f).cast(), call::<F>) };
        shared.pending.store(shared.threads - 1, Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) > 0 {
            for (worker, _) in &self.workers {
                worker.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| f(0, shared.threads)));
        let mut spins = 0;
        while shared.pending.load(Ordering::Acquire) > 0 {
            spins += 1;
            // More threads than cores: give the core to whoever has work left.
            if spins % SPINS == 0 {
                std::thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        shared.busy.store(false, Ordering::Release);
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!panicked, "a kernel panicked on a worker thread");
    }

    /// Splits `0..items` into one contiguous part per thread, each a multiple of `step` long but the last,
    /// and runs `f(part)` for the parts that are not empty. Work below `inline` items stays on the caller.
    pub(crate) fn split(
        &self,
        items: usize,
        step: usize,
        inline: usize,
        f: impl Fn(std::ops::Range<usize>) + Sync,
    ) {
        if items <= inline.max(step) {
            if items > 0 {
                f(0..items);
            }
            return;
        }
        let steps = items.div_ceil(step);
        self.run(|thread, threads| {
            let at = |i: usize| (steps * i / threads * step).min(items);
            let part = at(thread)..at(thread + 1);
            if !part.is_empty() {
                f(part);
            }
        });
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            while self.epoch.load(Ordering::Acquire) == seen {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                spins += 1;
                if spins < SPINS {
                    std::hint::spin_loop();
                    continue;
                }
                self.sleeping.fetch_add(1, Ordering::SeqCst);
                // The run may have started between the last look and the line above: look again before sleeping.
                if self.epoch.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                self.sleeping.fetch_sub(1, Ordering::SeqCst);
            }
            seen += 1;
            // SAFETY: the epoch was raised after the task was written, and it stays until `pending` is 0.
            let (data, call) = unsafe { *self.task.get() };
            // SAFETY: `run` keeps the closure until this worker has lowered `pending`.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe {
                call(data, index, self.threads)
            }));
            if done.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.pending.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (thread, handle) in &mut self.workers {
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A worker never panics: `work` catches.
                let _ = handle.join();
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for _ in 0..200 {
                let hits: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(|i, n| {
                    assert_eq!(n, threads);
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn parts_cover_everything_once() {
        let pool = Pool::new(3).unwrap();
        for (items, step) in [(0, 4), (1, 4), (7, 4), (12, 4), (100, 1), (101, 16)] {
            let hits: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.split(items, step, 0, |part| {
                assert!(part.start.is_multiple_of(step));
                part.for_each(|i| _ = hits[i].fetch_add(1, Ordering::Relaxed));
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn sleeps_and_wakes() {
        let pool = Pool::new(2).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let ran = AtomicUsize::new(0);
        pool.run(|_, _| _ = ran.fetch_add(1, Ordering::Relaxed));
        assert_eq!(ran.into_inner(), 2);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        let panics = |thread| {
            catch_unwind(AssertUnwindSafe(|| pool.run(|i, _| assert_ne!(i, thread)))).is_err()
        };
        assert!(panics(0) && panics(1) && !panics(2));
    }

    #[test]
    fn nested_and_concurrent_runs_fall_back_to_one_thread() {
        let pool = Pool::new(2).unwrap();
        let inner = AtomicUsize::new(0);
        pool.run(|_, _| {
            pool.run(|i, n| {
                assert_eq!((i, n), (0, 1));
                inner.fetch_add(1, Ordering::Relaxed);
            })
        });
        assert_eq!(inner.into_inner(), 2);
    }
}
