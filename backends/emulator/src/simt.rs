//! The portable kernels of `backend_simt`, really executed: compiled as C++ by the machine's compiler, work-items as fibers.
//!
//! What the CUDA, HIP and OpenCL back ends are given is run here in waves of any width, in groups and local memory as small as
//! one likes, on a machine without any of those chips. Only their compilers and tensor cores stay untested.
//!
//! - Every launch runs at once, one group after the other, waves and work-items forwards in one launch and backwards in the
//!   next: what depends on an order that nobody promised gives other bits the second time.
//! - Work-items that wait at different barriers are an error that names the line of the program's text.
//! - With `asan` an access outside of arrays and buffers ends the process and says where; the address sanitizer's library
//!   ([`sanitizer`]) must be preloaded.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backend_simt::{Argument, Compiled, Facts, Limits, SimtDriver, Source};
use hal::{DType, Error, ErrorKind, Numerics, Result};
use libloading::Library;
use ops::Accelerator;

/// Before a program's text, and after it.
pub(crate) const SHIM: [&str; 2] = [include_str!("simt/shim.h"), include_str!("simt/entry.h")];
/// The largest group that the fibers have room for.
const MAX_GROUP: usize = 1024;

/// What the words of a spec say: `simt,wave32,wg256,local32k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    wave: usize,
    max_group: usize,
    local_bytes: usize,
    units: usize,
    sanitized: bool,
}

impl Shape {
    /// The words, for messages.
    pub(crate) const WORDS: &str = "waveN, wgN, localNk, unitsN, asan";

    /// Reads the words after `simt`.
    ///
    /// # Errors
    /// `InvalidArgument` for another word, or a number out of range.
    pub(crate) fn parse(spec: &str, words: &[&str]) -> Result<Self> {
        let mut shape = Self {
            wave: 1,
            max_group: 256,
            local_bytes: 48 << 10,
            units: 1,
            sanitized: false,
        };
        for word in words {
            let number = |prefix: &str, suffix: &str| -> Option<usize> {
                word.strip_prefix(prefix)?
                    .strip_suffix(suffix)?
                    .parse()
                    .ok()
            };
            let power = |n: usize, most: usize| n.is_power_of_two() && n <= most;
            if *word == "asan" {
                shape.sanitized = true;
            } else if let Some(n) = number("wave", "").filter(|&n| power(n, 64)) {
                shape.wave = n;
            } else if let Some(n) = number("wg", "").filter(|&n| power(n, MAX_GROUP)) {
                shape.max_group = n;
            } else if let Some(n) = number("local", "k").filter(|n| (1..=1024).contains(n)) {
                shape.local_bytes = n << 10;
            } else if let Some(n) = number("units", "").filter(|n| (1..=1024).contains(n)) {
                shape.units = n;
            } else {
                let why = format!("'{word}' is no word of a device that runs portable kernels");
                let next = format!("words after simt: {} (powers of two)", Self::WORDS);
                return Err(Error::invalid(format!("open '{spec}'"), why).next_step(next));
            }
        }
        Ok(shape)
    }
}

/// Opens a host that runs the portable kernels.
///
/// # Errors
/// `NotFound` when there is no C++ compiler, no folder for compiled programs, or no sanitizer that was asked for.
pub(crate) fn open(spec: &str, shape: Shape) -> Result<Accelerator> {
    Ok(backend_simt::open(HostDriver::new(spec, shape)?))
}

/// The host as a chip.
#[derive(Debug)]
struct HostDriver {
    facts: Facts,
    limits: Limits,
    compiler: Compiler,
    launches: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Compiler {
    program: String,
    version: String,
    sanitized: bool,
    folder: PathBuf,
}

impl Compiler {
    pub(crate) fn find(sanitized: bool) -> Result<Self> {
        let doing = "find a C++ compiler for the emulator's kernels";
        let missing = |why: String| Error::new(ErrorKind::NotFound, doing, why);
        let program = compiler();
        let output = Command::new(&program).arg("--version").output();
        let output = output.map_err(|e| {
            missing(format!("{program}: {e}"))
                .next_step("install one (apt-get install g++), or name it in CXX")
        })?;
        let version = String::from_utf8_lossy(&output.stdout);
        let folder = hal::kept::needed_folder(doing)?;
        if sanitized && !is_sanitized() {
            let library = sanitizer().ok_or_else(|| {
                missing(format!("{program} has no address sanitizer")).next_step("leave out `asan`")
            })?;
            let next = format!("run with LD_PRELOAD={}", library.display());
            return Err(
                missing("the address sanitizer is not in this process".into()).next_step(next),
            );
        }
        Ok(Self {
            version: version.lines().next().unwrap_or_default().into(),
            program,
            sanitized,
            folder: folder.join(hal::kept::EMULATOR),
        })
    }

