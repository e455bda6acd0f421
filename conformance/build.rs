//! Tells the suite which revision it was built from.

use std::process::Command;

fn main() {
    let describe = Command::new("git")
        .args(["describe", "--always", "--dirty", "--tags"])
        .output();
    let text = describe.ok().filter(|output| output.status.success());
    let text = text.and_then(|output| String::from_utf8(output.stdout).ok());
    let text = text.as_deref().map_or("unknown", str::trim);
    println!("cargo:rustc-env=CONFORMANCE_GIT={text}");
    // Without this line any change of a file here would run git again, and with it only a commit does.
    let head = "../.git/logs/HEAD";
    if std::path::Path::new(head).exists() {
        println!("cargo:rerun-if-changed={head}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
