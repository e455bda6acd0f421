//! Allocations of the process, and whose code made them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts every allocation of Rust code in the process; what a C library allocates goes past it.
pub struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static TRACES: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    /// Traces are wanted of this thread's allocations.
    static TRACING: Cell<bool> = const { Cell::new(false) };
    /// A trace is being taken, which allocates.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !INSIDE.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            if TRACING.get() {
                INSIDE.set(true);
                let trace = Backtrace::force_capture().to_string();
                let mut traces = TRACES.lock().unwrap_or_else(PoisonError::into_inner);
                traces.push(trace);
                drop(traces);
                INSIDE.set(false);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Keeps others from taking traces of their own, as wgpu does of its locks: this allocator's would wait for them.
///
/// # Safety
/// No other thread reads the environment.
pub unsafe fn forbid_traces() {
    // SAFETY: the caller's promise.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
}

/// Allocations until now.
pub fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// How many allocations each package makes on this thread during `work`, by the file of the code that asks: `ours` are
/// those of this workspace, with their lines.
pub fn owners(work: impl FnOnce()) -> Owners {
    TRACING.set(true);
    work();
    TRACING.set(false);
    let traces = std::mem::take(&mut *TRACES.lock().unwrap_or_else(PoisonError::into_inner));
    let mut owners = Owners::default();
    for trace in traces {
        match owner(&trace) {
            Owner::Other(package) => *owners.others.entry(package).or_default() += 1,
            Owner::Ours(line) => *owners.ours.entry(line).or_default() += 1,
        }
    }
    owners
}

#[derive(Debug, Default)]
pub struct Owners {
    /// By file and line.
    pub ours: BTreeMap<String, usize>,
    /// By package.
    pub others: BTreeMap<String, usize>,
}

enum Owner {
    Ours(String),
    Other(String),
}

/// Containers: they allocate for whoever calls them.
const CONTAINERS: [&str; 6] = [
    "arrayvec",
    "hashbrown",
    "indexmap",
    "smallvec",
    "bit-vec",
    "bit-set",
];

/// The innermost frame that is neither the standard library nor a container.
fn owner(trace: &str) -> Owner {
    // The standard library, and the allocator itself, whose wrappers bear the line of its static.
    const INNER: [&str; 6] = [
        "/rustc/",
        "/rust/deps/",
        "/toolchains/",
        "/library/",
        "common/counting.rs",
        "/tests/decode_",
    ];
    let lines = trace.lines().map(str::trim);
    for place in lines.filter_map(|line| line.strip_prefix("at ")) {
        if INNER.iter().any(|inner| place.contains(inner)) {
            continue;
        }
        let Some((_, in_registry)) = place.split_once("/registry/src/") else {
            return Owner::Ours(place.into());
        };
        let folder = in_registry.split('/').nth(1).unwrap_or("");
        let package = folder.rsplit_once('-').map_or(folder, |(name, _)| name);
        if !CONTAINERS.contains(&package) {
            return Owner::Other(package.into());
        }
    }
    Owner::Other(String::from("unknown"))
}
