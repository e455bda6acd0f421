//! A warm decode step on an OpenCL device compiles nothing, allocates nothing, and waits only for what it reads.

mod common;

use common::counting::{Counting, allocations, forbid_traces, owners};
use common::steps::{READS, SAMPLING, check_counting, times, warm};
use ops::Context;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Steps that are counted. The page table grows meanwhile.
const STEPS: u64 = 40;

/// One test: the harness's other threads rest while it runs, so the process's allocations are the steps'.
#[test]
fn a_warm_step_only_launches_and_reads() {
    // SAFETY: the process's other thread waits for this one.
    unsafe { forbid_traces() };
    check_counting();
    let (accelerator, counters) = match backend_opencl::open_counted("opencl:0") {
        Ok(opened) => opened,
        Err(e) => return conformance::skip("opencl", e),
    };
    println!("{}", accelerator.device.info().name);
    warm(&Context::new(accelerator), |session| {
        let (median, best) = times(session, 60);
        println!("{median:?} a step, {best:?} the fastest");
        let before = (counters.now(), allocations());
        for _ in 0..STEPS {
            session.decode(&SAMPLING).unwrap();
        }
        let (after, allocated) = (counters.now(), allocations() - before.1);
        let before = before.0;
        println!("{before:?}\n{after:?}\n{allocated} allocations");
        assert!(after.launches - before.launches > 10 * STEPS);
        assert_eq!(after.programs, before.programs);
        assert_eq!(after.kernels, before.kernels);
        assert_eq!(after.buffers, before.buffers);
        assert_eq!(after.waits - before.waits, READS * STEPS);
        assert_eq!(allocated, 0);
        // What the vendor's runtime allocates in C is not seen; opencl3 and all of the workspace is.
        let found = owners(|| {
            session.decode(&SAMPLING).unwrap();
        });
        assert!(found.ours.is_empty(), "{found:#?}");
    });
}
