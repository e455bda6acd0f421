//! The functions of HIP, looked up once.
//!
//! The prototypes are ours: of the 500 in the bindings `hip-sys` 44 are needed, none of hiprtc and rocBLAS is there, they are of
//! HIP 5.4 alone, and its build stops without ROCm's headers. A test compares ours with the vendor's headers where these are
//! installed; these functions are the same in HIP 5.2 and 7. Those of rocBLAS, which Debian lacks, were read in AMD's published
//! headers of releases 5 and 6.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::mem::ManuallyDrop;

use backend_runtime::{Code, Handle, table};
use libloading::Library;

table! {
    /// What every device needs.
    Calls {
    hipInit(c_uint) -> Code;
    hipRuntimeGetVersion(*mut c_int) -> Code;
    hipGetErrorName(Code) -> *const c_char;
    hipGetErrorString(Code) -> *const c_char;
    hipGetDeviceCount(*mut c_int) -> Code;
    hipSetDevice(c_int) -> Code;
    hipDeviceGetName(*mut c_char, c_int, c_int) -> Code;
    hipDeviceTotalMem(*mut usize, c_int) -> Code;
    hipDeviceGetAttribute(*mut c_int, c_int, c_int) -> Code;
    hipDeviceCanAccessPeer(*mut c_int, c_int, c_int) -> Code;
    hipGetDeviceProperties(*mut c_void, c_int) -> Code;
    hipDeviceSynchronize() -> Code;
    hipMemGetInfo(*mut usize, *mut usize) -> Code;
    hipMalloc(*mut *mut c_void, usize) -> Code;
    hipFree(*mut c_void) -> Code;
    hipHostMalloc(*mut *mut c_void, usize, c_uint) -> Code;
    hipHostFree(*mut c_void) -> Code;
    hipMemcpyHtoDAsync(*mut c_void, *const c_void, usize, Handle) -> Code;
    hipMemcpyDtoHAsync(*mut c_void, *mut c_void, usize, Handle) -> Code;
    hipStreamCreateWithFlags(*mut Handle, c_uint) -> Code;
    hipStreamDestroy(Handle) -> Code;
    hipStreamSynchronize(Handle) -> Code;
    hipStreamWaitEvent(Handle, Handle, c_uint) -> Code;
    hipEventCreateWithFlags(*mut Handle, c_uint) -> Code;
    hipEventDestroy(Handle) -> Code;
    hipEventRecord(Handle, Handle) -> Code;
    hipEventSynchronize(Handle) -> Code;
    hipEventElapsedTime(*mut f32, Handle, Handle) -> Code;
    hipModuleLoadData(*mut Handle, *const c_void) -> Code;
    hipModuleUnload(Handle) -> Code;
    hipModuleGetFunction(*mut Handle, Handle, *const c_char) -> Code;
    hipFuncGetAttribute(*mut c_int, c_int, Handle) -> Code;
    hipModuleLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle,
        *mut *mut c_void, *mut *mut c_void
    ) -> Code;
    }
}

table! {
    /// Memory in the order of a stream.
    Pools {
    hipDeviceGetDefaultMemPool(*mut Handle, c_int) -> Code;
    hipMemPoolSetAttribute(Handle, c_int, *mut c_void) -> Code;
    hipMemPoolTrimTo(Handle, usize) -> Code;
    hipMallocAsync(*mut *mut c_void, usize, Handle) -> Code;
    hipFreeAsync(*mut c_void, Handle) -> Code;
    }
}

table! {
    /// Launches that a stream records.
    Graphs {
    hipStreamBeginCapture(Handle, c_int) -> Code;
    hipStreamEndCapture(Handle, *mut Handle) -> Code;
    hipGraphInstantiateWithFlags(*mut Handle, Handle, c_ulonglong) -> Code;
    hipGraphLaunch(Handle, Handle) -> Code;
    hipGraphDestroy(Handle) -> Code;
    hipGraphExecDestroy(Handle) -> Code;
    }
}

table! {
    /// The compiler, hiprtc.
    CompilerCalls {
    hiprtcVersion(*mut c_int, *mut c_int) -> Code;
    hiprtcGetErrorString(Code) -> *const c_char;
    hiprtcCreateProgram(
        *mut Handle, *const c_char, *const c_char, c_int,
        *const *const c_char, *const *const c_char
    ) -> Code;
    hiprtcDestroyProgram(*mut Handle) -> Code;
    hiprtcCompileProgram(Handle, c_int, *const *const c_char) -> Code;
    hiprtcGetProgramLogSize(Handle, *mut usize) -> Code;
    hiprtcGetProgramLog(Handle, *mut c_char) -> Code;
    hiprtcGetCodeSize(Handle, *mut usize) -> Code;
    hiprtcGetCode(Handle, *mut c_char) -> Code;
    }
}

