// Attention over a paged cache by the matrix units: q, out and pages of type X; masks: 0 causal, 1 prefix, 2 full.
//
// Rows are pairs of a token and one of the query heads that share a key-value head, as in the portable kernel, so that a
// decoding step with grouped heads reads the cache once. A warp has sixteen rows; a group has WARPS · 16. Keys and values come
// to local memory BC slots at a time, the next ones while these are used; the softmax runs along (online), its rows in
// registers. Probabilities are rounded to X before they meet the values. HD: head_dim, 64 or 128.
//
// Parts, and what becomes of them in `space`, are the portable kernel's: each part of PART slots has its own maximum, sum and
// values, and parts are merged in their order by the same arithmetic, by this kernel or by `attention_merge`. So a row's
// result depends neither on how many groups there are nor on the rows beside it.

#define BR (16 * WARPS)
#define LOG2_E 1.44269504088896341f
// Pieces of 16 bytes in a row of a head.
#define PIECES (HD / 8)
#define ROW_BYTES (2 * HD)
#define TILE_BYTES (BC * ROW_BYTES)

// Where piece p of row r lies: turned so that both the 16 bytes of eight rows and the four pieces of two rows are in
// different banks.
FN int place(int r, int p) {
    return r * ROW_BYTES + 16 * (p ^ ((r & 1) << 2 | (r >> 1 & 3)));
}

// The larger one of the four lanes of a row; a NaN wins.
FN float row_max(float x) {
    x = max_nan(x, EXCHANGE_XOR(x, 1));
    return max_nan(x, EXCHANGE_XOR(x, 2));
}

FN float row_sum(float x) {
    x += EXCHANGE_XOR(x, 1);
    return x + EXCHANGE_XOR(x, 2);
}

// Where a group's next slots are.
typedef struct {
    int part, block;
} Place;

FN Place next_place(Place p, int limit, int groups) {
    const int part_end = min_int(limit, (p.part + 1) * PART);
    p.block += BC;
    if (p.block >= part_end) {
        p.part += groups;
        p.block = p.part * PART;
    }
    return p;
}

KERNEL flash_attention(RESULT, IN(q), IN(k_pages), IN(v_pages), IN(table), IN(q_start), IN(kv_len), IN(prefix),
                 int tokens, int heads, int kv_heads, int head_dim, i64 pages, i64 page_size, int sequences,
                 i64 max_pages, i64 q_token, i64 q_head, float scale, int mask) {
    BIND_IN(q);
    BIND_IN(k_pages);
    BIND_IN(v_pages);
    BIND_IN(table);
    BIND_IN(q_start);
    BIND_IN(kv_len);
    BIND_IN(prefix);
    // Rows of q; then keys and values, twice.
    LOCAL_OF_LAUNCH(local);
    LOCAL i64 from[2 * BC];
    LOCAL Tile found;
    if (ITEM == 0) found = find_tile(GROUP_X, q_start, sequences, tokens, heads / kv_heads, BR);
    BARRIER;
    const int g = GROUP_Y, share = heads / kv_heads;
    const int sequence = found.sequence, start = found.start, end = found.end;
    const int real = sequence >= 0 && sequence < sequences && pages > 0;
    const int first_row = (int)found.tile * BR, rows = sequence == -2 ? 0 : min_int((end - start) * share - first_row, BR);
    // Slots are numbered by 31 bits, and so are parts' ends.
    const int most_slots = (int)min_long(max_pages * page_size, 0x7fffffff - PART);
    const int slots = real ? max_int(0, min_int(INTS(kv_len)[sequence], most_slots)) : 0;
    const int shared = real && mask == 1 ? INTS(prefix)[sequence] : 0;
    // Slot of the token at place t of the sequence: origin + t.
    const int origin = slots - (end - start);
    const int last = max_int(origin + (first_row + rows - 1) / share + 1, shared);
    const int limit = rows <= 0 ? 0 : max_int(0, min_int(mask == 2 ? slots : last, slots));
    const int count = (limit + PART - 1) / PART;

    // Of the lane's two rows, the slots they see at most; of the warp, how many all rows see, and how many any.
    int position[2];
    for (int i = 0; i < 2; i++) position[i] = origin + (first_row + 16 * WARP + 8 * i + LANE_ROW) / share;
    const int warp_row = first_row + 16 * WARP;
    const int all_see = mask == 2 ? limit : max_int(origin + warp_row / share + 1, shared);
    const int any_sees = 16 * WARP >= rows ? 0 : mask == 2 ? limit : max_int(origin + (warp_row + 15) / share + 1, shared);
#if SHARED
    BIND_OUT(space);
    if (GROUP_Z == 0) {
        for (int r = ITEM; r < rows; r += GROUP) {
            const i64 t = start + (first_row + r) / share;
            ((GLOBAL int *)space)[t * heads + g * share + (first_row + r) % share] = count;
        }
    }
#endif

    uchar *queries = local, *cached = local + BR * ROW_BYTES;
    const int q_aligned = (q_token | q_head) % 8 == 0 && (ulong)q % 16 == 0;
    for (int e = ITEM; e < BR * PIECES; e += GROUP) {
        const int r = e / PIECES, p = e % PIECES, row = first_row + r;
        const i64 at = (start + row / share) * q_token + (g * share + row % share) * q_head + 8 * p;
        *(uint4 *)(queries + place(r, p)) = r < rows ? load_8(q + 2 * at, 8, q_aligned) : make_uint4(0, 0, 0, 0);
    }

    float sum[2 * HD / 16][4], most[2] = {NEG_INF, NEG_INF}, total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int d = 0; d < 2 * HD / 16; d++) {
        for (int e = 0; e < 4; e++) sum[d][e] = 0.0f;
    }
