//! Compilers that are libraries: a text to code for one chip.

use std::ffi::{CString, c_char, c_int};
use std::ptr;

use backend_simt::Source;
use hal::{Error, ErrorKind, Result};

use crate::api::{Code, Handle, SUCCESS};

/// What a compilation gave.
#[derive(Clone, Debug)]
pub struct Compilation {
    /// Code of the chip, or what the runtime makes it of.
    pub code: Vec<u8>,
    /// Warnings, and what options asked for.
    pub log: String,
}

/// The calls of a compiler. Vendors differ in names, not in what they do.
///
/// # Safety of the calls
/// Programs are alive; texts end with 0; there is room for what is written.
#[expect(
    clippy::missing_safety_doc,
    reason = "the trait says it once, for all of them"
)]
pub trait Rtc {
    /// What a file of its language is called: `cu`.
    const EXTENSION: &'static str;

    /// Who this is: `NVRTC 13.0`.
    fn name(&self) -> String;
    /// Its name of a code.
    fn describe(&self, code: Code) -> String;

    /// A program of a text and a file's name.
    unsafe fn create(&self, program: &mut Handle, text: *const c_char, file: *const c_char)
    -> Code;
    /// Lets it go.
    unsafe fn destroy(&self, program: &mut Handle) -> Code;
    /// Compiles it.
    unsafe fn compile(&self, program: Handle, count: c_int, options: *const *const c_char) -> Code;
    /// How many bytes the log has.
    unsafe fn log_size(&self, program: Handle, bytes: &mut usize) -> Code;
    /// The log.
    unsafe fn log(&self, program: Handle, to: *mut c_char) -> Code;
    /// How many bytes the code has.
    unsafe fn code_size(&self, program: Handle, bytes: &mut usize) -> Code;
    /// The code.
    unsafe fn code(&self, program: Handle, to: *mut c_char) -> Code;
}

/// Compiles `source` for `target` with these options, and macros defined.
///
/// # Errors
/// `CompileFailed` with the log.
pub fn compile<R: Rtc>(
    rtc: &R,
    source: &Source,
    target: &str,
    mut options: Vec<String>,
    defines: &[(&str, String)],
) -> Result<Compilation> {
    let doing = || format!("compile {} for {target}", source.name);
    options.extend(
        defines
            .iter()
            .map(|(name, value)| format!("-D{name}={value}")),
    );
    let c_string = |text: &str| {
        CString::new(text).map_err(|_| Error::invalid(doing(), "a text contains a zero byte"))
    };
    let text = c_string(&source.text())?;
    let file = c_string(&format!("{}.{}", source.name, R::EXTENSION))?;
    let words: Vec<CString> = options
        .iter()
        .map(|option| c_string(option))
        .collect::<Result<_>>()?;
    let pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();

    let mut program = Program {
        rtc,
        handle: ptr::null_mut(),
    };
    let fail = |code: Code, log: &str| {
        let why = format!(
            "{} ({}, options {}), log:\n{}",
            rtc.describe(code),
            rtc.name(),
            options.join(" "),
            log.trim()
        );
        Error::new(ErrorKind::CompileFailed, doing(), why).next_step("report the compiler's log")
    };
    // SAFETY: the texts end with 0 and outlive the call.
    let code = unsafe { rtc.create(&mut program.handle, text.as_ptr(), file.as_ptr()) };
    if code != SUCCESS {
        return Err(fail(code, ""));
    }
    let count = c_int::try_from(pointers.len()).unwrap_or(0);
    // SAFETY: the program is alive, and there are `count` texts that end with 0.
    let code = unsafe { rtc.compile(program.handle, count, pointers.as_ptr()) };
    let mut log = program.bytes(R::log_size, R::log).unwrap_or_default();
    log.pop_if(|last| *last == 0);
    let log = String::from_utf8_lossy(&log).into_owned();
    if code != SUCCESS {
        return Err(fail(code, &log));
    }
    let code = program.bytes(R::code_size, R::code);
    Ok(Compilation {
        code: code.map_err(|code| fail(code, &log))?,
        log,
    })
}

/// A program of the compiler.
struct Program<'a, R: Rtc> {
    rtc: &'a R,
    handle: Handle,
}

impl<R: Rtc> Program<'_, R> {
    /// What a pair of functions gives: how many bytes, and the bytes.
    fn bytes(
        &self,
        size: unsafe fn(&R, Handle, &mut usize) -> Code,
        bytes: unsafe fn(&R, Handle, *mut c_char) -> Code,
    ) -> Result<Vec<u8>, Code> {
        let mut count = 0;
        // SAFETY: the program is alive.
        let code = unsafe { size(self.rtc, self.handle, &mut count) };
        if code != SUCCESS {
            return Err(code);
        }
        let mut all = vec![0u8; count];
        // SAFETY: there is room for as many bytes as it says.
        let code = unsafe { bytes(self.rtc, self.handle, all.as_mut_ptr().cast()) };
        match code {
            SUCCESS => Ok(all),
            _ => Err(code),
        }
    }
}

impl<R: Rtc> Drop for Program<'_, R> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made by the same library, and not used again. Nobody is left to hear of a failure.
            unsafe { self.rtc.destroy(&mut self.handle) };
        }
    }
}