table! {
    /// The library of products, rocBLAS, and one of the runtime that it was linked with. Its operations and types are `c_int`, its
    /// numbers of rows and columns 32 bits.
    BlasCalls {
    hipMalloc(*mut *mut c_void, usize) -> Code;
    rocblas_create_handle(*mut Handle) -> Code;
    rocblas_destroy_handle(Handle) -> Code;
    rocblas_set_stream(Handle, Handle) -> Code;
    rocblas_set_workspace(Handle, *mut c_void, usize) -> Code;
    rocblas_set_atomics_mode(Handle, c_int) -> Code;
    rocblas_status_to_string(Code) -> *const c_char;
    rocblas_get_version_string(*mut c_char, usize) -> Code;
    rocblas_gemm_ex(
        Handle, c_int, c_int, c_int, c_int, c_int, *const f32,
        *const c_void, c_int, c_int, *const c_void, c_int, c_int, *const f32,
        *const c_void, c_int, c_int, *mut c_void, c_int, c_int,
        c_int, c_int, c_int, c_uint
    ) -> Code;
    }
}

/// The runtime's library. It is never unloaded: drivers keep threads of their own, and run code when the process ends.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) calls: Calls,
    pub(crate) pools: Option<Pools>,
    pub(crate) graphs: Option<Graphs>,
    /// `hipGetDevicePropertiesR0600`, which HIP 6 and later have for its longer structure.
    pub(crate) properties: unsafe extern "C" fn(*mut c_void, c_int) -> Code,
    _library: ManuallyDrop<Library>,
}

impl Driver {
    /// # Errors
    /// The name of a function that every device needs and this library lacks.
    pub(crate) fn new(library: Library) -> Result<Self, &'static str> {
        let library = ManuallyDrop::new(library);
        let calls = Calls::new(&[&library])?;
        // SAFETY: both versions take the place of a structure, and the device.
        let newer = unsafe { library.get("hipGetDevicePropertiesR0600") };
        Ok(Self {
            properties: newer.map_or(calls.hipGetDeviceProperties, |newer| *newer),
            calls,
            pools: Pools::new(&[&library]).ok(),
            graphs: Graphs::new(&[&library]).ok(),
            _library: library,
        })
    }

    /// The runtime's name of a code, and its sentence: `hipErrorOutOfMemory, out of memory`.
    pub(crate) fn describe(&self, code: Code) -> String {
        let words = [self.calls.hipGetErrorName, self.calls.hipGetErrorString].map(|describe| {
            // SAFETY: it takes any number.
            text_at(unsafe { describe(code) })
        });
        let mut words: Vec<String> = words.into_iter().flatten().collect();
        // Older releases have no sentences.
        words.dedup();
        words.join(", ")
    }
}

/// The compiler's library, which may be the runtime's; never unloaded.
#[derive(Debug)]
pub(crate) struct Compiler {
    pub(crate) calls: CompilerCalls,
    _library: ManuallyDrop<Library>,
}

impl Compiler {
    /// # Errors
    /// The name of a function that the library lacks.
    pub(crate) fn new(library: Library) -> Result<Self, &'static str> {
        let library = ManuallyDrop::new(library);
        Ok(Self {
            calls: CompilerCalls::new(&[&library])?,
            _library: library,
        })
    }

    /// The compiler's name of a code.
    pub(crate) fn describe(&self, code: Code) -> String {
        // SAFETY: it takes any number.
        let text = unsafe { (self.calls.hiprtcGetErrorString)(code) };
        text_at(text).unwrap_or_default()
    }
}

/// The library of products; never unloaded.
#[derive(Debug)]
pub(crate) struct Blas {
    pub(crate) calls: BlasCalls,
    _library: ManuallyDrop<Library>,
}

