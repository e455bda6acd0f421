//! Running a plan allocates nothing, on any thread, for any operation.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backend_emulator::mutants::{Change, with};
use conformance::Suite;

use common::{cpu, primitive};

/// Counts every allocation of the process.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// Allocations during launches, and the number of launches, of the operation at work.
static DURING_LAUNCH: AtomicUsize = AtomicUsize::new(0);
static LAUNCHES: AtomicUsize = AtomicUsize::new(0);

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

/// One test: the harness's other threads rest while it runs, so the process's allocations are the launch's.
#[test]
fn launches_allocate_nothing() {
    macro_rules! each {
        ($($name:ident $op:ident),*) => {
            for open in [cpu, primitive] {
                $({
                    let counted = Change::<ops::$op>::run(stringify!($name), |at| {
                        let before = ALLOCATIONS.load(Ordering::SeqCst);
                        let result = at.launch();
                        let allocated = ALLOCATIONS.load(Ordering::SeqCst) - before;
                        DURING_LAUNCH.fetch_add(allocated, Ordering::SeqCst);
                        LAUNCHES.fetch_add(1, Ordering::SeqCst);
                        result
                    });
                    DURING_LAUNCH.store(0, Ordering::SeqCst);
                    LAUNCHES.store(0, Ordering::SeqCst);
                    let suite = Suite::new(with(&open(), counted));
                    // The pool's threads allocate as they start.
                    std::thread::sleep(Duration::from_millis(20));
                    let report = suite.run_where::<ops::$op>(|case| {
                        let sum: usize = case.id().bytes().map(usize::from).sum();
                        sum % 3 == 0 && can_run(&case.op as &dyn Any)
                    });
                    report.require_pass().unwrap();
                    let launches = LAUNCHES.load(Ordering::SeqCst);
                    assert!(launches > 20, "{}: {launches} launches", stringify!($name));
                    assert_eq!(DURING_LAUNCH.load(Ordering::SeqCst), 0, "{}", stringify!($name));
                })*
            }
        };
    }
    conformance::for_each_op!(each);
}

/// A clamped gated unit has no composed form, nor has attention over a cache of int8.
fn can_run(op: &dyn Any) -> bool {
    let glu = op.downcast_ref::<ops::Glu>();
    let attention = op.downcast_ref::<ops::Attention>();
    glu.is_none_or(|glu| glu.limit.is_none()) && attention.is_none_or(|op| op.kv.is_float())
}
