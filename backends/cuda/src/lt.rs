//! Products with a dense weight by NVIDIA's library, cuBLASLt, which is looked for at run time and may be missing.
//!
//! The library computes in columns: `out` as `[n, m]`, the weight transposed. Which of its kernels runs is chosen once for
//! each shape and alignment ([`Product::multiply`]), by its own heuristic, which launches nothing.
//!
//! Of its epilogues only the residual is used: its bias is of the type of `out`, where ours is f32, and how far its GELU is off it
//! does not say.
//!
//! What may differ from one run to the next: nothing, NVIDIA says, while library, chip and choice are the same and one
//! stream works at a time in a workspace. A choice depends on the number of rows: a row's last bits may depend on how many
//! rows it is computed with. Sums are f32 throughout: partial sums are added in f32 in the workspace, in an order that is
//! fixed, never in `out` or in its type.

mod descriptors;

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backend_runtime::{Code, Handle, Runtime, SUCCESS};
use backend_simt::kit::{Call, Chip};
use backend_simt::library::{Library, Product, Shape, Types};
use cudarc::cublaslt::sys::{cublasLtHandle_t, cublasLtMatmulAlgo_t};
use hal::{Error, ErrorKind, Result};

use crate::device::Cuda;
use crate::libraries::{blas_libraries, no_blas};
use crate::symbols::Blas;

use descriptors::{Found, Layout, Operation, Preference};

const NOT_INITIALIZED: Code = 1;
const ALLOC_FAILED: Code = 3;
const ARCH_MISMATCH: Code = 8;
const NOT_SUPPORTED: Code = 15;

const QUEUE: &str = "queue a product of cuBLASLt";

/// The workspace begins at a multiple of this.
const ALIGN: usize = 256;
/// Alignment of operands beyond which the library makes no difference: what it takes for granted if nothing is said.
const MOST_ALIGNED: u64 = 256;
/// Choices that a product keeps: the oldest goes.
const KEPT: usize = 64;

/// The library, ready for one device.
#[derive(Debug)]
pub(crate) struct Lt {
    handle: Open,
    operation: Operation,
    path: String,
    /// As the library writes it: 130200.
    version: usize,
    /// What its kernels may use of a workspace.
    scratch_bytes: usize,
}

/// The library with its handle.
#[derive(Debug)]
struct Open {
    api: Blas,
    raw: cublasLtHandle_t,
}

// SAFETY: the library may be called from several threads with one handle, which holds nothing that a call changes.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: not used again, and its device drops it in its own context. Nobody is left to hear of a failure.
        unsafe { (self.api.cublasLtDestroy)(self.raw) };
    }
}

impl Lt {
    /// The first library for a driver of CUDA `driver_version` (13000: 13.0), opened for the device that is current, a chip of
    /// this compute capability (90: 9.0).
    ///
    /// # Errors
    /// `NotFound` when there is none, with the reason why each of those that were found does not suit; what the library
    /// reports.
    pub(crate) fn find(chip: i32, driver_version: i32) -> Result<Self> {
        let mut refused = Vec::new();
        for (path, loaded) in blas_libraries() {
            let path = path.display().to_string();
            let api = match loaded {
                Ok(api) => api,
                Err(why) => {
                    refused.push(format!("{path}: {why}"));
                    continue;
                }
            };
            // SAFETY: it takes nothing.
            let cuda = unsafe { (api.cublasLtGetCudartVersion)() } / 1000;
            let driver = driver_version / 1000;
            if i32::try_from(cuda).is_ok_and(|cuda| cuda <= driver) {
                return Self::open(api, path, chip);
            }
            refused.push(format!("{path} is of CUDA {cuda}, the driver of {driver}"));
        }
        match refused.is_empty() {
            true => Err(no_blas()),
            false => Err(Error::new(
                ErrorKind::NotFound,
                "look for a cuBLASLt that suits",
                refused.join("; "),
            )
            .next_step("update the driver, or `pip install nvidia-cublas-cu12`")),
        }
    }

