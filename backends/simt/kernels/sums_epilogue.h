// out[m, n] = act(sums[m, n] + bias[n]) + residual[m, n] of sums in f32, whose rows begin at multiples of eight; residual of type
// X, the activation ACT. A work-item has eight columns. X_IS_f32 is defined for f32.

#ifdef X_IS_bf16
#define X_CODE 2
#else
#define X_CODE 1
#endif

KERNEL sums_epilogue(OUT(out), IN(sums), IN(bias), IN(residual), i64 m, i64 n, i64 sums_stride, i64 out_stride,
                     i64 residual_stride, int out_code, int has_bias, int has_residual, int aligned) {
    BIND_OUT(out);
    BIND_IN(sums);
    BIND_IN(bias);
    BIND_IN(residual);
    // Division of 64 bits takes longer than all the rest.
    const uint eights = (uint)((n + 7) / 8), e = (uint)GROUP_X * GROUP + ITEM;
    const i64 row = e / eights, column = e % eights * 8;
    if (row >= m) return;
    const int count = (int)min_long(n - column, 8);
    const uchar *from = sums + (row * sums_stride + column) * 4;
    const uint4 low = load_16(from), high = load_16(from + 16);
    const uint words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    float added[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}, x[8];
#ifdef X_IS_f32
    for (int i = 0; i < count; i++) added[i] = has_residual ? load_f32(residual, row * residual_stride + column + i) : 0.0f;
#else
    if (has_residual) unpack_8(load_8(residual + (row * residual_stride + column) * 2, count, aligned), added);
#endif
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float sum = AS_FLOAT(words[i]);
        x[i] = activate(ACT, has_bias && i < count ? sum + FLOATS(bias)[column + i] : sum) + added[i];
    }
#ifndef X_IS_f32
    if (out_code == X_CODE) return store_8(out + (row * out_stride + column) * 2, pack_8(x), count, aligned);
#endif
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (i < count) store_any(out_code, out, row * out_stride + column + i, x[i]);
    }
}
