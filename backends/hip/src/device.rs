//! HIP's calls for one open device.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use backend_runtime::{Api, Code, Handle, SUCCESS};
use backend_simt::Source;
use hal::{Error, Result};

use crate::failure::{NOT_SUPPORTED, failure, is_last};
use crate::hiprtc::Hiprtc;
use crate::rocblas::RocBlas;
use crate::symbols::Driver;

/// `hipEventDisableTiming`.
const NO_TIME: u32 = 2;
/// `hipStreamNonBlocking`: no order with the stream 0 of other libraries.
const NON_BLOCKING: u32 = 1;
/// `hipMemPoolAttrReleaseThreshold`.
const RELEASE_THRESHOLD: c_int = 4;
/// `hipStreamCaptureModeRelaxed`.
const RELAXED: c_int = 2;
/// `HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK`.
const MAX_THREADS_PER_BLOCK: c_int = 0;

/// A device.
#[derive(Debug)]
pub(crate) struct Hip {
    driver: Driver,
    device: c_int,
    compiler: Hiprtc,
    target: String,
    /// The library of products, where one was found.
    blas: Option<Arc<RocBlas>>,
}

impl Hip {
    pub(crate) fn new(driver: Driver, device: c_int, compiler: Hiprtc, target: String) -> Self {
        Self {
            driver,
            device,
            compiler,
            target,
            blas: None,
        }
    }

    /// Looks for the library of products, and has it from now on.
    ///
    /// # Errors
    /// Those of [`RocBlas::find`], as the inner result: the device is of use without it. What the runtime reports.
    pub(crate) fn find_blas(&mut self) -> Result<Result<String>> {
        // SAFETY: the device was listed by the runtime.
        let code = unsafe { self.set_current() };
        if code != SUCCESS {
            return Err(failure(&self.driver, "open a HIP device", code));
        }
        Ok(RocBlas::find(&self.driver, &self.target).map(|blas| {
            let what = blas.describe();
            self.blas = Some(Arc::new(blas));
            what
        }))
    }

    /// The library of products.
    pub(crate) fn blas(&self) -> Option<&Arc<RocBlas>> {
        self.blas.as_ref()
    }

    /// What it is compiled for.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }
}

impl Drop for Hip {
    fn drop(&mut self) {
        if let Some(blas) = self.blas.take() {
            // What the library has is the current device's; nobody is left to hear of a failure.
            // SAFETY: the device was listed by the runtime.
            unsafe { self.set_current() };
            drop(blas);
        }
    }
}

macro_rules! call {
    ($table:expr, $name:ident($($argument:expr),*)) => {
        // SAFETY: the caller's own call, under the vendor's name.
        unsafe { ($table.$name)($($argument),*) }
    };
}

/// Of a table that not every runtime has.
macro_rules! maybe {
    ($table:expr, $name:ident($($argument:expr),*)) => {
        match &$table {
            Some(table) => call!(table, $name($($argument),*)),
            None => NOT_SUPPORTED,
        }
    };
}

fn pointer(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(address as usize)
}

/// Where a runtime writes an address. Devices have 64-bit machines.
fn place(address: &mut u64) -> *mut *mut c_void {
    ptr::from_mut(address).cast()
}

