//! What every OpenCL device promises before and beside its operations: memory, streams, its card, errors.

mod common;

use std::process::Command;

use conformance::discipline::discipline;
use conformance::probe::probe;
use conformance::{Catalogue, Depth, Selection, Suite};
use hal::ErrorKind;

use common::each_device;

#[test]
fn memory_and_streams_keep_their_promises() {
    let selection = Selection {
        levels: "0".parse().unwrap(),
        ops: Vec::new(),
        depth: Depth::Standard,
        soak_seconds: None,
    };
    let catalogue = Catalogue::new(&selection, Vec::new()).unwrap();
    assert!(catalogue.checks().len() > 10);
    each_device(|accelerator| {
        let suite = Suite::new(accelerator.clone());
        for check in catalogue.checks() {
            let outcome = check.run(&suite);
            println!("{outcome}");
            // Graphs are not captured here, which a device may say.
            let fine = outcome.status.is_pass() || check.name == "memory/capture";
            assert!(fine, "{}: {outcome}", check.name);
        }
    });
}

#[test]
fn the_card_is_what_the_probes_find() {
    each_device(|accelerator| {
        let findings = probe(&accelerator).unwrap();
        println!("{findings}");
        let wrong = findings.contradictions(&accelerator.device.info().numerics);
        assert!(wrong.is_empty(), "{wrong:?}");
    });
}

#[test]
fn results_depend_on_nothing_else() {
    each_device(|accelerator| {
        for found in discipline(&accelerator).unwrap() {
            println!("{found}");
            assert_eq!(found.deterministic, Some(true), "{found}");
        }
    });
}

#[test]
fn devices_are_found_by_number_and_by_platform() {
    each_device(|accelerator| {
        let spec = &accelerator.device.info().spec;
        let again = backend_opencl::open(spec).unwrap();
        assert_eq!(again.device.info().spec, *spec);
        assert_ne!(again.device.info().id, accelerator.device.info().id);
        let missing = backend_opencl::open("opencl:99").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains(spec.as_str()), "{missing}");
    });
}

#[test]
fn a_spec_that_is_none_is_refused() {
    for spec in ["opencl:", "opencl:x", "opencl:0.", "opencl:-1", "cpu", ""] {
        let e = backend_opencl::open(spec).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{spec}: {e}");
    }
}

/// Set in the process that must do without a driver.
const ALONE: &str = "GLM_TEST_WITHOUT_DRIVER";

#[test]
fn without_a_driver_the_error_says_what_to_install() {
    if std::env::var_os(ALONE).is_some() {
        let e = backend_opencl::devices().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        // The loader itself may be missing too.
        let text = e.to_string();
        let named = ["pocl-opencl-icd", "ocl-icd-libopencl1"];
        assert!(named.iter().any(|name| text.contains(name)), "{text}");
        return;
    }
    // Drivers are looked for once per process.
    let name = "without_a_driver_the_error_says_what_to_install";
    let alone = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ALONE, "1")
        .env("OCL_ICD_VENDORS", "/nowhere/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}
