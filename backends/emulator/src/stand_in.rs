//! A vendor's runtime on the host, for tests of the back end that calls it: no chip, no driver, the same calls.
//!
//! The common part (`simt/stand_in.h`) knows streams, memory and modules; each back end's tests put the vendor's names over
//! it. It is compiled by the machine's C++ compiler and runs the portable kernels as [`crate::open`]'s `simt` does, in waves
//! of as many work-items as the vendor's. Work waits until somebody needs it, so that missing order shows; every call is
//! counted and can be made to fail.

pub mod product;
pub mod promises;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;

use hal::{DType, Error, ErrorKind, Result, Stream, View};
use libloading::Library;
use ops::{Accelerator, Context, CopyArgs, StridedCopy};

use crate::simt::{Compiler, SHIM};

const CORE: &str = include_str!("simt/stand_in.h");
const CALLS: &str = include_str!("simt/calls.h");
const PRODUCTS: &str = include_str!("simt/products.h");

/// Compiles a stand-in of what `exports`, which may use `simt/products.h`, and `simt/calls.h` define, without the functions `hidden`. The folder that holds it
/// under each of `files` that is not `hidden`.
///
/// # Errors
/// `NotFound` without a C++ compiler or a folder for compiled programs; `CompileFailed`.
fn build(exports: &str, hidden: &[&str], files: &[&str]) -> Result<PathBuf> {
    let compiler = Compiler::find(false)?;
    let core = CORE
        .replace("@shim.h@", SHIM[0])
        .replace("@entry.h@", SHIM[1]);
    let mut text = String::new();
    for name in hidden {
        // Of a file too, because a folder belongs to its text.
        let name = name.replace('.', "_");
        text.push_str(&format!("#define {name} hidden_{name}\n"));
    }
    text.push_str(&core);
    text.push_str(PRODUCTS);
    // Devices say which stand-in they are, so that nothing is kept from one to the next.
    let digest = compiler.digest(&format!("{core}{PRODUCTS}{exports}{CALLS}"));
    text.push_str(&format!(
        "#define STAND_IN_DIGEST \"{}\"\n{exports}\n{CALLS}",
        &digest[..12]
    ));
    let library = compiler.library("stand-in", &text)?;
    let folder = library.with_extension("libraries");
    let io = |e: std::io::Error| {
        let doing = format!("make the folder {}", folder.display());
        Error::new(ErrorKind::Io, doing, e.to_string())
    };
    std::fs::create_dir_all(&folder).map_err(io)?;
    for file in files.iter().filter(|file| !hidden.contains(file)) {
        match std::fs::hard_link(&library, folder.join(file)) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            linked => linked.map_err(io)?,
        }
    }
    Ok(folder)
}

/// Set in a process that uses a stand-in.
const INSIDE: &str = "GLM_TEST_INSIDE_STAND_IN";

/// The stand-in for a vendor's libraries, for tests.
#[derive(Clone, Copy, Debug)]
pub struct Vendor {
    /// Its functions.
    pub exports: &'static str,
    /// The names under which its back end looks for the libraries; the first is the driver's.
    pub files: &'static [&'static str],
    /// The variable that names the folders where the back end looks first.
    pub variable: &'static str,
}

impl Vendor {
    /// Runs `test`, the body of the test called `name`, in a process whose only device of this vendor is the stand-in without
    /// the functions and libraries `hidden`, with further `settings` of its environment. Without a C++ compiler says so.
    ///
    /// # Panics
    /// When the test fails, or the stand-in does not compile.
    pub fn emulated(
        &self,
        name: &str,
        settings: &[(&str, &str)],
        hidden: &[&str],
        test: impl FnOnce(StandIn),
    ) {
        if std::env::var_os(INSIDE).is_some() {
            let folders = std::env::var_os(self.variable).expect("set with the other variable");
            let folder = std::env::split_paths(&folders)
                .next()
                .expect("there is one");
            return test(StandIn::open(&folder.join(self.files[0])).expect("it was built"));
        }
        let folder = match self.build(hidden) {
            Ok(folder) => folder,
            Err(e) if e.kind() == ErrorKind::NotFound => return conformance::skip("stand-in", e),
            Err(e) => panic!("{e}"),
        };
        let program = std::env::current_exe().expect("a test knows its own file");
        let output = Command::new(program)
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .env(self.variable, folder)
            .envs(settings.iter().copied())
            .output()
            .expect("the test started once, and starts again");
        let text = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .concat();
        println!("{text}");
        assert!(output.status.success() && text.contains("1 passed"));
    }

    /// The folder of the libraries without the functions and libraries `hidden`.
    ///
    /// # Errors
    /// `NotFound` without a C++ compiler or a folder for compiled programs; `CompileFailed`.
    pub fn build(&self, hidden: &[&str]) -> Result<PathBuf> {
        build(self.exports, hidden, self.files)
    }
}

/// More than one slot of page-locked memory.
const LARGE: usize = 5 << 20;

