// The functions of libcuda and libnvrtc that the back end calls, over the stand-in of `backend_emulator`.
//
// STAND_IN_DRIVER: the driver's version (13000); STAND_IN_NVRTC: the compiler's (13000); STAND_IN_CHIP: the compute capability
// (90); STAND_IN_DEVICES: how many there are (1); STAND_IN_POOLS: 0 without stream-ordered memory.

#define EXPORT extern "C" __attribute__((visibility("default")))
// Every function: counted, made to fail if it is to, and dead after the context has died.
#define ENTER                                        \
    stand_in::Locked locked(stand_in::lock);         \
    if (const int code = stand_in::enter(__func__)) return code
// Functions that give something back do so in any case, as a code may be of earlier work.
#define ENTER_TO_FREE                                \
    stand_in::Locked locked(stand_in::lock);         \
    const int code = stand_in::enter(__func__)

static int setting(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static int retained[16];
static thread_local int current = -1;
static bool started;

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
    snprintf(name, bytes, "emulated NVIDIA device (stand-in %s)", STAND_IN_DIGEST);
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
    case 10: *value = 32; return 0;
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
EXPORT int cuCtxSynchronize() {
    ENTER;
    if (current < 0) return 201;
    if (stand_in::any_capture()) return 900;
    stand_in::drain_all();
    return stand_in::last_code;
}

EXPORT int cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER;
    *total = stand_in::total_bytes;
    *free = stand_in::total_bytes - stand_in::used_bytes;
    return 0;
}
EXPORT int cuDeviceGetDefaultMemPool(void **pool, int) {
    ENTER;
    if (!setting("STAND_IN_POOLS", 1)) return 801;
    *pool = &stand_in::blocks;
    return 0;
}
EXPORT int cuMemPoolSetAttribute(void *, int which, void *value) {
    ENTER;
    return which == 4 && *(uint64_t *)value == UINT64_MAX ? 0 : 1;
}
EXPORT int cuMemPoolTrimTo(void *, size_t) {
    ENTER;
    return 0;
}
EXPORT int cuMemAllocAsync(uint64_t *pointer, size_t bytes, void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of || current < 0) return 201;
    const uintptr_t memory = stand_in::allocate(bytes, false);
    if (!memory) return 2;
    stand_in::push(of, [memory] { stand_in::blocks[memory].ready = true; });
    *pointer = memory;
    return 0;
}
EXPORT int cuMemFreeAsync(uint64_t pointer, void *stream) {
    ENTER_TO_FREE;
    auto of = stand_in::find(stream);
    if (!of || !stand_in::block_at(pointer)) return 400;
    stand_in::live["memory"]--;
    stand_in::push(of, [pointer] { stand_in::release(pointer); });
    return code;
}
EXPORT int cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
    ENTER;
    if (current < 0) return 201;
    const uintptr_t memory = stand_in::allocate(bytes, true);
    *pointer = memory;
    return memory ? 0 : 2;
}
EXPORT int cuMemFree_v2(uint64_t pointer) {
    ENTER_TO_FREE;
    if (!stand_in::block_at(pointer)) return 1;
    stand_in::live["memory"]--;
    stand_in::release(pointer);
    return code;
}
EXPORT int cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    ENTER;
    *pointer = aligned_alloc(4096, bytes);
    stand_in::pinned[(uintptr_t)*pointer] = bytes;
    stand_in::live["host memory"]++;
    return 0;
}
EXPORT int cuMemFreeHost(void *pointer) {
    ENTER_TO_FREE;
    // What still waits for its bytes gets them first.
    stand_in::drain_all();
    stand_in::pinned.erase((uintptr_t)pointer);
    stand_in::live["host memory"]--;
    free(pointer);
    return code;
}
// From page-locked memory bytes are read when the copy runs; from other memory at once.
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of) return 400;
    if (stand_in::breaks(of)) return 900;
    if (stand_in::in_pinned(from)) {
        stand_in::push(of, [=] {
            if (stand_in::usable(to, bytes, "an upload")) memcpy((void *)to, from, bytes);
        });
        return 0;
    }
    std::string kept((const char *)from, bytes);
    stand_in::push(of, [=] {
        if (stand_in::usable(to, bytes, "an upload")) memcpy((void *)to, kept.data(), bytes);
    });
    return 0;
}
EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of) return 400;
    if (stand_in::breaks(of)) return 900;
    stand_in::push(of, [=] {
        if (stand_in::usable(from, bytes, "a download")) memcpy(to, (void *)from, bytes);
    });
    if (!stand_in::in_pinned(to)) stand_in::drain(of, UINT64_MAX);
    return stand_in::last_code;
}

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
    ENTER;
    if (flags != 1 || current < 0) return 1;
    auto made = std::make_shared<stand_in::Stream>();
    stand_in::streams[made.get()] = made;
    stand_in::live["stream"]++;
    *stream = made.get();
    return 0;
}
EXPORT int cuStreamDestroy_v2(void *stream) {
    ENTER_TO_FREE;
    const int failed = stand_in::destroy_stream(stream);
    return failed ? failed : code;
}
EXPORT int cuStreamSynchronize(void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of) return 400;
    if (stand_in::breaks(of)) return 900;
    stand_in::drain(of, UINT64_MAX);
    return stand_in::last_code;
}
EXPORT int cuStreamWaitEvent(void *stream, void *event, unsigned) {
    ENTER;
    return stand_in::wait(stream, (stand_in::Event *)event);
}
EXPORT int cuStreamBeginCapture_v2(void *stream, int mode) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of || of->capturing || mode != 2) return 900;
    of->capturing = true;
    of->broken = false;
    of->captured.clear();
    return 0;
}
EXPORT int cuStreamEndCapture(void *stream, void **graph) {
    stand_in::Locked locked(stand_in::lock);
    const int code = stand_in::enter(__func__);
    auto of = stand_in::find(stream);
    if (!of || !of->capturing) return 901;
    of->capturing = false;
    *graph = nullptr;
    if (code) return code;
    if (of->broken) return 901;
    *graph = new stand_in::Graph{std::move(of->captured)};
    of->captured.clear();
    stand_in::live["graph"]++;
    return 0;
}
EXPORT int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long) {
    ENTER;
    *made = new stand_in::Graph(*(stand_in::Graph *)graph);
    stand_in::live["launchable graph"]++;
    return 0;
}
EXPORT int cuGraphLaunch(void *graph, void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of) return 400;
    if (stand_in::breaks(of)) return 900;
    for (const auto &launch : ((stand_in::Graph *)graph)->launches) stand_in::push(of, [launch] { stand_in::run(launch); });
    return 0;
}
EXPORT int cuGraphDestroy(void *graph) {
    ENTER_TO_FREE;
    delete (stand_in::Graph *)graph;
    stand_in::live["graph"]--;
    return code;
}
EXPORT int cuGraphExecDestroy(void *graph) {
    ENTER_TO_FREE;
    delete (stand_in::Graph *)graph;
    stand_in::live["launchable graph"]--;
    return code;
}

