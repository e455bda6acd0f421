//! Small cases of every operation under oclgrind, which sees data races and accesses outside of memory.
//!
//! oclgrind is a driver like any other, but its findings are only in its log: the cases run in a process of their own,
//! with that driver alone, and the log is read afterwards. `OCLGRIND_ICD` names the driver's library where it is not at
//! Debian's place.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;

use conformance::{Suite, for_each_op};
use ops::Attention;

/// Set in the process that runs the cases.
const INSIDE: &str = "GLM_TEST_INSIDE_OCLGRIND";

/// Cases per operation.
const CASES: usize = 6;

#[test]
fn no_kernel_races_or_leaves_its_memory() {
    if std::env::var_os(INSIDE).is_some() {
        return run();
    }
    let icd = std::env::var("OCLGRIND_ICD")
        .unwrap_or_else(|_| "/usr/lib/oclgrind/liboclgrind-rt-icd.so".into());
    if !Path::new(&icd).exists() {
        let why = format!("there is no {icd} (Debian: oclgrind)");
        return conformance::skip("oclgrind", why);
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
            let report = Suite::new(device.clone()).run_small::<ops::$op>(CASES);
            println!("{report}");
            report.require_pass().unwrap();
        })*};
    }
    for_each_op!(each);
    // One cache that several groups share.
    let looked = Cell::new(0);
    let report = Suite::new(device).run_where::<Attention>(|case| {
        let slots = case.operands[4].shape[1] * case.op.page_size;
        let fits = slots > 512 && case.op.heads <= 4 && case.elements() < 200_000;
        looked.set(looked.get() + usize::from(fits));
        fits && looked.get() == 1
    });
    println!("{report}");
    assert_eq!(report.outcomes.len(), 1);
    report.require_pass().unwrap();
}
