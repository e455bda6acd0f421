//! The functions of the vendor's libraries, looked up once.
//!
//! Their prototypes are compared with `cudarc`'s bindings by the compiler; `cudarc` itself is not called, because it panics
//! where a library or a symbol is missing, and because a code that its enums do not know must not become one of them.

use std::ffi::{CStr, c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::mem::ManuallyDrop;

use backend_runtime::{Code, symbols};
use cudarc::cublaslt::sys as blas;
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasStatus_t, cudaDataType,
    cudaStream_t,
};
use cudarc::driver::sys as driver;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction,
    CUfunction_attribute, CUgraph, CUgraphExec, CUlaunchConfig, CUmemPool_attribute, CUmemoryPool,
    CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};
use cudarc::nvrtc::sys as compiler;
use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use libloading::Library;

use crate::vendor::Vendor;

/// CUDA's function `name` in the vendor's library.
///
/// # Errors
/// The vendor's name of it, when the library has none.
///
/// # Safety
/// `F` is a pointer to functions of its type, and the library is not unloaded.
unsafe fn find<F: Copy>(vendor: &Vendor, library: &Library, name: &str) -> Result<F, String> {
    let names = (vendor.symbols)(name);
    let found = names.iter().find_map(|name| {
        // SAFETY: the caller's promise.
        unsafe { symbols::symbol(&[library], name) }
    });
    found.ok_or_else(|| names.into_iter().next().unwrap_or_default())
}

/// A table of functions: the struct, its constructor, and the comparison with the bindings.
macro_rules! table {
    (
        $(#[$doc:meta])* $table:ident, $bindings:ident, $result:ty,
        { $($name:ident($($argument:ty),*);)* }
        optional { $($maybe:ident($($maybe_argument:ty),*);)* }
        others { $($other:ident($($other_argument:ty),*) -> $returns:ty;)* }
    ) => {
        $(#[$doc])*
        #[expect(non_snake_case, reason = "the vendor's names")]
        pub(crate) struct $table {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) -> Code,)*
            $(pub(crate) $maybe: Option<unsafe extern "C" fn($($maybe_argument),*) -> Code>,)*
            $(pub(crate) $other: unsafe extern "C" fn($($other_argument),*) -> $returns,)*
            pub(crate) vendor: &'static Vendor,
            /// Never unloaded: drivers keep threads of their own.
            _library: ManuallyDrop<Library>,
        }

        impl $table {
            /// The functions of `library`, under the vendor's names.
            ///
            /// # Errors
            /// The name of one that it does not have.
            pub(crate) fn new(vendor: &'static Vendor, library: Library) -> Result<Self, String> {
                Ok(Self {
                    // SAFETY: the prototypes are those of the vendor's headers.
                    $($name: unsafe { find(vendor, &library, stringify!($name)) }?,)*
                    // SAFETY: as above.
                    $($maybe: unsafe { find(vendor, &library, stringify!($maybe)) }.ok(),)*
                    // SAFETY: as above.
                    $($other: unsafe { find(vendor, &library, stringify!($other)) }?,)*
                    vendor,
                    _library: ManuallyDrop::new(library),
                })
            }
        }

        $(const _: unsafe fn($($argument),*) -> $result = $bindings::$name;)*
        $(const _: unsafe fn($($maybe_argument),*) -> $result = $bindings::$maybe;)*
    };
}

table! {
    /// The driver's library. CUDA 12.0 has all of these.
    Driver, driver, CUresult, {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDeviceGetAttribute(*mut c_int, CUdevice_attribute, CUdevice);
    cuDeviceCanAccessPeer(*mut c_int, CUdevice, CUdevice);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxSetCurrent(CUcontext);
    cuCtxSynchronize();
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuDeviceGetDefaultMemPool(*mut CUmemoryPool, CUdevice);
    cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, *mut c_void);
    cuMemPoolTrimTo(CUmemoryPool, usize);
    cuMemAllocAsync(*mut CUdeviceptr, usize, CUstream);
    cuMemFreeAsync(CUdeviceptr, CUstream);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamDestroy_v2(CUstream);
    cuStreamSynchronize(CUstream);
    cuStreamWaitEvent(CUstream, CUevent, c_uint);
    cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode);
    cuStreamEndCapture(CUstream, *mut CUgraph);
    cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
    cuGraphLaunch(CUgraphExec, CUstream);
    cuGraphDestroy(CUgraph);
    cuGraphExecDestroy(CUgraphExec);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventDestroy_v2(CUevent);
    cuEventRecord(CUevent, CUstream);
    cuEventSynchronize(CUevent);
    cuModuleLoadData(*mut CUmodule, *const c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuFuncGetAttribute(*mut c_int, CUfunction_attribute, CUfunction);
    cuFuncSetAttribute(CUfunction, CUfunction_attribute, c_int);
    cuLaunchKernel(
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream,
        *mut *mut c_void, *mut *mut c_void
    );
    } optional {
    cuLaunchKernelEx(*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void);
    } others {
    cuGetErrorName(Code, *mut *const c_char) -> Code;
    cuGetErrorString(Code, *mut *const c_char) -> Code;
    // The bindings of CUDA 13 know its second version alone, which drivers have from 12.8 on.
    cuEventElapsedTime(*mut f32, CUevent, CUevent) -> Code;
    }
}