EXPORT int cuEventCreate(void **event, unsigned flags) {
    ENTER;
    if (current < 0) return 201;
    *event = new stand_in::Event{nullptr, !(flags & 2)};
    stand_in::live["event"]++;
    return 0;
}
EXPORT int cuEventDestroy_v2(void *event) {
    ENTER_TO_FREE;
    delete (stand_in::Event *)event;
    stand_in::live["event"]--;
    return code;
}
EXPORT int cuEventRecord(void *event, void *stream) {
    ENTER;
    return stand_in::record((stand_in::Event *)event, stream);
}
EXPORT int cuEventSynchronize(void *event) {
    ENTER;
    auto mark = ((stand_in::Event *)event)->mark;
    if (mark) stand_in::drain(mark->stream, mark->at);
    return stand_in::last_code;
}
EXPORT int cuEventElapsedTime(float *milliseconds, void *from, void *to) {
    ENTER;
    const auto a = (stand_in::Event *)from, b = (stand_in::Event *)to;
    if (!a->timed || !b->timed || !a->mark || !b->mark) return 400;
    if (!a->mark->passed || !b->mark->passed) return 600;
    *milliseconds = (float)((b->mark->seconds - a->mark->seconds) * 1e3);
    return 0;
}

struct Loaded {
    std::shared_ptr<stand_in::Module> module;
    std::vector<std::unique_ptr<stand_in::Function>> functions;
};
EXPORT int cuModuleLoadData(void **module, const void *image) {
    ENTER;
    std::string problem;
    stand_in::Module *loaded = stand_in::load(image, &problem);
    if (!loaded) {
        if (!problem.empty()) fprintf(stderr, "stand-in: %s\n", problem.c_str());
        return 200;
    }
    *module = new Loaded{std::shared_ptr<stand_in::Module>(loaded), {}};
    stand_in::live["module"]++;
    return 0;
}
EXPORT int cuModuleUnload(void *module) {
    ENTER_TO_FREE;
    ((Loaded *)module)->module->unloaded = true;
    delete (Loaded *)module;
    stand_in::live["module"]--;
    return code;
}
EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER;
    auto of = (Loaded *)module;
    std::unique_ptr<stand_in::Function> found(new stand_in::Function());
    if (!stand_in::find_function(of->module, name, found.get())) return 500;
    *function = found.get();
    of->functions.push_back(std::move(found));
    return 0;
}
EXPORT int cuFuncGetAttribute(int *value, int which, void *) {
    ENTER;
    *value = 1024;
    return which == 0 ? 0 : 1;
}
// Beyond 48 KiB a launch gives shared memory only to a function that was said to need it.
EXPORT int cuFuncSetAttribute(void *function, int which, int value) {
    ENTER;
    if (which != 8 || value < 0 || value > 99 * 1024) return 1;
    ((stand_in::Function *)function)->local_bytes = value;
    return 0;
}
EXPORT int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned local_bytes, void *stream, void **parameters, void **) {
    ENTER;
    if (local_bytes > (unsigned)std::max(48 * 1024, ((stand_in::Function *)function)->local_bytes)) return 1;
    const unsigned grid[3] = {gx, gy, gz}, group[3] = {bx, by, bz};
    return stand_in::queue_launch(stream, (stand_in::Function *)function, grid, group, parameters);
}

