// out[m, n] = act(sum_k x[m, k] * w[n, k] + bias[n]) + residual[m, n] for many rows of x, by matrix units; x and residual of type X,
// rows of x at multiples of 16 bytes, k a multiple of 8.
//
// A group of four waves has a SIDE x SIDE piece of out, each of them a quarter: TILES x TILES tiles of 16 x 16. Both operands are in
// local memory, 32 columns at a time; the next 32 are under way to registers meanwhile. How a row of x is summed up does not
// depend on the other rows.

#define SIDE (32 * TILES)
#define DEPTH 32
// Rows in local memory: DEPTH columns, and 16 bytes more, so that fewer of sixteen of them meet in a bank.
#define PITCH (2 * DEPTH + 16)
// Pieces of 16 bytes that a work-item brings of each operand.
#define PIECES (SIDE * DEPTH / 8 / GROUP)
#define WIDTH (16 * TILES)
#define OPERAND_BYTES (2 * SIDE * PITCH)
#define SUMS_BYTES (4 * 4 * 16 * WIDTH)
#define LOCAL_BYTES (OPERAND_BYTES > SUMS_BYTES ? OPERAND_BYTES : SUMS_BYTES)

KERNEL matmul_mfma(OUT(out), IN(x), IN(weight), IN(bias), IN(residual), i64 m, i64 n, i64 k, i64 row_bytes, i64 scales_at,
                   i64 out_stride, i64 x_stride, i64 residual_stride, int out_code, int has_bias, int act, int has_residual) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    BIND_IN(residual);
    LOCAL uint4 local[LOCAL_BYTES / 16];
    uchar *const x_rows = (uchar *)local, *const w_rows = x_rows + SIDE * PITCH;
    // Groups that run at the same time share the rows of the weight.
    const i64 tiles = (m + SIDE - 1) / SIDE, m0 = GROUP_X % tiles * SIDE, n0 = GROUP_X / tiles * SIDE;
    const int wave = ITEM / 64, wave_m = wave / 2 * WIDTH, wave_n = wave % 2 * WIDTH;
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    sums_4 sum[TILES][TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int j = 0; j < TILES; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0.0f;
        }
    }
    uint4 next_x[PIECES], next_w[PIECES];
#define FETCH(from)                                                                                                          \
    _Pragma("unroll") for (int p = 0; p < PIECES; p++) {                                                                     \
        const int row = (ITEM + p * GROUP) / 4;                                                                              \
        const i64 c = (from) + ITEM % 4 * 8;                                                                                 \
        next_x[p] = m0 + row < m && c < k ? load_16(x + ((m0 + row) * x_stride + c) * 2) : nothing;                          \
        next_w[p] = n0 + row < n && c < k ? weight_eight(weight + (n0 + row) * row_bytes, c) : nothing;                      \
    }
    FETCH(0);
#pragma unroll 1
    for (i64 k0 = 0; k0 < k; k0 += DEPTH) {
        // Nobody uses the columns before these any more.
        BARRIER;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const int at = (ITEM + p * GROUP) / 4 * PITCH + ITEM % 4 * 16;
            store_16(x_rows + at, next_x[p]);
            store_16(w_rows + at, next_w[p]);
        }
        BARRIER;
        FETCH(k0 + DEPTH);
#if SCALED == 2
        sums_4 part[TILES][TILES];
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int j = 0; j < TILES; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) part[i][j][e] = 0.0f;
            }
        }
#else
#define part sum
#endif
#pragma unroll
        for (int s = 0; s < DEPTH / 16; s++) {
            ulong a[TILES], b[TILES];
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                const int at = (16 * i + LANE % 16) * PITCH + 32 * s + LANE / 16 * 8;
                a[i] = *(const ulong *)(x_rows + wave_m * PITCH + at);
                b[i] = *(const ulong *)(w_rows + wave_n * PITCH + at);
            }
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int j = 0; j < TILES; j++) MULTIPLY(part[i][j], a[i], b[j]);
            }
        }
#if SCALED == 2
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            const i64 row = min_long(n0 + wave_n + 16 * j + LANE % 16, n - 1);
            const float scale = weight_scale(weight + scales_at, row, k, k0);
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int e = 0; e < 4; e++) sum[i][j][e] = FMA(scale, part[i][j][e], sum[i][j][e]);
            }
        }
#endif
    }
    // By way of local memory, so that neighbours store neighbours; the epilogue's text is long, and stands here once.
    float *sums = (float *)local + wave * 16 * WIDTH;
#pragma unroll 1
    for (int pass = 0; pass < TILES; pass++) {
        BARRIER;
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            if (i != pass) continue;
#pragma unroll
            for (int j = 0; j < TILES; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) sums[(LANE / 16 * 4 + e) * WIDTH + 16 * j + LANE % 16] = sum[i][j][e];
            }
        }
        BARRIER;
#pragma unroll 1
        for (int e = LANE; e < 16 * WIDTH; e += 64) {
            const i64 row = m0 + wave_m + 16 * pass + e / WIDTH, column = n0 + wave_n + e % WIDTH;
            if (row < m && column < n) {
                float all = sums[e];
#if SCALED == 1
                all *= weight_scale(weight + scales_at, column, k, 0);
#endif
                epilogue(out, bias, residual, row, column, out_stride, residual_stride, out_code, has_bias, act, has_residual, all);
            }
        }
    }
}
