// out[m, n] = act(sum_k x[m, k] * w[n, k] + bias[n]) + residual[m, n] for few rows of x, by the matrix units; x and residual of
// type X.
//
// Bound by the weight's bytes. The weight is the left operand: sixteen of its rows and eight rows of x make a tile. A group has
// ROW_TILES such sixteens and all rows of x, X_TILES eights; its warps take chunks of k in turn, straight from memory to
// registers. How a row of x is summed up depends neither on the other rows nor on how many they are.

// Columns of a tile's sums, and a spare one so that rows lie in different banks.
#define SUMS (16 * ROW_TILES + 1)

KERNEL matmul_few(OUT(out), IN(x), IN(weight), IN(bias), IN(residual), i64 m, i64 n, i64 k, i64 row_bytes, i64 scales_at,
                  i64 out_stride, i64 x_stride, i64 residual_stride, int out_code, int has_bias, int act,
                  int has_residual, int aligned) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    BIND_IN(residual);
    LOCAL float sums[WARPS * 8 * X_TILES * SUMS];
    const i64 n0 = (i64)GROUP_X * 16 * ROW_TILES, chunks = row_bytes / 64;
    const uchar *scales = weight + scales_at;
    const i64 groups = SCALED == 2 ? k / WEIGHT_GROUP : 0;
    i64 rows[2 * ROW_TILES];
    for (int i = 0; i < 2 * ROW_TILES; i++) rows[i] = min_long(n0 + 8 * i + LANE_ROW, n - 1);
    float sum[ROW_TILES][X_TILES][4];
    for (int i = 0; i < ROW_TILES; i++) {
        for (int j = 0; j < X_TILES; j++) {
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0.0f;
        }
    }
    // Several chunks are asked for before the first is used.
    for (i64 chunk = WARP; chunk < chunks; chunk += WARPS * AHEAD) {
        uint4 w[AHEAD][2 * ROW_TILES];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
#pragma unroll
            for (int i = 0; i < 2 * ROW_TILES; i++) {
                const i64 at = chunk + a * WARPS;
                w[a][i] = at < chunks ? load_16(weight + rows[i] * row_bytes + at * 64 + 16 * LANE_PART) : make_uint4(0, 0, 0, 0);
            }
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const i64 at = chunk + a * WARPS;
            if (at >= chunks) break;
#pragma unroll
            for (int u = 0; u < UNITS; u++) {
                const i64 c = at * CHUNK + 32 * u;
                // Columns of the padding have no scale.
                const i64 scaled = c < k ? c : 0;
                uint4 unit[2 * ROW_TILES];
                float scale[2 * ROW_TILES];
#pragma unroll
                for (int i = 0; i < 2 * ROW_TILES; i++) {
                    unit[i] = weight_unit(w[a][i], u);
                    scale[i] = group_scale(scales, rows[i], groups, scaled);
                }
#pragma unroll
                for (int j = 0; j < X_TILES; j++) {
                    const uint4 b = x_unit(x, 8 * j + LANE_ROW, c + 8 * LANE_PART, m, k, x_stride, aligned);
#pragma unroll
                    for (int i = 0; i < ROW_TILES; i++) {
                        multiply_unit(sum[i][j], unit[2 * i], unit[2 * i + 1], b, scale[2 * i], scale[2 * i + 1]);
                    }
                }
            }
        }
    }
    for (int i = 0; i < ROW_TILES; i++) {
        for (int j = 0; j < X_TILES; j++) {
            for (int e = 0; e < 4; e++) {
                const int column = 16 * i + LANE_ROW + e / 2 * 8, row = 8 * j + 2 * LANE_PART + e % 2;
                sums[(WARP * 8 * X_TILES + row) * SUMS + column] = sum[i][j][e];
            }
        }
    }
    BARRIER;
#pragma unroll 1
    for (int e = ITEM; e < 8 * X_TILES * 16 * ROW_TILES; e += GROUP) {
        const int column = e % (16 * ROW_TILES), row = e / (16 * ROW_TILES);
        const i64 at = n0 + column;
        if (row < m && at < n) {
            float all = 0.0f;
            for (int w = 0; w < WARPS; w++) all += sums[(w * 8 * X_TILES + row) * SUMS + column];
            epilogue(out, bias, residual, row, at, out_stride, residual_stride, out_code, has_bias, act, has_residual,
                     all * row_scale(scales, at));
        }
    }
}
