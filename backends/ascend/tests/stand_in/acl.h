// The functions of libascendcl that the back end calls, over the stand-in of `backend_emulator`; `operators.h` has those of the
// operator library.
//
// STAND_IN_SOC: the chip (Ascend910B2); STAND_IN_DEVICES: how many there are (1); STAND_IN_MIB: memory of each.
//
// Every call needs a context that is current in its thread. A device dies of a code until it has been reset as often as it was set.

#include <cmath>

static const int NO_CONTEXT = 107002, BAD_PARAMETER = 107000, BAD_DEVICE = 107001, CAPTURED = 107027, DIED = 507015;

static bool dies_of(int code) { return code >= 507010 && code < 508000; }
static const bool codes_set = (stand_in::is_last = dies_of, stand_in::bad_memory = DIED, true);

struct AclContext {
    int device, references;
};
static std::map<int, AclContext *> contexts;
static thread_local AclContext *context;
static int devices() { return setting("STAND_IN_DEVICES", 1); }
static std::string soc() {
    const char *name = getenv("STAND_IN_SOC");
    return name ? name : "Ascend910B2";
}
// 910 and 310P: f16 alone.
static bool first_generation() {
    const std::string name = soc();
    return name.rfind("Ascend310P", 0) == 0 || (name.rfind("Ascend910", 0) == 0 && !(name.size() > 10 && name[9] == 'B' && isdigit(name[10])) && name[9] != '_');
}

#define NEEDS_CONTEXT \
    ENTER;            \
    if (!context) return NO_CONTEXT

EXPORT int aclInit(const char *) {
    stand_in::Locked locked(stand_in::lock);
    if (const int code = stand_in::enter(__func__)) return code;
    if (started) return 100002;
    started = true;
    stand_in::total_bytes = (size_t)setting("STAND_IN_MIB", 4096) << 20;
    return 0;
}
EXPORT const char *aclGetRecentErrMsg() { return "EZ9999: emulated\n    [text of the library]\n"; }
EXPORT const char *aclrtGetSocName() {
    static std::string name;
    name = soc();
    return name.c_str();
}
EXPORT int aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch) {
    *major = 1, *minor = 17, *patch = 0;
    return 0;
}
EXPORT int aclrtGetDeviceCount(uint32_t *count) {
    ENTER;
    if (!started) return 100001;
    *count = devices();
    return 0;
}
EXPORT int aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
    ENTER;
    *can = device != peer;
    return 0;
}
EXPORT int aclrtSetDevice(int32_t device) {
    ENTER;
    if (!started) return 100001;
    if (device < 0 || device >= devices()) return BAD_DEVICE;
    AclContext *&of = contexts[device];
    if (!of) of = new AclContext{device, 0};
    of->references++;
    stand_in::live["context"]++;
    context = of;
    return 0;
}
EXPORT int aclrtResetDevice(int32_t device) {
    ENTER_TO_FREE;
    AclContext *of = contexts[device];
    if (!of || !of->references) return BAD_DEVICE;
    stand_in::live["context"]--;
    if (--of->references == 0) {
        stand_in::end_context();
        // Of every thread: what it points to is not freed, and is none of theirs any more.
        contexts.erase(device);
    }
    return code;
}
EXPORT int aclrtGetCurrentContext(void **to) {
    NEEDS_CONTEXT;
    *to = context;
    return 0;
}
EXPORT int aclrtSetCurrentContext(void *to) {
    stand_in::Locked locked(stand_in::lock);
    const int code = stand_in::enter(__func__);
    if (!to) return BAD_PARAMETER;
    // It stays possible on a dead device, whose functions then say that it is.
    if (!code || code == stand_in::last_code) context = (AclContext *)to;
    return code;
}
EXPORT int aclrtSynchronizeDevice() {
    NEEDS_CONTEXT;
    if (stand_in::any_capture()) return CAPTURED;
    stand_in::drain_all();
    return stand_in::last_code;
}

EXPORT int aclrtGetMemInfo(int which, size_t *free, size_t *total) {
    NEEDS_CONTEXT;
    // HBM, or DDR of a chip without it.
    const bool has = (which == 1) != (soc().rfind("Ascend310P", 0) == 0);
    *total = has ? stand_in::total_bytes : 0;
    *free = has ? stand_in::total_bytes - stand_in::used_bytes : 0;
    return 0;
}
EXPORT int aclrtMalloc(void **pointer, size_t bytes, int policy) {
    NEEDS_CONTEXT;
    if (policy != 0 || !bytes) return BAD_PARAMETER;
    const uintptr_t memory = stand_in::allocate(bytes, true);
    *pointer = (void *)memory;
    return memory ? 0 : 207001;
}
EXPORT int aclrtFree(void *pointer) {
    ENTER_TO_FREE;
    if (!stand_in::block_at((uintptr_t)pointer)) return BAD_PARAMETER;
    stand_in::live["memory"]--;
    stand_in::release((uintptr_t)pointer);
    return code;
}
EXPORT int aclrtMallocHost(void **pointer, size_t bytes) {
    NEEDS_CONTEXT;
    *pointer = aligned_alloc(4096, bytes);
    stand_in::pinned[(uintptr_t)*pointer] = bytes;
    stand_in::live["host memory"]++;
    return 0;
}
EXPORT int aclrtFreeHost(void *pointer) {
    ENTER_TO_FREE;
    stand_in::drain_all();
    stand_in::pinned.erase((uintptr_t)pointer);
    stand_in::live["host memory"]--;
    free(pointer);
    return code;
}
// Only page-locked memory of the host may be copied beside its work.
EXPORT int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, int kind, void *stream) {
    NEEDS_CONTEXT;
    auto of = stand_in::find(stream);
    if (!of || bytes > room || (kind != 1 && kind != 2)) return BAD_PARAMETER;
    if (stand_in::breaks(of)) return CAPTURED;
    if (!stand_in::in_pinned(kind == 1 ? from : to)) return BAD_PARAMETER;
    stand_in::push(of, [=] {
        const uint64_t device = (uintptr_t)(kind == 1 ? to : from);
        if (stand_in::usable(device, bytes, "a copy")) memcpy(to, from, bytes);
    });
    return 0;
}