    fn flags(&self) -> &'static str {
        match self.sanitized {
            true => "-fsanitize=address",
            false => "-fno-sanitize=all",
        }
    }

    /// Names what this compiler makes of `text`.
    pub(crate) fn digest(&self, text: &str) -> String {
        hal::kept::name([self.version.as_str(), self.flags(), text])
    }

    /// The library of one text; compiled, or found as it was compiled before.
    pub(crate) fn library(&self, name: &str, text: &str) -> Result<PathBuf> {
        let doing = || format!("compile {name} for the emulator");
        let library = self.folder.join(format!("{name}-{}.so", self.digest(text)));
        if library.is_file() {
            return Ok(library);
        }
        let io = |e: std::io::Error| {
            Error::new(
                ErrorKind::Io,
                doing(),
                format!("{}: {e}", self.folder.display()),
            )
            .next_step("set GLM_CACHE to a folder that can be written")
        };
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        static PARTS: AtomicUsize = AtomicUsize::new(0);
        let part = PARTS.fetch_add(1, Ordering::Relaxed);
        let part = self
            .folder
            .join(format!("part-{}-{part}", std::process::id()));
        let (source, built) = (part.with_extension("cc"), part.with_extension("so"));
        std::fs::write(&source, text).map_err(io)?;
        let output = Command::new(&self.program)
            .args(["-x", "c++", "-std=c++17", "-O1", "-shared", "-fPIC"])
            .args(["-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-w"])
            .arg(self.flags())
            .arg(&source)
            .arg("-o")
            .arg(&built)
            .output();
        let removed = std::fs::remove_file(&source);
        let output = output.map_err(io)?;
        removed.map_err(io)?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::new(ErrorKind::CompileFailed, doing(), log)
                .next_step("report it with the compiler's version: the kernels are ours"));
        }
        // Whoever renames last wins; every reader sees a whole file.
        std::fs::rename(&built, &library).map_err(io)?;
        Ok(library)
    }
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

/// The library that must be preloaded for `emulator:simt,asan`; `None` where the C++ compiler has none.
pub fn sanitizer() -> Option<PathBuf> {
    let mut command = Command::new(compiler());
    let output = command.arg("-print-file-name=libasan.so").output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    // A compiler that does not have it repeats the name.
    path.is_absolute().then_some(path)
}

fn is_sanitized() -> bool {
    let process = libloading::os::unix::Library::this();
    // SAFETY: the symbol is only looked for.
    unsafe { process.get::<unsafe extern "C" fn()>(b"__asan_init") }.is_ok()
}

impl HostDriver {
    fn new(spec: &str, shape: Shape) -> Result<Self> {
        let compiler = Compiler::find(shape.sanitized)?;
        let detail = format!(
            "emulated: portable kernels as C++ by {}; waves of {}, groups of {}, {} KiB local memory",
            compiler.version,
            shape.wave,
            shape.max_group,
            shape.local_bytes >> 10
        );
        Ok(Self {
            facts: Facts {
                spec: spec.into(),
                name: "emulator of portable kernels".into(),
                detail,
                fingerprint: None,
                native_floats: vec![DType::F32],
                numerics: Numerics::exact(),
            },
            limits: Limits {
                max_group: shape.max_group,
                local_bytes: shape.local_bytes,
                max_alloc_bytes: isize::MAX as usize / 2,
                memory_bytes: isize::MAX as usize / 2,
                wave: shape.wave,
                parallelism: shape.units,
                wide_items: false,
            },
            compiler,
            launches: AtomicU64::new(0),
        })
    }
}

/// The text of a program; each of its kernels is a library of its own.
struct Program {
    name: &'static str,
    text: String,
}

type Launch = unsafe extern "C" fn(
    grid: *const c_int,
    size: c_int,
    wave: c_int,
    backwards: c_int,
    arguments: *mut *mut c_void,
    count: c_int,
) -> c_int;

/// Held by a launch: local memory and fibers are a library's own, and two kernels of one text share their library.
static RUNNING: Mutex<()> = Mutex::new(());

