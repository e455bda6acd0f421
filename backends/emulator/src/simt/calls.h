// The calls that vendors' runtimes have in common, under the names that a vendor's file defines before this one: CALL_STREAM is
// its function that makes a stream. That file also says how the compiler's options look: LANGUAGE, and is_target, which may
// define what the host is to know of the target. A vendor without these calls and kernels defines none.

#ifdef CALL_STREAM

EXPORT int CALL_FINISH() {
    ENTER;
    if (current < 0) return 201;
    if (stand_in::any_capture()) return 900;
    stand_in::drain_all();
    return stand_in::last_code;
}

EXPORT int CALL_MEMORY_INFO(size_t *free, size_t *total) {
    ENTER;
    *total = stand_in::total_bytes;
    *free = stand_in::total_bytes - stand_in::used_bytes;
    return 0;
}
EXPORT int CALL_POOL(void **pool, int) {
    ENTER;
    if (!setting("STAND_IN_POOLS", 1)) return 801;
    *pool = &stand_in::blocks;
    return 0;
}
EXPORT int CALL_POOL_SET(void *, int which, void *value) {
    ENTER;
    return which == 4 && *(uint64_t *)value == UINT64_MAX ? 0 : 1;
}
EXPORT int CALL_POOL_TRIM(void *, size_t) {
    ENTER;
    return 0;
}
EXPORT int CALL_POOL_ALLOC(uint64_t *pointer, size_t bytes, void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of || current < 0) return 201;
    const uintptr_t memory = stand_in::allocate(bytes, false);
    if (!memory) return 2;
    stand_in::push(of, [memory] { stand_in::blocks[memory].ready = true; });
    *pointer = memory;
    return 0;
}
EXPORT int CALL_POOL_FREE(uint64_t pointer, void *stream) {
    ENTER_TO_FREE;
    auto of = stand_in::find(stream);
    if (!of || !stand_in::block_at(pointer)) return 400;
    stand_in::live["memory"]--;
    stand_in::push(of, [pointer] { stand_in::release(pointer); });
    return code;
}
EXPORT int CALL_ALLOC(uint64_t *pointer, size_t bytes) {
    ENTER;
    if (current < 0) return 201;
    const uintptr_t memory = stand_in::allocate(bytes, true);
    *pointer = memory;
    return memory ? 0 : 2;
}
EXPORT int CALL_FREE(uint64_t pointer) {
    ENTER_TO_FREE;
    if (!stand_in::block_at(pointer)) return 1;
    stand_in::live["memory"]--;
    stand_in::release(pointer);
    return code;
}
EXPORT int CALL_HOST_ALLOC(void **pointer, size_t bytes, unsigned) {
    ENTER;
    *pointer = aligned_alloc(4096, bytes);
    stand_in::pinned[(uintptr_t)*pointer] = bytes;
    stand_in::live["host memory"]++;
    return 0;
}
EXPORT int CALL_HOST_FREE(void *pointer) {
    ENTER_TO_FREE;
    // What still waits for its bytes gets them first.
    stand_in::drain_all();
    stand_in::pinned.erase((uintptr_t)pointer);
    stand_in::live["host memory"]--;
    free(pointer);
    return code;
}
// From page-locked memory bytes are read when the copy runs; from other memory at once.
EXPORT int CALL_UPLOAD(uint64_t to, const void *from, size_t bytes, void *stream) {
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
EXPORT int CALL_DOWNLOAD(void *to, uint64_t from, size_t bytes, void *stream) {
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

EXPORT int CALL_STREAM(void **stream, unsigned flags) {
    ENTER;
    if (flags != 1 || current < 0) return 1;
    auto made = std::make_shared<stand_in::Stream>();
    stand_in::streams[made.get()] = made;
    stand_in::live["stream"]++;
    *stream = made.get();
    return 0;
}
EXPORT int CALL_STREAM_DESTROY(void *stream) {
    ENTER_TO_FREE;
    const int failed = stand_in::destroy_stream(stream);
    return failed ? failed : code;
}
EXPORT int CALL_STREAM_SYNCHRONIZE(void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of) return 400;
    if (stand_in::breaks(of)) return 900;
    stand_in::drain(of, UINT64_MAX);
    return stand_in::last_code;
}
EXPORT int CALL_STREAM_WAIT(void *stream, void *event, unsigned) {
    ENTER;
    return stand_in::wait(stream, (stand_in::Event *)event);
}
EXPORT int CALL_CAPTURE_BEGIN(void *stream, int mode) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of || of->capturing || mode != 2) return 900;
    of->capturing = true;
    of->broken = false;
    of->captured.clear();
    return 0;
}
EXPORT int CALL_CAPTURE_END(void *stream, void **graph) {
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
EXPORT int CALL_GRAPH_MAKE(void **made, void *graph, unsigned long long) {
    ENTER;
    *made = new stand_in::Graph(*(stand_in::Graph *)graph);
    stand_in::live["launchable graph"]++;
    return 0;
}
EXPORT int CALL_GRAPH_LAUNCH(void *graph, void *stream) {
    ENTER;
    auto of = stand_in::find(stream);
    if (!of) return 400;
    if (stand_in::breaks(of)) return 900;
    for (const auto &launch : ((stand_in::Graph *)graph)->launches) stand_in::push(of, launch);
    return 0;
}
EXPORT int CALL_GRAPH_DESTROY(void *graph) {
    ENTER_TO_FREE;
    delete (stand_in::Graph *)graph;
    stand_in::live["graph"]--;
    return code;
}
EXPORT int CALL_GRAPH_UNMAKE(void *graph) {
    ENTER_TO_FREE;
    delete (stand_in::Graph *)graph;
    stand_in::live["launchable graph"]--;
    return code;
}

EXPORT int CALL_EVENT(void **event, unsigned flags) {
    ENTER;
    if (current < 0) return 201;
    *event = new stand_in::Event{nullptr, !(flags & 2)};
    stand_in::live["event"]++;
    return 0;
}
EXPORT int CALL_EVENT_DESTROY(void *event) {
    ENTER_TO_FREE;
    delete (stand_in::Event *)event;
    stand_in::live["event"]--;
    return code;
}
EXPORT int CALL_EVENT_RECORD(void *event, void *stream) {
    ENTER;
    return stand_in::record((stand_in::Event *)event, stream);
}
EXPORT int CALL_EVENT_SYNCHRONIZE(void *event) {
    ENTER;
    auto mark = ((stand_in::Event *)event)->mark;
    if (mark) stand_in::drain(mark->stream, mark->at);
    return stand_in::last_code;
}
EXPORT int CALL_EVENT_ELAPSED(float *milliseconds, void *from, void *to) {
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
EXPORT int CALL_MODULE(void **module, const void *image) {
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
EXPORT int CALL_MODULE_UNLOAD(void *module) {
    ENTER_TO_FREE;
    ((Loaded *)module)->module->unloaded = true;
    delete (Loaded *)module;
    stand_in::live["module"]--;
    return code;
}
EXPORT int CALL_FUNCTION(void **function, void *module, const char *name) {
    ENTER;
    auto of = (Loaded *)module;
    std::unique_ptr<stand_in::Function> found(new stand_in::Function());
    if (!stand_in::find_function(of->module, name, found.get())) return 500;
    *function = found.get();
    of->functions.push_back(std::move(found));
    return 0;
}
EXPORT int CALL_FUNCTION_ATTRIBUTE(int *value, int which, void *) {
    ENTER;
    *value = (int)stand_in::max_group;
    return which == 0 ? 0 : 1;
}
EXPORT int CALL_LAUNCH(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned local_bytes, void *stream, void **parameters, void **) {
    ENTER;
    if (local_bytes > (unsigned)std::max(48 * 1024, ((stand_in::Function *)function)->local_bytes)) return 1;
    const unsigned grid[3] = {gx, gy, gz}, group[3] = {bx, by, bz};
    if ((uint64_t)gx * bx > stand_in::max_items) return 1;
    return stand_in::queue_launch(stream, (stand_in::Function *)function, grid, group, parameters);
}

// The compiler.
struct Text {
    std::string text, image, log;
};

EXPORT int CALL_PROGRAM(void **program, const char *text, const char *, int headers, const char **, const char **) {
    ENTER_COMPILER;
    if (headers) return 3;
    *program = new Text{text, "", ""};
    stand_in::live["program"]++;
    return 0;
}
EXPORT int CALL_PROGRAM_DESTROY(void **program) {
    stand_in::Locked locked(stand_in::lock);
    delete (Text *)*program;
    *program = nullptr;
    stand_in::live["program"]--;
    return 0;
}
EXPORT int CALL_PROGRAM_COMPILE(void *program, int count, const char **options) {
    ENTER_COMPILER;
    auto text = (Text *)program;
    std::vector<std::string> defines;
    bool chip = false;
    for (int i = 0; i < count; i++) {
        const std::string option = options[i];
        if (option.rfind("-D", 0) == 0) defines.push_back(option.substr(2));
        else if (is_target(option, defines)) chip = true;
        else if (option != LANGUAGE) return 5;
    }
    if (!chip) return 5;
    return stand_in::compile(text->text, defines, &text->image, &text->log) ? 0 : 6;
}
EXPORT int CALL_PROGRAM_LOG_SIZE(void *program, size_t *bytes) {
    ENTER_COMPILER;
    *bytes = ((Text *)program)->log.size() + 1;
    return 0;
}
EXPORT int CALL_PROGRAM_LOG(void *program, char *log) {
    ENTER_COMPILER;
    strcpy(log, ((Text *)program)->log.c_str());
    return 0;
}
EXPORT int CALL_PROGRAM_CODE_SIZE(void *program, size_t *bytes) {
    ENTER_COMPILER;
    *bytes = ((Text *)program)->image.size();
    return 0;
}
EXPORT int CALL_PROGRAM_CODE(void *program, char *image) {
    ENTER_COMPILER;
    const std::string &all = ((Text *)program)->image;
    memcpy(image, all.data(), all.size());
    return 0;
}

#endif
