//! A vendor's runtime on the host, for tests of the back end that calls it: no chip, no driver, the same calls.
//!
//! The common part (`simt/stand_in.h`) knows streams, memory and modules; each back end's tests put the vendor's names over
//! it. It is compiled by the machine's C++ compiler and runs the portable kernels as [`crate::open`]'s `simt` does, in waves
//! of 32. Work waits until somebody needs it, so that missing order shows; every call is counted and can be made to fail.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};

use hal::{Error, ErrorKind, Result};
use libloading::Library;

use crate::simt::{Compiler, SHIM};

const CORE: &str = include_str!("simt/stand_in.h");

/// Compiles a stand-in whose functions are `exports`, with these macros defined (`("cuInit", "renamed")` hides a function).
/// The folder that holds it under each of `files`.
///
/// # Errors
/// `NotFound` without a C++ compiler or a folder for compiled programs; `CompileFailed`.
pub fn build(exports: &str, defines: &[(&str, &str)], files: &[&str]) -> Result<PathBuf> {
    let compiler = Compiler::find(false)?;
    let core = CORE
        .replace("@shim.h@", SHIM[0])
        .replace("@entry.h@", SHIM[1]);
    let mut text = String::new();
    for (name, value) in defines {
        text.push_str(&format!("#define {name} {value}\n"));
    }
    text.push_str(&core);
    // Devices say which stand-in they are, so that nothing is kept from one to the next.
    let digest = compiler.digest(&format!("{core}{exports}"));
    text.push_str(&format!(
        "#define STAND_IN_DIGEST \"{}\"\n{exports}",
        &digest[..12]
    ));
    let library = compiler.library("stand-in", &text)?;
    let folder = library.with_extension("libraries");
    let io = |e: std::io::Error| {
        let doing = format!("make the folder {}", folder.display());
        Error::new(ErrorKind::Io, doing, e.to_string())
    };
    std::fs::create_dir_all(&folder).map_err(io)?;
    for file in files {
        match std::fs::hard_link(&library, folder.join(file)) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            linked => linked.map_err(io)?,
        }
    }
    Ok(folder)
}

/// The controls of a stand-in.
#[derive(Debug)]
pub struct StandIn {
    library: Library,
}

impl StandIn {
    /// Of the library that a back end loads.
    ///
    /// # Errors
    /// `NotFound` when it is no stand-in.
    pub fn open(library: &Path) -> Result<Self> {
        let doing = || format!("open the stand-in {}", library.display());
        let fail = |e: libloading::Error| Error::new(ErrorKind::NotFound, doing(), e.to_string());
        // SAFETY: compiled by `build`; it has no initialisers but those of its own tables.
        let library = unsafe { Library::new(library) }.map_err(fail)?;
        // SAFETY: only looked for.
        unsafe { library.get::<Texts>(b"stand_in_calls") }.map_err(fail)?;
        Ok(Self { library })
    }

    /// Lets the `n`-th call of `function` from now on fail with `code`: of any function when it is empty; the `n`-th kernel
    /// that runs when it is `kernel`. No call when `n` is 0, each of the next `-n` when it is negative.
    pub fn fail(&self, function: &str, n: i32, code: i32) {
        let name = CString::new(function).expect("no zero bytes in a function's name");
        // SAFETY: the function has this type in stand_in.h.
        let fail = unsafe { self.library.get::<Fail>(b"stand_in_fail") };
        let fail = fail.expect("checked when it was opened");
        // SAFETY: the name ends with 0.
        unsafe { fail(name.as_ptr(), n, code) };
    }

    /// The functions that were called since this was last asked, in order.
    pub fn calls(&self) -> Vec<String> {
        self.text(b"stand_in_calls")
    }

    /// What was made and not given back: `memory 2`, `stream 1`.
    pub fn live(&self) -> Vec<String> {
        self.text(b"stand_in_live")
    }

    /// The kernels that have run so far, by name.
    pub fn kernels(&self) -> BTreeSet<String> {
        self.text(b"stand_in_kernels").into_iter().collect()
    }

    fn text(&self, function: &[u8]) -> Vec<String> {
        // SAFETY: the function has this type in stand_in.h.
        let function = unsafe { self.library.get::<Texts>(function) };
        let function = function.expect("checked when it was opened");
        // SAFETY: it gives a text that ends with 0, which nobody frees: tests are short.
        let text = unsafe { CStr::from_ptr(function()) };
        text.to_string_lossy().lines().map(str::to_owned).collect()
    }
}

type Fail = unsafe extern "C" fn(*const c_char, c_int, c_int);
type Texts = unsafe extern "C" fn() -> *const c_char;