EXPORT int aclrtCreateStream(void **stream) {
    NEEDS_CONTEXT;
    auto made = std::make_shared<stand_in::Stream>();
    stand_in::streams[made.get()] = made;
    stand_in::live["stream"]++;
    *stream = made.get();
    return 0;
}
EXPORT int aclrtDestroyStream(void *stream) {
    ENTER_TO_FREE;
    const int failed = stand_in::destroy_stream(stream);
    return failed ? BAD_PARAMETER : code;
}
EXPORT int aclrtSynchronizeStream(void *stream) {
    NEEDS_CONTEXT;
    auto of = stand_in::find(stream);
    if (!of) return BAD_PARAMETER;
    if (stand_in::breaks(of)) return CAPTURED;
    stand_in::drain(of, UINT64_MAX);
    return stand_in::last_code;
}
static int acl_code(int code) { return code == 400 ? BAD_PARAMETER : code == 900 || code == 905 ? CAPTURED : code; }
EXPORT int aclrtStreamWaitEvent(void *stream, void *event) {
    NEEDS_CONTEXT;
    if (event && !((stand_in::Event *)event)->mark) return BAD_PARAMETER;
    return acl_code(stand_in::wait(stream, (stand_in::Event *)event));
}
EXPORT int aclrtCreateEvent(void **event) {
    NEEDS_CONTEXT;
    *event = new stand_in::Event{nullptr, true};
    stand_in::live["event"]++;
    return 0;
}
EXPORT int aclrtCreateEventExWithFlag(void **event, uint32_t flags) {
    NEEDS_CONTEXT;
    if (flags != 1 && flags != 9) return BAD_PARAMETER;
    *event = new stand_in::Event{nullptr, flags == 9};
    stand_in::live["event"]++;
    return 0;
}
EXPORT int aclrtDestroyEvent(void *event) {
    ENTER_TO_FREE;
    delete (stand_in::Event *)event;
    stand_in::live["event"]--;
    return code;
}
EXPORT int aclrtRecordEvent(void *event, void *stream) {
    NEEDS_CONTEXT;
    return acl_code(stand_in::record((stand_in::Event *)event, stream));
}
EXPORT int aclrtQueryEventStatus(void *event, int *status) {
    NEEDS_CONTEXT;
    auto mark = ((stand_in::Event *)event)->mark;
    *status = mark && mark->passed;
    return 0;
}
EXPORT int aclrtSynchronizeEvent(void *event) {
    NEEDS_CONTEXT;
    auto mark = ((stand_in::Event *)event)->mark;
    if (!mark) return BAD_PARAMETER;
    stand_in::drain(mark->stream, mark->at);
    return stand_in::last_code;
}
EXPORT int aclrtEventElapsedTime(float *milliseconds, void *from, void *to) {
    NEEDS_CONTEXT;
    const auto a = (stand_in::Event *)from, b = (stand_in::Event *)to;
    if (!a->timed || !b->timed || !a->mark || !b->mark || !a->mark->passed || !b->mark->passed) return 107006;
    *milliseconds = (float)((b->mark->seconds - a->mark->seconds) * 1e3);
    return 0;
}

// Captures hold what operators would have queued.
typedef std::vector<std::function<void()>> Recorded;
static std::map<void *, Recorded> recorded;

EXPORT int aclmdlRICaptureBegin(void *stream, int mode) {
    NEEDS_CONTEXT;
    auto of = stand_in::find(stream);
    if (!of || of->capturing || mode != 2) return BAD_PARAMETER;
    of->capturing = true;
    of->broken = false;
    recorded[stream].clear();
    return 0;
}
EXPORT int aclmdlRICaptureEnd(void *stream, void **graph) {
    stand_in::Locked locked(stand_in::lock);
    const int code = stand_in::enter(__func__);
    auto of = stand_in::find(stream);
    if (!of || !of->capturing) return 107029;
    of->capturing = false;
    *graph = nullptr;
    if (code) return code;
    if (of->broken) return 507903;
    *graph = new Recorded(std::move(recorded[stream]));
    stand_in::live["graph"]++;
    return 0;
}
EXPORT int aclmdlRIExecuteAsync(void *graph, void *stream) {
    NEEDS_CONTEXT;
    auto of = stand_in::find(stream);
    if (!of) return BAD_PARAMETER;
    if (stand_in::breaks(of)) return CAPTURED;
    for (const auto &work : *(Recorded *)graph) stand_in::push(of, work);
    return 0;
}
EXPORT int aclmdlRIDestroy(void *graph) {
    ENTER_TO_FREE;
    delete (Recorded *)graph;
    stand_in::live["graph"]--;
    return code;
}
