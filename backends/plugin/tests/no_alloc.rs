//! A launch through the table allocates nothing on this side of it.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::{DType, View};
use ops::{Context, RmsNorm, RmsNormArgs};

/// Counts every allocation of the process.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn launches_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = common::library(folder.path(), "examples/host/example.c", &[]) else {
        return;
    };
    let context =
        Context::new(backend_plugin::open(&format!("plugin:{}", library.display())).unwrap());
    let op = RmsNorm {
        dim: 8,
        dtype: DType::F32,
        eps: 1e-5,
    };
    let plan = context.plan(op).unwrap();
    let buffers = [64, 64, 32, 0].map(|bytes| context.device().alloc(bytes).unwrap());
    let view = |i: usize, shape: &[usize]| View::new(&buffers[i], DType::F32, shape).unwrap();
    let args = RmsNormArgs {
        out: view(0, &[2, 8]),
        x: view(1, &[2, 8]),
        weight: view(2, &[8]),
    };
    let workspace = View::of_bytes(&buffers[3]);
    let mut stream = context.device().stream().unwrap();
    let count = |launches: usize, stream: &mut dyn hal::Stream| {
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        for _ in 0..launches {
            plan.run(stream, args, &workspace).unwrap();
        }
        ALLOCATIONS.load(Ordering::SeqCst) - before
    };
    // A capture keeps what it records, so here the counter must move.
    stream.begin_capture().unwrap();
    assert!(count(3, &mut *stream) > 0);
    stream.end_capture().unwrap();
    assert_eq!(count(100, &mut *stream), 0);
}
