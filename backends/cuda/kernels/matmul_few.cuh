// out[m, n] = act(sum_k x[m, k] * w[n, k] + bias[n]) + residual[m, n] for few rows of x, by the matrix units; x and residual of
// type X.
//
// Bound by the weight's bytes. The weight is the left operand: sixteen of its rows and eight rows of x make a tile. A group has
// ROW_TILES such sixteens and all rows of x, X_TILES eights; its warps take pairs of chunks of k, 128 bytes of a row, in turn.
// Each lane copies its own pieces to local memory, AHEAD chunks before it needs them, and waits for no other lane. How a row of
// x is summed up depends neither on the other rows nor on how many they are.

// Columns of a tile's sums, and a spare one so that rows lie in different banks.
#define SUMS (16 * ROW_TILES + 1)
// Eights of x whose sums the warps put together at a time.
#define TOGETHER (X_TILES < 2 ? X_TILES : 2)

// Sums that units take in turn, so that one need not wait for the one before.
#if X_TILES == 1 && SCALED != 2 && FORMAT != 0
#define CHAINS 2
#else
#define CHAINS 1
#endif

// Units whose x is loaded side by side; more have no registers for it.
#if X_TILES > 2
#define UNITS_AT_ONCE 1
#else
#define UNITS_AT_ONCE UNITS
#endif

// Scales of a chunk of a row, two to a word.
#if SCALED == 2 && CHUNK > WEIGHT_GROUP
#define CHUNK_SCALES (CHUNK / WEIGHT_GROUP)
#else
#define CHUNK_SCALES 1
#endif
#define SCALE_WORDS ((CHUNK_SCALES + 1) / 2)

// Scales of the chunk that begins at column c. WHOLE: k is a multiple of CHUNK.
FN void chunk_scales(uint *words, const uchar *row_scales, int c, int k) {
#if SCALED == 2
#if WHOLE && CHUNK_SCALES == 4
    const uint2 all = *(const uint2 *)(row_scales + 2 * (c / WEIGHT_GROUP));
    words[0] = all.x;
    words[1] = all.y;
#elif WHOLE && CHUNK_SCALES == 2
    words[0] = *(const uint *)(row_scales + 2 * (c / WEIGHT_GROUP));
#else
#pragma unroll
    for (int i = 0; i < SCALE_WORDS; i++) {
        // Columns of the padding have no scale.
        const int low = c + 2 * i * WEIGHT_GROUP, high = low + WEIGHT_GROUP;
        words[i] = ((const ushort *)row_scales)[low < k ? low / WEIGHT_GROUP : 0];
        if (CHUNK_SCALES > 1) words[i] |= (uint)((const ushort *)row_scales)[high < k ? high / WEIGHT_GROUP : 0] << 16;
    }
#endif
#endif
}

// The scale of unit u.
FN float unit_scale(const uint *words, int u) {
#if SCALED == 2
    const int i = u * CHUNK_SCALES / UNITS;
    return f16_low(i % 2 ? words[i / 2] >> 16 : words[i / 2]);
#else
    return 1.0f;
#endif
}

// The chunk that a warp takes after this one.
FN int chunk_after(int chunk) { return chunk % 2 ? chunk + 2 * WARPS - 1 : chunk + 1; }

KERNEL matmul_few(OUT(out), IN(x), IN(weight), IN(bias), IN(residual), i64 m, i64 n, i64 k, i64 row_bytes, i64 scales_at,
                  i64 out_stride, i64 x_stride, i64 residual_stride, int out_code, int has_bias, int act,
                  int has_residual) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    BIND_IN(residual);
    // The chunks under way; in the end, sums.
    LOCAL_OF_LAUNCH(local);
    const i64 n0 = (i64)GROUP_X * 16 * ROW_TILES;
    const int chunks = (int)(row_bytes / 64), columns = (int)k;
    const uchar *scales = weight + scales_at, *rows[2 * ROW_TILES], *row_scales[2 * ROW_TILES], *first_row;
#pragma unroll
    for (int i = 0; i < 2 * ROW_TILES; i++) {
        const i64 row = min_long(n0 + 8 * i + LANE_ROW, n - 1);
        rows[i] = weight + row * row_bytes + 16 * LANE_PART;
        row_scales[i] = SCALED == 2 ? scales + 2 * row * (k / WEIGHT_GROUP) : scales;
    }
    // Sums of a row that is not there are not asked for, so any row will do.
