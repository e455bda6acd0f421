//! The conformance suite on the example plugin.

mod common;

use conformance::{Level, Outcome, Status, Suite, for_each_op};
use ops::Accelerator;

/// What the example has kernels for.
const CLAIMED: [&str; 5] = ["copy", "elementwise", "activation", "rms_norm", "matmul"];
/// What follows from these; a `glu` with a limit does not.
const COMPOSED: [&str; 2] = ["add_rms_norm", "glu"];

/// Runs `test` on the example; without a C compiler says so. The library's file is gone while it is used.
fn with_example(test: impl FnOnce(Accelerator)) {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = common::library(folder.path(), "examples/host/example.c", &[]) else {
        return;
    };
    let accelerator = backend_plugin::open(&format!("plugin:{}", library.display())).unwrap();
    drop(folder);
    test(accelerator);
}

macro_rules! one_test_per_op {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            with_example(|accelerator| {
                let name = <ops::$op as ops::Op>::NAME;
                let report = Suite::new(accelerator).run::<ops::$op>();
                println!("{report}");
                if CLAIMED.contains(&name) {
                    report.require_pass().unwrap();
                } else if COMPOSED.contains(&name) {
                    report.require_no_failure().unwrap();
                } else {
                    let unsupported = |o: &Outcome| o.status == Status::Unsupported;
                    assert!(report.outcomes.iter().all(unsupported), "{report}");
                    assert!(!report.outcomes.is_empty());
                }
            });
        })*
    };
}
for_each_op!(one_test_per_op);

#[test]
fn memory_streams_and_captures() {
    with_example(|accelerator| {
        let report = Suite::new(accelerator).run_level(Level::Memory);
        println!("{report}");
        report.require_pass().unwrap();
    });
}

#[test]
fn what_is_claimed_is_what_the_table_has() {
    with_example(|accelerator| {
        let claimed = accelerator.ops.names().filter(|(_, claimed)| *claimed);
        let mut claimed: Vec<&str> = claimed.map(|(name, _)| name).collect();
        let mut expected = CLAIMED;
        claimed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(claimed, expected);
        assert_eq!(accelerator.device.info().name, "example plugin");
    });
}

#[test]
fn the_header_is_c11_and_cpp17() {
    for (variable, compiler, standard, language) in [
        ("CC", "cc", "-std=c11", "c"),
        ("CXX", "c++", "-std=c++17", "c++"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("header.txt");
        std::fs::write(&source, "#include \"glm_hal.h\"\n").unwrap();
        let source = source.to_str().unwrap();
        let args = [
            standard,
            "-Wpedantic",
            "-fsyntax-only",
            "-x",
            language,
            source,
        ];
        if let Some(output) = common::compile(variable, compiler, &args) {
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{language}:\n{log}");
        }
    }
}