impl Api for Hip {
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
        call!(self.driver.calls, hipSetDevice(self.device))
    }
    unsafe fn finish(&self) -> Code {
        call!(self.driver.calls, hipDeviceSynchronize())
    }
    unsafe fn memory_info(&self, free: &mut usize, total: &mut usize) -> Code {
        call!(self.driver.calls, hipMemGetInfo(free, total))
    }

    unsafe fn pool(&self, pool: &mut Handle) -> Code {
        let device = self.device;
        maybe!(self.driver.pools, hipDeviceGetDefaultMemPool(pool, device))
    }
    unsafe fn pool_keep(&self, pool: Handle, mut bytes: u64) -> Code {
        // This attribute is 64 bits.
        let value = ptr::from_mut(&mut bytes).cast();
        maybe!(
            self.driver.pools,
            hipMemPoolSetAttribute(pool, RELEASE_THRESHOLD, value)
        )
    }
    unsafe fn pool_trim(&self, pool: Handle) -> Code {
        maybe!(self.driver.pools, hipMemPoolTrimTo(pool, 0))
    }
    unsafe fn pool_alloc(&self, address: &mut u64, bytes: usize, stream: Handle) -> Code {
        let to = place(address);
        maybe!(self.driver.pools, hipMallocAsync(to, bytes, stream))
    }
    unsafe fn pool_free(&self, address: u64, stream: Handle) -> Code {
        maybe!(self.driver.pools, hipFreeAsync(pointer(address), stream))
    }
    unsafe fn alloc(&self, address: &mut u64, bytes: usize) -> Code {
        call!(self.driver.calls, hipMalloc(place(address), bytes))
    }
    unsafe fn free(&self, address: u64) -> Code {
        call!(self.driver.calls, hipFree(pointer(address)))
    }
    unsafe fn host_alloc(&self, address: &mut *mut c_void, bytes: usize) -> Code {
        call!(self.driver.calls, hipHostMalloc(address, bytes, 0))
    }
    unsafe fn host_free(&self, address: *mut c_void) -> Code {
        call!(self.driver.calls, hipHostFree(address))
    }
    unsafe fn upload(&self, to: u64, from: *const c_void, bytes: usize, stream: Handle) -> Code {
        let to = pointer(to);
        call!(
            self.driver.calls,
            hipMemcpyHtoDAsync(to, from, bytes, stream)
        )
    }
    unsafe fn download(&self, to: *mut c_void, from: u64, bytes: usize, stream: Handle) -> Code {
        let from = pointer(from);
        call!(
            self.driver.calls,
            hipMemcpyDtoHAsync(to, from, bytes, stream)
        )
    }

    unsafe fn stream(&self, stream: &mut Handle) -> Code {
        call!(
            self.driver.calls,
            hipStreamCreateWithFlags(stream, NON_BLOCKING)
        )
    }
    unsafe fn stream_destroy(&self, stream: Handle) -> Code {
        call!(self.driver.calls, hipStreamDestroy(stream))
    }
    unsafe fn stream_synchronize(&self, stream: Handle) -> Code {
        call!(self.driver.calls, hipStreamSynchronize(stream))
    }
    unsafe fn stream_wait(&self, stream: Handle, event: Handle) -> Code {
        call!(self.driver.calls, hipStreamWaitEvent(stream, event, 0))
    }

    unsafe fn capture_begin(&self, stream: Handle) -> Code {
        maybe!(self.driver.graphs, hipStreamBeginCapture(stream, RELAXED))
    }
    unsafe fn capture_end(&self, stream: Handle, graph: &mut Handle) -> Code {
        maybe!(self.driver.graphs, hipStreamEndCapture(stream, graph))
    }
    unsafe fn graph_make(&self, made: &mut Handle, graph: Handle) -> Code {
        maybe!(
            self.driver.graphs,
            hipGraphInstantiateWithFlags(made, graph, 0)
        )
    }
    unsafe fn graph_launch(&self, made: Handle, stream: Handle) -> Code {
        maybe!(self.driver.graphs, hipGraphLaunch(made, stream))
    }
    unsafe fn graph_destroy(&self, graph: Handle) -> Code {
        maybe!(self.driver.graphs, hipGraphDestroy(graph))
    }
    unsafe fn graph_unmake(&self, made: Handle) -> Code {
        maybe!(self.driver.graphs, hipGraphExecDestroy(made))
    }

    unsafe fn event(&self, event: &mut Handle, timed: bool) -> Code {
        let flags = if timed { 0 } else { NO_TIME };
        call!(self.driver.calls, hipEventCreateWithFlags(event, flags))
    }
    unsafe fn event_destroy(&self, event: Handle) -> Code {
        call!(self.driver.calls, hipEventDestroy(event))
    }
    unsafe fn event_record(&self, event: Handle, stream: Handle) -> Code {
        call!(self.driver.calls, hipEventRecord(event, stream))
    }
    unsafe fn event_synchronize(&self, event: Handle) -> Code {
        call!(self.driver.calls, hipEventSynchronize(event))
    }
    unsafe fn event_elapsed(&self, milliseconds: &mut f32, from: Handle, to: Handle) -> Code {
        call!(
            self.driver.calls,
            hipEventElapsedTime(milliseconds, from, to)
        )
    }

    unsafe fn module(&self, module: &mut Handle, image: *const c_void) -> Code {
        call!(self.driver.calls, hipModuleLoadData(module, image))
    }
    unsafe fn module_unload(&self, module: Handle) -> Code {
        call!(self.driver.calls, hipModuleUnload(module))
    }
    unsafe fn function(&self, function: &mut Handle, module: Handle, name: &CStr) -> Code {
        let name = name.as_ptr();
        call!(
            self.driver.calls,
            hipModuleGetFunction(function, module, name)
        )
    }
    unsafe fn function_max_group(&self, most: &mut i32, function: Handle) -> Code {
        call!(
            self.driver.calls,
            hipFuncGetAttribute(most, MAX_THREADS_PER_BLOCK, function)
        )
    }
    unsafe fn function_local(&self, _: Handle, _: u32) -> Code {
        // A launch may give all that a group can have.
        SUCCESS
    }
    unsafe fn launch(
        &self,
        function: Handle,
        [x, y, z]: [u32; 3],
        group: u32,
        local_bytes: u32,
        _: bool,
        stream: Handle,
        parameters: *mut *mut c_void,
    ) -> Code {
        let none = ptr::null_mut();
        call!(
            self.driver.calls,
            hipModuleLaunchKernel(
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