#if !SHARED
    // Of the parts merged so far.
    float all_sum[2 * HD / 16][4], all_most[2] = {NEG_INF, NEG_INF}, all_total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int d = 0; d < 2 * HD / 16; d++) {
        for (int e = 0; e < 4; e++) all_sum[d][e] = 0.0f;
    }
#endif

    // Elements of the cache at which the slots of a place begin, −1 for none.
#define FIND(turn, p)                                                                                                  \
    for (int j = ITEM; j < BC; j += GROUP) {                                                                           \
        const int slot = (p).block + j, is_there = (p).part < count && slot < min_int(limit, ((p).part + 1) * PART);   \
        const int nth = is_there ? slot / (int)page_size : 0, row = slot - nth * (int)page_size;                       \
        i64 page = is_there ? INTS(table)[sequence * max_pages + nth] : 0;                                             \
        page = page < 0 ? 0 : min_long(page, pages - 1);                                                               \
        from[(turn) * BC + j] = is_there ? ((page * kv_heads + g) * page_size + row) * HD : -1;                        \
    }
    // Begins to copy them; what is not there becomes zeros.
#define COPY(turn)                                                                               \
    for (int e = ITEM; e < BC * PIECES; e += GROUP) {                                            \
        const int j = e / PIECES, p = e % PIECES;                                                \
        const i64 at = from[(turn) * BC + j];                                                    \
        uchar *to = cached + (turn) * 2 * TILE_BYTES + place(j, p);                              \
        copy_16(to, k_pages + (at < 0 ? 0 : 2 * at + 16 * p), at >= 0);                          \
        copy_16(to + TILE_BYTES, v_pages + (at < 0 ? 0 : 2 * at + 16 * p), at >= 0);             \
    }                                                                                            \
    COPY_COMMIT

    Place now = {FIRST_PART, FIRST_PART * PART}, next = next_place(now, limit, NEXT_PART);
    FIND(0, now);
    BARRIER;
    COPY(0);
    FIND(1, next);
    for (int turn = 0; now.part < count; turn ^= 1) {
        // These slots are there, those of the last turn are not used any more, and the next ones are found.
        COPY_WAIT(0);
        BARRIER;
        COPY(turn ^ 1);
        const Place after = next_place(next, limit, NEXT_PART);
        FIND(turn, after);
        if (now.block < any_sees) {
            const uchar *keys = cached + turn * 2 * TILE_BYTES, *kept = keys + TILE_BYTES;
            float score[BC / 8][4];
#pragma unroll
            for (int j = 0; j < BC / 8; j++) {
                for (int e = 0; e < 4; e++) score[j][e] = 0.0f;
            }
#pragma unroll
            for (int u = 0; u < HD / 32; u++) {
                const uint4 low = load_16(queries + place(16 * WARP + LANE_ROW, 4 * u + LANE_PART));
                const uint4 high = load_16(queries + place(16 * WARP + 8 + LANE_ROW, 4 * u + LANE_PART));
#pragma unroll
                for (int j = 0; j < BC / 8; j++) {
                    const uint4 key = load_16(keys + place(8 * j + LANE_ROW, 4 * u + LANE_PART));
                    MMA_32(score[j], low, high, key);
                }
            }
            // Slots beyond the end of the part are zeros, which count unless they are hidden.
            const int part_end = min_int(limit, (now.part + 1) * PART);
            const int whole = now.block + BC <= part_end && now.block + BC <= all_see;
            float top[2] = {most[0], most[1]};
#pragma unroll
            for (int j = 0; j < BC / 8; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int slot = now.block + 8 * j + 2 * LANE_PART + e % 2;
                    const int visible =
                        whole || (slot < part_end && (mask == 2 || slot <= position[e / 2] || (mask == 1 && slot < shared)));
                    score[j][e] = visible ? scale * score[j][e] : NEG_INF;
                    top[e / 2] = max_nan(top[e / 2], score[j][e]);
                }
            }
            float shrink[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                top[i] = row_max(top[i]);
                // Nothing visible yet.
                shrink[i] = top[i] == NEG_INF ? 1.0f : EXP2((most[i] - top[i]) * LOG2_E);
                most[i] = top[i];
                total[i] *= shrink[i];
            }
#pragma unroll
            for (int j = 0; j < BC / 8; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float s = score[j][e];
                    score[j][e] = s == NEG_INF ? 0.0f : EXP2((s - most[e / 2]) * LOG2_E);
                    total[e / 2] += score[j][e];
                }
            }