/// A loaded kernel.
struct Kernel {
    name: String,
    launch: Launch,
    _library: Library,
}

/// Memory of the host, aligned as the driver promises.
#[derive(Debug)]
struct HostMemory {
    pointer: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned, and reached only by the driver's calls, which order their accesses as the contract of devices
// asks; a race of two streams is a wrong result that their user made.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    fn at(&self, at: usize, bytes: usize) -> *mut u8 {
        assert!(
            at.checked_add(bytes)
                .is_some_and(|end| end <= self.layout.size())
        );
        self.pointer.as_ptr().wrapping_add(at)
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe {
            dealloc(self.pointer.as_ptr(), self.layout);
        }
    }
}

impl SimtDriver for HostDriver {
    type Memory = HostMemory;
    type Program = Program;
    type Kernel = Kernel;
    type Queue = ();
    type Mark = Instant;

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn alloc(&self, bytes: usize) -> Result<HostMemory> {
        let fail = |why: &str| {
            Error::new(ErrorKind::OutOfMemory, format!("allocate {bytes} B"), why)
                .next_step("choose a smaller model, --dtype or context")
        };
        let layout = Layout::from_size_align(bytes.max(1), 128).map_err(|_| fail("too large"))?;
        // SAFETY: the size is not zero.
        let pointer = unsafe { alloc(layout) };
        let pointer = NonNull::new(pointer).ok_or_else(|| fail("the host has no more memory"))?;
        // SAFETY: `bytes` were allocated.
        unsafe {
            pointer.as_ptr().write_bytes(0xcb, layout.size());
        }
        Ok(HostMemory { pointer, layout })
    }

    fn compile(
        &self,
        source: &Source,
        defines: &[(&str, String)],
        _: Option<&[u8]>,
    ) -> Result<Compiled<Program>> {
        let mut text = String::new();
        for (name, value) in defines {
            text.push_str(&format!("#define {name} {value}\n"));
        }
        text.push_str(SHIM[0]);
        text.push_str(&source.text());
        let name = source.name;
        Ok(Compiled {
            program: Program { name, text },
            // Only when a kernel of it is asked for.
            fresh: false,
        })
    }

    fn kernel(&self, program: &Program, name: &str, _: usize) -> Result<Kernel> {
        let text = format!("{}\n{}\nSHIM_ENTRY({name})\n", program.text, SHIM[1]);
        let path = self.compiler.library(name, &text)?;
        load(&path, program.name, name)
    }

    fn queue(&self) -> Result<()> {
        Ok(())
    }

    fn upload(&self, (): &mut (), dst: &HostMemory, at: usize, src: &[u8]) -> Result<()> {
        let to = dst.at(at, src.len());
        // SAFETY: `at` gave a pointer to that many bytes, and the host's slice is no device memory.
        unsafe {
            to.copy_from_nonoverlapping(src.as_ptr(), src.len());
        }
        Ok(())
    }

    fn download(&self, (): &mut (), dst: &mut [u8], src: &HostMemory, at: usize) -> Result<()> {
        let from = src.at(at, dst.len());
        // SAFETY: `at` gave a pointer to that many initialised bytes, and the host's slice is no device memory.
        unsafe {
            from.copy_to_nonoverlapping(dst.as_mut_ptr(), dst.len());
        }
        Ok(())
    }

