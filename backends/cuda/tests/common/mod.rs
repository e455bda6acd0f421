//! The stand-in for the vendor's two libraries, in a process of its own.

use std::path::PathBuf;
use std::process::Command;

use backend_emulator::stand_in::{self, StandIn};
use hal::ErrorKind;

/// The folder of the stand-in, in the process that uses it.
const FOLDER: &str = "GLM_CUDA_LIBRARIES";
/// Set in that process.
const INSIDE: &str = "GLM_TEST_INSIDE_STAND_IN";
/// The names under which the back end looks for the libraries.
const FILES: [&str; 2] = ["libcuda.so.1", "libnvrtc.so.13"];

/// Runs `test`, the body of the test called `name`, in a process whose only NVIDIA device is the stand-in, with further
/// `settings` of its environment. Without a C++ compiler says so.
pub(crate) fn emulated(name: &str, settings: &[(&str, &str)], test: impl FnOnce(StandIn)) {
    emulated_without(name, settings, &[], test);
}

/// As [`emulated`], of a stand-in that lacks the functions `hidden`.
pub(crate) fn emulated_without(
    name: &str,
    settings: &[(&str, &str)],
    hidden: &[&str],
    test: impl FnOnce(StandIn),
) {
    if std::env::var_os(INSIDE).is_some() {
        let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
        return test(StandIn::open(&folder.join(FILES[0])).unwrap());
    }
    let defines: Vec<(&str, &str)> = hidden
        .iter()
        .map(|&function| (function, "hidden"))
        .collect();
    let folder = match stand_in::build(include_str!("../stand_in/cuda.h"), &defines, &FILES) {
        Ok(folder) => folder,
        Err(e) if e.kind() == ErrorKind::NotFound => return conformance::skip("stand-in", e),
        Err(e) => panic!("{e}"),
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .env(FOLDER, folder)
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"));
}
