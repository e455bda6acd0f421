//! `glm support`, and that docs/support.md is what it prints.

use std::process::{Command, Output};

use serde_json::Value;

fn glm(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glm"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GLM_")) {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

/// With the back ends of a usual build, which the document has.
#[cfg(all(
    feature = "cpu",
    feature = "cuda",
    feature = "emulator",
    feature = "hip",
    feature = "opencl"
))]
#[test]
fn the_document_is_what_the_planners_say() {
    let output = glm(&["support", "--markdown"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let table = String::from_utf8(output.stdout).unwrap();
    let document = include_str!("../../docs/support.md");
    assert!(
        document.contains(&table),
        "docs/support.md is old: put what `glm support --markdown` prints after its head:\n{table}"
    );
}

/// An operator library's planners ask the library what it has: here the stand-in for it.
#[cfg(all(feature = "ascend", feature = "emulator"))]
#[test]
fn the_document_has_what_ascends_planners_say_over_the_stand_in() {
    let folder = match crate::cann::CANN.build(&[]) {
        Ok(folder) => folder,
        Err(e) if e.kind() == hal::ErrorKind::NotFound => {
            return conformance::skip("stand-in", e);
        }
        Err(e) => panic!("{e}"),
    };
    let output = Command::new(env!("CARGO_BIN_EXE_glm"))
        .args(["support", "--markdown", "--device", "ascend:0"])
        .env(crate::cann::CANN.variable, folder)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let table = String::from_utf8(output.stdout).unwrap();
    let document = include_str!("../../docs/support.md");
    assert!(
        document.ends_with(&table),
        "docs/support.md is old: put this at its end:\n{table}"
    );
}

#[test]
fn a_named_device_is_planned_alone() {
    let output = glm(&["support", "--device", "cpu", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "glm/support/1");
    let cells = document["cells"].as_array().unwrap();
    assert!(cells.len() > 60);
    for cell in cells {
        assert_eq!(cell["device"], "cpu");
        // The CPU has everything.
        assert!(cell["native"].as_u64().unwrap() > 0, "{cell}");
        assert_eq!(
            (&cell["composed"], &cell["missing"]),
            (&0.into(), &0.into())
        );
    }
}

#[cfg(feature = "emulator")]
#[test]
fn what_a_device_lacks_is_missing() {
    let output = glm(&["support", "--device", "emulator:nobf16", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    for cell in document["cells"].as_array().unwrap() {
        let (native, missing) = (cell["native"].as_u64(), cell["missing"].as_u64());
        match [&cell["dtype"], &cell["weight"]]
            .iter()
            .any(|is| **is == "bf16")
        {
            true => assert_eq!(native, Some(0), "{cell}"),
            // Other arguments may be bf16 too.
            false => assert!(native > Some(0), "{cell}"),
        }
        assert!(missing.is_some());
    }
    let text = glm(&["support", "--device", "emulator:nobf16"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("native: f32 f16; missing: bf16"), "{text}");
}

#[test]
fn devices_that_do_not_open_exit_with_3() {
    let output = glm(&["support", "--device", "toaster"]);
    assert_eq!(output.status.code(), Some(3));
}
