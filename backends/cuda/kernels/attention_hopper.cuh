// Attention of sequences with many rows by the matrix units of sm_90: as `attention_many`, whose arguments these are, with two
// warpgroups of 64 rows each. Heads have 128 elements; a block has SLOTS = 128 slots.
//
// Scores of the next block are made while the values of this one are summed, so that the units work while the softmax of the
// next is done. Keys and values have two tiles each: one in use, one on its way.

#define ROWS 128

KERNEL attention_hopper(OUT(out), IN(q), IN(k_pages), IN(v_pages), IN(table), IN(q_start), IN(kv_len), IN(prefix),
                        int tokens, int heads, int kv_heads, int pages, int page_size, int sequences, i64 max_pages,
                        i64 out_token, i64 out_head, i64 q_token, i64 q_head, float scale, int mask, int least) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(out);
    BIND_IN(q);
    BIND_IN(k_pages);
    BIND_IN(v_pages);
    BIND_IN(table);
    BIND_IN(q_start);
    BIND_IN(kv_len);
    BIND_IN(prefix);
    LOCAL_OF_LAUNCH(local);
    LOCAL int from[3][SLOTS];
    LOCAL int sees[ROWS];
    // From a multiple of 1024 bytes on: queries, keys twice, values twice.
    uchar *const queries = local + (1024 - ((ulong)local & 1023)) % 1024;
    uchar *const keys = queries + ROWS * ROW_BYTES, *const values = keys + 2 * TILE_BYTES;
    const int share = heads / kv_heads, g = GROUP_X % kv_heads;
    // Later tiles see more, and begin first.
    const i64 number = GROUPS_X / kv_heads - 1 - GROUP_X / kv_heads;
    const Tile found = find_tile(number, q_start, sequences, tokens, share, ROWS, least);
    if (found.sequence == -2) return;
    const int start = found.start, first_row = (int)found.tile * ROWS;
    const int rows = min_int((found.end - start) * share - first_row, ROWS);
    const int real = found.sequence >= 0 && found.sequence < sequences && pages > 0;
    const int slots = real ? max_int(0, min_int(INTS(kv_len)[found.sequence], (int)min_long(max_pages * page_size, MOST_SLOTS))) : 0;
    const int shared = real && mask == 1 ? INTS(prefix)[found.sequence] : 0;
    // How many slots each row sees; of a warp's, how many all see.
    const int origin = slots - (found.end - start), warp_row = 16 * WARP;
    for (int r = ITEM; r < ROWS; r += GROUP) sees[r] = seen(origin + (first_row + r) / share, mask, slots, shared);
    BARRIER;
    const int limit = sees[rows - 1], all_see = sees[warp_row], blocks = (limit + SLOTS - 1) / SLOTS;
    const Cache cache = {INTS(table) + (real ? found.sequence * max_pages : 0), g, kv_heads, pages, page_size};

    for (int j = ITEM; j < 3 * SLOTS; j += GROUP) from[j / SLOTS][j % SLOTS] = cache_row(cache, j, limit);
    load_queries(queries, ROWS, q, q_token, q_head, start, first_row, rows, g * share, share);
    BARRIER;
    if (blocks > 0) copy_rows(keys, k_pages, from[0]);
    COPY_COMMIT;
    if (blocks > 1) copy_rows(keys + TILE_BYTES, k_pages, from[1]);
    if (blocks > 0) copy_rows(values, v_pages, from[0]);
    COPY_COMMIT;

    float sum[64], score[64], most[2] = {NEG_INF, NEG_INF}, total[2] = {0.0f, 0.0f}, shrink[2];
    // Probabilities of a block, as operands.
    uint weights[32];
#pragma unroll
    for (int e = 0; e < 64; e++) sum[e] = 0.0f;
    const float factor = scale * LOG2_E;
    const uchar *const rows_of_group = queries + WARP / 4 * 64 * 128;

    // Scores of the block in a tile.
#define MULTIPLY_KEYS(tile)                                                                          \
    do {                                                                                             \
        const ulong a = describe(rows_of_group, 0), b = describe(tile, 0);                           \
        _Pragma("unroll") for (int u = 0; u < HD / 16; u++) {                                        \
            const int to = (u / 4 * PANEL_ROWS * 128 + u % 4 * 32) >> 4;                             \
            WG_MMA_ROWS(score, a + to, b + to, u > 0, queries);                                      \
        }                                                                                            \
    } while (0)
#define MULTIPLY_VALUES(tile)                                                                        \
    do {                                                                                             \
        const ulong b = describe(tile, PANEL_ROWS * 128);                                            \
        _Pragma("unroll") for (int j = 0; j < SLOTS / 16; j++) {                                     \
            WG_MMA_VALUES(sum, weights + 4 * j, b + (j * 16 * 128 >> 4), queries);                   \
        }                                                                                            \
    } while (0)
    // From scores to probabilities, and what earlier ones shrink by.