    fn open(api: Blas, path: String, chip: i32) -> Result<Self> {
        // SAFETY: it takes nothing.
        let version = unsafe { (api.cublasLtGetVersion)() };
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` outlives the call, and the device's context is current.
        let code = unsafe { (api.cublasLtCreate)(&mut raw) };
        check(&api, "open cuBLASLt", code)?;
        let handle = Open { api, raw };
        Ok(Self {
            operation: Operation::new(&handle.api)?,
            handle,
            path,
            version,
            // As NVIDIA recommends for each family.
            scratch_bytes: match chip {
                90..120 => 32 << 20,
                120.. => 12 << 20,
                _ => 4 << 20,
            },
        })
    }

    /// What it is and where it lies, for people.
    pub(crate) fn describe(&self) -> String {
        let (major, minor) = (self.version / 10_000, self.version / 100 % 100);
        format!("cuBLASLt {major}.{minor} ({})", self.path)
    }

    fn check(&self, doing: &'static str, code: Code) -> Result<()> {
        check(&self.handle.api, doing, code)
    }
}

/// The result of a call. Whether the device is lost the driver's next call says.
fn check(api: &Blas, doing: &'static str, code: Code) -> Result<()> {
    if code == SUCCESS {
        return Ok(());
    }
    let (kind, next) = match code {
        NOT_INITIALIZED => (
            ErrorKind::NotFound,
            "update the driver, or install a cuBLAS that is as old as it",
        ),
        ALLOC_FAILED => (
            ErrorKind::OutOfMemory,
            "choose a smaller model, --dtype or context; close other programs that use the device",
        ),
        ARCH_MISMATCH | NOT_SUPPORTED => (
            ErrorKind::Unsupported,
            "update cuBLAS: `pip install nvidia-cublas`",
        ),
        _ => (
            ErrorKind::Unexpected,
            "report this with the device's name and the library's version",
        ),
    };
    let why = format!("cuBLASLt status {code} ({})", api.describe(code));
    Err(Error::new(kind, doing, why).next_step(next))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The library, as planners for its device have it.
#[derive(Clone, Debug)]
pub(crate) struct OnDevice {
    /// Goes before the device, whose context it needs.
    lt: Arc<Lt>,
    _device: Arc<Chip<Runtime<Cuda>>>,
}

impl OnDevice {
    /// `None` on a device without one.
    pub(crate) fn library(
        chip: &Arc<Chip<Runtime<Cuda>>>,
    ) -> Option<Arc<dyn Library<Runtime<Cuda>>>> {
        Some(Arc::new(Self {
            lt: Arc::clone(chip.driver().api().lt()?),
            _device: Arc::clone(chip),
        }))
    }
}

impl Library<Runtime<Cuda>> for OnDevice {
    fn workspace_bytes(&self) -> usize {
        self.lt.scratch_bytes + ALIGN
    }

    fn product(&self, types: Types) -> Box<dyn Product<Runtime<Cuda>>> {
        Box::new(Products {
            library: self.clone(),
            types,
            choices: Mutex::default(),
        })
    }
}

/// What a choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    shape: Shape,
    /// Of weight, x, what is added and out; bytes.
    aligned: [u32; 4],
}

/// A kernel, and the operands as it knows them.
#[derive(Debug)]
struct Choice {
    weight: Layout,
    x: Layout,
    /// `None`: as `out`.
    residual: Option<Layout>,
    out: Layout,
    algorithm: cublasLtMatmulAlgo_t,
    scratch_bytes: usize,
}

/// The newest choices, `None` where the library has no kernel.
#[derive(Debug, Default)]
struct Choices {
    kept: Vec<(Key, Option<Arc<Choice>>)>,
    oldest: usize,
}

/// Products that the library computes.
#[derive(Debug)]
struct Products {
    library: OnDevice,
    types: Types,
    choices: Mutex<Choices>,
}

impl Product<Runtime<Cuda>> for Products {
    /// The first launch of a kind asks the library, which allocates on the host, and may bring the kernel to the device; a
    /// capture permits that, being of the relaxed mode. Later ones do neither, and hold no lock while they queue.
    fn multiply(&self, call: Call<'_, Runtime<Cuda>>, shape: &Shape, queues: bool) -> Result<bool> {
        call.give(|driver, queue, arguments| {
            driver.with_stream(QUEUE, queue, arguments, |stream, pointers| {
                let &[out, x, weight, added, workspace] = pointers else {
                    let why = format!("{} pieces of memory, not five", pointers.len());
                    return Err(Error::invalid(QUEUE, why));
                };
                let adds = shape.residual_stride.is_some();
                let operands = [weight, x, if adds { added } else { out }, out];
                let Some(key) = Key::new(shape, operands) else {
                    return Ok(false);
                };
                let Some(choice) = self.choice(&key)? else {
                    return Ok(false);
                };
                if queues {
                    // SAFETY: the operation's arguments were checked, the planner gives as much of them as the shape says, and
                    // a workspace of the size that was asked for.
                    unsafe { self.queue(stream, &choice, operands, adds, workspace)? };
                }
                Ok(true)
            })
        })
    }
}

impl Key {
    /// `None` for strides that the library does not take: rows may not overlap.
    fn new(shape: &Shape, operands: [u64; 4]) -> Option<Self> {
        let Shape { n, k, .. } = *shape;
        let apart = shape.out_stride >= n
            && shape.x_stride >= k
            && shape.weight_stride >= k
            && shape.residual_stride.is_none_or(|stride| stride >= n);
        let aligned = |pointer: u64| {
            // The lowest bit that is set, or one that is high enough.
            1 << (pointer | MOST_ALIGNED).trailing_zeros()
        };
        apart.then(|| Self {
            shape: *shape,
            aligned: operands.map(aligned),
        })
    }
}

impl Products {
    /// What was chosen for `key`, or is now.
    fn choice(&self, key: &Key) -> Result<Option<Arc<Choice>>> {
        let known = lock(&self.choices);
        if let Some((_, choice)) = known.kept.iter().find(|(known, _)| known == key) {
            return Ok(choice.clone());
        }
        drop(known);
        let choice = self.choose(key)?.map(Arc::new);
        let mut known = lock(&self.choices);
        let new = (*key, choice.clone());
        match known.kept.len() < KEPT {
            true => known.kept.push(new),
            false => {
                let oldest = known.oldest;
                known.kept[oldest] = new;
                known.oldest = (oldest + 1) % KEPT;
            }
        }
        Ok(choice)
    }

    fn choose(&self, key: &Key) -> Result<Option<Choice>> {
        const DOING: &str = "choose a kernel of cuBLASLt";
        let (lt, types) = (&self.library.lt, self.types);
        let api = &lt.handle.api;
        let Shape { m, n, k, .. } = key.shape;
        let weight = Layout::new(api, types.x, [n, k], key.shape.weight_stride)?;
        let x = Layout::new(api, types.x, [m, k], key.shape.x_stride)?;
        let out = Layout::new(api, types.out, [m, n], key.shape.out_stride)?;
        let residual = match key.shape.residual_stride {
            Some(stride) if stride != key.shape.out_stride => {
                Some(Layout::new(api, types.out, [m, n], stride)?)
            }
            _ => None,
        };
        let preference = Preference::new(api, lt.scratch_bytes, key.aligned)?;
        let mut found = Found::none();
        let mut count = 0;
        // SAFETY: all of them are alive, and there is room for the one that is asked for.
        let code = unsafe {
            (api.cublasLtMatmulAlgoGetHeuristic)(
                lt.handle.raw,
                lt.operation.raw(),
                weight.raw(),
                x.raw(),
                residual.as_ref().unwrap_or(&out).raw(),
                out.raw(),
                preference.raw(),
                1,
                ptr::from_mut(&mut found).cast(),
                &mut count,
            )
        };
        if code == NOT_SUPPORTED || (code == SUCCESS && (count < 1 || found.state != SUCCESS)) {
            return Ok(None);
        }
        lt.check(DOING, code)?;
        Ok(Some(Choice {
            weight,
            x,
            residual,
            out,
            algorithm: found.algorithm,
            scratch_bytes: found.scratch_bytes,
        }))
    }

    /// # Safety
    /// The operands are as large as `choice` says, and alive until the stream is through, as is the workspace, which no other
    /// stream uses meanwhile. `out` overlaps no operand, but may be what is added.
    unsafe fn queue(
        &self,
        stream: Handle,
        choice: &Choice,
        [weight, x, added, out]: [u64; 4],
        adds: bool,
        workspace: u64,
    ) -> Result<()> {
        let lt = &self.library.lt;
        let (one, beta) = (1.0f32, if adds { 1.0f32 } else { 0.0 });
        let at = |pointer: u64| pointer as usize as *const c_void;
        let scratch = workspace.next_multiple_of(ALIGN as u64);
        // SAFETY: descriptors are alive, numbers outlive the call, and the memory is as the caller promises.
        let code = unsafe {
            (lt.handle.api.cublasLtMatmul)(
                lt.handle.raw,
                lt.operation.raw(),
                ptr::from_ref(&one).cast(),
                at(weight),
                choice.weight.raw(),
                at(x),
                choice.x.raw(),
                ptr::from_ref(&beta).cast(),
                at(added),
                choice.residual.as_ref().unwrap_or(&choice.out).raw(),
                at(out).cast_mut(),
                choice.out.raw(),
                &choice.algorithm,
                at(scratch).cast_mut(),
                choice.scratch_bytes,
                stream.cast(),
            )
        };
        lt.check(QUEUE, code)
    }
}