// The compiler. Its codes are its own: a context's death is none of its business.
#define ENTER_COMPILER                                            \
    stand_in::Locked locked(stand_in::lock);                      \
    stand_in::calls.push_back(__func__);                          \
    int code = 0;                                                 \
    if (stand_in::fails(__func__, &code)) return code

struct Text {
    std::string text, image, log;
};
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
EXPORT int nvrtcCreateProgram(void **program, const char *text, const char *, int headers, const char **, const char **) {
    ENTER_COMPILER;
    if (headers) return 3;
    *program = new Text{text, "", ""};
    stand_in::live["program"]++;
    return 0;
}
EXPORT int nvrtcDestroyProgram(void **program) {
    stand_in::Locked locked(stand_in::lock);
    delete (Text *)*program;
    *program = nullptr;
    stand_in::live["program"]--;
    return 0;
}
EXPORT int nvrtcCompileProgram(void *program, int count, const char **options) {
    ENTER_COMPILER;
    auto text = (Text *)program;
    std::vector<std::string> defines;
    bool chip = false;
    for (int i = 0; i < count; i++) {
        const std::string option = options[i], arch = "--gpu-architecture=";
        if (option.rfind("-D", 0) == 0) defines.push_back(option.substr(2));
        else if (option.rfind(arch + "sm_", 0) == 0 || option.rfind(arch + "compute_", 0) == 0) chip = true;
        else if (option != "--std=c++17") return 5;
    }
    if (!chip) return 5;
    return stand_in::compile(text->text, defines, &text->image, &text->log) ? 0 : 6;
}
EXPORT int nvrtcGetProgramLogSize(void *program, size_t *bytes) {
    ENTER_COMPILER;
    *bytes = ((Text *)program)->log.size() + 1;
    return 0;
}
EXPORT int nvrtcGetProgramLog(void *program, char *log) {
    ENTER_COMPILER;
    strcpy(log, ((Text *)program)->log.c_str());
    return 0;
}
EXPORT int nvrtcGetCUBINSize(void *program, size_t *bytes) {
    ENTER_COMPILER;
    *bytes = ((Text *)program)->image.size();
    return 0;
}
EXPORT int nvrtcGetCUBIN(void *program, char *image) {
    ENTER_COMPILER;
    const std::string &all = ((Text *)program)->image;
    memcpy(image, all.data(), all.size());
    return 0;
}
EXPORT int nvrtcGetPTXSize(void *program, size_t *bytes) { return nvrtcGetCUBINSize(program, bytes); }
EXPORT int nvrtcGetPTX(void *program, char *text) { return nvrtcGetCUBIN(program, text); }
