//! The compiler: CUDA C to code for one chip.

use std::ffi::{c_char, c_int};
use std::path::PathBuf;
use std::ptr;

use backend_runtime::{Code, Compilation, Handle, Rtc, SUCCESS, compile};
use backend_simt::Source;
use hal::{Error, ErrorKind, Result};

use crate::libraries::{compilers, no_compiler};
use crate::symbols::Compiler;
use crate::vendor::{NVIDIA, Vendor};

/// NVIDIA's compiler, which needs neither a device nor its driver.
#[derive(Debug)]
pub struct Nvrtc {
    api: Compiler,
    path: PathBuf,
    version: (i32, i32),
    /// Compute capabilities that it makes code for: 75, 80, …
    chips: Vec<i32>,
}

impl Nvrtc {
    /// The first compiler that makes code for `chip` (90: compute capability 9.0) that a driver for CUDA
    /// `driver_version` (13000: 13.0) takes; else the newest older one, whose PTX the driver compiles.
    ///
    /// # Errors
    /// `NotFound` when there is no compiler, or none that fits; the message says why each does not.
    pub fn find(chip: i32, driver_version: i32) -> Result<Self> {
        Self::find_of(&NVIDIA, chip, driver_version)
    }

    /// As [`Self::find`], of another vendor.
    pub(crate) fn find_of(vendor: &'static Vendor, chip: i32, driver_version: i32) -> Result<Self> {
        let newest = (vendor.version)(driver_version);
        let mut refused = Vec::new();
        let mut older: Option<Self> = None;
        for (path, api) in compilers(vendor) {
            let name = path.display().to_string();
            let found = match Self::describe(path, api) {
                Ok(found) => found,
                Err(e) => {
                    refused.push(e.to_string());
                    continue;
                }
            };
            let (major, minor) = found.version;
            let oldest = found.chips.iter().min().copied().unwrap_or(0);
            if major > newest.0 && !vendor.takes_newer_compilers {
                refused.push(format!(
                    "{name} {major}.{minor} makes code that the driver, of {} {}.{}, is too old for",
                    vendor.title,
                    newest.0,
                    newest.1
                ));
            } else if chip < oldest {
                refused.push(format!(
                    "{name} {major}.{minor} knows {}{oldest} and newer only",
                    vendor.chip
                ));
            } else if found.chips.contains(&chip) {
                return Ok(found);
            } else if older
                .as_ref()
                .is_none_or(|other| other.version < found.version)
            {
                older = Some(found);
            }
        }
        if let Some(older) = older {
            return Ok(older);
        }
        if refused.is_empty() {
            return Err(no_compiler(vendor));
        }
        let doing = format!("look for a compiler for {}{chip}", vendor.chip);
        let next = match chip {
            _ if !vendor.own_kernels => vendor.compiler.install,
            ..75 => "chips before sm_75 need NVRTC 12: `pip install nvidia-cuda-nvrtc-cu12`",
            _ => "update the driver, or `pip install nvidia-cuda-nvrtc-cu12`",
        };
        Err(Error::new(ErrorKind::NotFound, doing, refused.join("; ")).next_step(next))
    }

