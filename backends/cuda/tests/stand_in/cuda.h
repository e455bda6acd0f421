// The functions of libcuda and libnvrtc that the back end calls, over the stand-in of `backend_emulator`.
//
// STAND_IN_DRIVER: the driver's version (13000); STAND_IN_NVRTC: the compiler's (13000); STAND_IN_CHIP: the compute capability
// (90); STAND_IN_DEVICES: how many there are (1); STAND_IN_POOLS: 0 without stream-ordered memory; STAND_IN_WAVE: what the device
// says of its waves (32).
//
// A vendor of the same calls puts its names, and how its compiler's options look, before this text.

#ifndef STAND_IN_NAME
#define STAND_IN_NAME "emulated NVIDIA device"
#define STAND_IN_TARGETS {"--gpu-architecture=sm_", "--gpu-architecture=compute_"}
#define STAND_IN_LANGUAGE "--std=c++17"
#endif

#define CALL_MEMORY_INFO cuMemGetInfo_v2
#define CALL_POOL cuDeviceGetDefaultMemPool
#define CALL_POOL_SET cuMemPoolSetAttribute
#define CALL_POOL_TRIM cuMemPoolTrimTo
#define CALL_POOL_ALLOC cuMemAllocAsync
#define CALL_POOL_FREE cuMemFreeAsync
#define CALL_ALLOC cuMemAlloc_v2
#define CALL_FREE cuMemFree_v2
#define CALL_HOST_ALLOC cuMemHostAlloc
#define CALL_HOST_FREE cuMemFreeHost
#define CALL_UPLOAD cuMemcpyHtoDAsync_v2
#define CALL_DOWNLOAD cuMemcpyDtoHAsync_v2
#define CALL_STREAM cuStreamCreate
#define CALL_STREAM_DESTROY cuStreamDestroy_v2
#define CALL_STREAM_SYNCHRONIZE cuStreamSynchronize
#define CALL_STREAM_WAIT cuStreamWaitEvent
#define CALL_CAPTURE_BEGIN cuStreamBeginCapture_v2
#define CALL_CAPTURE_END cuStreamEndCapture
#define CALL_GRAPH_MAKE cuGraphInstantiateWithFlags
#define CALL_GRAPH_LAUNCH cuGraphLaunch
#define CALL_GRAPH_DESTROY cuGraphDestroy
#define CALL_GRAPH_UNMAKE cuGraphExecDestroy
#define CALL_EVENT cuEventCreate
#define CALL_EVENT_DESTROY cuEventDestroy_v2
#define CALL_EVENT_RECORD cuEventRecord
#define CALL_EVENT_SYNCHRONIZE cuEventSynchronize
#define CALL_EVENT_ELAPSED cuEventElapsedTime
#define CALL_MODULE cuModuleLoadData
#define CALL_MODULE_UNLOAD cuModuleUnload
#define CALL_FUNCTION cuModuleGetFunction
#define CALL_FUNCTION_ATTRIBUTE cuFuncGetAttribute
#define CALL_LAUNCH cuLaunchKernel
#define CALL_FINISH cuCtxSynchronize
#define CALL_PROGRAM nvrtcCreateProgram
#define CALL_PROGRAM_DESTROY nvrtcDestroyProgram
#define CALL_PROGRAM_COMPILE nvrtcCompileProgram
#define CALL_PROGRAM_LOG_SIZE nvrtcGetProgramLogSize
#define CALL_PROGRAM_LOG nvrtcGetProgramLog
#define CALL_PROGRAM_CODE_SIZE nvrtcGetCUBINSize
#define CALL_PROGRAM_CODE nvrtcGetCUBIN

static int retained[16];

