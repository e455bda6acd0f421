// The functions of libamdhip64 and hiprtc that the back end calls, over the stand-in of `backend_emulator`.
//
// STAND_IN_ARCH: what the device says of itself (gfx90a:sramecc+:xnack-); STAND_IN_WAVE: the work-items of a wave (64);
// STAND_IN_DTK: 1 with the numbers of attributes of Hygon's DTK; STAND_IN_DEVICES: how many there are (1); STAND_IN_POOLS: 0
// without stream-ordered memory.
//
// HIP has one context for each process. Here a start of the runtime with nothing alive stands for the start of a new process.

#define CALL_MEMORY_INFO hipMemGetInfo
#define CALL_POOL hipDeviceGetDefaultMemPool
#define CALL_POOL_SET hipMemPoolSetAttribute
#define CALL_POOL_TRIM hipMemPoolTrimTo
#define CALL_POOL_ALLOC hipMallocAsync
#define CALL_POOL_FREE hipFreeAsync
#define CALL_ALLOC hipMalloc
#define CALL_FREE hipFree
#define CALL_HOST_ALLOC hipHostMalloc
#define CALL_HOST_FREE hipHostFree
#define CALL_UPLOAD hipMemcpyHtoDAsync
#define CALL_DOWNLOAD hipMemcpyDtoHAsync
#define CALL_STREAM hipStreamCreateWithFlags
#define CALL_STREAM_DESTROY hipStreamDestroy
#define CALL_STREAM_SYNCHRONIZE hipStreamSynchronize
#define CALL_STREAM_WAIT hipStreamWaitEvent
#define CALL_CAPTURE_BEGIN hipStreamBeginCapture
#define CALL_CAPTURE_END hipStreamEndCapture
#define CALL_GRAPH_MAKE hipGraphInstantiateWithFlags
#define CALL_GRAPH_LAUNCH hipGraphLaunch
#define CALL_GRAPH_DESTROY hipGraphDestroy
#define CALL_GRAPH_UNMAKE hipGraphExecDestroy
#define CALL_EVENT hipEventCreateWithFlags
#define CALL_EVENT_DESTROY hipEventDestroy
#define CALL_EVENT_RECORD hipEventRecord
#define CALL_EVENT_SYNCHRONIZE hipEventSynchronize
#define CALL_EVENT_ELAPSED hipEventElapsedTime
#define CALL_MODULE hipModuleLoadData
#define CALL_MODULE_UNLOAD hipModuleUnload
#define CALL_FUNCTION hipModuleGetFunction
#define CALL_FUNCTION_ATTRIBUTE hipFuncGetAttribute
#define CALL_LAUNCH hipModuleLaunchKernel
#define CALL_FINISH hipDeviceSynchronize
#define CALL_PROGRAM hiprtcCreateProgram
#define CALL_PROGRAM_DESTROY hiprtcDestroyProgram
#define CALL_PROGRAM_COMPILE hiprtcCompileProgram
#define CALL_PROGRAM_LOG_SIZE hiprtcGetProgramLogSize
#define CALL_PROGRAM_LOG hiprtcGetProgramLog
#define CALL_PROGRAM_CODE_SIZE hiprtcGetCodeSize
#define CALL_PROGRAM_CODE hiprtcGetCode