    /// The compilers of this machine that answer, in the order of the search: one of each version.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (path, api) in compilers(&NVIDIA) {
            let found = Self::describe(path, api).ok();
            let new = |found: &Self| all.iter().all(|known| known.version != found.version);
            all.extend(found.filter(new));
        }
        all
    }

    fn describe(path: PathBuf, api: Compiler) -> Result<Self> {
        let doing = format!("ask the compiler {}", path.display());
        let check = |code: Code| match code {
            SUCCESS => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Unexpected,
                doing.as_str(),
                api.describe(code),
            )),
        };
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: both numbers outlive the call.
        check(unsafe { (api.nvrtcVersion)(&mut major, &mut minor) })?;
        let mut chips = Vec::new();
        if let (Some(how_many), Some(which)) =
            (api.nvrtcGetNumSupportedArchs, api.nvrtcGetSupportedArchs)
        {
            // SAFETY: the number outlives the call.
            check(unsafe { how_many(&mut count) })?;
            chips.resize(usize::try_from(count).unwrap_or(0), 0);
            // SAFETY: there is room for as many as it says.
            check(unsafe { which(chips.as_mut_ptr()) })?;
        }
        Ok(Self {
            api,
            path,
            version: (major, minor),
            chips,
        })
    }

    /// Where it was found.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Its version: 13 and 0.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compute capabilities that it makes code for: 75, 80, …
    pub fn chips(&self) -> &[i32] {
        &self.chips
    }

    /// What to compile for, so that `chip` can run it: `sm_86`; `sm_90a` where chips have what no later one has;
    /// `compute_90` when this compiler is older than the chip.
    pub fn target(&self, chip: i32) -> String {
        (self.api.vendor.target)(&self.chips, chip)
    }

    /// Compiles `source` with these macros defined for `target`, with further `options`.
    ///
    /// # Errors
    /// `CompileFailed` with the log.
    pub fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        target: &str,
        options: &[&str],
    ) -> Result<Compilation> {
        let mut all = (self.api.vendor.options)(target);
        all.extend(options.iter().map(|option| option.to_string()));
        let cubin = target.starts_with(self.api.vendor.chip);
        compile(&Target { nvrtc: self, cubin }, source, target, all, defines)
    }
}

/// The compiler, and whether it makes a cubin, or PTX for the driver to compile.
struct Target<'a> {
    nvrtc: &'a Nvrtc,
    cubin: bool,
}

macro_rules! call {
    ($target:ident, $name:ident($($argument:expr),*)) => {
        // SAFETY: the caller's own call, under the vendor's name.
        unsafe { ($target.nvrtc.api.$name)($($argument),*) }
    };
}

impl Rtc for Target<'_> {
    const EXTENSION: &'static str = "cu";

    fn name(&self) -> String {
        let (major, minor) = self.nvrtc.version;
        format!("{} {major}.{minor}", self.nvrtc.api.vendor.compiler.what)
    }
    fn describe(&self, code: Code) -> String {
        self.nvrtc.api.describe(code)
    }

    unsafe fn create(
        &self,
        program: &mut Handle,
        text: *const c_char,
        file: *const c_char,
    ) -> Code {
        let (program, no, none) = (ptr::from_mut(program).cast(), ptr::null(), ptr::null());
        call!(self, nvrtcCreateProgram(program, text, file, 0, no, none))
    }
    unsafe fn destroy(&self, program: &mut Handle) -> Code {
        call!(self, nvrtcDestroyProgram(ptr::from_mut(program).cast()))
    }
    unsafe fn compile(&self, program: Handle, count: c_int, options: *const *const c_char) -> Code {
        call!(self, nvrtcCompileProgram(program.cast(), count, options))
    }
    unsafe fn log_size(&self, program: Handle, bytes: &mut usize) -> Code {
        call!(self, nvrtcGetProgramLogSize(program.cast(), bytes))
    }
    unsafe fn log(&self, program: Handle, to: *mut c_char) -> Code {
        call!(self, nvrtcGetProgramLog(program.cast(), to))
    }
    unsafe fn code_size(&self, program: Handle, bytes: &mut usize) -> Code {
        let api = &self.nvrtc.api;
        let size = match self.cubin {
            true => api.nvrtcGetCUBINSize,
            false => api.nvrtcGetPTXSize,
        };
        // SAFETY: as of the other calls.
        unsafe { size(program.cast(), bytes) }
    }
    unsafe fn code(&self, program: Handle, to: *mut c_char) -> Code {
        let api = &self.nvrtc.api;
        let code = if self.cubin {
            api.nvrtcGetCUBIN
        } else {
            api.nvrtcGetPTX
        };
        // SAFETY: as of the other calls.
        unsafe { code(program.cast(), to) }
    }
}
