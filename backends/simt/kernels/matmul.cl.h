// out[m, n] = act(sum_k x[m, k] * w[n, k] + bias[n]) + residual[m, n]; x and residual of type X.
//
// Two ways: `matmul_row` for few rows of x (one group per element of out, work-items along k, so that the weight is read
// once and in order), `matmul_tile` for many (a tile of out per group, blocks of both operands in local memory, RM x RN
// elements per work-item in registers).

KERNEL matmul_row(OUT(out), IN(x), IN(weight), IN(bias), IN(residual), i64 m, i64 n, i64 k, i64 row_bytes, i64 scales_at,
                  i64 out_stride, i64 x_stride, i64 residual_stride, int out_code, int has_bias, int act,
                  int has_residual) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    BIND_IN(residual);
    LOCAL float scratch[GROUP];
    const i64 i = GROUP_Y, j = GROUP_X;
    GLOBAL const uchar *row = weight + j * row_bytes;
    x += i * x_stride * BYTES(X);
    float w[8], part[8];
    for (int e = 0; e < 8; e++) part[e] = 0.0f;
    const i64 whole = k & ~(i64)7;
    for (i64 c = 8 * ITEM; c < whole; c += 8 * GROUP) {
        weight_8(row, c, w);
#if SCALED == 2
        const float scale = weight_scale(weight + scales_at, j, k, c);
        for (int e = 0; e < 8; e++) w[e] *= scale;
#endif
        for (int e = 0; e < 8; e++) part[e] = FMA(LOAD(X, x, c + e), w[e], part[e]);
    }
    float sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    // What is left of k, up to 7 columns.
    for (i64 c = whole + ITEM; c < k; c += GROUP) {
        float last = LOAD(X, x, c) * weight_at(row, c);
#if SCALED == 2
        last *= weight_scale(weight + scales_at, j, k, c);
#endif
        sum += last;
    }
    sum = group_sum(sum, scratch);
#if SCALED == 1
    sum *= weight_scale(weight + scales_at, j, k, 0);
#endif
    if (ITEM == 0) {
        epilogue(out, bias, residual, i, j, out_stride, residual_stride, out_code, has_bias, act, has_residual, sum);
    }
}

// SIDE x SIDE work-items, each with RM x RN elements.
#define TM (SIDE * RM)
#define TN (SIDE * RN)
#define TK 16

KERNEL matmul_tile(OUT(out), IN(x), IN(weight), IN(bias), IN(residual), i64 m, i64 n, i64 k, i64 row_bytes, i64 scales_at,
                   i64 out_stride, i64 x_stride, i64 residual_stride, int out_code, int has_bias, int act,
                   int has_residual) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    BIND_IN(residual);
    LOCAL float a[TK * TM];
    LOCAL float b[TK * TN];
    const i64 tiles = (m + TM - 1) / TM, m0 = GROUP_X % tiles * TM, n0 = GROUP_X / tiles * TN;
    const int ti = ITEM / SIDE, tj = ITEM % SIDE;
    float sum[RM * RN];
    for (int e = 0; e < RM * RN; e++) sum[e] = 0.0f;
    for (i64 k0 = 0; k0 < k; k0 += TK) {
        for (int e = ITEM; e < TM * TK; e += GROUP) {
            const int i = e / TK, c = e % TK;
            a[c * TM + i] = m0 + i < m && k0 + c < k ? LOAD(X, x, (m0 + i) * x_stride + k0 + c) : 0.0f;
        }
        for (int e = ITEM; e < TN * TK / 8; e += GROUP) {
            const int j = e / (TK / 8), c = e % (TK / 8) * 8;
            float w[8], scale = 1.0f;
            // Columns from k to the end of the packed row are zeros; beyond it there is nothing to read.
            const int there = n0 + j < n && k0 + c < k;
            for (int q = 0; q < 8; q++) w[q] = 0.0f;
            if (there) {
                weight_8(weight + (n0 + j) * row_bytes, k0 + c, w);
                scale = weight_scale(weight + scales_at, n0 + j, k, k0 + c);
            }
            for (int q = 0; q < 8; q++) b[(c + q) * TN + j] = w[q] * scale;
        }
        BARRIER;
        // Unrolled in full, this takes compilers seconds.
#pragma unroll 2
        for (int c = 0; c < TK; c++) {
            float u[RM], v[RN];
            for (int i = 0; i < RM; i++) u[i] = a[c * TM + ti * RM + i];
            for (int j = 0; j < RN; j++) v[j] = b[c * TN + tj * RN + j];
            for (int i = 0; i < RM; i++) {
                for (int j = 0; j < RN; j++) sum[i * RN + j] = FMA(u[i], v[j], sum[i * RN + j]);
            }
        }
        BARRIER;
    }
    for (int i = 0; i < RM; i++) {
        for (int j = 0; j < RN; j++) {
            const i64 row = m0 + ti * RM + i, column = n0 + tj * RN + j;
            if (row < m && column < n) {
                epilogue(out, bias, residual, row, column, out_stride, residual_stride, out_code, has_bias, act,
                       has_residual, sum[i * RN + j]);
            }
        }
    }
}
