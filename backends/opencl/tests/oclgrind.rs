//! Small cases of every operation under oclgrind, which sees data races and accesses outside of memory.
//!
//! oclgrind is a driver like any other, but its findings are only in its log: the cases run in a process of their own,
//! with that driver alone, and the log is read afterwards. `OCLGRIND_ICD` names the driver's library where it is not at
//! Debian's place.

use std::path::Path;
use std::process::Command;

use conformance::{Case, Suite, for_each_op};
use ops::Op;

/// Set in the process that runs the cases.
const INSIDE: &str = "GLM_TEST_INSIDE_OCLGRIND";

/// Elements that all arguments of a case may have together.
const SMALL: usize = 6000;

/// Cases per operation.
const CASES: usize = 6;

fn is_small<O: Op>(case: &Case<O>) -> bool {
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    let all: usize = case.operands.iter().map(|o| elements(&o.shape)).sum();
    // Not those without work.
    all < SMALL && case.operands.iter().any(|o| elements(&o.shape) > 40)
}

#[test]
fn no_kernel_races_or_leaves_its_memory() {
    if std::env::var_os(INSIDE).is_some() {
        return run();
    }
    let icd = std::env::var("OCLGRIND_ICD")
        .unwrap_or_else(|_| "/usr/lib/oclgrind/liboclgrind-rt-icd.so".into());
    if !Path::new(&icd).exists() {
        let required = std::env::var("REQUIRE_DEVICE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == "oclgrind"),
            "REQUIRE_DEVICE names oclgrind: there is no {icd}"
        );
        println!("SKIPPED: there is no {icd} (Debian: oclgrind)");
        return;
    }
    let folder = std::env::temp_dir().join(format!("glm-oclgrind-{}", std::process::id()));
    let log = folder.join("log");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("oclgrind.icd"), format!("{icd}\n")).unwrap();
    let inside = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "no_kernel_races_or_leaves_its_memory",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .env("OCL_ICD_VENDORS", &folder)
        .env("OCLGRIND_DATA_RACES", "1")
        .env("OCLGRIND_CHECK_API", "1")
        .env("OCLGRIND_LOG", &log)
        .output()
        .unwrap();
    let found = std::fs::read_to_string(&log).unwrap_or_default();
    let _ = std::fs::remove_dir_all(&folder);
    let text = String::from_utf8_lossy(&inside.stdout);
    println!("{text}");
    assert!(
        inside.status.success() && text.contains("1 passed"),
        "{text}"
    );
    assert!(
        text.contains("Oclgrind"),
        "another driver was used:\n{text}"
    );
    assert_eq!(found.trim(), "", "oclgrind's findings");
}

/// The cases, on the only device there is.
fn run() {
    let device = backend_opencl::open("opencl:0").unwrap();
    println!("{}", device.device.info().name);
    macro_rules! each {
        ($($name:ident $op:ident),*) => {$({
            let left = std::cell::Cell::new(CASES);
            let report = Suite::new(device.clone()).run_where::<ops::$op>(|case| {
                let keep = is_small(case) && left.get() > 0;
                left.set(left.get() - usize::from(keep));
                keep
            });
            println!("{report}");
            report.require_pass().unwrap();
        })*};
    }
    for_each_op!(each);
}