#define SOFTMAX(block)                                                                               \
    do {                                                                                             \
        if ((block) + SLOTS > all_see) {                                                             \
            _Pragma("unroll") for (int e = 0; e < 64; e++) {                                         \
                const int slot = (block) + e / 4 * 8 + 2 * LANE_PART + e % 2;                        \
                if (slot >= sees[warp_row + e / 2 % 2 * 8 + LANE_ROW]) score[e] = NEG_INF;           \
            }                                                                                        \
        }                                                                                            \
        _Pragma("unroll") for (int i = 0; i < 2; i++) {                                              \
            float top = score[2 * i], added = 0.0f;                                                  \
            _Pragma("unroll") for (int e = 0; e < 32; e++) {                                         \
                top = MAX_NAN(top, score[e / 2 * 4 + 2 * i + e % 2]);                                \
            }                                                                                        \
            top = MAX_NAN(most[i], row_max(top) * factor);                                           \
            const float from_here = measured_from(top);                                              \
            shrink[i] = EXP2(most[i] - from_here);                                                   \
            most[i] = top;                                                                           \
            _Pragma("unroll") for (int e = 0; e < 32; e++) {                                         \
                const int at = e / 2 * 4 + 2 * i + e % 2;                                            \
                score[at] = EXP2(FMA(score[at], factor, -from_here));                                \
                added += score[at];                                                                  \
            }                                                                                        \
            total[i] = FMA(total[i], shrink[i], added);                                              \
        }                                                                                            \
    } while (0)
    // Sums of the scores' product are operands of the next: the same lanes have the same rows and slots.
#define AS_OPERANDS                                                                                         \
    do {                                                                                             \
        _Pragma("unroll") for (int e = 0; e < 32; e++) {                                             \
            weights[e] = pack_2(score[2 * e], score[2 * e + 1]);                                     \
        }                                                                                            \
    } while (0)

    if (blocks > 0) {
        COPY_WAIT(1);
        WG_VISIBLE;
        BARRIER;
        WG_BEGIN;
        MULTIPLY_KEYS(keys);
        WG_COMMIT;
        WG_WAIT(0);
        WG_DONE_FLOATS(score);
        SOFTMAX(0);
        AS_OPERANDS;
        for (int n = 0; n < blocks - 1; n++) {
            // The next keys and these values are there; nobody uses these keys and the last values any more.
            COPY_WAIT(0);
            WG_VISIBLE;
            BARRIER;
            if (n + 2 < blocks) copy_rows(keys + n % 2 * TILE_BYTES, k_pages, from[(n + 2) % 3]);
            copy_rows(values + (n + 1) % 2 * TILE_BYTES, v_pages, from[(n + 1) % 3]);
            COPY_COMMIT;
            // Waited for when the scores are there.
            const int row_after = ITEM < SLOTS ? cache_row(cache, (n + 3) * SLOTS + ITEM, limit) : 0;
            WG_BEGIN;
            MULTIPLY_KEYS(keys + (n + 1) % 2 * TILE_BYTES);
            WG_COMMIT;
            MULTIPLY_VALUES(values + n % 2 * TILE_BYTES);
            WG_COMMIT;
            WG_WAIT(1);
            WG_DONE_FLOATS(score);
            if (ITEM < SLOTS) from[n % 3][ITEM] = row_after;
            SOFTMAX((n + 1) * SLOTS);
            WG_AFTER(total[0] + total[1]);
            WG_WAIT(0);
            WG_DONE_FLOATS(sum);
            WG_DONE_WORDS(weights);
#pragma unroll
            for (int e = 0; e < 64; e++) sum[e] *= shrink[e / 2 % 2];
            AS_OPERANDS;
        }
        COPY_WAIT(0);
        WG_VISIBLE;
        BARRIER;
        WG_BEGIN;
        MULTIPLY_VALUES(values + (blocks - 1) % 2 * TILE_BYTES);
        WG_COMMIT;
        WG_WAIT(0);
        WG_DONE_FLOATS(sum);
    }
    COPY_WAIT(0);

    // A warp's results take the place of its queries, which nobody multiplies any more, and leave in pieces.
    BARRIER;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float all = row_sum(total[i]), one = all == 0.0f ? 0.0f : 1.0f / all;
#pragma unroll
        for (int d = 0; d < HD / 8; d++) {
            const uint both = pack_2(sum[4 * d + 2 * i] * one, sum[4 * d + 2 * i + 1] * one);
            *(uint *)(queries + place(warp_row + 8 * i + LANE_ROW, d) + 4 * LANE_PART) = both;
        }
    }
    WARP_BARRIER;
    const int aligned = (out_token | out_head) % 8 == 0 && (ulong)out % 16 == 0;
    for (int e = LANE; e < 16 * PIECES; e += 32) {
        const int r = warp_row + e / PIECES, p = e % PIECES, row = first_row + r;
        if (r >= rows) break;
        const i64 to = (start + row / share) * out_token + (g * share + row % share) * out_head + 8 * p;
        store_8(out + 2 * to, load_16(queries + place(r, p)), 8, aligned);
    }
}
