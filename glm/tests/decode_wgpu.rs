//! A warm decode step on a wgpu adapter makes no pipeline, buffer or bind group, and waits only for what it reads.

mod common;

use backend_wgpu::Options;
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
    for immediates in [true, false] {
        let options = Options {
            immediates,
            ..Options::default()
        };
        let (accelerator, counters) = match backend_wgpu::open_counted("wgpu", &options) {
            Ok(opened) => opened,
            Err(e) => return conformance::skip("wgpu", e),
        };
        let name = &accelerator.device.info().name;
        println!("{name}, immediates: {immediates}");
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
            let launches = after.launches - before.launches;
            assert!(launches > 10 * STEPS);
            assert_eq!(after.pipelines, before.pipelines);
            assert_eq!(after.buffers, before.buffers);
            assert_eq!(after.bytes_in_use, before.bytes_in_use);
            assert_eq!(after.bind_groups, before.bind_groups);
            assert_eq!(after.waits - before.waits, READS * STEPS);
            println!(
                "{:.1} allocations a launch",
                allocated as f64 / launches as f64
            );
            // wgpu allocates for what it records.
            let found = owners(|| {
                session.decode(&SAMPLING).unwrap();
            });
            println!("{found:#?}");
            assert!(found.ours.is_empty(), "{found:#?}");
            assert!(found.others.contains_key("wgpu-core"), "{found:#?}");
        });
    }
}
