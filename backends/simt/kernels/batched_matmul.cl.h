// out[i, j, m, n] = alpha * sum_k a[i, j, m, k] * b[i, j, n, k]; a of type X, b of type Y, any strides.
//
// A group computes a tile of 16 x 16 elements, each work-item 256 / GROUP of them.

#define SIDE 16
#define EACH (SIDE * SIDE / GROUP)

KERNEL batched_matmul(OUT(out), IN(a), IN(b), i64 n1, i64 m, i64 n, i64 k, i64 o0, i64 o1, i64 o2, i64 o3, i64 a0, i64 a1,
                      i64 a2, i64 a3, i64 b0, i64 b1, i64 b2, i64 b3, int out_code, float alpha) {
    BIND_OUT(out);
    BIND_IN(a);
    BIND_IN(b);
    LOCAL float left[SIDE * SIDE];
    LOCAL float right[SIDE * (SIDE + 1)];
    const i64 tiles_n = (n + SIDE - 1) / SIDE, tiles_m = (m + SIDE - 1) / SIDE;
    const i64 tile = GROUP_X, batch = tile / tiles_n / tiles_m, i0 = batch / n1, i1 = batch % n1;
    const i64 from_m = tile / tiles_n % tiles_m * SIDE, from_n = tile % tiles_n * SIDE;
    const i64 at_a = i0 * a0 + i1 * a1, at_b = i0 * b0 + i1 * b1;
    float sum[EACH];
    for (int e = 0; e < EACH; e++) sum[e] = 0.0f;
    for (i64 k0 = 0; k0 < k; k0 += SIDE) {
        for (int e = ITEM; e < SIDE * SIDE; e += GROUP) {
            const int r = e / SIDE, c = e % SIDE;
            const int in_a = from_m + r < m && k0 + c < k, in_b = from_n + r < n && k0 + c < k;
            left[r * SIDE + c] = in_a ? LOAD(X, a, at_a + (from_m + r) * a2 + (k0 + c) * a3) : 0.0f;
            right[c * (SIDE + 1) + r] = in_b ? LOAD(Y, b, at_b + (from_n + r) * b2 + (k0 + c) * b3) : 0.0f;
        }
        BARRIER;
        for (int e = 0; e < EACH; e++) {
            const int at = ITEM + e * GROUP, r = at / SIDE, c = at % SIDE;
            for (int q = 0; q < SIDE; q++) sum[e] = FMA(left[r * SIDE + q], right[q * (SIDE + 1) + c], sum[e]);
        }
        BARRIER;
    }
    for (int e = 0; e < EACH; e++) {
        const int at = ITEM + e * GROUP;
        const i64 r = from_m + at / SIDE, c = from_n + at % SIDE;
        if (r < m && c < n) store_any(out_code, out, i0 * o0 + i1 * o1 + r * o2 + c * o3, alpha * sum[e]);
    }
}
