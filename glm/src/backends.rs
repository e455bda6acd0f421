//! The facade over the back ends that this build has, one cargo feature each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hal::{Error, ErrorKind, MemoryInfo, Result};
use ops::{Accelerator, Matmul};
use serde::Serialize;

use crate::speed::OwnLimits;

#[cfg(feature = "cuda")]
use backend_cuda::Libraries as VendorLibraries;
#[cfg(all(feature = "hip", not(feature = "cuda")))]
use backend_hip::Libraries as VendorLibraries;
#[cfg(all(feature = "musa", not(any(feature = "cuda", feature = "hip"))))]
use backend_musa::Libraries as VendorLibraries;

/// Told of each kernel program that a device had to compile: its spec, how long that took, and the folder where the
/// program is kept for the next start, if it is.
pub type OnCompile = fn(spec: &str, took: Duration, kept: Option<&Path>);

/// How to open a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Threads of the CPU; `None`: one per core.
    pub threads: Option<usize>,
    /// Whether products with int8 and int4 weights round activations to eight bits: the CPU alone can.
    pub int8_activations: bool,
    /// Called after each compilation, by devices that compile kernels at their first use and tell.
    pub on_compile: Option<OnCompile>,
}

/// The back ends of this build.
pub const NAMES: &[&str] = &[
    #[cfg(feature = "cpu")]
    "cpu",
    #[cfg(feature = "ascend")]
    "ascend",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "hip")]
    "hip",
    #[cfg(feature = "musa")]
    "musa",
    #[cfg(feature = "opencl")]
    "opencl",
    #[cfg(feature = "emulator")]
    "emulator",
    #[cfg(feature = "plugin")]
    "plugin",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

/// Opens the device that `spec` names: `cpu`; `ascend:0`; `cuda:0`; `hip:0`; `musa:0`; `opencl:0`, or `opencl:` and the numbers of
/// platform and device; `emulator`, or `emulator:` and what it is like; `plugin:` and the path of a vendor's library; `wgpu`, or
/// `wgpu:` and which adapter.
///
/// # Errors
/// `NotFound` for a back end that this build lacks; what the back end reports otherwise.
pub fn open(spec: &str, options: &Options) -> Result<Accelerator> {
    if options.int8_activations && spec != "cpu" {
        return Err(Error::unsupported(
            format!("open device '{spec}'"),
            "activations of eight bits are the CPU's alone",
        )
        .next_step("leave out --activations int8, or take --device cpu"));
    }
    match spec {
        #[cfg(feature = "ascend")]
        _ if spec == "ascend" || spec.starts_with("ascend:") => backend_ascend::open(spec),
        #[cfg(feature = "cpu")]
        "cpu" => backend_cpu::open(&backend_cpu::Options {
            threads: options.threads,
            activations: match options.int8_activations {
                true => backend_cpu::Activations::Int8,
                false => backend_cpu::Activations::Float,
            },
            ..backend_cpu::Options::default()
        }),
        #[cfg(feature = "cuda")]
        _ if spec == "cuda" || spec.starts_with("cuda:") => {
            backend_cuda::open_with(spec, portable(options))
        }
        #[cfg(feature = "hip")]
        _ if spec == "hip" || spec.starts_with("hip:") => {
            backend_hip::open_with(spec, portable(options))
        }
        #[cfg(feature = "musa")]
        _ if spec == "musa" || spec.starts_with("musa:") => {
            backend_musa::open_with(spec, portable(options))
        }
        #[cfg(feature = "opencl")]
        _ if spec == "opencl" || spec.starts_with("opencl:") => {
            backend_opencl::open_with(spec, portable(options))
        }
        #[cfg(feature = "emulator")]
        _ if spec == "emulator" || spec.starts_with("emulator:") => backend_emulator::open(spec),
        #[cfg(feature = "plugin")]
        _ if spec == "plugin" || spec.starts_with("plugin:") => backend_plugin::open(spec),
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

/// What the back end of `spec` measures of its own device's limits, in so many `seconds` for each; `None` where it has nothing
/// better than the operations that everybody uses.
///
/// # Errors
/// `OutOfMemory` without memory to measure with.
pub fn limits(spec: &str, options: &Options, seconds: f64) -> Result<Option<OwnLimits>> {
    #[cfg(feature = "cpu")]
    if spec == "cpu" {
        use backend_cpu::limits::{Limit, Limits};
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = Limits::new(options.threads.unwrap_or(all))?;
        let computed = [
            (hal::DType::F32, Limit::F32),
            (hal::DType::BF16, Limit::Bf16),
            (hal::DType::I8, Limit::Int8),
        ]
        .into_iter()
        .filter(|(_, limit)| limit.is_available())
        .map(|(dtype, limit)| (dtype, limits.measure(limit, seconds)));
        return Ok(Some(OwnLimits {
            operations_per_second: computed.collect(),
            bytes_per_second: limits.measure(Limit::Read, seconds),
        }));
    }
    let _ = (spec, options, seconds);
    Ok(None)
}

/// How a device computes one class of products.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    /// Types and sizes of the class.
    pub class: String,
    /// What is used without tuning.
    pub rule: String,
    /// What was chosen.
    pub chosen: String,
    /// Both, side by side.
    pub times: Vec<Times>,
    /// Candidates that computed wrongly or failed, and how.
    pub refused: Vec<String>,
    /// Candidates that time did not suffice for.
    pub left_out: usize,
    /// Where the choice is kept.
    pub kept: Option<PathBuf>,
}

/// Median times of a product with some rows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// Rows of `x`.
    pub rows: usize,
    /// By the rule.
    pub rule_seconds: f64,
    /// As chosen.
    pub chosen_seconds: f64,
}

