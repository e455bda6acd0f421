// A vendor's runtime on the host, for tests of the back end that calls it: devices, memory, streams, events, modules, graphs.
//
// A file for each vendor puts its names over this one and defines the codes. Nothing runs before somebody waits for it, so
// that what is not ordered is not done: a stream's work is done when the host waits for it, or another stream that must wait
// for it gets there. Every function is counted and can be made to fail. Kernels are what `shim.h` makes of them.
//
// What a chip would do silently is an error here: memory that is used before its allocation or after its release in the order
// of the streams, page-locked bytes that change while a copy waits for them, host calls that a capture forbids.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

namespace stand_in {

typedef unsigned char byte;

static std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> Locked;

// What tests ask for.
static std::vector<std::string> calls;
static std::set<std::string> kernels_run;
static std::string fail_function;
static int fail_at, fail_code;
static int last_code; // what the context died of
static bool one_context; // the process has one, from its start on
static std::map<std::string, long> live;

// Codes after which a context is dead, and that of memory which is not what it should be. A vendor of other codes sets both.
static bool (*is_last)(int) = [](int code) {
    return code == 214 || code == 201 || (code >= 700 && code <= 719 && code != 701 && code != 704 && code != 705) || code == 999;
};
static int bad_memory = 700;

static bool fails(const char *function, int *code) {
    const bool any = fail_function.empty() && strcmp(function, "kernel");
    if (fail_at == 0 || !(any || fail_function == function)) return false;
    const bool now = fail_at < 0 || fail_at == 1;
    fail_at += fail_at < 0 ? 1 : -1;
    if (now) *code = fail_code;
    return now;
}

// Counts a call. The code with which it fails, or 0.
static int enter(const char *function) {
    calls.push_back(function);
    int code = 0;
    if (fails(function, &code) && is_last(code) && (one_context || live["context"])) last_code = code;
    return last_code ? last_code : code;
}

// What a stream has to do.
struct Stream;
struct Mark {
    std::shared_ptr<Stream> stream;
    uint64_t at;
    bool passed;
    double seconds;
};
struct Module {
    void *library;
    bool unloaded;
    ~Module() { if (library) dlclose(library); }
};
struct Function {
    std::shared_ptr<Module> module;
    int (*launch)(const int *, int, int, int, void **, int);
    const int *parameters; // how many, and the bytes of each
    int local_bytes;       // that a launch may give it
    std::string name;
};
struct Launch {
    std::shared_ptr<Module> module;
    Function function;
    int grid[3], group;
    std::vector<std::vector<byte>> arguments;
};
struct Stream {
    std::deque<std::function<void()>> pending;
    uint64_t queued = 0, done = 0;
    bool capturing = false, broken = false;
    std::vector<std::function<void()>> captured;
};
struct Event {
    std::shared_ptr<Mark> mark;
    bool timed;
};
struct Graph {
    std::vector<std::function<void()>> launches;
};

static std::map<Stream *, std::shared_ptr<Stream>> streams;
static std::vector<std::shared_ptr<Stream>> orphans; // destroyed with work to do

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Device memory. `live` counts what the caller has not given back; it is freed when its stream gets there.
struct Block {
    size_t bytes;
    bool ready, freed;
};
static std::map<uintptr_t, Block> blocks;
static std::deque<uintptr_t> graveyard;
static size_t graveyard_bytes, used_bytes, total_bytes = (size_t)4 << 30;
static std::map<uintptr_t, size_t> pinned;
static int wave = 32;
static unsigned max_group = 1024;
static uint64_t max_items = UINT64_MAX; // of a launch, in its first dimension

static Block *block_at(uint64_t pointer) {
    auto after = blocks.upper_bound((uintptr_t)pointer);
    if (after == blocks.begin()) return nullptr;
    --after;
    return pointer < after->first + after->second.bytes ? &after->second : nullptr;
}

static bool in_pinned(const void *pointer) {
    auto after = pinned.upper_bound((uintptr_t)pointer);
    if (after == pinned.begin()) return false;
    --after;
    return (uintptr_t)pointer < after->first + after->second;
}

// The context dies of `code`, as the next call will say.
static void die(int code, const std::string &why) {
    if (!last_code) last_code = code;
    fprintf(stderr, "stand-in: %s\n", why.c_str());
}

static bool usable(uint64_t pointer, size_t bytes, const char *who) {
    Block *block = block_at(pointer);
    if (block && block->ready && !block->freed && block_at(pointer + bytes - 1) == block) return true;
    const char *what = !block ? "no memory" : block->freed ? "memory that was freed" : !block->ready ? "memory before its allocation" : "more than its memory";
    die(bad_memory, std::string(who) + " uses " + what);
    return false;
}

static void drain(const std::shared_ptr<Stream> &stream, uint64_t until) {
    while (stream->done < until && !stream->pending.empty()) {
        std::function<void()> work = std::move(stream->pending.front());
        stream->pending.pop_front();
        stream->done++;
        // Nothing runs in a dead context.
        if (!last_code) work();
    }
}

static void drain_all() {
    for (auto &entry : std::map<Stream *, std::shared_ptr<Stream>>(streams)) drain(entry.second, UINT64_MAX);
    for (auto &stream : std::vector<std::shared_ptr<Stream>>(orphans)) drain(stream, UINT64_MAX);
    orphans.clear();
}

static std::shared_ptr<Stream> find(void *stream) {
    auto found = streams.find((Stream *)stream);
    return found == streams.end() ? nullptr : found->second;
}

static void push(const std::shared_ptr<Stream> &stream, std::function<void()> work) {
    stream->pending.push_back(std::move(work));
    stream->queued++;
}

// What a capture holds: launches.
static void push_launch(const std::shared_ptr<Stream> &stream, std::function<void()> work) {
    if (stream->capturing) stream->captured.push_back(std::move(work));
    else push(stream, std::move(work));
}

// A call that a stream in a capture does not take, and breaks the capture.
static bool breaks(const std::shared_ptr<Stream> &stream) {
    if (!stream->capturing) return false;
    stream->broken = true;
    return true;
}

static bool any_capture() {
    for (auto &entry : streams) if (entry.second->capturing) return true;
    return false;
}

static uintptr_t allocate(size_t bytes, bool ready) {
    if (bytes == 0 || bytes > total_bytes - used_bytes) return 0;
    const size_t whole = (bytes + 511) / 512 * 512;
    void *memory = aligned_alloc(512, whole);
    if (!memory) return 0;
    // A chip's memory is not zero.
    memset(memory, 0xcb, std::min(whole, (size_t)1 << 20));
    used_bytes += bytes;
    live["memory"]++;
    blocks[(uintptr_t)memory] = Block{bytes, ready, false};
    return (uintptr_t)memory;
}

static void release(uintptr_t pointer) {
    auto found = blocks.find(pointer);
    if (found == blocks.end() || found->second.freed) return die(bad_memory, "a pointer is freed that is none");
    Block &block = found->second;
    block.freed = true;
    memset((void *)pointer, 0xdd, std::min(block.bytes, (size_t)1 << 20));
    used_bytes -= block.bytes;
    graveyard.push_back(pointer);
    graveyard_bytes += block.bytes;
    while (graveyard_bytes > ((size_t)256 << 20)) {
        const uintptr_t oldest = graveyard.front();
        graveyard.pop_front();
        graveyard_bytes -= blocks[oldest].bytes;
        blocks.erase(oldest);
        free((void *)oldest);
    }
}

// A context goes, with what it still had to free.
static void end_context() {
    drain_all();
    for (auto &entry : streams) entry.second->pending.clear();
    std::vector<uintptr_t> left;
    for (auto &entry : blocks) if (!entry.second.freed) left.push_back(entry.first);
    for (uintptr_t pointer : left) release(pointer);
    // The next one is another context.
    last_code = 0;
}

static void run(const Launch &launch) {
    static unsigned launches;
    int code = 0;
    if (fails("kernel", &code)) return die(code, launch.function.name + " is made to fail");
    kernels_run.insert(launch.function.name);
    if (launch.module->unloaded) return die(718, launch.function.name + " runs without its module");
    std::vector<void *> pointers;
    std::vector<std::vector<byte>> values = launch.arguments;
    for (auto &value : values) {
        pointers.push_back(value.data());
        if (value.size() != 8) continue;
        // Whatever looks like a pointer to device memory is one.
        uint64_t pointer;
        memcpy(&pointer, value.data(), 8);
        if (block_at(pointer) && !usable(pointer, 1, launch.function.name.c_str())) return;
    }
    const int line = launch.function.launch(launch.grid, launch.group, wave, launches++ % 2, pointers.data(), (int)pointers.size());
    if (line) die(719, launch.function.name + ": barrier at line " + std::to_string(line));
}

// 0, or 1 for sizes that no chip takes, or 400 for no stream.
static int queue_launch(void *stream, const Function *function, const unsigned *grid, const unsigned *group, void **parameters) {
    auto to = find(stream);
    if (!to || !function) return 400;
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) return 1;
    if (group[0] < 1 || group[0] > max_group || group[1] != 1 || group[2] != 1) return 1;
    Launch launch{function->module, *function, {(int)grid[0], (int)grid[1], (int)grid[2]}, (int)group[0], {}};
    for (int i = 0; i < function->parameters[0]; i++) {
        const byte *value = (const byte *)parameters[i];
        launch.arguments.emplace_back(value, value + function->parameters[1 + i]);
    }
    push_launch(to, [launch] { run(launch); });
    return 0;
}