table! {
    /// The compiler's library, NVRTC. 12.0 has all of these.
    Compiler, compiler, nvrtcResult, {
    nvrtcVersion(*mut c_int, *mut c_int);
    nvrtcCreateProgram(
        *mut nvrtcProgram, *const c_char, *const c_char, c_int,
        *const *const c_char, *const *const c_char
    );
    nvrtcDestroyProgram(*mut nvrtcProgram);
    nvrtcCompileProgram(nvrtcProgram, c_int, *const *const c_char);
    nvrtcGetProgramLogSize(nvrtcProgram, *mut usize);
    nvrtcGetProgramLog(nvrtcProgram, *mut c_char);
    nvrtcGetCUBINSize(nvrtcProgram, *mut usize);
    nvrtcGetCUBIN(nvrtcProgram, *mut c_char);
    nvrtcGetPTXSize(nvrtcProgram, *mut usize);
    nvrtcGetPTX(nvrtcProgram, *mut c_char);
    } optional {
    nvrtcGetNumSupportedArchs(*mut c_int);
    nvrtcGetSupportedArchs(*mut c_int);
    } others {
    nvrtcGetErrorString(Code) -> *const c_char;
    }
}

table! {
    /// The library of products, cuBLASLt. 12.0 has all of these.
    Blas, blas, cublasStatus_t, {
    cublasLtCreate(*mut cublasLtHandle_t);
    cublasLtDestroy(cublasLtHandle_t);
    cublasLtMatmulDescCreate(*mut cublasLtMatmulDesc_t, cublasComputeType_t, cudaDataType);
    cublasLtMatmulDescSetAttribute(
        cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, *const c_void, usize
    );
    cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t);
    cublasLtMatrixLayoutCreate(
        *mut cublasLtMatrixLayout_t, cudaDataType, c_ulonglong, c_ulonglong, c_longlong
    );
    cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t);
    cublasLtMatmulPreferenceCreate(*mut cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceSetAttribute(
        cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, *const c_void, usize
    );
    cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t);
    cublasLtMatmulAlgoGetHeuristic(
        cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
        cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, c_int,
        *mut cublasLtMatmulHeuristicResult_t, *mut c_int
    );
    cublasLtMatmul(
        cublasLtHandle_t, cublasLtMatmulDesc_t, *const c_void, *const c_void, cublasLtMatrixLayout_t,
        *const c_void, cublasLtMatrixLayout_t, *const c_void, *const c_void, cublasLtMatrixLayout_t,
        *mut c_void, cublasLtMatrixLayout_t, *const cublasLtMatmulAlgo_t, *mut c_void, usize,
        cudaStream_t
    );
    } optional {
    } others {
    cublasLtGetVersion() -> usize;
    cublasLtGetCudartVersion() -> usize;
    cublasLtGetStatusName(Code) -> *const c_char;
    cublasLtGetStatusString(Code) -> *const c_char;
    }
}

impl Driver {
    /// The driver's name of a code, and its sentence: `CUDA_ERROR_OUT_OF_MEMORY, out of memory`.
    pub(crate) fn describe(&self, code: Code) -> String {
        let words = [self.cuGetErrorName, self.cuGetErrorString].map(|describe| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes a pointer to a constant string, or leaves null for a code that it does not know.
            unsafe { describe(code, &mut text) };
            text_at(text)
        });
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl Compiler {
    /// The compiler's name of a code.
    pub(crate) fn describe(&self, code: Code) -> String {
        // SAFETY: it takes any number.
        let text = unsafe { (self.nvrtcGetErrorString)(code) };
        text_at(text).unwrap_or_default()
    }
}

impl Blas {
    /// The library's name of a status, and its sentence: `CUBLAS_STATUS_NOT_SUPPORTED, …`.
    pub(crate) fn describe(&self, code: Code) -> String {
        let words = [self.cublasLtGetStatusName, self.cublasLtGetStatusString].map(|describe| {
            // SAFETY: it takes any number.
            text_at(unsafe { describe(code) })
        });
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A constant string of a library.
fn text_at(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, the libraries' strings end with 0 and are never freed.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

macro_rules! hide {
    ($($type:ty),*) => {$(
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} of {}", stringify!($type), self.vendor.title)
            }
        }
    )*};
}
hide!(Driver, Compiler, Blas);
