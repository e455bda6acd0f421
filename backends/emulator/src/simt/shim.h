// A group of work-items on one thread of the host: fibers that run until a barrier, an exchange in their wave, or their
// end. Comes before the dialect and a program's text; `entry.h` comes after them.
//
// What a chip forgives or makes random is an error here: work-items of a group that wait at different barriers, or end while
// others wait; exchanges that not all of a wave take part in. The order of the waves, and of the items in a wave, is turned
// round in every other launch: where a barrier is missing, two launches differ.

#define SHIM_STACK (128 * 1024)
#define SHIM_ITEMS 1024
#define SHIM_LANES 64
#define SHIM_VALUE 32

extern "C" void *aligned_alloc(__SIZE_TYPE__, __SIZE_TYPE__);
extern "C" void free(void *);

namespace shim {

enum State { READY, BARRIER_WAIT, WAVE_WAIT, ENDED };

struct Fiber {
    void *stack_pointer;
    State state;
    int line;
    unsigned char value[SHIM_VALUE];
};

struct Group {
    int index[3], groups[3], size, wave, backwards;
    void (*body)(void **);
    void **arguments;
    int current;
    void *scheduler;
    Fiber fibers[SHIM_ITEMS];
    // What the items of the wave that runs gave when all of them had come to an exchange.
    int lanes;
    unsigned char given[SHIM_LANES][SHIM_VALUE];
    char *stacks;
};

static Group group;

// Saves what a called function must keep, and goes on where the other stack stopped.
extern "C" void shim_switch(void **save, void *load);
#if defined(__x86_64__)
asm(".text\n.type shim_switch,@function\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size shim_switch,.-shim_switch\n");
enum { SAVED_WORDS = 6 };
#elif defined(__aarch64__)
asm(".text\n.type shim_switch,%function\nshim_switch:\n"
    "stp x19,x20,[sp,#-160]!\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\n"
    "stp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\n"
    "ldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\n"
    "ldp d14,d15,[sp,#144]\nldp x19,x20,[sp],#160\nret\n"
    ".size shim_switch,.-shim_switch\n");
enum { SAVED_WORDS = 20 };
#else
#error "the fibers of the host are written for x86-64 and aarch64"
#endif

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_start_switch_fiber(void **, const void *, __SIZE_TYPE__);
extern "C" void __sanitizer_finish_switch_fiber(void *, const void **, __SIZE_TYPE__ *);
extern "C" void __asan_unpoison_memory_region(const volatile void *, __SIZE_TYPE__);
static const void *host_stack;
static __SIZE_TYPE__ host_stack_bytes;
#endif

// From a work-item to the scheduler, and back when it is to go on.
static void yield() {
    Fiber &fiber = group.fibers[group.current];
#if defined(__SANITIZE_ADDRESS__)
    void *fake;
    __sanitizer_start_switch_fiber(fiber.state == ENDED ? nullptr : &fake, host_stack, host_stack_bytes);
#endif
    shim_switch(&fiber.stack_pointer, group.scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &host_stack, &host_stack_bytes);
#endif
}

static void start() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
#endif
    group.body(group.arguments);
    group.fibers[group.current].state = ENDED;
    yield();
}

static void prepare(int item) {
    char *top = group.stacks + (item + 1) * (__SIZE_TYPE__)SHIM_STACK;
#if defined(__SANITIZE_ADDRESS__)
    // A fiber's first function never returns: what guards its variables is still there.
    __asan_unpoison_memory_region(top - SHIM_STACK, SHIM_STACK);
#endif
#if defined(__x86_64__)
    // As after a call: the stack is 16-byte aligned before the return address.
    void **at = (void **)(top - 64);
    at[SAVED_WORDS] = (void *)start;
    for (int i = 0; i < SAVED_WORDS; i++) at[i] = nullptr;
#else
    void **at = (void **)(top - 256);
    for (int i = 0; i < SAVED_WORDS; i++) at[i] = nullptr;
    at[11] = (void *)start; // x30
#endif
    group.fibers[item] = Fiber{at, READY, 0, {}};
}

