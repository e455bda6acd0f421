//! Builds plugins with the machine's C compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The crate's folder.
pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the compiler `variable` names (else `default`) with all warnings as errors; `None`, said aloud, without one.
pub(crate) fn compile(variable: &str, default: &str, args: &[&str]) -> Option<Output> {
    let compiler = std::env::var(variable).unwrap_or_else(|_| default.into());
    let mut command = Command::new(&compiler);
    command.args(["-Wall", "-Wextra", "-Werror", "-I"]);
    command.arg(here().join("include")).args(args);
    match command.output() {
        Ok(output) => Some(output),
        Err(e) => {
            conformance::skip("plugin", format_args!("no compiler {compiler}: {e}"));
            None
        }
    }
}

/// The library of a source of this crate.
pub(crate) fn library(folder: &Path, source: &str, defines: &[&str]) -> Option<PathBuf> {
    let (library, source) = (folder.join("libplugin.so"), here().join(source));
    let mut args = vec![
        "-std=c11",
        "-O2",
        "-shared",
        "-fPIC",
        "-o",
        library.to_str()?,
    ];
    args.extend(defines);
    args.extend([source.to_str()?, "-lm"]);
    let output = compile("CC", "cc", &args)?;
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{log}", source.display());
    Some(library)
}
