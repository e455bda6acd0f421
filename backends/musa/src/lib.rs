//! Moore Threads GPUs: MUSA, whose driver and compiler have CUDA's calls under other names, loaded at run time.
//!
//! This crate is a [`backend_cuda::Vendor`]: names, places and constants. Memory, streams, captures, compilation and lost devices
//! are what `backend-cuda` and `backend-runtime` do; who validates what is as there. It has the portable kernels.
//!
//! Design choices:
//! - `cuMemAlloc_v2` is `muMemAlloc_v2`, and so on; where a release lacks a second version, the first is taken. The compiler is
//!   MTRTC: `nvrtcCompileProgram` is `mtrtcCompileProgram`; what it makes is called a fat binary, or MUSA by older headers.
//! - Waves have 128 work-items up to mp_22 and 32 from mp_31 on. Kernels exchange registers in waves of 32 only; elsewhere they
//!   take local memory, which is right for any wave.
//! - Memory is not taken in the order of a stream: no number is known for that question.
//!
//! **No Moore Threads device was at hand, and no compiler of theirs**: everything ran through a stand-in for both libraries on
//! the host. Names and prototypes of the driver, `warpSize` and `mp_22` were read in public sources (torch_musa, OpenXLA's MUSA
//! driver, llama.cpp, reports of users of an MTT S4000); those of MTRTC in Paddle's. Not verified: numbers of attributes, flags
//! and codes, taken as CUDA's; how the driver counts its versions; MTRTC's options, and which macros it defines.
//!
//! ```
//! match backend_musa::open_with("musa:0", Default::default()) {
//!     Ok(device) => println!("{}", device.device.info().name),
//!     Err(e) => println!("no MUSA here: {e}"),
//! }
//! ```

use std::path::PathBuf;

use backend_cuda::{Part, Vendor};
use hal::Result;
use ops::{Accelerator, Matmul};

pub use backend_cuda::{Found, Libraries, Options, Tuned, Tuning};

/// Work-items whose registers the dialect of CUDA can exchange.
const CUDA_WAVE: usize = 32;

static MUSA: Vendor = Vendor {
    name: "musa",
    title: "MUSA",
    driver: Part {
        what: "Moore Threads driver",
        files: &["libmusa.so.5", "libmusa.so.4", "libmusa.so.1", "libmusa.so"],
        install: "install the Moore Threads driver",
    },
    compiler: Part {
        what: "MTRTC",
        files: &["libmtrtc.so.5", "libmtrtc.so.4", "libmtrtc.so"],
        install: "install a MUSA SDK that has MTRTC",
    },
    variable: "GLM_MUSA_LIBRARIES",
    folders,
    symbols,
    lists_devices: "`mthreads-gmi` lists the devices; MUSA_VISIBLE_DEVICES and MTHREADS_VISIBLE_DEVICES may hide some",
    oldest_driver: (0, "install a newer driver of Moore Threads"),
    version: |number| (number / 10_000, number / 100 % 100),
    oldest_chip: 21,
    bf16_from: 22,
    chip: "mp_",
    target: |_, chip| format!("mp_{chip}"),
    options: |target| vec![format!("--offload-arch={target}"), "-std=c++17".to_owned()],
    wave: |wave| if wave == CUDA_WAVE { wave } else { 1 },
    takes_newer_compilers: true,
    own_kernels: false,
    asks_for_pools: false,
};

/// MUSA's names of a function of CUDA.
fn symbols(cuda: &str) -> Vec<String> {
    let names = match cuda {
        "nvrtcGetCUBIN" | "nvrtcGetPTX" => ["mtrtcGetFatBin", "mtrtcGetMUSA"].map(str::to_owned),
        "nvrtcGetCUBINSize" | "nvrtcGetPTXSize" => {
            ["mtrtcGetFatBinSize", "mtrtcGetMUSASize"].map(str::to_owned)
        }
        _ => {
            let name = match cuda.strip_prefix("nvrtc") {
                Some(rest) => format!("mtrtc{rest}"),
                None => format!("mu{}", cuda.strip_prefix("cu").unwrap_or(cuda)),
            };
            let first_version = name.trim_end_matches("_v2").to_owned();
            [name, first_version]
        }
    };
    names.into()
}

/// Where SDKs put libraries.
fn folders() -> Vec<PathBuf> {
    let set = ["MUSA_HOME", "MUSA_PATH"].map(std::env::var_os);
    let named = set.into_iter().flatten().filter(|value| !value.is_empty());
    let toolkits = named
        .map(PathBuf::from)
        .chain(["/usr/local/musa".into(), "/opt/musa".into()]);
    toolkits.map(|toolkit| toolkit.join("lib")).collect()
}

/// Opens the device that `spec` names: `musa` or `musa:0` (the driver's first), `musa:1`, …
///
/// # Errors
/// Those of [`backend_cuda::open`].
pub fn open_with(spec: &str, options: Options) -> Result<Accelerator> {
    MUSA.open(spec, options)
}

/// As [`backend_cuda::tune`].
///
/// # Errors
/// Those of [`backend_cuda::tune`].
pub fn tune(
    spec: &str,
    options: Options,
    products: &[Matmul],
    tuning: &Tuning,
) -> Result<Vec<Tuned>> {
    MUSA.tune(spec, options, products, tuning)
}

/// Every device of this machine, in the driver's order.
///
/// # Errors
/// Those of [`backend_cuda::devices`].
pub fn devices() -> Result<Vec<Found>> {
    MUSA.devices()
}

/// What was looked for, and what was found.
pub fn libraries() -> Libraries {
    MUSA.libraries()
}
