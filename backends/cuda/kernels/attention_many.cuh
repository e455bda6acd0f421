// Attention of sequences with many rows: a group takes ROWS rows of one, WARPS warps with 16 · TILES each, and goes through the
// slots they see. A row's result depends on nothing but its own sequence.
//
// Keys and values of SLOTS slots take turns in a ring of three tiles of local memory: keys, their values, the next keys. Two
// tiles are on their way while one is used.

#define RING 3
#define WARP_ROWS (16 * TILES)
#define ROWS (WARP_ROWS * WARPS)

// Waits for this tile, lets go of the one before it, which nobody uses any more, and asks for the one after the next.
#define NEXT_TILE(pages, block)                                                     \
    do {                                                                            \
        COPY_WAIT(RING - 2);                                                        \
        BARRIER;                                                                    \
        if ((block) < limit) copy_rows(ring + free_tile * TILE_BYTES, pages, from[(block) / SLOTS % 2]); \
        COPY_COMMIT;                                                                \
        tile = ring + now_tile * TILE_BYTES;                                        \
        now_tile = now_tile == RING - 1 ? 0 : now_tile + 1;                         \
        free_tile = free_tile == RING - 1 ? 0 : free_tile + 1;                      \
    } while (0)

KERNEL attention_many(OUT(out), IN(q), IN(k_pages), IN(v_pages), IN(table), IN(q_start), IN(kv_len), IN(prefix),
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
    LOCAL_OF_LAUNCH(queries);
    LOCAL int from[2][SLOTS];
    uchar *const ring = queries + ROWS * ROW_BYTES;
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
    // How many slots each row sees; of a warp's: how many all see, and how many any.
    LOCAL int sees[ROWS];
    const int origin = slots - (found.end - start), warp_row = WARP_ROWS * WARP;
    for (int r = ITEM; r < ROWS; r += GROUP) sees[r] = seen(origin + (first_row + r) / share, mask, slots, shared);
    BARRIER;
    const int limit = sees[rows - 1], all_see = sees[warp_row];
    const int any_sees = warp_row >= rows ? 0 : sees[min_int(warp_row + WARP_ROWS, rows) - 1];
    const Cache cache = {INTS(table) + (real ? found.sequence * max_pages : 0), g, kv_heads, pages, page_size};

    for (int j = ITEM; j < 2 * SLOTS; j += GROUP) from[j / SLOTS][j % SLOTS] = cache_row(cache, j, limit);
    load_queries(queries, ROWS, q, q_token, q_head, start, first_row, rows, g * share, share);
    BARRIER;
    if (limit > 0) copy_rows(ring, k_pages, from[0]);
    COPY_COMMIT;
    if (limit > 0) copy_rows(ring + TILE_BYTES, v_pages, from[0]);
    COPY_COMMIT;
    int now_tile = 0, free_tile = 2;
    uchar *tile;

    // A work-item's part of its rows' sums of probabilities: registers are short.
    LOCAL float total[TILES][2][GROUP];
    float sum[TILES][HD / 8][4], most[TILES][2];
#pragma unroll
    for (int m = 0; m < TILES; m++) {
        most[m][0] = most[m][1] = NEG_INF;
        total[m][0][ITEM] = total[m][1][ITEM] = 0.0f;
#pragma unroll
        for (int d = 0; d < HD / 8; d++) {
            for (int e = 0; e < 4; e++) sum[m][d][e] = 0.0f;
        }
    }
    const float factor = scale * LOG2_E;
    // Where lanes find the first pieces of their rows: of queries and values, and of keys.
    int along = LANE % 16, across = LANE % 8 + LANE / 16 * 8;
    for (int block = 0; block < limit; block += SLOTS) {
        const int used = block < any_sees;
        NOT_BEFORE(along);
        NOT_BEFORE(across);
        float score[TILES][SLOTS / 8][4];
        NEXT_TILE(k_pages, block + SLOTS);
        // Of the block after the next; waited for when the scores are there.
        const int row_after = ITEM < SLOTS ? cache_row(cache, block + 2 * SLOTS + ITEM, limit) : 0;
        if (used) {
#pragma unroll
            for (int m = 0; m < TILES; m++) {
#pragma unroll
                for (int j = 0; j < SLOTS / 8; j++) {
                    for (int e = 0; e < 4; e++) score[m][j][e] = 0.0f;
                }
            }
#pragma unroll
            for (int u = 0; u < HD / 16; u++) {
                uint a[TILES][4];
#pragma unroll
                for (int m = 0; m < TILES; m++) {
                    LOAD_MATRICES(a[m], queries + place(warp_row + 16 * m + along, 2 * u + LANE / 16));
                }
#pragma unroll
                for (int j = 0; j < SLOTS / 16; j++) {
                    uint key[4];
                    LOAD_MATRICES(key, tile + place(16 * j + across, 2 * u + LANE / 8 % 2));
#pragma unroll
                    for (int m = 0; m < TILES; m++) {
                        MMA(score[m][2 * j], a[m][0], a[m][1], a[m][2], a[m][3], key[0], key[1]);
                        MMA(score[m][2 * j + 1], a[m][0], a[m][1], a[m][2], a[m][3], key[2], key[3]);
                    }
                }
            }
            if (block + SLOTS > all_see) {
#pragma unroll
                for (int m = 0; m < TILES; m++) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const int visible = sees[warp_row + 16 * m + 8 * i + LANE_ROW] - block - 2 * LANE_PART;
#pragma unroll
                        for (int j = 0; j < SLOTS / 8; j++) {
                            for (int e = 0; e < 2; e++) {
                                if (8 * j + e >= visible) score[m][j][2 * i + e] = NEG_INF;
                            }
                        }
                    }
                }
            }
        }
        if (ITEM < SLOTS) from[block / SLOTS % 2][ITEM] = row_after;
        NEXT_TILE(v_pages, block + SLOTS);
        if (used) {
            float shrink[TILES][2];
            int changed = 0;
#pragma unroll
            for (int m = 0; m < TILES; m++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float top = MAX_NAN(score[m][0][2 * i], score[m][0][2 * i + 1]);
#pragma unroll
                    for (int j = 1; j < SLOTS / 8; j++) {
                        top = MAX_NAN(top, MAX_NAN(score[m][j][2 * i], score[m][j][2 * i + 1]));
                    }
                    top = MAX_NAN(most[m][i], row_max(top) * factor);
                    const float from_here = measured_from(top);
                    shrink[m][i] = EXP2(most[m][i] - from_here);
                    changed |= shrink[m][i] != 1.0f;
                    most[m][i] = top;
                    float added = 0.0f;
#pragma unroll
                    for (int j = 0; j < SLOTS / 8; j++) {
                        for (int e = 0; e < 2; e++) {
                            const float p = EXP2(FMA(score[m][j][2 * i + e], factor, -from_here));
                            score[m][j][2 * i + e] = p;
                            added += p;
                        }
                    }
                    total[m][i][ITEM] = FMA(total[m][i][ITEM], shrink[m][i], added);
                }
            }
            if (ANY_LANE(changed)) {
#pragma unroll
                for (int m = 0; m < TILES; m++) {
#pragma unroll
                    for (int d = 0; d < HD / 8; d++) {
                        for (int e = 0; e < 4; e++) sum[m][d][e] *= shrink[m][e / 2];
                    }
                }
            }
            // Sums of the scores' product are operands of the next: the same lanes have the same rows and slots.