static int record(Event *event, void *stream) {
    auto of = find(stream);
    if (!of || !event) return 400;
    if (breaks(of)) return 900;
    auto mark = std::make_shared<Mark>(Mark{of, of->queued + 1, false, 0.0});
    push(of, [mark] {
        mark->passed = true;
        mark->seconds = now();
    });
    event->mark = mark;
    return 0;
}

static int wait(void *stream, const Event *event) {
    auto of = find(stream);
    if (!of || !event) return 400;
    if (breaks(of)) return 905;
    auto mark = event->mark;
    if (mark) push(of, [mark] { drain(mark->stream, mark->at); });
    return 0;
}

static int destroy_stream(void *stream) {
    auto found = find(stream);
    if (!found) return 400;
    if (!found->pending.empty()) orphans.push_back(found);
    streams.erase(found.get());
    live["stream"]--;
    return 0;
}

// Modules: a word, the number of bytes, and a library that the host's loader takes.
static const char MAGIC[8] = {'G', 'L', 'M', 'H', 'O', 'S', 'T', '1'};

static Module *load(const void *image, std::string *problem) {
    if (memcmp(image, MAGIC, 8) != 0) return nullptr;
    uint64_t bytes;
    memcpy(&bytes, (const byte *)image + 8, 8);
    char path[] = "/tmp/glm-stand-in-XXXXXX";
    const int file = mkstemp(path);
    if (file < 0) return nullptr;
    const byte *from = (const byte *)image + 16;
    uint64_t written = 0;
    while (written < bytes) {
        const ssize_t n = write(file, from + written, bytes - written);
        if (n <= 0) break;
        written += n;
    }
    close(file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) *problem = dlerror();
    unlink(path);
    return library ? new Module{library, false} : nullptr;
}

