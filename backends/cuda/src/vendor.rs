//! Vendors whose driver and compiler have CUDA's calls under other names.

use std::ffi::c_int;
use std::path::PathBuf;

/// NVIDIA, or a vendor of the same calls under other names. What differs is here; numbers of attributes, codes and flags are
/// CUDA's.
#[derive(Debug)]
pub struct Vendor {
    /// Of specs: `cuda`.
    pub name: &'static str,
    /// What messages call its runtime: `CUDA`.
    pub title: &'static str,
    /// The driver's library.
    pub driver: Part,
    /// The compiler's library.
    pub compiler: Part,
    /// The variable that names folders to look in first, as in `PATH`.
    pub variable: &'static str,
    /// Folders to look in last.
    pub folders: fn() -> Vec<PathBuf>,
    /// Names of a function of CUDA here, in the order of the search.
    pub symbols: fn(&str) -> Vec<String>,
    /// What to do where there is no device: which tool lists them, which variable hides them.
    pub lists_devices: &'static str,
    /// The oldest version of the driver, and how to get a newer one.
    pub oldest_driver: (c_int, &'static str),
    /// Major and minor version in what the driver says: 13 and 0 of 13000.
    pub version: fn(c_int) -> (c_int, c_int),
    /// The oldest compute capability that has code.
    pub oldest_chip: c_int,
    /// The first compute capability that computes in bf16.
    pub bf16_from: c_int,
    /// What begins the name of a chip: `sm_`.
    pub chip: &'static str,
    /// What to compile for, given the compute capabilities that the compiler knows, which may be none, and the device's.
    pub target: fn(&[i32], i32) -> String,
    /// How the compiler is told.
    pub options: fn(&str) -> Vec<String>,
    /// Work-items whose registers kernels may exchange, given those of a wave; 1: they take local memory instead.
    pub wave: fn(usize) -> usize,
    /// Whether the driver takes what a compiler of a later major version makes.
    pub takes_newer_compilers: bool,
    /// Whether the kernels of this crate besides the portable ones, and cuBLASLt, are for its chips.
    pub own_kernels: bool,
    /// Whether the attribute of memory in the order of a stream has CUDA's number.
    pub asks_for_pools: bool,
}

/// A library of a vendor's.
#[derive(Debug)]
pub struct Part {
    /// What it is called: `NVIDIA driver`.
    pub what: &'static str,
    /// File names, newest first.
    pub files: &'static [&'static str],
    /// How to get it.
    pub install: &'static str,
}

/// CUDA 12.0, which has every function that is called and takes what NVRTC 12 makes.
const OLDEST_DRIVER: c_int = 12000;

/// The vendor of CUDA.
pub(crate) static NVIDIA: Vendor = Vendor {
    name: "cuda",
    title: "CUDA",
    driver: Part {
        what: "NVIDIA driver",
        files: match cfg!(windows) {
            true => &["nvcuda.dll"],
            false => &["libcuda.so.1", "libcuda.so"],
        },
        install: "install the NVIDIA driver",
    },
    compiler: Part {
        what: "NVRTC",
        files: match cfg!(windows) {
            true => &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"],
            false => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
        },
        install: "install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`",
    },
    variable: "GLM_CUDA_LIBRARIES",
    folders: crate::libraries::folders,
    symbols: |name| vec![name.to_owned()],
    lists_devices: "`nvidia-smi` lists the devices; CUDA_VISIBLE_DEVICES may hide some",
    oldest_driver: (OLDEST_DRIVER, "install driver 525 or newer"),
    version: |number| (number / 1000, number % 1000 / 10),
    oldest_chip: 50,
    bf16_from: 80,
    chip: "sm_",
    target: nvidia_target,
    options: |target| {
        vec![
            format!("--gpu-architecture={target}"),
            "--std=c++17".to_owned(),
        ]
    },
    wave: |wave| wave,
    takes_newer_compilers: false,
    own_kernels: true,
    asks_for_pools: true,
};

/// `sm_86`; `sm_90a` where chips have what no later one has; `compute_90` when the compiler is older than the chip.
fn nvidia_target(known: &[i32], chip: i32) -> String {
    match chip {
        _ if !known.contains(&chip) => {
            let newest = known.iter().filter(|&&known| known <= chip).max();
            format!("compute_{}", newest.unwrap_or(&chip))
        }
        90 | 100 | 103 => format!("sm_{chip}a"),
        _ => format!("sm_{chip}"),
    }
}