#pragma unroll
            for (int j = 0; j < SLOTS / 16; j++) {
                uint a[TILES][4];
#pragma unroll
                for (int m = 0; m < TILES; m++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const float *p = score[m][2 * j + i / 2] + i % 2 * 2;
                        a[m][i] = pack_2(p[0], p[1]);
                    }
                }
#pragma unroll
                for (int d = 0; d < HD / 16; d++) {
                    uint v[4];
                    LOAD_TRANSPOSED(v, tile + place(16 * j + along, 2 * d + LANE / 16));
#pragma unroll
                    for (int m = 0; m < TILES; m++) {
                        MMA(sum[m][2 * d], a[m][0], a[m][1], a[m][2], a[m][3], v[0], v[1]);
                        MMA(sum[m][2 * d + 1], a[m][0], a[m][1], a[m][2], a[m][3], v[2], v[3]);
                    }
                }
            }
        }
    }
    COPY_WAIT(0);

    // The warp's results take the place of its queries, and leave in pieces.
    WARP_BARRIER;
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float all = row_sum(total[m][i][ITEM]), one = all == 0.0f ? 0.0f : 1.0f / all;
#pragma unroll
            for (int d = 0; d < HD / 8; d++) {
                const uint both = pack_2(sum[m][d][2 * i] * one, sum[m][d][2 * i + 1] * one);
                *(uint *)(queries + place(warp_row + 16 * m + 8 * i + LANE_ROW, d) + 4 * LANE_PART) = both;
            }
        }
    }
    WARP_BARRIER;
    const int aligned = (out_token | out_head) % 8 == 0 && (ulong)out % 16 == 0;
    for (int e = LANE; e < WARP_ROWS * PIECES; e += 32) {
        const int r = warp_row + e / PIECES, p = e % PIECES, row = first_row + r;
        if (r >= rows) break;
        const i64 to = (start + row / share) * out_token + (g * share + row % share) * out_head + 8 * p;
        store_8(out + 2 * to, load_16(queries + place(r, p)), 8, aligned);
    }
}