    unsafe fn launch(
        &self,
        (): &mut (),
        kernel: &Kernel,
        grid: [usize; 3],
        group: usize,
        arguments: &[Argument<'_, HostMemory>],
    ) -> Result<()> {
        let failed = |why: String| {
            Error::new(ErrorKind::Unexpected, format!("run {}", kernel.name), why)
                .next_step("report it: the kernel is ours")
        };
        let mut values: Vec<[u8; 8]> = Vec::with_capacity(2 * arguments.len());
        for argument in arguments {
            let (value, offset) = match argument {
                Argument::Memory(memory, at) => {
                    let pointer = memory.pointer.as_ptr() as usize as u64;
                    (pointer.to_ne_bytes(), Some((*at as i64).to_ne_bytes()))
                }
                Argument::I32(n) => (i64::from(*n).to_le_bytes(), None),
                Argument::I64(n) => (n.to_ne_bytes(), None),
                Argument::F32(x) => (u64::from(x.to_bits()).to_le_bytes(), None),
            };
            values.push(value);
            values.extend(offset);
        }
        let mut pointers: Vec<*mut c_void> = Vec::with_capacity(values.len());
        pointers.extend(values.iter_mut().map(|value| value.as_mut_ptr().cast()));
        let size = |n: usize| c_int::try_from(n).map_err(|_| failed(format!("a size of {n}")));
        let grid = [size(grid[0])?, size(grid[1])?, size(grid[2])?];
        let backwards = self.launches.fetch_add(1, Ordering::Relaxed) % 2;
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the library was made of our own entry, which checks the number of arguments; the caller vouches for what
        // the kernel does with them.
        let line = unsafe {
            (kernel.launch)(
                grid.as_ptr(),
                size(group)?,
                size(self.limits.wave)?,
                backwards as c_int,
                pointers.as_mut_ptr(),
                size(pointers.len())?,
            )
        };
        drop(running);
        match line {
            0 => Ok(()),
            -1 => Err(failed(format!(
                "{} arguments are not what it declares",
                pointers.len()
            ))),
            -2 => Err(failed("no memory for the stacks of its work-items".into())),
            line => Err(failed(format!(
                "not all work-items of a group reach the barrier at line {line} of its text"
            ))),
        }
    }

    fn record(&self, (): &mut ()) -> Result<Instant> {
        Ok(Instant::now())
    }

    fn wait(&self, (): &mut (), _: &Instant) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, (): &mut ()) -> Result<()> {
        Ok(())
    }

    fn finish(&self, _: &Instant) -> Result<()> {
        Ok(())
    }

    fn elapsed(&self, from: &Instant, to: &Instant) -> Result<Option<Duration>> {
        Ok(Some(to.saturating_duration_since(*from)))
    }
}

/// Loads the library of the kernel `name`.
fn load(path: &Path, program: &str, name: &str) -> Result<Kernel> {
    let fail = |e: libloading::Error| {
        let doing = format!("load {}", path.display());
        Error::new(ErrorKind::CompileFailed, doing, e.to_string())
            .next_step("remove that file: it is compiled again")
    };
    // SAFETY: the library has no initialisers; it was compiled from our text, and nobody else writes to the cache folder.
    let library = unsafe { Library::new(path) }.map_err(fail)?;
    let entry = format!("shim_launch_{name}");
    // SAFETY: entries have this type in entry.h.
    let launch = unsafe { library.get::<Launch>(entry) }.map_err(fail)?;
    let launch = *launch;
    Ok(Kernel {
        name: format!("{program}/{name}"),
        launch,
        _library: library,
    })
}

#[cfg(test)]
mod tests {
    use backend_simt::kit::DIALECT;

    use super::*;

    /// Set in a process that runs with a sanitizer.
    const INSIDE: &str = "GLM_TEST_INSIDE_SANITIZER";

