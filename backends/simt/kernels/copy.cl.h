// out = x, bit for bit: elements of the unsigned type UNIT with any strides, or words where both are contiguous.

KERNEL copy(OUT(out), IN(x), i64 n0, i64 n1, i64 n2, i64 n3, i64 o0, i64 o1, i64 o2, i64 o3,
            i64 x0, i64 x1, i64 x2, i64 x3) {
    BIND_OUT(out);
    BIND_IN(x);
    const i64 n = n0 * n1 * n2 * n3, step = (i64)GROUPS_X * GROUP;
    for (i64 i = (i64)GROUP_X * GROUP + ITEM; i < n; i += step) {
        const i64 i3 = i % n3, r = i / n3, i2 = r % n2, q = r / n2, i1 = q % n1, i0 = q / n1;
        ((GLOBAL UNIT *)out)[i0 * o0 + i1 * o1 + i2 * o2 + i3 * o3] =
            ((GLOBAL const UNIT *)x)[i0 * x0 + i1 * x1 + i2 * x2 + i3 * x3];
    }
}

// Words under way of each work-item.
#define WORDS 4

KERNEL copy_words(OUT(out), IN(x), i64 n) {
    BIND_OUT(out);
    BIND_IN(x);
    const i64 step = (i64)GROUPS_X * GROUP;
    for (i64 i = (i64)GROUP_X * GROUP + ITEM; i < n; i += WORDS * step) {
        uint words[WORDS];
        for (int j = 0; j < WORDS; j++) words[j] = i + j * step < n ? ((GLOBAL const uint *)x)[i + j * step] : 0;
        for (int j = 0; j < WORDS; j++) {
            if (i + j * step < n) ((GLOBAL uint *)out)[i + j * step] = words[j];
        }
    }
}
