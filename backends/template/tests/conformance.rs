//! The conformance suite: level 0, and every operation. What is not written yet prints SKIPPED; what is must pass.

use conformance::{Level, Outcome, Status, Suite, for_each_op};
use ops::{Accelerator, Op};

fn accelerator() -> Accelerator {
    // REPLACE: `conformance::skip("mychip", why)` where there is none.
    backend_template::open().unwrap()
}

/// REPLACE: add each operation that you write. When this has all of them, the whole file becomes
/// `conformance::tests!(accelerator);`.
const WRITTEN: &[&str] = &["rms_norm"];

macro_rules! one_test_per_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            let name = <ops::$op as Op>::NAME;
            let report = Suite::new(accelerator()).run::<ops::$op>();
            if WRITTEN.contains(&name) {
                println!("{report}");
                return report.require_pass().unwrap();
            }
            let missing = |o: &Outcome| o.status == Status::Unsupported;
            if report.outcomes.iter().all(missing) {
                return conformance::skip("template", format_args!("{name} is not written yet"));
            }
            // Composed from what is there.
            println!("{report}");
            report.require_no_failure().unwrap();
        })*
    };
}
for_each_op!(one_test_per_op);

#[test]
fn memory_and_streams() {
    let report = Suite::new(accelerator()).run_level(Level::Memory);
    println!("{report}");
    report.require_no_failure().unwrap();
}
