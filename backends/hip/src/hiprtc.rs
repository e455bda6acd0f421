//! The compiler: HIP to code for one chip.

use std::ffi::{c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use backend_runtime::{Code, Compilation, Handle, Rtc, SUCCESS, compile};
use backend_simt::Source;
use hal::{Error, ErrorKind, Result};

use crate::libraries::{self, compiler};
use crate::symbols::Compiler;

/// Held while compiling: with two threads at it, the compiler of HIP 5.2 ends the process ("unaligned tcache chunk").
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// AMD's or Hygon's compiler, which needs neither a device nor the kernel's driver.
#[derive(Debug)]
pub struct Hiprtc {
    api: Compiler,
    path: PathBuf,
    version: (i32, i32),
}

impl Hiprtc {
    /// The compiler of the runtime that is found first.
    ///
    /// # Errors
    /// `NotFound` when there is no runtime or no compiler; what the compiler reports of itself.
    pub fn find() -> Result<Self> {
        let (runtime, _) = libraries::driver()?;
        Self::of(&runtime)
    }

    /// The compiler for the runtime at `runtime`.
    pub(crate) fn of(runtime: &Path) -> Result<Self> {
        let (path, api) = compiler(runtime)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both numbers outlive the call.
        let code = unsafe { (api.calls.hiprtcVersion)(&mut major, &mut minor) };
        if code != SUCCESS {
            let doing = format!("ask the compiler {}", path.display());
            let why = api.describe(code);
            return Err(Error::new(ErrorKind::Unexpected, doing, why));
        }
        Ok(Self {
            api,
            path,
            version: (major, minor),
        })
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself; releases before 6 say 9.0.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles `source` with these macros defined for `target`, with further `options`. A target is what a device says of
    /// itself: `gfx90a:sramecc+:xnack-`. Some releases end the process for a target that they do not know.
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
        let mut all = vec![format!("--offload-arch={target}"), "-std=c++17".into()];
        all.extend(options.iter().map(|option| option.to_string()));
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        compile(self, source, target, all, defines)
    }
}

macro_rules! call {
    ($compiler:ident, $name:ident($($argument:expr),*)) => {
        // SAFETY: the caller's own call, under the vendor's name.
        unsafe { ($compiler.api.calls.$name)($($argument),*) }
    };
}

impl Rtc for Hiprtc {
    const EXTENSION: &'static str = "hip";

    fn name(&self) -> String {
        format!("hiprtc {}", self.path.display())
    }
    fn describe(&self, code: Code) -> String {
        self.api.describe(code)
    }

    unsafe fn create(
        &self,
        program: &mut Handle,
        text: *const c_char,
        file: *const c_char,
    ) -> Code {
        let (no, none) = (ptr::null(), ptr::null());
        call!(self, hiprtcCreateProgram(program, text, file, 0, no, none))
    }
    unsafe fn destroy(&self, program: &mut Handle) -> Code {
        call!(self, hiprtcDestroyProgram(program))
    }
    unsafe fn compile(&self, program: Handle, count: c_int, options: *const *const c_char) -> Code {
        call!(self, hiprtcCompileProgram(program, count, options))
    }
    unsafe fn log_size(&self, program: Handle, bytes: &mut usize) -> Code {
        call!(self, hiprtcGetProgramLogSize(program, bytes))
    }
    unsafe fn log(&self, program: Handle, to: *mut c_char) -> Code {
        call!(self, hiprtcGetProgramLog(program, to))
    }
    unsafe fn code_size(&self, program: Handle, bytes: &mut usize) -> Code {
        call!(self, hiprtcGetCodeSize(program, bytes))
    }
    unsafe fn code(&self, program: Handle, to: *mut c_char) -> Code {
        call!(self, hiprtcGetCode(program, to))
    }
}