static bool find_function(const std::shared_ptr<Module> &module, const char *name, Function *function) {
    const std::string launch = std::string("shim_launch_") + name, parameters = std::string("shim_parameters_") + name;
    function->module = module;
    function->launch = (int (*)(const int *, int, int, int, void **, int))dlsym(module->library, launch.c_str());
    function->parameters = (const int *)dlsym(module->library, parameters.c_str());
    function->name = name;
    return function->launch && function->parameters;
}

// Compiling: the definitions, the shim, the text, and an entry for each of its kernels.
static const char SHIM[] = R"SHIM(@shim.h@)SHIM";
static const char ENTRY[] = R"SHIM(@entry.h@)SHIM";

static std::string contents(const std::string &path) {
    std::string all;
    if (FILE *file = fopen(path.c_str(), "rb")) {
        char part[4096];
        size_t n;
        while ((n = fread(part, 1, sizeof part, file)) > 0) all.append(part, n);
        fclose(file);
    }
    return all;
}

// The names of the kernels: KERNEL name(
static std::vector<std::string> kernels(const std::string &text) {
    std::vector<std::string> names;
    const std::string word = "\nKERNEL ";
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
        const size_t begin = at + word.size(), end = text.find('(', begin);
        if (end != std::string::npos) names.push_back(text.substr(begin, end - begin));
    }
    return names;
}

