//! The facade over the back ends that this build has, one cargo feature each.

use hal::{Error, ErrorKind, Result};
use ops::Accelerator;

/// How to open a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Threads of the CPU; `None`: one per core.
    pub threads: Option<usize>,
}

/// The back ends of this build.
pub const NAMES: &[&str] = &[
    #[cfg(feature = "cpu")]
    "cpu",
    #[cfg(feature = "emulator")]
    "emulator",
];

/// Opens the device that `spec` names: `cpu`; `emulator`, or `emulator:` and what it is like.
///
/// # Errors
/// `NotFound` for a back end that this build lacks; what the back end reports otherwise.
pub fn open(spec: &str, options: &Options) -> Result<Accelerator> {
    let _ = options;
    match spec {
        #[cfg(feature = "cpu")]
        "cpu" => backend_cpu::open(&backend_cpu::Options {
            threads: options.threads,
            level: None,
        }),
        #[cfg(feature = "emulator")]
        _ if spec == "emulator" || spec.starts_with("emulator:") => backend_emulator::open(spec),
        _ => Err(Error::new(
            ErrorKind::NotFound,
            format!("open device '{spec}'"),
            format!("this build has: {}", NAMES.join(", ")),
        )
        .next_step("`glm devices` lists what can be opened")),
    }
}

/// Every device that can be named, and what opening it gave.
pub fn list(options: &Options) -> Vec<(String, Result<Accelerator>)> {
    NAMES
        .iter()
        .map(|name| (name.to_string(), open(name, options)))
        .collect()
}
