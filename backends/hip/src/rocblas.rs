//! Products with a dense weight by AMD's library, rocBLAS, which is looked for at run time and may be missing.
//!
//! The library computes in columns: `out` as `[n, m]`, the weight transposed. Sums are in f32, without atomic additions, so that
//! they are the same in each run. Of what it does with a sum only the residual is used.
//!
//! Why not hipBLASLt: it knows gfx90a and later only, and its kernels have to be asked for, where this library has one function
//! for all chips, Hygon's too.
//!
//! What could end the process is asked before: rocBLAS does that when it has no kernels for a chip ([`kernels_for`]), and one of
//! another release brings a HIP of its own with it, whose streams are not ours ([`Blas::is_over`]).

mod installed;

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use backend_runtime::{Code, Handle, Runtime, SUCCESS};
use backend_simt::kit::{Call, Chip};
use backend_simt::library::{Library, Product, Shape, Types};
use hal::{DType, Error, ErrorKind, Result};

use crate::device::Hip;
use crate::libraries::{blas_libraries, no_blas};
use crate::symbols::{Blas, Driver};

use installed::kernels_for;

const NOT_IMPLEMENTED: Code = 2;
const MEMORY_ERROR: Code = 5;
/// The result is right: a kernel that needs less memory was taken.
const PERF_DEGRADED: Code = 7;

/// `rocblas_operation_none` and `…_transpose`.
const PLAIN: c_int = 111;
const TRANSPOSED: c_int = 112;
/// `rocblas_atomics_not_allowed`.
const NO_ATOMICS: c_int = 0;
/// `rocblas_gemm_algo_standard`, its solution and flags.
const STANDARD: (c_int, c_int, u32) = (0, 0, 0);
/// `rocblas_datatype_f32_r`, which sums are of.
const F32: c_int = 151;

const OPEN: &str = "open rocBLAS";
const QUEUE: &str = "queue a product of rocBLAS";

/// What its kernels may use of a workspace: as much as the library would take by itself on most chips.
const SCRATCH_BYTES: usize = 32 << 20;
/// The workspace begins at a multiple of this.
const ALIGN: usize = 256;

/// The library, ready for one device.
#[derive(Debug)]
pub(crate) struct RocBlas {
    /// Held while a product is queued: stream and workspace are the handle's.
    handle: Mutex<Open>,
    what: String,
}

/// The library with its handle.
#[derive(Debug)]
struct Open {
    api: Blas,
    raw: Handle,
    /// What the handle has for a workspace before the first launch, in place of memory of its own.
    placeholder: *mut c_void,
    free: unsafe extern "C" fn(*mut c_void) -> Code,
}

// SAFETY: the library may be called from any thread, with one handle from one at a time.
unsafe impl Send for Open {}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: not used again. Nobody is left to hear of a failure.
        unsafe { (self.api.calls.rocblas_destroy_handle)(self.raw) };
        // SAFETY: allocated by `RocBlas::open`, and the handle, which had it, is gone.
        unsafe { (self.free)(self.placeholder) };
    }
}

impl RocBlas {
    /// The first library for `driver`, opened for the device that is current, a chip that calls itself `target`.
    ///
    /// # Errors
    /// `NotFound` when there is none, with the reason why each of those that were found does not suit; what the library reports.
    pub(crate) fn find(driver: &Driver, target: &str) -> Result<Self> {
        let mut refused = Vec::new();
        for (path, loaded) in blas_libraries() {
            let suits = loaded.and_then(|api| {
                kernels_for(&path, target)?;
                match api.is_over(driver) {
                    true => Ok(api),
                    false => Err("it is of another HIP than the runtime that was found".into()),
                }
            });
            let path = path.display().to_string();
            match suits {
                Ok(api) => return Self::open(driver, api, &path),
                Err(why) => refused.push(format!("{path}: {why}")),
            }
        }
        match refused.is_empty() {
            true => Err(no_blas()),
            false => {
                let doing = "look for a rocBLAS that suits";
                Err(Error::new(ErrorKind::NotFound, doing, refused.join("; "))
                    .next_step("install rocBLAS of the runtime's release"))
            }
        }
    }