EXPORT int hipInit(unsigned) {
    stand_in::Locked locked(stand_in::lock);
    bool alive = false;
    for (auto &entry : stand_in::live) alive |= entry.second != 0;
    if (!alive) stand_in::end_context();
    if (const int code = stand_in::enter(__func__)) return code;
    started = stand_in::one_context = true;
    stand_in::wave = setting("STAND_IN_WAVE", 64);
    stand_in::max_group = 256;
    // The device counts them in 32 bits.
    stand_in::max_items = UINT32_MAX;
    return setting("STAND_IN_DEVICES", 1) ? 0 : 100;
}
EXPORT int hipRuntimeGetVersion(int *version) {
    ENTER;
    *version = 60342134;
    return 0;
}
EXPORT const char *hipGetErrorName(int code) {
    return code == 2 ? "hipErrorOutOfMemory" : code == 700 ? "hipErrorIllegalAddress" : code == 1 ? "hipErrorInvalidValue" : "hipErrorUnknown";
}
EXPORT const char *hipGetErrorString(int code) { return hipGetErrorName(code); }
EXPORT int hipGetDeviceCount(int *count) {
    ENTER;
    if (!started) return 3;
    *count = setting("STAND_IN_DEVICES", 1);
    return *count ? 0 : 100;
}
EXPORT int hipSetDevice(int device) {
    stand_in::Locked locked(stand_in::lock);
    if (const int code = stand_in::enter(__func__)) {
        // It stays possible in a dead context, whose functions then say that it is.
        if (code != stand_in::last_code) return code;
    }
    if (device < 0 || device >= setting("STAND_IN_DEVICES", 1)) return 101;
    current = device;
    return stand_in::last_code;
}
EXPORT int hipDeviceGetName(char *name, int bytes, int) {
    ENTER;
    snprintf(name, bytes, "emulated HIP device (stand-in %s)", STAND_IN_DIGEST);
    return 0;
}
EXPORT int hipDeviceTotalMem(size_t *bytes, int) {
    ENTER;
    *bytes = stand_in::total_bytes;
    return 0;
}
EXPORT int hipDeviceGetAttribute(int *value, int which, int) {
    ENTER;
    // Group, local memory, wave, units, pools.
    static const int ROCM[] = {56, 74, 87, 63, 88}, DTK[] = {18, 25, 27, 32, -1};
    const int values[] = {1024, 64 << 10, setting("STAND_IN_WAVE", 64), 4, setting("STAND_IN_POOLS", 1)};
    const int *numbers = setting("STAND_IN_DTK", 0) ? DTK : ROCM;
    for (int i = 0; i < 5; i++) {
        if (which != numbers[i]) continue;
        *value = values[i];
        return 0;
    }
    return 1;
}
// The structure of all properties, of which the back end reads one text.
static int properties(stand_in::byte *to, size_t bytes, size_t at) {
    const char *arch = getenv("STAND_IN_ARCH");
    memset(to, 0xcb, bytes);
    snprintf((char *)to, 256, "emulated gfx");
    snprintf((char *)to + at, 256, "%s", arch ? arch : "gfx90a:sramecc+:xnack-");
    return 0;
}
EXPORT int hipGetDeviceProperties(void *to, int) {
    ENTER;
    return properties((stand_in::byte *)to, 792, 396);
}
EXPORT int hipGetDevicePropertiesR0600(void *to, int) {
    ENTER;
    return properties((stand_in::byte *)to, 1472, 1160);
}
EXPORT int hipDeviceCanAccessPeer(int *can, int device, int peer) {
    ENTER;
    *can = device != peer;
    return 0;
}

EXPORT const char *hiprtcGetErrorString(int code) { return code == 6 ? "HIPRTC_ERROR_COMPILATION" : "HIPRTC_ERROR"; }
EXPORT int hiprtcVersion(int *major, int *minor) {
    ENTER_COMPILER;
    *major = 9;
    *minor = 0;
    return 0;
}
static const char LANGUAGE[] = "-std=c++17";
// Which dot and matrix instructions a chip has, as LLVM's tables say.
static bool is_target(const std::string &option, std::vector<std::string> &defines) {
    const std::string begin = "--offload-arch=";
    if (option.rfind(begin + "gfx", 0) != 0) return false;
    const std::string chip = option.substr(begin.size(), option.find(':') - begin.size());
    const bool mi100 = chip == "gfx908", mi200 = chip == "gfx90a", mi300 = chip == "gfx942";
    const bool dot = chip == "gfx906" || mi100 || mi200 || mi300 || chip == "gfx1100";
    if (dot) defines.push_back("HOST_HAS_dot=1");
    if (mi100 || mi200 || mi300) defines.push_back("HOST_HAS_mfma_f16=1");
    if (mi100 || mi200) defines.push_back("HOST_HAS_mfma_bf16=1");
    if (mi100) defines.push_back("__gfx908__=1");
    if (mi200 || mi300) defines.push_back("HOST_HAS_mfma_bf16_1k=1");
    return true;
}