/// Measures how the device that `spec` names computes `products` best, and keeps it for later starts; no new candidate is
/// begun after `time` for each class of products.
///
/// # Errors
/// `Unsupported` for a device whose kernels have no choices; what the back end reports otherwise.
pub fn tune(
    spec: &str,
    options: &Options,
    products: &[Matmul],
    time: Duration,
) -> Result<Vec<Tuned>> {
    #[cfg(any(
        feature = "cuda",
        feature = "hip",
        feature = "musa",
        feature = "opencl"
    ))]
    {
        let (back_end, tuning) = (
            spec.split(':').next(),
            backend_simt::Tuning {
                time,
                ..Default::default()
            },
        );
        let tuned = match back_end {
            #[cfg(feature = "cuda")]
            Some("cuda") => backend_cuda::tune(spec, portable(options), products, &tuning)?,
            #[cfg(feature = "hip")]
            Some("hip") => backend_hip::tune(spec, portable(options), products, &tuning)?,
            #[cfg(feature = "musa")]
            Some("musa") => backend_musa::tune(spec, portable(options), products, &tuning)?,
            #[cfg(feature = "opencl")]
            Some("opencl") => backend_opencl::tune(spec, portable(options), products, &tuning)?,
            _ => return nothing_to_choose(spec),
        };
        Ok(tuned.into_iter().map(Tuned::from).collect())
    }
    #[cfg(not(any(
        feature = "cuda",
        feature = "hip",
        feature = "musa",
        feature = "opencl"
    )))]
    {
        let _ = (options, products, time);
        nothing_to_choose(spec)
    }
}

fn nothing_to_choose(spec: &str) -> Result<Vec<Tuned>> {
    let doing = format!("tune device '{spec}'");
    Err(
        Error::unsupported(doing, "its kernels have nothing to choose").next_step(
            "name a device that `glm devices` lists as cuda:N, hip:N, musa:N or opencl:N",
        ),
    )
}