    fn open(driver: &Driver, api: Blas, path: &str) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` outlives the call, and the device is current.
        let code = unsafe { (api.calls.rocblas_create_handle)(&mut raw) };
        check(&api, OPEN, code)?;
        let mut open = Open {
            api,
            raw,
            placeholder: ptr::null_mut(),
            free: driver.calls.hipFree,
        };
        // SAFETY: the pointer outlives the call.
        let code = unsafe { (driver.calls.hipMalloc)(&mut open.placeholder, ALIGN) };
        if code != SUCCESS {
            return Err(crate::failure::failure(driver, OPEN, code));
        }
        let calls = &open.api.calls;
        // Now, because the library gives back what it allocated, and waits for the device.
        // SAFETY: the handle is alive, and the memory as large as it says.
        let code = unsafe { (calls.rocblas_set_workspace)(raw, open.placeholder, ALIGN) };
        check(&open.api, OPEN, code)?;
        // SAFETY: the handle is alive.
        let code = unsafe { (calls.rocblas_set_atomics_mode)(raw, NO_ATOMICS) };
        check(&open.api, OPEN, code)?;
        let mut version = [0u8; 256];
        let to = version.as_mut_ptr().cast::<c_char>();
        // SAFETY: there is room for as many bytes as it says.
        let code = unsafe { (calls.rocblas_get_version_string)(to, version.len()) };
        check(&open.api, OPEN, code)?;
        let version = version.split(|&b| b == 0).next().unwrap_or_default();
        Ok(Self {
            what: format!("rocBLAS {} ({path})", String::from_utf8_lossy(version)),
            handle: Mutex::new(open),
        })
    }

    /// What it is and where it lies, for people.
    pub(crate) fn describe(&self) -> String {
        self.what.clone()
    }
}

/// The result of a call. Whether the device is lost the runtime's next call says.
fn check(api: &Blas, doing: &'static str, code: Code) -> Result<()> {
    let (kind, next) = match code {
        SUCCESS | PERF_DEGRADED => return Ok(()),
        NOT_IMPLEMENTED => (
            ErrorKind::Unsupported,
            "update rocBLAS, or hide it from the search",
        ),
        MEMORY_ERROR => (
            ErrorKind::OutOfMemory,
            "choose a smaller model, --dtype or context; close other programs that use the device",
        ),
        _ => (
            ErrorKind::Unexpected,
            "report this with the device's name and the library's version",
        ),
    };
    let why = format!("rocBLAS status {code} ({})", api.describe(code));
    Err(Error::new(kind, doing, why).next_step(next))
}

/// The library, as planners for its device have it.
#[derive(Clone, Debug)]
pub(crate) struct OnDevice {
    /// Goes before the device, whose memory it holds.
    blas: Arc<RocBlas>,
    _device: Arc<Chip<Runtime<Hip>>>,
}

impl OnDevice {
    /// `None` on a device without one.
    pub(crate) fn library(
        chip: &Arc<Chip<Runtime<Hip>>>,
    ) -> Option<Arc<dyn Library<Runtime<Hip>>>> {
        Some(Arc::new(Self {
            blas: Arc::clone(chip.driver().api().blas()?),
            _device: Arc::clone(chip),
        }))
    }
}

impl Library<Runtime<Hip>> for OnDevice {
    fn workspace_bytes(&self) -> usize {
        SCRATCH_BYTES + ALIGN
    }

    fn product(&self, types: Types) -> Box<dyn Product<Runtime<Hip>>> {
        Box::new(Products {
            library: self.clone(),
            x: data_type(types.x),
            out: data_type(types.out),
            computes: OnceLock::new(),
        })
    }
}

/// The library's type of our elements; `None`: it has none.
fn data_type(dtype: DType) -> Option<c_int> {
    match dtype {
        DType::F16 => Some(150),
        DType::F32 => Some(F32),
        DType::BF16 => Some(168),
        _ => None,
    }
}

/// Products of these types.
#[derive(Debug)]
struct Products {
    library: OnDevice,
    x: Option<c_int>,
    out: Option<c_int>,
    /// Whether the library has such products, once that is known: it says so at the first.
    computes: OnceLock<bool>,
}

/// Lengths and strides as the library takes them.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    m: c_int,
    n: c_int,
    k: c_int,
    out: c_int,
    x: c_int,
    weight: c_int,
    added: c_int,
}

impl Sizes {
    /// `None` for what the library does not take: numbers beyond 31 bits, rows that overlap, sums over nothing.
    fn of(shape: &Shape) -> Option<Self> {
        let Shape { m, n, k, .. } = *shape;
        let added = shape.residual_stride.unwrap_or(shape.out_stride);
        let apart = shape.out_stride >= n
            && shape.x_stride >= k
            && shape.weight_stride >= k
            && added >= n
            && k > 0;
        let int = |n: usize| c_int::try_from(n).ok();
        apart.then_some(())?;
        Some(Self {
            m: int(m)?,
            n: int(n)?,
            k: int(k)?,
            out: int(shape.out_stride)?,
            x: int(shape.x_stride)?,
            weight: int(shape.weight_stride)?,
            added: int(added)?,
        })
    }
}

impl Product<Runtime<Hip>> for Products {
    /// The library looks for a kernel at each call, and brings it to the device at the first of its kind, which a capture permits,
    /// being of the relaxed mode.
    fn multiply(&self, call: Call<'_, Runtime<Hip>>, shape: &Shape, queues: bool) -> Result<bool> {
        call.give(|driver, queue, arguments| {
            driver.with_stream(QUEUE, queue, arguments, |stream, pointers| {
                let &[out, x, weight, added, workspace] = pointers else {
                    let why = format!("{} pieces of memory, not five", pointers.len());
                    return Err(Error::invalid(QUEUE, why));
                };
                let adds = shape.residual_stride.is_some();
                let added = if adds { added } else { out };
                let (Some(types), Some(sizes)) = (self.x.zip(self.out), Sizes::of(shape)) else {
                    return Ok(false);
                };
                // In place it takes one stride only.
                let in_place = added != out || sizes.added == sizes.out;
                if !in_place || self.computes.get() == Some(&false) {
                    return Ok(false);
                }
                if !queues {
                    return Ok(true);
                }
                // SAFETY: the operation's arguments were checked, the planner gives as much of them as the shape says, and a
                // workspace of the size that was asked for.
                unsafe {
                    self.queue(
                        stream,
                        types,
                        sizes,
                        [weight, x, added, out],
                        adds,
                        workspace,
                    )
                }
            })
        })
    }
}

impl Products {
    /// `false`: the library has no products of these types, nothing was queued.
    ///
    /// # Safety
    /// The operands are as large as `sizes` says, and alive until the stream is through, as is the workspace, which no other
    /// stream uses meanwhile. `out` overlaps no operand, but may be what is added.
    unsafe fn queue(
        &self,
        stream: Handle,
        (of_x, of_out): (c_int, c_int),
        sizes: Sizes,
        operands: [u64; 4],
        adds: bool,
        workspace: u64,
    ) -> Result<bool> {
        let open = self.library.blas.handle.lock();
        let open = open.unwrap_or_else(PoisonError::into_inner);
        let (api, calls) = (&open.api, &open.api.calls);
        let at = |pointer: u64| ptr::with_exposed_provenance_mut::<c_void>(pointer as usize);
        let [weight, x, added, out] = operands.map(at);
        let scratch = at(workspace.next_multiple_of(ALIGN as u64));
        // SAFETY: handle and stream are alive, and of one device.
        check(api, QUEUE, unsafe {
            (calls.rocblas_set_stream)(open.raw, stream)
        })?;
        // SAFETY: the workspace has this room from its first aligned byte on.
        let code = unsafe { (calls.rocblas_set_workspace)(open.raw, scratch, SCRATCH_BYTES) };
        check(api, QUEUE, code)?;
        let (one, beta) = (1.0f32, if adds { 1.0f32 } else { 0.0 });
        let (algorithm, solution, flags) = STANDARD;
        // SAFETY: numbers outlive the call, and the memory is as the caller promises.
        let code = unsafe {
            (calls.rocblas_gemm_ex)(
                open.raw,
                TRANSPOSED,
                PLAIN,
                sizes.n,
                sizes.m,
                sizes.k,
                &one,
                weight,
                of_x,
                sizes.weight,
                x,
                of_x,
                sizes.x,
                &beta,
                added,
                of_out,
                sizes.added,
                out,
                of_out,
                sizes.out,
                F32,
                algorithm,
                solution,
                flags,
            )
        };
        if code == NOT_IMPLEMENTED && !self.computes.get_or_init(|| false) {
            return Ok(false);
        }
        check(api, QUEUE, code)?;
        self.computes.get_or_init(|| true);
        Ok(true)
    }
}