static void resume(int item) {
    group.current = item;
    group.fibers[item].state = READY;
#if defined(__SANITIZE_ADDRESS__)
    void *fake;
    __sanitizer_start_switch_fiber(&fake, group.stacks + item * (__SIZE_TYPE__)SHIM_STACK, SHIM_STACK);
#endif
    shim_switch(&group.scheduler, group.fibers[item].stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Lets the items first..end run until each waits at a barrier or has ended, exchanging values as they ask for it.
// 0, or the line at which not all of them take part.
static int run_wave(int first, int end) {
    for (;;) {
        int waiting = 0, others = 0, line = 0;
        for (int i = 0; i < end - first; i++) {
            const int item = group.backwards ? end - 1 - i : first + i;
            Fiber &fiber = group.fibers[item];
            if (fiber.state == READY) resume(item);
            if (fiber.state == WAVE_WAIT) {
                if (waiting && fiber.line != line) return line;
                waiting++;
                line = fiber.line;
            } else {
                others++;
            }
        }
        if (!waiting) return 0;
        if (others) return line;
        group.lanes = end - first;
        for (int item = first; item < end; item++) {
            __builtin_memcpy(group.given[item - first], group.fibers[item].value, SHIM_VALUE);
            group.fibers[item].state = READY;
        }
    }
}

// Runs one group. 0, or the line of a barrier or exchange that not all work-items reach.
static int run_group() {
    for (int item = 0; item < group.size; item++) prepare(item);
    const int wave = group.wave < group.size ? group.wave : group.size, waves = (group.size + wave - 1) / wave;
    for (;;) {
        for (int i = 0; i < waves; i++) {
            const int first = (group.backwards ? waves - 1 - i : i) * wave;
            const int end = first + wave < group.size ? first + wave : group.size;
            if (const int line = run_wave(first, end)) return line;
        }
        int ended = 0, line = 0;
        for (int item = 0; item < group.size; item++) {
            const Fiber &fiber = group.fibers[item];
            if (fiber.state == ENDED) {
                ended++;
            } else if (line && fiber.line != line) {
                return line;
            } else {
                line = fiber.line;
            }
        }
        if (ended == group.size) return 0;
        if (ended) return line;
        for (int item = 0; item < group.size; item++) group.fibers[item].state = READY;
    }
}

static inline void stop(State state, int line) {
    Fiber &fiber = group.fibers[group.current];
    fiber.state = state;
    fiber.line = line;
    yield();
}

// Arguments come as an array of pointers to their values.
template <int... I> struct Indices {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Indices<I...> Type; };
template <class T> struct Plain { typedef T Type; };
template <class T> struct Plain<const T> { typedef T Type; };

template <class... A, int... I> static void apply(void (*kernel)(A...), void **arguments, Indices<I...>) {
    kernel(*(typename Plain<A>::Type *)arguments[I]...);
}
template <class... A> static void call(void (*kernel)(A...), void **arguments) {
    apply(kernel, arguments, typename Count<sizeof...(A)>::Type());
}
template <class... A> static constexpr int arity(void (*)(A...)) { return sizeof...(A); }

} // namespace shim

static inline int host_group_x() { return shim::group.index[0]; }
static inline int host_group_y() { return shim::group.index[1]; }
static inline int host_group_z() { return shim::group.index[2]; }
static inline int host_groups_x() { return shim::group.groups[0]; }
static inline int host_item() { return shim::group.current; }
static inline void host_barrier(int line) { shim::stop(shim::BARRIER_WAIT, line); }

// Shows `bytes` bytes, at most SHIM_VALUE, to the other items of the wave, which all do so at this line. `host_lane`: what
// the item of that number in the wave showed, until the next exchange.
static inline void host_exchange(const void *value, int bytes, int line) {
    __builtin_memcpy(shim::group.fibers[shim::group.current].value, value, bytes);
    shim::stop(shim::WAVE_WAIT, line);
}
static inline const void *host_lane(int lane) { return shim::group.given[lane]; }

#ifdef WAVE
#define WAVE_ITEM (host_item() % WAVE)
#define WAVE_ID (host_item() / WAVE)
#define WAVES (GROUP / WAVE)
#define WAVE_SUM(x) shim_wave_sum(x, __LINE__)
static inline float shim_wave_sum(float x, int line) {
    host_exchange(&x, sizeof x, line);
    float sum = 0.0f;
    for (int lane = 0; lane < shim::group.lanes; lane++) sum += *(const float *)host_lane(lane);
    return sum;
}
#endif

#line 1