// Whether it compiled; then `image` is its module, else `log` says why not.
static bool compile(const std::string &text, const std::vector<std::string> &defines, std::string *image, std::string *log) {
    char folder[] = "/tmp/glm-stand-in-XXXXXX";
    if (!mkdtemp(folder)) {
        *log = "no folder for temporary files";
        return false;
    }
    const std::string base = std::string(folder) + "/k", source = base + ".cc", built = base + ".so", errors = base + ".log";
    std::string all;
    for (const std::string &define : defines) {
        std::string line = define;
        const size_t is = line.find('=');
        if (is != std::string::npos) line[is] = ' ';
        all += "#define " + line + "\n";
    }
    all += SHIM + text + ENTRY;
    for (const std::string &name : kernels(text)) all += "SHIM_ENTRY(" + name + ")\n";
    if (FILE *file = fopen(source.c_str(), "wb")) {
        fwrite(all.data(), 1, all.size(), file);
        fclose(file);
    }
    const char *compiler = getenv("CXX");
    const std::string command = std::string(compiler ? compiler : "c++") +
        " -x c++ -std=c++17 -O1 -shared -fPIC -fno-exceptions -fno-rtti -fno-strict-aliasing -w " + source + " -o " + built +
        " 2> " + errors;
    const bool done = system(command.c_str()) == 0;
    *log = contents(errors);
    if (done) {
        const std::string library = contents(built);
        const uint64_t bytes = library.size();
        *image = std::string(MAGIC, 8) + std::string((const char *)&bytes, 8) + library;
    }
    for (const std::string &path : {source, built, errors}) unlink(path.c_str());
    rmdir(folder);
    return done;
}

} // namespace stand_in

// For tests.

// Lets the n-th call from now on of `function` fail with `code`: of any, when it is empty; the n-th kernel that runs, when it is
// "kernel". 0: none; -n: each of the next n.
extern "C" void stand_in_fail(const char *function, int n, int code) {
    stand_in::Locked locked(stand_in::lock);
    stand_in::fail_function = function;
    stand_in::fail_at = n;
    stand_in::fail_code = code;
}

// The names of the calls since this was last called, with a line for each.
extern "C" char *stand_in_calls() {
    stand_in::Locked locked(stand_in::lock);
    std::string all;
    for (auto &call : stand_in::calls) all += call + "\n";
    stand_in::calls.clear();
    return strdup(all.c_str());
}

// The names of the kernels that have run, with a line for each.
extern "C" char *stand_in_kernels() {
    stand_in::Locked locked(stand_in::lock);
    std::string all;
    for (auto &kernel : stand_in::kernels_run) all += kernel + "\n";
    return strdup(all.c_str());
}

// What was made and not given back: "memory 2\nstream 1\n".
extern "C" char *stand_in_live() {
    stand_in::Locked locked(stand_in::lock);
    std::string all;
    for (auto &entry : stand_in::live)
        if (entry.second) all += entry.first + " " + std::to_string(entry.second) + "\n";
    return strdup(all.c_str());
}

// For vendors' files.

#define EXPORT extern "C" __attribute__((visibility("default")))
// Every function: counted, made to fail if it is to, and dead after the context has died.
#define ENTER                                        \
    stand_in::Locked locked(stand_in::lock);         \
    if (const int code = stand_in::enter(__func__)) return code
// Functions that give something back do so in any case, as a code may be of earlier work.
#define ENTER_TO_FREE                                \
    stand_in::Locked locked(stand_in::lock);         \
    const int code = stand_in::enter(__func__)
// The compiler's codes are its own: a context's death is none of its business.
#define ENTER_COMPILER                                            \
    stand_in::Locked locked(stand_in::lock);                      \
    stand_in::calls.push_back(__func__);                          \
    int code = 0;                                                 \
    if (stand_in::fails(__func__, &code)) return code

static int setting(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

// The device of this thread. None, until one is chosen.
static thread_local int current = -1;
static bool started;