    /// Runs one kernel of `text` on one group of 64 over 64 floats; the floats afterwards. `None` without a compiler.
    fn run(wave: usize, text: &'static [&'static str]) -> Option<Result<Vec<f32>>> {
        let shape = Shape {
            wave,
            max_group: 64,
            local_bytes: 1 << 14,
            units: 2,
            sanitized: std::env::var_os(INSIDE).is_some(),
        };
        let driver = match HostDriver::new("emulator:simt", shape) {
            Ok(driver) => driver,
            Err(e) => {
                println!("SKIPPED: {e}");
                return None;
            }
        };
        Some(run_on(&driver, text))
    }

    fn run_on(driver: &HostDriver, text: &'static [&'static str]) -> Result<Vec<f32>> {
        let source = Source {
            name: "toy",
            parts: text,
            begins_early: false,
        };
        let mut defines = vec![("GROUP", "64".to_owned())];
        if driver.limits.wave > 1 {
            defines.push(("WAVE", driver.limits.wave.to_string()));
        }
        let program = driver.compile(&source, &defines, None)?.program;
        let kernel = driver.kernel(&program, "toy", 64)?;
        let memory = driver.alloc(256)?;
        driver.upload(&mut (), &memory, 0, &[0; 256])?;
        let arguments = [Argument::Memory(&memory, 0), Argument::I32(64)];
        // SAFETY: the toys declare these two arguments; those that leave their memory are run under a sanitizer alone.
        unsafe { driver.launch(&mut (), &kernel, [1, 1, 1], 64, &arguments)? };
        let mut bytes = [0; 256];
        driver.download(&mut (), &mut bytes, &memory, 0)?;
        let floats = bytes.chunks_exact(4);
        Ok(floats
            .map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]))
            .collect())
    }

    macro_rules! toy {
        ($body:literal) => {
            &[
                DIALECT,
                "KERNEL toy(OUT(out), int n) { BIND_OUT(out); GLOBAL float *y = (GLOBAL float *)out;\n",
                $body,
                "\n}",
            ]
        };
    }

    #[test]
    fn items_meet_at_barriers_and_waves_exchange() {
        let text = toy!(
            "LOCAL float t[GROUP]; t[ITEM] = ITEM; BARRIER; y[ITEM] = t[GROUP - 1 - ITEM] + 100 * WAVE_SUM(1.0f);"
        );
        for wave in [8, 16, 32, 64] {
            let Some(y) = run(wave, text) else { return };
            let expected = (0..64).map(|i| (63 - i + 100 * wave) as f32);
            assert_eq!(y.unwrap(), expected.collect::<Vec<_>>(), "wave {wave}");
        }
    }

    #[test]
    fn a_barrier_that_some_miss_is_named() {
        for text in [
            toy!("if (ITEM > 3) BARRIER;"),
            toy!("if (ITEM & 1) { BARRIER; }\nelse { BARRIER; }"),
        ] {
            let Some(y) = run(1, text) else { return };
            let error = y.unwrap_err().to_string();
            let lines = DIALECT.lines().count();
            let names = |line| error.contains(&format!("line {line} "));
            assert!(names(lines + 2) || names(lines + 3), "{error}");
        }
        let Some(y) = run(32, toy!("if (ITEM != 40) y[ITEM] = WAVE_SUM(1.0f);")) else {
            return;
        };
        assert!(y.is_err());
    }

    #[test]
    fn a_missing_barrier_gives_other_bits_the_second_time() {
        let text =
            toy!("LOCAL float t[GROUP]; t[ITEM] = 1; y[ITEM] = t[GROUP - 1 - ITEM]; t[ITEM] = 2;");
        let shape = Shape {
            wave: 1,
            max_group: 64,
            local_bytes: 1 << 14,
            units: 2,
            sanitized: std::env::var_os(INSIDE).is_some(),
        };
        let Ok(driver) = HostDriver::new("emulator:simt", shape) else {
            return;
        };
        let [first, second] = [0, 1].map(|_| run_on(&driver, text).unwrap());
        assert_ne!(first, second);
    }

    #[test]
    fn a_kernel_that_does_not_compile_says_why() {
        let Some(y) = run(1, toy!("y[0] = no_such_function(n);")) else {
            return;
        };
        let e = y.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::CompileFailed);
        assert!(e.to_string().contains("no_such_function"), "{e}");
    }

    #[test]
    fn a_sanitizer_sees_what_leaves_its_memory() {
        const NAME: &str = "simt::tests::a_sanitizer_sees_what_leaves_its_memory";
        let toys = [
            toy!("y[ITEM] = 1;"),
            toy!("LOCAL float t[GROUP]; t[ITEM + n / 64] = 1; BARRIER; y[ITEM] = t[ITEM];"),
            toy!("y[ITEM + 1] = 1;"),
        ];
        if let Ok(number) = std::env::var(INSIDE) {
            let toy: usize = number.parse().unwrap();
            run(1, toys[toy]).unwrap().unwrap();
            return;
        }
        let Some(library) = sanitizer() else {
            println!("SKIPPED: the C++ compiler has no address sanitizer");
            return;
        };
        for (toy, clean) in [(0, true), (1, false), (2, false)] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(INSIDE, toy.to_string())
                .env("LD_PRELOAD", &library)
                .env("ASAN_OPTIONS", "detect_leaks=0")
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), clean, "toy {toy}: {error}");
            assert_eq!(
                error.contains("AddressSanitizer"),
                !clean,
                "toy {toy}: {error}"
            );
        }
    }

    #[test]
    fn words_are_checked() {
        let parse = |words: &[&str]| Shape::parse("emulator:simt", words);
        assert_eq!(
            parse(&["wave64", "wg128", "local16k"]).unwrap().local_bytes,
            16 << 10
        );
        for word in ["wave3", "wave128", "wg0", "wg2048", "local0k", "nobf16", ""] {
            let e = parse(&[word]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{word}");
        }
    }
}
