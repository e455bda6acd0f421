//! What stderr says while a device compiles kernels, at their first use: it takes seconds, and silence looks like a hang.
//!
//! On a terminal one line counts. Elsewhere there is one line when compiling begins, and one when it is over.

use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What was compiled since the last line that was finished.
#[derive(Debug)]
struct Compiled {
    spec: String,
    programs: usize,
    took: Duration,
    kept: Option<PathBuf>,
}

/// One per process, as stderr is.
static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);

/// Notes one program; for `backends::Options::on_compile`.
pub(crate) fn tell(spec: &str, took: Duration, kept: Option<&Path>) {
    let mut state = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let other = state.take_if(|compiled| compiled.spec != spec);
    if let Some(other) = other {
        say_last(&other);
    }
    let terminal = stderr().is_terminal();
    let compiled = state.get_or_insert_with(|| {
        if !terminal {
            say(&format!(
                "compiling kernels for {spec}: its first use takes a while\n"
            ));
        }
        Compiled {
            spec: spec.into(),
            programs: 0,
            took: Duration::ZERO,
            kept: None,
        }
    });
    compiled.programs += 1;
    compiled.took += took;
    compiled.kept = kept.map(Path::to_path_buf);
    if terminal {
        say(&format!("\r{}", line("compiling", compiled)));
    }
}

/// Ends the line of what was compiled; nothing when nothing was.
pub(crate) fn finish() {
    let mut state = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(compiled) = state.take() {
        say_last(&compiled);
    }
}

fn say_last(compiled: &Compiled) {
    let start = if stderr().is_terminal() { "\r" } else { "" };
    let kept = match &compiled.kept {
        Some(folder) => format!("kept in {}", folder.display()),
        None => "not kept".into(),
    };
    say(&format!("{start}{}; {kept}\n", line("compiled", compiled)));
}

/// The part of the line that grows. "compiled" is one letter shorter than "compiling", and what follows is longer.
fn line(verb: &str, compiled: &Compiled) -> String {
    let Compiled {
        spec,
        programs,
        took,
        ..
    } = compiled;
    let s = if *programs == 1 { "" } else { "s" };
    let seconds = took.as_secs_f64();
    format!("{verb} kernels for {spec}: {programs} program{s}, {seconds:.1} s")
}

/// A closed stderr is no reason to fail.
fn say(text: &str) {
    let mut stderr = stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_programs_and_time() {
        let mut compiled = Compiled {
            spec: "opencl:0".into(),
            programs: 1,
            took: Duration::from_millis(4120),
            kept: None,
        };
        let first = line("compiling", &compiled);
        assert_eq!(first, "compiling kernels for opencl:0: 1 program, 4.1 s");
        compiled.programs = 12;
        let last = line("compiled", &compiled);
        assert_eq!(last, "compiled kernels for opencl:0: 12 programs, 4.1 s");
    }
}