EXPORT int cuInit(unsigned) {
    ENTER;
    started = true;
    return setting("STAND_IN_DEVICES", 1) ? 0 : 100;
}
EXPORT int cuDriverGetVersion(int *version) {
    ENTER;
    *version = setting("STAND_IN_DRIVER", 13000);
    return 0;
}
EXPORT int cuGetErrorName(int code, const char **text) {
    *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 1 ? "CUDA_ERROR_INVALID_VALUE" : nullptr;
    return *text ? 0 : 1;
}
EXPORT int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }
EXPORT int cuDeviceGetCount(int *count) {
    ENTER;
    if (!started) return 3;
    *count = setting("STAND_IN_DEVICES", 1);
    return 0;
}
EXPORT int cuDeviceGet(int *device, int n) {
    ENTER;
    if (n < 0 || n >= setting("STAND_IN_DEVICES", 1)) return 101;
    *device = n;
    return 0;
}
EXPORT int cuDeviceGetName(char *name, int bytes, int) {
    ENTER;
    snprintf(name, bytes, STAND_IN_NAME " (stand-in %s)", STAND_IN_DIGEST);
    return 0;
}
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int) {
    ENTER;
    *bytes = stand_in::total_bytes;
    return 0;
}
EXPORT int cuDeviceGetAttribute(int *value, int which, int) {
    ENTER;
    const int chip = setting("STAND_IN_CHIP", 90);
    switch (which) {
    case 1: *value = 1024; return 0;
    case 8: *value = 48 << 10; return 0;
    case 10: *value = setting("STAND_IN_WAVE", 32); return 0;
    case 16: *value = 4; return 0;
    case 75: *value = chip / 10; return 0;
    case 76: *value = chip % 10; return 0;
    case 115: *value = setting("STAND_IN_POOLS", 1); return 0;
    }
    return 1;
}
EXPORT int cuDeviceCanAccessPeer(int *can, int device, int peer) {
    ENTER;
    *can = device != peer;
    return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER;
    if (!retained[device]++) stand_in::live["context"]++;
    *context = &retained[device];
    return 0;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER_TO_FREE;
    if (retained[device] == 0) return 201;
    if (--retained[device] == 0) {
        stand_in::end_context();
        stand_in::live["context"]--;
    }
    return code;
}
EXPORT int cuCtxSetCurrent(void *context) {
    stand_in::Locked locked(stand_in::lock);
    if (const int code = stand_in::enter(__func__)) {
        // It stays possible in a dead context, whose functions then say that it is.
        if (code != stand_in::last_code) return code;
    }
    current = (int *)context - retained;
    return retained[current] ? stand_in::last_code : 201;
}

// Beyond 48 KiB a launch gives shared memory only to a function that was said to need it; up to what groups of the chip may have.
EXPORT int cuFuncSetAttribute(void *function, int which, int value) {
    ENTER;
    const int chip = setting("STAND_IN_CHIP", 90), most = chip == 90 || chip == 100 ? 227 : chip == 80 ? 163 : 99;
    if (which != 8 || value < 0 || value > most * 1024) return 1;
    ((stand_in::Function *)function)->local_bytes = value;
    return 0;
}

static const int CHIPS[] = {75, 80, 86, 89, 90, 100, 120};

EXPORT const char *nvrtcGetErrorString(int code) { return code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR"; }
EXPORT int nvrtcVersion(int *major, int *minor) {
    ENTER_COMPILER;
    const int version = setting("STAND_IN_NVRTC", 13000);
    *major = version / 1000;
    *minor = version % 1000 / 10;
    return 0;
}
EXPORT int nvrtcGetNumSupportedArchs(int *count) {
    ENTER_COMPILER;
    *count = sizeof CHIPS / sizeof *CHIPS;
    return 0;
}
EXPORT int nvrtcGetSupportedArchs(int *chips) {
    ENTER_COMPILER;
    memcpy(chips, CHIPS, sizeof CHIPS);
    return 0;
}
EXPORT int nvrtcGetCUBINSize(void *program, size_t *bytes);
EXPORT int nvrtcGetCUBIN(void *program, char *image);
EXPORT int nvrtcGetPTXSize(void *program, size_t *bytes) { return nvrtcGetCUBINSize(program, bytes); }
EXPORT int nvrtcGetPTX(void *program, char *text) { return nvrtcGetCUBIN(program, text); }
static const char LANGUAGE[] = STAND_IN_LANGUAGE;
static bool is_target(const std::string &option, std::vector<std::string> &) {
    for (const char *begin : STAND_IN_TARGETS) {
        if (option.rfind(begin, 0) == 0) return true;
    }
    return false;
}

// CUlaunchConfig and CUlaunchAttribute, of which 6 is programmatic stream serialization: here, work is done in order anyway.
struct LaunchAttribute { int id, pad; int value[16]; };
struct LaunchConfig { unsigned grid[3], group[3], local_bytes; void *stream; LaunchAttribute *attributes; unsigned count; };
EXPORT int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned local_bytes, void *stream, void **parameters, void **extra);
EXPORT int cuLaunchKernelEx(const LaunchConfig *c, void *function, void **parameters, void **extra) {
    for (unsigned i = 0; i < c->count; i++) {
        if (c->attributes[i].id != 6 || setting("STAND_IN_CHIP", 90) < 90) return 1;
    }
    return cuLaunchKernel(function, c->grid[0], c->grid[1], c->grid[2], c->group[0], c->group[1], c->group[2], c->local_bytes,
                          c->stream, parameters, extra);
}
