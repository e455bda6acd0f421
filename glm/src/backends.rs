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
    #[cfg(feature = "opencl")]
    "opencl",
    #[cfg(feature = "emulator")]
    "emulator",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

/// Opens the device that `spec` names: `cpu`; `opencl:0`, or `opencl:` and the numbers of platform and device;
/// `emulator`, or `emulator:` and what it is like; `wgpu`, or `wgpu:` and which adapter.
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
        #[cfg(feature = "opencl")]
        _ if spec == "opencl" || spec.starts_with("opencl:") => backend_opencl::open(spec),
        #[cfg(feature = "emulator")]
        _ if spec == "emulator" || spec.starts_with("emulator:") => backend_emulator::open(spec),
        #[cfg(feature = "wgpu")]
        _ if spec == "wgpu" || spec.starts_with("wgpu:") => backend_wgpu::open(spec),
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
        .flat_map(|name| specs(name))
        .map(|(spec, found)| {
            let opened = found.and_then(|()| open(&spec, options));
            (spec, opened)
        })
        .collect()
}

/// The devices of one back end, or why there are none.
fn specs(name: &str) -> Vec<(String, Result<()>)> {
    let found: Result<Vec<String>> = match name {
        #[cfg(feature = "opencl")]
        "opencl" => backend_opencl::devices().map(|all| all.into_iter().map(|d| d.spec).collect()),
        #[cfg(feature = "wgpu")]
        "wgpu" => backend_wgpu::devices().map(|all| all.into_iter().map(|d| d.spec).collect()),
        _ => Ok(vec![name.into()]),
    };
    match found {
        Ok(specs) if specs.is_empty() => {
            let doing = format!("look for {name}");
            let e = Error::new(ErrorKind::NotFound, doing, "its drivers have no device");
            vec![(name.into(), Err(e))]
        }
        Ok(specs) => specs.into_iter().map(|spec| (spec, Ok(()))).collect(),
        Err(e) => vec![(name.into(), Err(e))],
    }
}