/// Options of the back ends that compile the portable kernels.
#[cfg(any(
    feature = "cuda",
    feature = "hip",
    feature = "musa",
    feature = "opencl"
))]
fn portable(options: &Options) -> backend_simt::Options {
    backend_simt::Options {
        on_compile: options.on_compile,
        ..Default::default()
    }
}

#[cfg(any(
    feature = "cuda",
    feature = "hip",
    feature = "musa",
    feature = "opencl"
))]
impl From<backend_simt::Tuned> for Tuned {
    fn from(tuned: backend_simt::Tuned) -> Self {
        let times = tuned.times.into_iter().map(|time| Times {
            rows: time.rows,
            rule_seconds: time.rule,
            chosen_seconds: time.chosen,
        });
        Self {
            class: tuned.class,
            rule: tuned.rule.to_string(),
            chosen: tuned.chosen.to_string(),
            times: times.collect(),
            refused: tuned.refused,
            left_out: tuned.left_out,
            kept: tuned.kept,
        }
    }
}

/// Every device that can be named, and what opening it gave.
pub fn list(options: &Options) -> Vec<(String, Result<Accelerator>)> {
    let all = NAMES.iter();
    all.flat_map(|name| list_of(name, options)).collect()
}

/// As [`list`], of the back end `name` alone.
pub fn list_of(name: &str, options: &Options) -> Vec<(String, Result<Accelerator>)> {
    let opened = specs(name).into_iter().map(|(spec, found)| {
        let opened = found.and_then(|()| open(&spec, options));
        (spec, opened)
    });
    opened.collect()
}

/// Devices whose operations can be planned on any machine, by name: the CPU's kernels, and those for GPUs on devices that
/// only plan, with nothing compiled or run.
pub fn planned_without_a_chip() -> Vec<(String, Accelerator)> {
    ["cpu", "opencl", "hip", "cuda"]
        .into_iter()
        .filter_map(planner)
        .collect()
}

/// The planner of the back end `name`; `None` where this build lacks it.
fn planner(name: &str) -> Option<(String, Accelerator)> {
    match name {
        #[cfg(feature = "cpu")]
        "cpu" => Some(("cpu".into(), open("cpu", &Options::default()).ok()?)),
        #[cfg(all(feature = "emulator", feature = "opencl"))]
        "opencl" => Some((
            "opencl".into(),
            backend_emulator::programs::planner(limits_for_planning(1), |_, _| {}),
        )),
        #[cfg(all(feature = "emulator", feature = "hip"))]
        "hip" => Some((
            "hip".into(),
            backend_emulator::programs::planner(limits_for_planning(64), |_, _| {}),
        )),
        #[cfg(all(feature = "emulator", feature = "cuda"))]
        "cuda" => {
            let own = |chip: &_, ops: &mut _| backend_cuda::put_own(chip, ops, 80, None, false);
            Some((
                "cuda (sm_80)".into(),
                backend_emulator::programs::planner(limits_for_planning(32), own),
            ))
        }
        _ => None,
    }
}

#[cfg(all(
    feature = "emulator",
    any(
        feature = "cuda",
        feature = "hip",
        feature = "musa",
        feature = "opencl"
    )
))]
fn limits_for_planning(wave: usize) -> backend_simt::Limits {
    backend_simt::Limits {
        max_group: 256,
        local_bytes: 32 << 10,
        max_alloc_bytes: 1 << 40,
        memory_bytes: 1 << 40,
        wave,
        parallelism: 64,
        wide_items: false,
    }
}

/// A vendor's library that a back end looked for.
#[derive(Clone, Debug)]
pub struct Library {
    /// What of the vendor's it is.
    pub part: &'static str,
    /// A file, or a bare name, which the system's loader looks for.
    pub path: PathBuf,
    /// Why it could not be used; `None`: it was loaded.
    pub problem: Option<String>,
    /// The variable that names folders to look in first.
    pub variable: &'static str,
}

