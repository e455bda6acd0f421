
// A kernel's entry, by name: shim_launch_NAME runs the groups of a grid one after the other. It returns 0; −1 when the
// arguments are not as many as the kernel's; −2 without memory; else the line of a barrier that not all work-items of a group
// reach. shim_parameters_NAME: how many parameters there are, and the bytes of each.
#define SHIM_ENTRY(kernel)                                                                                              \
    static void shim_body_##kernel(void **arguments) { shim::call(kernel, arguments); }                                 \
    extern "C" int shim_launch_##kernel(const int *grid, int size, int wave, int backwards, void **arguments, int count) { \
        if (count != shim::arity(kernel)) return -1;                                                                    \
        return shim::launch(shim_body_##kernel, grid, size, wave, backwards, arguments);                                \
    }                                                                                                                   \
    extern "C" constexpr auto shim_parameters_##kernel = shim::parameters(kernel);

namespace shim {

static int launch(void (*body)(void **), const int *grid, int size, int wave, int backwards, void **arguments) {
    if (size < 1 || size > SHIM_ITEMS) return -1;
    if (!group.stacks) group.stacks = (char *)aligned_alloc(4096, SHIM_ITEMS * (__SIZE_TYPE__)SHIM_STACK);
    if (!group.stacks) return -2;
    group.size = size;
    group.wave = wave;
    group.backwards = backwards;
    group.body = body;
    group.arguments = arguments;
    for (int i = 0; i < 3; i++) group.groups[i] = grid[i];
    const int count_of_groups = grid[0] * grid[1] * grid[2];
    for (int g = 0; g < count_of_groups; g++) {
        const int at = backwards ? count_of_groups - 1 - g : g;
        group.index[0] = at % grid[0];
        group.index[1] = at / grid[0] % grid[1];
        group.index[2] = at / grid[0] / grid[1];
        if (const int line = run_group()) return line;
    }
    return 0;
}

// A library that is unloaded takes its stacks along.
__attribute__((destructor)) static void unload() { free(group.stacks); }

template <int N> struct Parameters { int count, bytes[N ? N : 1]; };
template <class... A> static constexpr Parameters<sizeof...(A)> parameters(void (*)(A...)) {
    return {sizeof...(A), {sizeof(A)...}};
}

} // namespace shim
