//! `Plan::run` by itself, on a device that does nothing, allocates nothing.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use conformance::{Conformance, Picks};
use hal::null::NullDevice;
use hal::{DType, Device, Result, Stream, View};
use ops::{Accelerator, Context, Launch, Ops, Planner, SafeLaunch};

struct Counting;

thread_local! {
    /// Of this thread alone: the harness's own may be late in what it does.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn allocated() -> usize {
    ALLOCATIONS.with(Cell::get)
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
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

/// A kernel that does nothing.
struct Nothing;

impl SafeLaunch for Nothing {
    fn run(&self, _: &mut dyn Stream, _: &[View<'_>]) -> Result<()> {
        Ok(())
    }
}

fn allocations<O: Conformance>(table: fn(Arc<dyn Planner<O>>) -> Ops) -> usize {
    let device = Arc::new(NullDevice::new());
    let planner = |_: &O| -> Result<Option<Arc<dyn Launch>>> { Ok(Some(Arc::new(Nothing))) };
    let context = Context::new(Accelerator {
        device: device.clone(),
        ops: table(Arc::new(planner)),
    });
    let case = O::case(&mut Picks::free(vec![30_000; 16]));
    let plan = context.plan(case.op.clone()).unwrap();
    let specs = common::arguments(&case, &device);
    let args = common::views(&specs);
    let workspace = device.alloc(0).unwrap();
    let workspace = View::new(&workspace, DType::U8, &[0]).unwrap();
    let mut stream = device.stream().unwrap();
    let before = allocated();
    for _ in 0..100 {
        plan.run_list(&mut *stream, &args, &workspace).unwrap();
    }
    allocated() - before
}

#[test]
fn running_a_plan_allocates_nothing() {
    macro_rules! each {
        ($($name:ident $op:ident),*) => {
            $(let count = allocations::<ops::$op>(|planner| Ops {
                $name: Some(planner),
                ..Ops::none()
            });
            assert_eq!(count, 0, "{}", stringify!($name));)*
        };
    }
    conformance::for_each_op!(each);
    // The counter counts.
    let before = allocated();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocated() - before, 1);
}