/// What a program does with a device: memory, transfers, launches, marks, captures. The bytes that came back, which are `sent`
/// when all is well.
///
/// # Errors
/// Those of the device.
///
/// # Panics
/// When a large transfer gives other bytes.
fn everything(open: impl FnOnce() -> Result<Accelerator>, sent: &[u8]) -> Result<Vec<u8>> {
    let accelerator = open()?;
    let context = Context::new(accelerator.clone());
    let plan = context.plan(StridedCopy { dtype: DType::U8 })?;
    let device = accelerator.device;
    let buffers = (0..4)
        .map(|_| device.alloc(sent.len()))
        .collect::<Result<Vec<_>>>()?;
    let views = buffers
        .iter()
        .map(|b| View::new(b, DType::U8, &[sent.len()]));
    let views = views.collect::<Result<Vec<_>>>()?;
    let nothing = device.alloc(0)?;
    let workspace = View::of_bytes(&nothing);
    let (mut stream, mut other) = (device.stream()?, device.stream()?);
    let started = stream.record()?;
    let large = device.alloc(LARGE)?;
    let pattern: Vec<u8> = (0..LARGE).map(|i| (i >> 10) as u8).collect();
    other.upload(&View::of_bytes(&large), &pattern)?;
    let mut back = vec![0; LARGE];
    other.download(&mut back, &View::of_bytes(&large))?;
    assert!(back == pattern, "a large transfer");
    drop(large);
    stream.upload(&views[0], sent)?;
    let copy = |stream: &mut dyn hal::Stream, out: usize, x: usize| {
        let (out, x) = (views[out], views[x]);
        plan.run(stream, CopyArgs { out, x }, &workspace)
    };
    copy(&mut *stream, 1, 0)?;
    other.wait(&stream.record()?)?;
    other.begin_capture()?;
    let captured = copy(&mut *other, 2, 1);
    let graph = other.end_capture();
    captured?;
    let graph = graph?;
    graph.launch(&mut *other)?;
    drop(graph);
    copy(&mut *other, 3, 2)?;
    drop(device.alloc(sent.len())?);
    // A queue goes in the middle of a capture.
    let mut lost = device.stream()?;
    lost.begin_capture()?;
    drop(lost);
    let mut bytes = vec![0; sent.len()];
    other.download(&mut bytes, &views[3])?;
    let ended = other.record()?;
    ended.synchronize()?;
    ended.since(&started)?;
    stream.synchronize()?;
    Ok(bytes)
}

/// What the kernels of [`everything`] are given to copy.
fn sent() -> Vec<u8> {
    (0..4099).map(|i| ((i * 31) >> 3) as u8).collect()
}

/// Memory, transfers, launches, marks and captures of a device work.
///
/// # Panics
/// When they do not.
pub fn works(open: impl FnOnce() -> Result<Accelerator>) {
    let sent = sent();
    let bytes = everything(open, &sent).expect("nothing fails");
    assert!(bytes == sent, "wrong bytes");
}

/// The functions of a vendor's runtime about whose failures there is more to say.
#[derive(Clone, Copy, Debug)]
pub struct Functions<'a> {
    /// Their failure may have nobody to go to, because they are also, or only, called while something is dropped.
    pub in_drops: &'a [&'a str],
    /// How the compiler's begin, whose codes are its own; empty without a compiler.
    pub compiler: &'a str,
    /// Allocates, and is tried once more when there is no memory.
    pub alloc: &'a str,
    /// Asks for a fact; code 1 says that the runtime does not have it, which may be borne, or else is `Unsupported`.
    pub fact: Option<&'a str>,
    /// Loads a program, which is compiled again when it does not load.
    pub load: &'a str,
}

/// Lets each call of what [`works`] does fail with the codes of CUDA and HIP, one at a time.
///
/// # Panics
/// Those of [`fail_each_with`].
pub fn fail_each(
    stand_in: &StandIn,
    open: impl Fn() -> Result<Accelerator>,
    functions: Functions<'_>,
) {
    let codes = [
        (1, ErrorKind::Unexpected),
        (2, ErrorKind::OutOfMemory),
        (700, ErrorKind::DeviceLost),
        (999, ErrorKind::DeviceLost),
    ];
    fail_each_with(stand_in, open, functions, &codes, &[]);
}