#pragma unroll
            for (int d = 0; d < 2 * HD / 16; d++) {
                for (int e = 0; e < 4; e++) sum[d][e] *= shrink[e / 2];
            }
            // Sums of the scores' product are operands of the next: the same lanes have the same rows and slots.
#pragma unroll
            for (int j = 0; j < BC / 16; j++) {
                const uint a0 = pack_2(score[2 * j][0], score[2 * j][1]), a1 = pack_2(score[2 * j][2], score[2 * j][3]);
                const uint a2 = pack_2(score[2 * j + 1][0], score[2 * j + 1][1]);
                const uint a3 = pack_2(score[2 * j + 1][2], score[2 * j + 1][3]);
#pragma unroll
                for (int d = 0; d < HD / 16; d++) {
                    uint v[4];
                    LOAD_TRANSPOSED(v, kept + place(16 * j + LANE % 16, 2 * d + LANE / 16));
                    MMA(sum[2 * d], a0, a1, a2, a3, v[0], v[1]);
                    MMA(sum[2 * d + 1], a0, a1, a2, a3, v[2], v[3]);
                }
            }
        }
        if (next.part != now.part) {
            // The part ends.
#pragma unroll
            for (int i = 0; i < 2; i++) total[i] = row_sum(total[i]);
#if SHARED
            const i64 all_rows = (i64)tokens * heads;
            GLOBAL float *ends = (GLOBAL float *)space + all_rows, *values = ends + 2 * all_rows * parts;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int r = 16 * WARP + 8 * i + LANE_ROW, row = first_row + r;
                if (r >= rows) continue;
                const i64 at = ((i64)(start + row / share) * heads + g * share + row % share) * parts + now.part;
                if (LANE_PART == 0) {
                    ends[2 * at] = most[i];
                    ends[2 * at + 1] = total[i];
                }
                GLOBAL float *to = values + at * HD + 2 * LANE_PART;
#pragma unroll
                for (int d = 0; d < 2 * HD / 16; d++) {
                    to[8 * d] = sum[d][2 * i];
                    to[8 * d + 1] = sum[d][2 * i + 1];
                }
            }
#else
            float kept[2], added[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float top = max_nan(all_most[i], most[i]);
                kept[i] = part_weight(all_most[i], top);
                added[i] = part_weight(most[i], top);
                all_total[i] = FMA(total[i], added[i], all_total[i] * kept[i]);
                all_most[i] = top;
            }
#pragma unroll
            for (int d = 0; d < 2 * HD / 16; d++) {
                for (int e = 0; e < 4; e++) all_sum[d][e] = FMA(sum[d][e], added[e / 2], all_sum[d][e] * kept[e / 2]);
            }
#endif
#pragma unroll
            for (int i = 0; i < 2; i++) {
                most[i] = NEG_INF;
                total[i] = 0.0f;
            }
#pragma unroll
            for (int d = 0; d < 2 * HD / 16; d++) {
                for (int e = 0; e < 4; e++) sum[d][e] = 0.0f;
            }
        }
        now = next;
        next = after;
    }
    // What was asked for too much.
    COPY_WAIT(0);
#if !SHARED
    BIND_OUT(out);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = 16 * WARP + 8 * i + LANE_ROW, row = first_row + r;
        if (r >= rows) continue;
        const i64 to = (start + row / share) * out_token + (g * share + row % share) * out_head + 2 * LANE_PART;
#pragma unroll
        for (int d = 0; d < 2 * HD / 16; d++) {
            for (int e = 0; e < 2; e++) {
                STORE(X, out, to + 8 * d + e, all_most[i] == NEG_INF ? 0.0f : all_sum[d][2 * i + e] / all_total[i]);
            }
        }
    }
#endif
}
