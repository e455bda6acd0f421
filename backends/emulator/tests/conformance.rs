//! The conformance suite on emulators that are odd and right.

use std::cell::Cell;

use conformance::{Status, Suite};
use ops::Accelerator;

fn emulator() -> Accelerator {
    backend_emulator::open("emulator:wave64,async").unwrap()
}

conformance::tests!(emulator);

/// A tenth of the cases on other characters.
macro_rules! characters {
    ($($name:ident $op:ident),*) => {
        #[test]
        fn other_characters_conform() {
            for (spec, every) in [
                ("emulator:wave1", 10),
                ("emulator:ftz,wave7,mem256m", 10),
                ("emulator:tf32", 40),
                ("emulator:bf16ops", 40),
                ("emulator:f16acc", 40),
            ] {
                let suite = Suite::new(backend_emulator::open(spec).unwrap());
                $(
                    let n = Cell::new(0);
                    let report = suite.run_where::<ops::$op>(|_| n.replace(n.get() + 1) % every == 0);
                    report.require_pass().unwrap_or_else(|e| panic!("{spec}: {e}"));
                )*
            }
        }

        /// Who does the same and declares less is wrong.
        #[test]
        fn undeclared_classes_fail() {
            for spec in ["emulator:tf32,lies", "emulator:bf16ops,lies", "emulator:f16acc,lies"] {
                let suite = Suite::new(backend_emulator::open(spec).unwrap());
                let mut failed = Vec::new();
                $(
                    let report = suite.run_where::<ops::$op>(|case| case.id().len() % 10 == 0);
                    if report.count(Status::Fail) > 0 {
                        failed.push(stringify!($name));
                    }
                )*
                // Attention hides it where its result is stored in fewer bits.
                failed.retain(|&op| op != "attention");
                assert_eq!(failed, ["matmul", "batched_matmul"], "{spec}");
            }
        }

        /// Declared types may be declined; the rest must run.
        #[test]
        fn a_device_without_bf16_says_so() {
            for (spec, allowed) in [
                ("emulator:nobf16", Status::Unsupported),
                ("emulator:nobf16,lies", Status::ClaimedButUnsupported),
            ] {
                let suite = Suite::new(backend_emulator::open(spec).unwrap());
                $(
                    let report = suite.run_where::<ops::$op>(|case| case.id().len() % 16 == 0);
                    let declined = report.count(allowed);
                    let passed = report.count(Status::Pass) + report.count(Status::PassWeak);
                    assert_eq!(passed + declined, report.outcomes.len(), "{spec}: {report}");
                )*
            }
        }
    };
}
conformance::for_each_op!(characters);