/// Lets each call of what [`works`] does fail with each of `codes`, one at a time. Functions that are `makers` give what they make,
/// and no code: their failure is that there is none.
///
/// # Panics
/// When a failure is not a typed error of the right kind with a next step, or something is left behind.
pub fn fail_each_with(
    stand_in: &StandIn,
    open: impl Fn() -> Result<Accelerator>,
    functions: Functions<'_>,
    codes: &[(i32, ErrorKind)],
    makers: &[&str],
) {
    let sent = sent();
    let run = || everything(&open, &sent);
    // The first run compiles; the second finds the kept program, as all the others do.
    for _ in 0..2 {
        stand_in.calls();
        assert_eq!(run().expect("nothing fails"), sent);
        assert_eq!(stand_in.live(), [""; 0]);
    }
    let calls = stand_in.calls();
    println!("{} calls", calls.len());
    assert!(calls.len() > 100);
    let mut outcomes = BTreeMap::<String, usize>::new();
    for (n, function) in calls.iter().map(String::as_str).enumerate() {
        if !functions.compiler.is_empty() && function.starts_with(functions.compiler) {
            continue;
        }
        for &(code, kind) in codes {
            let kind = match makers.contains(&function) {
                true if kind != ErrorKind::DeviceLost => ErrorKind::OutOfMemory,
                _ => kind,
            };
            stand_in.fail("", i32::try_from(n).expect("few calls") + 1, code);
            let result = run();
            stand_in.fail("", 0, 0);
            let at = format!("call {n}, {function}, code {code}");
            let absent = code == 1 && functions.fact == Some(function);
            let what = match result {
                Err(e) => {
                    let kind = if absent { ErrorKind::Unsupported } else { kind };
                    assert_eq!(e.kind(), kind, "{at}: {e}");
                    assert!(e.next().is_some(), "{at}: {e}");
                    format!("{kind:?}")
                }
                Ok(bytes) => {
                    let again = code == 2 && function == functions.alloc;
                    let ignored = functions.in_drops.contains(&function) || again || absent;
                    let reloads = function == functions.load;
                    assert!(ignored && !reloads, "{at}: nobody heard of it");
                    assert!(bytes == sent, "{at}: wrong bytes");
                    "nothing".into()
                }
            };
            *outcomes.entry(format!("{code}: {what}")).or_default() += 1;
            assert_eq!(stand_in.live(), [""; 0], "{at}");
        }
    }
    println!("{outcomes:?}");
}

/// Lets a kernel leave its memory, with the code of CUDA and HIP.
///
/// # Panics
/// Those of [`lose_device_with`].
pub fn lose_device(stand_in: &StandIn, open: impl Fn() -> Result<Accelerator>, says: &[&str]) {
    lose_device_with(stand_in, open, says, 700);
}

/// Lets a kernel die of `code`: every later call says so, with all of `says`, and nothing is left behind.
///
/// # Panics
/// When it is otherwise.
pub fn lose_device_with(
    stand_in: &StandIn,
    open: impl Fn() -> Result<Accelerator>,
    says: &[&str],
    code: i32,
) {
    let accelerator = open().expect("a device");
    let plan = Context::new(accelerator.clone()).plan(StridedCopy { dtype: DType::U8 });
    let plan = plan.expect("a copy");
    let device = &accelerator.device;
    let buffers = [64, 64, 0].map(|bytes| device.alloc(bytes).expect("memory"));
    let [x, out, nothing] = buffers.each_ref().map(View::of_bytes);
    let mut stream = device.stream().expect("a stream");
    let event = stream.record().expect("an event");
    event.synchronize().expect("nothing is to be done");
    stream.upload(&x, &[7; 64]).expect("an upload");
    stand_in.fail("kernel", 1, code);
    let launch = |stream: &mut dyn Stream| plan.run(stream, CopyArgs { out, x }, &nothing);
    launch(&mut *stream).expect("the host hears of it later");
    let first = stream.synchronize();
    let mut bytes = [0; 64];
    let later: [(&str, Result<()>); 11] = [
        ("synchronize", first),
        ("alloc", device.alloc(64).map(drop)),
        ("stream", device.stream().map(drop)),
        ("upload", stream.upload(&x, &[0; 64])),
        ("download", stream.download(&mut bytes, &x)),
        ("record", stream.record().map(drop)),
        ("wait", stream.wait(&event)),
        ("synchronize again", stream.synchronize()),
        ("capture", stream.begin_capture()),
        ("launch", launch(&mut *stream)),
        ("synchronize an event", event.synchronize()),
    ];
    for (act, result) in later {
        let e = result.expect_err(act);
        assert_eq!(e.kind(), ErrorKind::DeviceLost, "{act}: {e}");
        let text = e.to_string();
        let told = act == "synchronize an event" || says.iter().all(|word| text.contains(word));
        assert!(told, "{act}: {text}");
    }
    drop((stream, event, buffers, plan, accelerator));
    assert_eq!(stand_in.live(), [""; 0]);
    works(open);
}

/// The controls of a stand-in.
#[derive(Debug)]
pub struct StandIn {
    library: Library,
}

impl StandIn {
    /// Opening a device ended in this kind of error, which says so and what to do next, and left nothing behind.
    ///
    /// # Panics
    /// When it did not.
    pub fn refused(&self, opened: Result<Accelerator>, kind: ErrorKind, says: &str) {
        let e = opened.expect_err("the device is refused");
        println!("{e}");
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(says) && e.next().is_some(), "{e}");
        assert_eq!(self.live(), [""; 0]);
    }

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
