// Compiles where a chip has dot products of two f16.

KERNEL probe(OUT(out)) {
    BIND_OUT(out);
    store_f32(out, ITEM, dot_2(ITEM, ITEM, 0.0f));
}