#define ROW_OF_X(j) (first_row + (8 * (j) + LANE_ROW < m ? 16 * (j) * x_stride : 0))
    first_row = x + 2 * ((LANE_ROW < m ? LANE_ROW : 0) * x_stride + 8 * LANE_PART);

    float sum[CHAINS][ROW_TILES][X_TILES][4];
#pragma unroll
    for (int e = 0; e < CHAINS * ROW_TILES * X_TILES * 4; e++) (&sum[0][0][0][0])[e] = 0.0f;
    uchar *mine = local + 16 * ITEM;
    // Chunks go round in AHEAD places.
    int asked = 2 * WARP, place = 0;
#define ASK(at)                                                                                                           \
    do {                                                                                                                  \
        _Pragma("unroll") for (int i = 0; i < 2 * ROW_TILES; i++) {                                                        \
            copy_16(mine + ((at) * 2 * ROW_TILES + i) * 16 * GROUP, rows[i] + (asked < chunks ? 64 * (i64)asked : 0),      \
                    asked < chunks);                                                                                      \
        }                                                                                                                 \
        COPY_COMMIT;                                                                                                      \
        asked = chunk_after(asked);                                                                                       \
    } while (0)
    LET_NEXT_BEGIN;
    for (int a = 0; a < AHEAD; a++) ASK(a);
    AWAIT_BEFORE;
#pragma unroll 1
    for (int chunk = 2 * WARP; chunk < chunks; chunk = chunk_after(chunk)) {
        COPY_WAIT(AHEAD - 1);
        uint4 w[2 * ROW_TILES];
        uint words[2 * ROW_TILES][SCALE_WORDS];
#pragma unroll
        for (int i = 0; i < 2 * ROW_TILES; i++) {
            w[i] = load_16(mine + (place * 2 * ROW_TILES + i) * 16 * GROUP);
            chunk_scales(words[i], row_scales[i], chunk * CHUNK, columns);
        }
#pragma unroll UNITS_AT_ONCE
        for (int u = 0; u < UNITS; u++) {
            const int c = chunk * CHUNK + 32 * u;
            uint4 unit[2 * ROW_TILES];
            float scale[2 * ROW_TILES];
#pragma unroll
            for (int i = 0; i < 2 * ROW_TILES; i++) {
                unit[i] = weight_unit(w[i], u);
                scale[i] = unit_scale(words[i], u);
            }
#pragma unroll
            for (int j = 0; j < X_TILES; j++) {
                const uint4 b = WHOLE || c + 8 * LANE_PART < columns ? load_16(ROW_OF_X(j) + 2 * (i64)c) : make_uint4(0, 0, 0, 0);
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++) {
                    multiply_unit(sum[u % CHAINS][i][j], unit[2 * i], unit[2 * i + 1], b, scale[2 * i], scale[2 * i + 1]);
                }
            }
        }
        ASK(place);
        place = (place + 1) % AHEAD;
    }
    COPY_WAIT(0);
#if CHAINS == 2
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum[0][i][0][e] += sum[1][i][0][e];
    }
#endif

    LOCAL_PTR float *sums = (LOCAL_PTR float *)local;
#pragma unroll
    for (int j0 = 0; j0 < X_TILES; j0 += TOGETHER) {
        BARRIER;
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
            for (int j = 0; j < TOGETHER; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int column = 16 * i + LANE_ROW + e / 2 * 8, row = 8 * j + 2 * LANE_PART + e % 2;
                    sums[(WARP * 8 * TOGETHER + row) * SUMS + column] = sum[0][i][j0 + j][e];
                }
            }
        }
        BARRIER;
#pragma unroll 1
        for (int e = ITEM; e < 8 * TOGETHER * 16 * ROW_TILES; e += GROUP) {
            const int column = e % (16 * ROW_TILES), row = e / (16 * ROW_TILES);
            const i64 at = n0 + column;
            if (8 * j0 + row < m && at < n) {
                float all = 0.0f;
#pragma unroll
                for (int w = 0; w < WARPS; w++) all += sums[(w * 8 * TOGETHER + row) * SUMS + column];
                epilogue(out, bias, residual, 8 * j0 + row, at, out_stride, residual_stride, out_code, has_bias, act, has_residual,
                         all * row_scale(scales, at));
            }
        }
    }
}