impl Blas {
    /// # Errors
    /// The name of a function that the library lacks.
    pub(crate) fn new(library: Library) -> Result<Self, &'static str> {
        let library = ManuallyDrop::new(library);
        Ok(Self {
            calls: BlasCalls::new(&[&library])?,
            _library: library,
        })
    }

    /// Whether the runtime that it was linked with is `driver`'s: a library is searched together with those that it needs.
    pub(crate) fn is_over(&self, driver: &Driver) -> bool {
        std::ptr::fn_addr_eq(self.calls.hipMalloc, driver.calls.hipMalloc)
    }

    /// The library's name of a status.
    pub(crate) fn describe(&self, code: Code) -> String {
        // SAFETY: it takes any number.
        let text = unsafe { (self.calls.rocblas_status_to_string)(code) };
        text_at(text).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::find::ROCM;

    /// Whether a function takes what a list of words says: p a pointer, 4 or 8 a number of as many bytes.
    const SHAPES: &str = r#"
        #define __HIP_PLATFORM_AMD__
        #include <hip/hip_runtime_api.h>
        #include <hip/hiprtc.h>
        template <class T> struct Word { static constexpr char of = sizeof(T) == 4 ? '4' : sizeof(T) == 8 ? '8' : '?'; };
        template <class T> struct Word<T *> { static constexpr char of = 'p'; };
        template <class R, class... A> constexpr bool takes(R (*)(A...), const char *words) {
            const char is[] = {Word<A>::of..., 0};
            int i = 0;
            while (is[i] && is[i] == words[i]) i++;
            return is[i] == words[i] && sizeof(R) == (Word<R>::of == 'p' ? 8 : 4);
        }
    "#;

    #[test]
    fn prototypes_and_numbers_are_those_of_the_vendors_headers() {
        let header = "/usr/include/hip/hip_runtime_api.h";
        if !std::path::Path::new(header).exists() {
            return conformance::skip("hip-headers", format!("there is no {header}"));
        }
        let mut text = SHAPES.to_owned();
        let tables = [
            Calls::PROTOTYPES,
            Pools::PROTOTYPES,
            Graphs::PROTOTYPES,
            CompilerCalls::PROTOTYPES,
        ];
        for (name, arguments) in tables.concat() {
            let word = |argument: &&str| match *argument {
                "Handle" => 'p',
                pointer if pointer.starts_with('*') => 'p',
                "usize" | "c_ulonglong" => '8',
                "c_int" | "c_uint" | "Code" => '4',
                other => panic!("{name}: {other}"),
            };
            let words: String = arguments.iter().map(word).collect();
            // A template besides the function of C has its name: the type says which one is meant.
            let function = match name {
                "hipMalloc" => "static_cast<hipError_t (*)(void **, size_t)>(&hipMalloc)",
                "hipHostMalloc" => {
                    "static_cast<hipError_t (*)(void **, size_t, unsigned)>(&hipHostMalloc)"
                }
                "hipMallocAsync" => {
                    "static_cast<hipError_t (*)(void **, size_t, hipStream_t)>(&hipMallocAsync)"
                }
                _ => name,
            };
            text += &format!("static_assert(takes({function}, \"{words}\"), \"{name}\");\n");
        }
        for (name, number) in [
            ("hipDeviceAttributeMaxThreadsPerBlock", ROCM.max_group),
            (
                "hipDeviceAttributeMaxSharedMemoryPerBlock",
                ROCM.local_bytes,
            ),
            ("hipDeviceAttributeWarpSize", ROCM.wave),
            ("hipDeviceAttributeMultiprocessorCount", ROCM.units),
            (
                "hipDeviceAttributeMemoryPoolsSupported",
                ROCM.pools.unwrap(),
            ),
            ("HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK", 0),
            ("hipStreamCaptureModeRelaxed", 2),
            ("hipMemPoolAttrReleaseThreshold", 4),
            ("hipEventDisableTiming", 2),
            ("hipStreamNonBlocking", 1),
            ("hipErrorOutOfMemory", 2),
            ("hipErrorNotReady", 600),
        ] {
            text += &format!("static_assert({name} == {number}, \"{name}\");\n");
        }
        let file =
            std::env::temp_dir().join(format!("glm-hip-prototypes-{}.cc", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let compiler = std::env::var("CXX").unwrap_or("c++".into());
        let output = Command::new(compiler)
            .args(["-std=c++17", "-fsyntax-only", "-w"])
            .arg(&file)
            .output();
        std::fs::remove_file(&file).unwrap();
        match output {
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{errors}");
            }
            Err(e) => conformance::skip("hip-headers", format!("no C++ compiler: {e}")),
        }
    }
}
