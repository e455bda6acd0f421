//! The compiler: CUDA C to code for one chip.

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::ptr;

use backend_simt::Source;
use cudarc::nvrtc::sys::nvrtcProgram;
use hal::{Error, ErrorKind, Result};

use crate::failure::SUCCESS;
use crate::libraries::{compilers, no_compiler};
use crate::symbols::{Code, Compiler};

/// NVIDIA's compiler, which needs neither a device nor its driver.
#[derive(Debug)]
pub struct Nvrtc {
    api: Compiler,
    path: PathBuf,
    version: (i32, i32),
    /// Compute capabilities that it makes code for: 75, 80, …
    chips: Vec<i32>,
}

/// What a compilation gave.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Code of the chip (a cubin), or PTX for the driver to compile.
    pub code: Vec<u8>,
    /// Warnings, and what options asked for.
    pub log: String,
}

impl Nvrtc {
    /// The first compiler that makes code for `chip` (90: compute capability 9.0) that a driver for CUDA
    /// `driver_version` (13000: 13.0) takes; else the newest older one, whose PTX the driver compiles.
    ///
    /// # Errors
    /// `NotFound` when there is no compiler, or none that fits; the message says why each does not.
    pub fn find(chip: i32, driver_version: i32) -> Result<Self> {
        let mut refused = Vec::new();
        let mut older: Option<Self> = None;
        for (path, api) in compilers() {
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
            if major > driver_version / 1000 {
                refused.push(format!(
                    "{name} {major}.{minor} makes code that the driver, of CUDA {}.{}, is too old for",
                    driver_version / 1000,
                    driver_version % 1000 / 10
                ));
            } else if chip < oldest {
                refused.push(format!(
                    "{name} {major}.{minor} knows sm_{oldest} and newer only"
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
            return Err(no_compiler());
        }
        let doing = format!("look for a compiler for sm_{chip}");
        let next = match chip {
            ..75 => "chips before sm_75 need NVRTC 12: `pip install nvidia-cuda-nvrtc-cu12`",
            _ => "update the driver, or `pip install nvidia-cuda-nvrtc-cu12`",
        };
        Err(Error::new(ErrorKind::NotFound, doing, refused.join("; ")).next_step(next))
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
        // SAFETY: the number outlives the call.
        check(unsafe { (api.nvrtcGetNumSupportedArchs)(&mut count) })?;
        let mut chips = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for as many as it says.
        check(unsafe { (api.nvrtcGetSupportedArchs)(chips.as_mut_ptr()) })?;
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
        match chip {
            _ if !self.chips.contains(&chip) => {
                let newest = self.chips.iter().filter(|&&known| known <= chip).max();
                format!("compute_{}", newest.unwrap_or(&chip))
            }
            90 | 100 | 103 => format!("sm_{chip}a"),
            _ => format!("sm_{chip}"),
        }
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
    ) -> Result<Compiled> {
        let doing = || format!("compile {} for {target}", source.name);
        let mut all = vec![format!("--gpu-architecture={target}"), "--std=c++17".into()];
        all.extend(options.iter().map(|option| option.to_string()));
        all.extend(
            defines
                .iter()
                .map(|(name, value)| format!("-D{name}={value}")),
        );
        let c_string = |text: &str| {
            CString::new(text).map_err(|_| Error::invalid(doing(), "a text contains a zero byte"))
        };
        let text = c_string(&source.text())?;
        let name = c_string(&format!("{}.cu", source.name))?;
        let words: Vec<CString> = all
            .iter()
            .map(|option| c_string(option))
            .collect::<Result<_>>()?;
        let pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();

        let mut program = Program {
            api: &self.api,
            handle: ptr::null_mut(),
        };
        let fail = |code: Code, log: &str| {
            let why = format!(
                "{} (NVRTC {}.{}, options {}), log:\n{}",
                self.api.describe(code),
                self.version.0,
                self.version.1,
                all.join(" "),
                log.trim()
            );
            Error::new(ErrorKind::CompileFailed, doing(), why)
                .next_step("report the compiler's log")
        };
        let create = self.api.nvrtcCreateProgram;
        let (no, none) = (ptr::null(), ptr::null());
        // SAFETY: the texts end with 0 and outlive the call; there are no headers.
        let code = unsafe {
            create(
                &mut program.handle,
                text.as_ptr(),
                name.as_ptr(),
                0,
                no,
                none,
            )
        };
        if code != SUCCESS {
            return Err(fail(code, ""));
        }
        let count = i32::try_from(pointers.len()).unwrap_or(0);
        // SAFETY: the program is alive, and there are `count` texts that end with 0.
        let code =
            unsafe { (self.api.nvrtcCompileProgram)(program.handle, count, pointers.as_ptr()) };
        let log = program.bytes(self.api.nvrtcGetProgramLogSize, self.api.nvrtcGetProgramLog);
        let mut log = log.unwrap_or_default();
        log.pop_if(|last| *last == 0);
        let log = String::from_utf8_lossy(&log).into_owned();
        if code != SUCCESS {
            return Err(fail(code, &log));
        }
        let binary = match target.starts_with("sm_") {
            true => program.bytes(self.api.nvrtcGetCUBINSize, self.api.nvrtcGetCUBIN),
            false => program.bytes(self.api.nvrtcGetPTXSize, self.api.nvrtcGetPTX),
        };
        Ok(Compiled {
            code: binary.map_err(|code| fail(code, &log))?,
            log,
        })
    }
}

/// A program of the compiler.
struct Program<'a> {
    api: &'a Compiler,
    handle: nvrtcProgram,
}

impl Program<'_> {
    /// What a pair of functions gives: how many bytes, and the bytes.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(nvrtcProgram, *mut usize) -> Code,
        bytes: unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> Code,
    ) -> Result<Vec<u8>, Code> {
        let mut count = 0;
        // SAFETY: the program is alive, and `count` outlives the call.
        let code = unsafe { size(self.handle, &mut count) };
        if code != SUCCESS {
            return Err(code);
        }
        let mut all = vec![0u8; count];
        // SAFETY: there is room for as many bytes as it says.
        let code = unsafe { bytes(self.handle, all.as_mut_ptr().cast()) };
        match code {
            SUCCESS => Ok(all),
            _ => Err(code),
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made by the same library, and not used again. Nobody is left to hear of a failure.
            unsafe { (self.api.nvrtcDestroyProgram)(&mut self.handle) };
        }
    }
}
