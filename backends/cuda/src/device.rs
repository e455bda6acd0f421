//! The driver's calls for one open device.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::Arc;

use backend_runtime::{Api, Code, Handle, SUCCESS};
use backend_simt::Source;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUmemPool_attribute, CUstreamCaptureMode,
};
use hal::{Error, Result};

use crate::failure::{failure, is_last};
use crate::lt::Lt;
use crate::nvrtc::Nvrtc;
use crate::symbols::Driver;

/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIME: u32 = 2;
/// `CU_STREAM_NON_BLOCKING`: no order with the stream 0 of other libraries.
const NON_BLOCKING: u32 = 1;

/// Compute capability from which on kernels can wait by themselves for the work before them.
const BEGINS_EARLY: i32 = 90;

/// A device with its primary context, which is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Cuda {
    driver: Driver,
    device: CUdevice,
    context: CUcontext,
    compiler: Nvrtc,
    target: String,
    /// Whether kernels can wait by themselves for the work before them.
    begins_early: bool,
    /// The library of products, where one was found.
    lt: Option<Arc<Lt>>,
}

// SAFETY: a context may be made current in any thread, and the driver's calls on it are thread-safe.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// # Errors
    /// What the driver reports.
    pub(crate) fn new(
        driver: Driver,
        device: CUdevice,
        compiler: Nvrtc,
        target: String,
        capability: i32,
    ) -> Result<Self> {
        let mut context = ptr::null_mut();
        // SAFETY: the device was listed by the driver, and `context` outlives the call.
        let code = unsafe { (driver.cuDevicePrimaryCtxRetain)(&mut context, device) };
        if code != SUCCESS {
            let doing = format!("open a {} device", driver.vendor.title);
            return Err(failure(&driver, &doing, code));
        }
        Ok(Self {
            begins_early: driver.vendor.own_kernels && capability >= BEGINS_EARLY,
            driver,
            device,
            context,
            compiler,
            target,
            lt: None,
        })
    }

    /// Looks for the library of products for this chip and driver, and has it from now on.
    ///
    /// # Errors
    /// Those of [`Lt::find`], as the inner result: the device is of use without it. What the driver reports.
    pub(crate) fn find_lt(&mut self, chip: i32, driver_version: i32) -> Result<Result<String>> {
        const DOING: &str = "open a CUDA device";
        // SAFETY: the context is retained.
        let code = unsafe { self.set_current() };
        if code != SUCCESS {
            return Err(failure(&self.driver, DOING, code));
        }
        Ok(Lt::find(chip, driver_version).map(|lt| {
            let what = lt.describe();
            self.lt = Some(Arc::new(lt));
            what
        }))
    }

    /// The library of products.
    pub(crate) fn lt(&self) -> Option<&Arc<Lt>> {
        self.lt.as_ref()
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if let Some(lt) = self.lt.take() {
            // In the context; nobody is left to hear of a failure.
            // SAFETY: the context is retained.
            unsafe { self.set_current() };
            drop(lt);
        }
        // SAFETY: retained once; everything that was made in it has been destroyed.
        unsafe { (self.driver.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

macro_rules! call {
    ($device:ident, $name:ident($($argument:expr),*)) => {
        // SAFETY: the caller's own call, under the vendor's name.
        unsafe { ($device.driver.$name)($($argument),*) }
    };
}

impl Api for Cuda {
    fn failure(&self, doing: &str, code: Code) -> Error {
        failure(&self.driver, doing, code)
    }
    fn is_last(code: Code) -> bool {
        is_last(code)
    }
    fn compile(&self, source: &Source, defines: &[(&str, String)]) -> Result<Vec<u8>> {
        let compiled = self.compiler.compile(source, defines, &self.target, &[])?;
        Ok(compiled.code)
    }

    unsafe fn set_current(&self) -> Code {
        call!(self, cuCtxSetCurrent(self.context))
    }
    unsafe fn finish(&self) -> Code {
        call!(self, cuCtxSynchronize())
    }
    unsafe fn memory_info(&self, free: &mut usize, total: &mut usize) -> Code {
        call!(self, cuMemGetInfo_v2(free, total))
    }

    unsafe fn pool(&self, pool: &mut Handle) -> Code {
        let pool = ptr::from_mut(pool).cast();
        call!(self, cuDeviceGetDefaultMemPool(pool, self.device))
    }
    unsafe fn pool_keep(&self, pool: Handle, mut bytes: u64) -> Code {
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // This attribute is 64 bits.
        let value = ptr::from_mut(&mut bytes).cast();
        call!(self, cuMemPoolSetAttribute(pool.cast(), threshold, value))
    }
    unsafe fn pool_trim(&self, pool: Handle) -> Code {
        call!(self, cuMemPoolTrimTo(pool.cast(), 0))
    }
    unsafe fn pool_alloc(&self, pointer: &mut u64, bytes: usize, stream: Handle) -> Code {
        call!(self, cuMemAllocAsync(pointer, bytes, stream.cast()))
    }
    unsafe fn pool_free(&self, pointer: u64, stream: Handle) -> Code {
        call!(self, cuMemFreeAsync(pointer, stream.cast()))
    }
    unsafe fn alloc(&self, pointer: &mut u64, bytes: usize) -> Code {
        call!(self, cuMemAlloc_v2(pointer, bytes))
    }
    unsafe fn free(&self, pointer: u64) -> Code {
        call!(self, cuMemFree_v2(pointer))
    }
    unsafe fn host_alloc(&self, pointer: &mut *mut c_void, bytes: usize) -> Code {
        call!(self, cuMemHostAlloc(pointer, bytes, 0))
    }
    unsafe fn host_free(&self, pointer: *mut c_void) -> Code {
        call!(self, cuMemFreeHost(pointer))
    }
    unsafe fn upload(&self, to: u64, from: *const c_void, bytes: usize, stream: Handle) -> Code {
        call!(self, cuMemcpyHtoDAsync_v2(to, from, bytes, stream.cast()))
    }
    unsafe fn download(&self, to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> Code {
        call!(self, cuMemcpyDtoHAsync_v2(to, from, bytes, stream.cast()))
    }

    unsafe fn stream(&self, stream: &mut Handle) -> Code {
        let stream = ptr::from_mut(stream).cast();
        call!(self, cuStreamCreate(stream, NON_BLOCKING))
    }
    unsafe fn stream_destroy(&self, stream: Handle) -> Code {
        call!(self, cuStreamDestroy_v2(stream.cast()))
    }
    unsafe fn stream_synchronize(&self, stream: Handle) -> Code {
        call!(self, cuStreamSynchronize(stream.cast()))
    }
    unsafe fn stream_wait(&self, stream: Handle, event: Handle) -> Code {
        call!(self, cuStreamWaitEvent(stream.cast(), event.cast(), 0))
    }

    unsafe fn capture_begin(&self, stream: Handle) -> Code {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        call!(self, cuStreamBeginCapture_v2(stream.cast(), mode))
    }
    unsafe fn capture_end(&self, stream: Handle, graph: &mut Handle) -> Code {
        let graph = ptr::from_mut(graph).cast();
        call!(self, cuStreamEndCapture(stream.cast(), graph))
    }
    unsafe fn graph_make(&self, made: &mut Handle, graph: Handle) -> Code {
        let made = ptr::from_mut(made).cast();
        call!(self, cuGraphInstantiateWithFlags(made, graph.cast(), 0))
    }
    unsafe fn graph_launch(&self, made: Handle, stream: Handle) -> Code {
        call!(self, cuGraphLaunch(made.cast(), stream.cast()))
    }
    unsafe fn graph_destroy(&self, graph: Handle) -> Code {
        call!(self, cuGraphDestroy(graph.cast()))
    }
    unsafe fn graph_unmake(&self, made: Handle) -> Code {
        call!(self, cuGraphExecDestroy(made.cast()))
    }

    unsafe fn event(&self, event: &mut Handle, timed: bool) -> Code {
        let flags = if timed { 0 } else { NO_TIME };
        call!(self, cuEventCreate(ptr::from_mut(event).cast(), flags))
    }
    unsafe fn event_destroy(&self, event: Handle) -> Code {
        call!(self, cuEventDestroy_v2(event.cast()))
    }
    unsafe fn event_record(&self, event: Handle, stream: Handle) -> Code {
        call!(self, cuEventRecord(event.cast(), stream.cast()))
    }
    unsafe fn event_synchronize(&self, event: Handle) -> Code {
        call!(self, cuEventSynchronize(event.cast()))
    }
    unsafe fn event_elapsed(&self, milliseconds: &mut f32, from: Handle, to: Handle) -> Code {
        call!(
            self,
            cuEventElapsedTime(milliseconds, from.cast(), to.cast())
        )
    }

    unsafe fn module(&self, module: &mut Handle, image: *const c_void) -> Code {
        call!(self, cuModuleLoadData(ptr::from_mut(module).cast(), image))
    }
    unsafe fn module_unload(&self, module: Handle) -> Code {
        call!(self, cuModuleUnload(module.cast()))
    }
    unsafe fn function(&self, function: &mut Handle, module: Handle, name: &CStr) -> Code {
        let function = ptr::from_mut(function).cast();
        call!(
            self,
            cuModuleGetFunction(function, module.cast(), name.as_ptr())
        )
    }
    unsafe fn function_max_group(&self, most: &mut i32, function: Handle) -> Code {
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        call!(self, cuFuncGetAttribute(most, which, function.cast()))
    }
    unsafe fn function_local(&self, function: Handle, bytes: u32) -> Code {
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // A number beyond what any chip has is refused by the driver.
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        call!(self, cuFuncSetAttribute(function.cast(), which, bytes))
    }
    unsafe fn launch(
        &self,
        function: Handle,
        [x, y, z]: [u32; 3],
        group: u32,
        local_bytes: u32,
        early: bool,
        stream: Handle,
        parameters: *mut *mut c_void,
    ) -> Code {
        if early
            && self.begins_early
            && let Some(launch_early) = self.driver.cuLaunchKernelEx
        {
            let mut attribute = CUlaunchAttribute {
                id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: CUlaunchAttributeValue {
                    programmaticStreamSerializationAllowed: 1,
                },
            };
            let launch = CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: group,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: local_bytes,
                hStream: stream.cast(),
                attrs: &mut attribute,
                numAttrs: 1,
            };
            let none = ptr::null_mut();
            // SAFETY: the caller's own call, under the vendor's name.
            return unsafe { launch_early(&launch, function.cast(), parameters, none) };
        }
        let (function, stream, none) = (function.cast(), stream.cast(), ptr::null_mut());
        call!(
            self,
            cuLaunchKernel(
                function,
                x,
                y,
                z,
                group,
                1,
                1,
                local_bytes,
                stream,
                parameters,
                none
            )
        )
    }
}
