// out = a + alpha * b (kind 0), a - alpha * b (1), a * alpha * b (2), elements of type X, any strides.

KERNEL elementwise(OUT(out), IN(a), IN(b), i64 n0, i64 n1, i64 n2, i64 n3, i64 o0, i64 o1, i64 o2, i64 o3,
                   i64 a0, i64 a1, i64 a2, i64 a3, i64 b0, i64 b1, i64 b2, i64 b3, int kind, float alpha) {
    BIND_OUT(out);
    BIND_IN(a);
    BIND_IN(b);
    const i64 n = n0 * n1 * n2 * n3, step = (i64)GROUPS_X * GROUP;
    for (i64 i = (i64)GROUP_X * GROUP + ITEM; i < n; i += step) {
        const i64 i3 = i % n3, r = i / n3, i2 = r % n2, q = r / n2, i1 = q % n1, i0 = q / n1;
        const float x = LOAD(X, a, i0 * a0 + i1 * a1 + i2 * a2 + i3 * a3);
        const float y = alpha * LOAD(X, b, i0 * b0 + i1 * b1 + i2 * b2 + i3 * b3);
        STORE(X, out, i0 * o0 + i1 * o1 + i2 * o2 + i3 * o3, kind == 0 ? x + y : kind == 1 ? x - y : x * y);
    }
}
