
static void shim_body(void **arguments) { shim::call(ENTRY, arguments); }

// Runs the groups of a grid one after the other. Returns 0; −1 when the arguments are not as many as the kernel's; −2 without
// memory; else the line of a barrier that not all work-items of a group reach.
extern "C" int shim_launch(const int *grid, int size, int wave, int backwards, void **arguments, int count) {
    using shim::group;
    if (count != shim::arity(ENTRY) || size < 1 || size > SHIM_ITEMS) return -1;
    if (!group.stacks) group.stacks = (char *)aligned_alloc(4096, SHIM_ITEMS * (__SIZE_TYPE__)SHIM_STACK);
    if (!group.stacks) return -2;
    group.size = size;
    group.wave = wave;
    group.backwards = backwards;
    group.body = shim_body;
    group.arguments = arguments;
    for (int i = 0; i < 3; i++) group.groups[i] = grid[i];
    const int count_of_groups = grid[0] * grid[1] * grid[2];
    for (int g = 0; g < count_of_groups; g++) {
        const int at = backwards ? count_of_groups - 1 - g : g;
        group.index[0] = at % grid[0];
        group.index[1] = at / grid[0] % grid[1];
        group.index[2] = at / grid[0] / grid[1];
        if (const int line = shim::run_group()) return line;
    }
    return 0;
}
