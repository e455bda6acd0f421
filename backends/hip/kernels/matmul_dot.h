// out[m, n] = act(sum_k x[m, k] * w[n, k] + bias[n]) + residual[m, n] for up to ROWS rows of x, by dot products of two f16; x and
// residual f16, rows of x at multiples of 16 bytes, k a multiple of 8.
//
// Bound by the weight's bytes: a wave has a row of it, which it reads once for all rows of x, neighbours neighbouring eights.

KERNEL matmul_dot(OUT(out), IN(x), IN(weight), IN(bias), IN(residual), i64 m, i64 n, i64 k, i64 row_bytes, i64 scales_at,
                  i64 out_stride, i64 x_stride, i64 residual_stride, int out_code, int has_bias, int act, int has_residual) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    BIND_IN(residual);
    const i64 at = (i64)GROUP_X * WAVES + WAVE_ID, j = min_long(at, n - 1);
    const uchar *row = weight + j * row_bytes;
    float sum[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) sum[r] = 0.0f;
    for (i64 c = 8 * WAVE_ITEM; c < k; c += 8 * WAVE) {
        const uint4 w = weight_eight(row, c);
#if SCALED == 2
        const float scale = weight_scale(weight + scales_at, j, k, c);
#endif
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            // Sums of a row that is not there are not asked for, so any row will do.
            const uint4 v = load_16(x + ((r < m ? r : 0) * x_stride + c) * 2);
#if SCALED == 2
            float part = dot_2(v.x, w.x, 0.0f);
#else
            float part = dot_2(v.x, w.x, sum[r]);
#endif
            part = dot_2(v.y, w.y, part);
            part = dot_2(v.z, w.z, part);
            part = dot_2(v.w, w.w, part);
#if SCALED == 2
            sum[r] = FMA(scale, part, sum[r]);
#else
            sum[r] = part;
#endif
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) sum[r] = WAVE_SUM(sum[r]);
    // A lane for each row, so that the epilogue's text stands here once.
    float mine = sum[0];
#pragma unroll
    for (int r = 1; r < ROWS; r++) mine = WAVE_ITEM == r ? sum[r] : mine;
#if SCALED == 1
    mine *= weight_scale(weight + scales_at, j, k, 0);
#endif
    if (WAVE_ITEM < min_long(m, ROWS) && at < n) {
        epilogue(out, bias, residual, WAVE_ITEM, at, out_stride, residual_stride, out_code, has_bias, act, has_residual, mine);
    }
}