/// The libraries of the back end `name`, in the order of the search; none for back ends that do not tell.
pub fn libraries(name: &str) -> Vec<Library> {
    match name {
        #[cfg(feature = "ascend")]
        "ascend" => {
            let part = |path: &Path| match path.file_name().and_then(|name| name.to_str()) {
                Some("libascendcl.so") => "runtime",
                Some("libnnopbase.so") => "base of operators",
                _ => "operators",
            };
            let places = backend_ascend::libraries().places.into_iter();
            let of = |place: backend_ascend::Place| Library {
                part: part(&place.path),
                path: place.path,
                problem: place.problem,
                variable: "GLM_ASCEND_LIBRARIES",
            };
            places.map(of).collect()
        }
        #[cfg(feature = "cuda")]
        "cuda" => listed(backend_cuda::libraries(), "GLM_CUDA_LIBRARIES"),
        #[cfg(feature = "hip")]
        "hip" => listed(backend_hip::libraries(), "GLM_HIP_LIBRARIES"),
        #[cfg(feature = "musa")]
        "musa" => listed(backend_musa::libraries(), "GLM_MUSA_LIBRARIES"),
        _ => Vec::new(),
    }
}

#[cfg(any(feature = "cuda", feature = "hip", feature = "musa"))]
fn listed(found: VendorLibraries, variable: &'static str) -> Vec<Library> {
    let parts = [
        ("driver", found.driver),
        ("compiler", found.compiler),
        ("products", found.products),
    ];
    let mut all = Vec::new();
    for (part, places) in parts {
        all.extend(places.into_iter().map(|place| Library {
            part,
            path: place.path,
            problem: place.problem,
            variable,
        }));
    }
    all
}

/// What the system lets this process use.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Version of the interface of control groups.
    pub version: u8,
    /// The limit on memory and what is used of it, where there is one.
    pub memory_limit_and_used_bytes: Option<(usize, usize)>,
    /// CPUs, where their time is limited.
    pub cpus: Option<f64>,
}

/// The limits of the control group that holds this process; `None` where there is none, or no CPU back end to tell.
pub fn allowed() -> Option<Allowed> {
    #[cfg(feature = "cpu")]
    {
        let group = backend_cpu::ControlGroup::of_this_process()?;
        let memory = group.memory;
        Some(Allowed {
            version: group.version,
            memory_limit_and_used_bytes: memory.map(|m| (m.limit_bytes, m.used_bytes)),
            cpus: group.cpus,
        })
    }
    #[cfg(not(feature = "cpu"))]
    None
}

/// Memory of the host, as the CPU back end sees it.
pub fn host_memory() -> Option<MemoryInfo> {
    #[cfg(feature = "cpu")]
    return backend_cpu::memory_info();
    #[cfg(not(feature = "cpu"))]
    None
}

/// The devices of one back end, or why there are none. Plugins are those that the variable `GLM_PLUGINS` names: libraries
/// with ':' between them (';' on Windows).
fn specs(name: &str) -> Vec<(String, Result<()>)> {
    if name == "plugin" {
        let libraries = std::env::var_os("GLM_PLUGINS").unwrap_or_default();
        return std::env::split_paths(&libraries)
            .filter(|path| !path.as_os_str().is_empty())
            .map(|path| (format!("plugin:{}", path.display()), Ok(())))
            .collect();
    }
    let found: Result<Vec<String>> = match name {
        #[cfg(feature = "ascend")]
        "ascend" => backend_ascend::devices().map(|all| all.into_iter().map(|d| d.spec).collect()),
        #[cfg(feature = "cuda")]
        "cuda" => backend_cuda::devices().map(|all| all.into_iter().map(|d| d.spec).collect()),
        #[cfg(feature = "hip")]
        "hip" => backend_hip::devices().map(|all| all.into_iter().map(|d| d.spec).collect()),
        #[cfg(feature = "musa")]
        "musa" => backend_musa::devices().map(|all| all.into_iter().map(|d| d.spec).collect()),
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
