// Compiles where a chip has matrix units for type X.

KERNEL probe(OUT(out)) {
    BIND_OUT(out);
    sums_4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    const ulong a = ITEM;
    MULTIPLY(sum, a, a);
    store_f32(out, ITEM, sum[0]);
}
