// out[m, n] = act(sum_k x[m, k] * w[n, k] + bias[n]) + residual[m, n] for many rows of x, by the matrix units; x and residual of
// type X.
//
// The weight is the left operand, as in matmul_few.cuh. A group has a BN x BM piece of out, and both operands in local
// memory, STAGES chunks of k of them, of which all but one are under way. A lane's 16 bytes of eight rows lie in a row, so
// that a warp reads 512 bytes at once. How a row of x is summed up does not depend on the other rows.

// Warps along n, and along m; tiles of each.
#define WARPS_M (WARPS / WARPS_N)
#define TILES_N (BN / WARPS_N / 16)
#define TILES_M (BM / WARPS_M / 8)
#define W_BYTES (BN * 64)
#define X_BYTES (BM * 64)
#define STAGE_BYTES (W_BYTES + UNITS * X_BYTES)

// Begins to copy a chunk: rows of the weight, 64 bytes each; then units of x, 64 bytes of each row.
FN void copy_chunk(uchar *stage, const uchar *x, const uchar *weight, i64 m0, i64 n0, i64 chunk, i64 m, i64 n, i64 k,
                   i64 row_bytes, i64 x_stride, int aligned) {
#pragma unroll
    for (int e = ITEM; e < BN * 4; e += GROUP) {
        const i64 row = min_long(n0 + e / 4, n - 1);
        copy_16(stage + 16 * e, weight + row * row_bytes + chunk * 64 + e % 4 * 16, 1);
    }
#pragma unroll
    for (int e = ITEM; e < UNITS * BM * 4; e += GROUP) {
        const i64 row = m0 + e / 4 % BM, c = chunk * CHUNK + e / 4 / BM * 32 + e % 4 * 8;
        uchar *to = stage + W_BYTES + 16 * e;
        if (aligned && (c + 8 <= k || c >= k || row >= m)) {
            const int there = row < m && c < k;
            copy_16(to, x + (there ? (row * x_stride + c) * 2 : 0), there);
        } else {
            *(uint4 *)to = x_unit(x, row, c, m, k, x_stride);
        }
    }
}

KERNEL matmul_many(OUT(out), IN(x), IN(weight), IN(bias), IN(residual), i64 m, i64 n, i64 k, i64 row_bytes, i64 scales_at,
                   i64 out_stride, i64 x_stride, i64 residual_stride, int out_code, int has_bias, int act,
                   int has_residual, int aligned) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    BIND_IN(residual);
    LOCAL_OF_LAUNCH(stages);
    // Groups that run at the same time share the rows of the weight.
    const i64 tiles = (m + BM - 1) / BM, m0 = GROUP_X % tiles * BM, n0 = GROUP_X / tiles * BN, chunks = row_bytes / 64;
    const int warp_n = WARP % WARPS_N * (BN / WARPS_N), warp_m = WARP / WARPS_N * (BM / WARPS_M);
    const uchar *scales = weight + scales_at;
    const i64 groups = SCALED == 2 ? k / WEIGHT_GROUP : 0;
    float sum[TILES_N][TILES_M][4];
#pragma unroll
    for (int i = 0; i < TILES_N; i++) {
#pragma unroll
        for (int j = 0; j < TILES_M; j++) {
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0.0f;
        }
    }
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < chunks) copy_chunk(stages + s * STAGE_BYTES, x, weight, m0, n0, s, m, n, k, row_bytes, x_stride, aligned);
        COPY_COMMIT;
    }
    for (i64 chunk = 0; chunk < chunks; chunk++) {
        // This chunk is there, and nobody uses the stage of the one before any more.
        COPY_WAIT(STAGES - 2);
        BARRIER;
        const i64 next = chunk + STAGES - 1;
        if (next < chunks) {
            copy_chunk(stages + next % STAGES * STAGE_BYTES, x, weight, m0, n0, next, m, n, k, row_bytes, x_stride, aligned);
        }
        COPY_COMMIT;
        const uchar *w_stage = stages + chunk % STAGES * STAGE_BYTES, *x_stage = w_stage + W_BYTES;
        uint4 w[2 * TILES_N];
#pragma unroll
        for (int i = 0; i < 2 * TILES_N; i++) w[i] = load_16(w_stage + (warp_n + 8 * i + LANE_ROW) * 64 + 16 * LANE_PART);
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            const i64 c = chunk * CHUNK + 32 * u, scaled = c < k ? c : 0;
            uint4 b[TILES_M];
#pragma unroll
            for (int j = 0; j < TILES_M; j++) {
                b[j] = load_16(x_stage + u * X_BYTES + (warp_m + 8 * j + LANE_ROW) * 64 + 16 * LANE_PART);
            }
#pragma unroll
            for (int i = 0; i < TILES_N; i++) {
                const uint4 low = weight_unit(w[2 * i], u), high = weight_unit(w[2 * i + 1], u);
                const i64 row = n0 + warp_n + 16 * i + LANE_ROW;
                const float s_low = group_scale(scales, min_long(row, n - 1), groups, scaled);
                const float s_high = group_scale(scales, min_long(row + 8, n - 1), groups, scaled);
#pragma unroll
                for (int j = 0; j < TILES_M; j++) multiply_unit(sum[i][j], low, high, b[j], s_low, s_high);
            }
        }
    }
    // By way of local memory, so that neighbours store neighbours; the epilogue's text is long, and stands here once.
    COPY_WAIT(0);
    BARRIER;
    float *sums = (float *)stages;
#pragma unroll
    for (int i = 0; i < TILES_N; i++) {
#pragma unroll
        for (int j = 0; j < TILES_M; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int column = warp_n + 16 * i + LANE_ROW + e / 2 * 8, row = warp_m + 8 * j + 2 * LANE_PART + e % 2;
                sums[row * (BN + 1) + column] = sum[i][j][e];
            }
        }
    }
    BARRIER;
#pragma unroll 1
    for (int e = ITEM; e < BM * BN; e += GROUP) {
        const i64 row = m0 + e / BN, column = n0 + e % BN;
        if (row < m && column < n) {
            epilogue(out, bias, residual, row, column, out_stride, residual_stride, out_code, has_bias, act, has_residual,
                     sums[e / BN * (BN + 1) + e % BN] * row_scale(scales, column));
        }
    }
}
