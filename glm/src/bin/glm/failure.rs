//! Exit codes. They are part of the interface: tested, and stable.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a check ran and failed |
//! | 2 | usage (reported by the argument parser) |
//! | 3 | device or back end unavailable |
//! | 4 | bad input: file, unknown architecture, template, prompt |
//! | 5 | does not fit in memory |
//! | 6 | NaN or infinity where numbers must be |
//! | 7 | nothing was tested, which must not look like a pass |
//! | 8 | checks ran, and time-outs are the only failures |
//! | 70 | internal error |
//! | 130 | interrupted |

use std::process::ExitCode;

use hal::{Error, ErrorKind};

use crate::codes::Code;

/// Why a command ended.
pub(crate) enum Failure {
    /// An error, and the code it gives.
    Error(Error, u8),
    /// The result was printed, and this code tells what it was.
    Checked(u8),
    /// The user pressed Ctrl-C.
    Interrupted,
    /// Whoever read our output stopped reading: nothing is wrong.
    PipeClosed,
}

impl Failure {
    /// The device cannot be opened: code 3 whatever the reason.
    pub(crate) fn device(error: Error) -> Self {
        Failure::Error(error, 3)
    }

    /// Prints the error and gives the exit code.
    pub(crate) fn exit(self) -> ExitCode {
        match self {
            Failure::Error(error, code) => {
                print_error(&error);
                ExitCode::from(code)
            }
            Failure::Checked(code) => ExitCode::from(code),
            Failure::Interrupted => ExitCode::from(130),
            Failure::PipeClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::OutOfMemory => 5,
            ErrorKind::Numeric => 6,
            ErrorKind::DeviceLost | ErrorKind::CompileFailed => 3,
            // A device lacks an operation: choose another device. A file holds what we do not know: bad input.
            ErrorKind::Unsupported if error.doing().starts_with("plan ") => 3,
            ErrorKind::Unexpected => 70,
            _ => 4,
        };
        Failure::Error(error, code)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            std::io::ErrorKind::Interrupted => Failure::Interrupted,
            _ => Error::new(ErrorKind::Io, "write the output", error.to_string()).into(),
        }
    }
}

/// Prints an error as people read it: what, why, and the next step.
pub(crate) fn print_error(error: &Error) {
    eprintln!("error: cannot {}: {}", error.doing(), error.detail());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        eprintln!("  because: {cause}");
        source = cause.source();
    }
    if let Some(next) = error.next() {
        eprintln!("  next: {next}");
    }
    if let Some(code) = Code::of_kind(error.kind()) {
        eprintln!("  more: glm errors {}", code.id);
    }
}

/// A panic is a bug of ours: say so, keep what is known in a file, and exit with code 70.
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let report = format!(
            "glm {} on {}\n{panic}\narguments: {:?}\n{}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
            std::env::args().collect::<Vec<_>>(),
            std::backtrace::Backtrace::force_capture()
        );
        let path = std::env::temp_dir().join(format!("glm-panic-{}.txt", std::process::id()));
        eprintln!("error: internal error: {panic}");
        match std::fs::write(&path, report) {
            Ok(()) => eprintln!("  next: please report it with {}", path.display()),
            Err(_) => eprintln!("  next: please report it with the text above"),
        }
        std::process::exit(70);
    }));
}
