// Attention of sequences with few rows, at most `most` tokens: a decoding step reads the cache, and little else.
//
// A sequence's slots are cut into at most PARTS parts, by its own length alone. Groups share the parts of a tile of sixteen
// rows; they leave a part's maximum, sum and values in `space`, where `attention_merge` finds them. A single part goes to
// `out` at once. So a row's result depends on nothing but its own sequence.
//
// A group takes a part SLOTS slots at a time, in three stages of local memory, so that two are on their way while one is used.
// Each of its WARPS warps has scores and probabilities of SLOTS / WARPS slots, measured from the largest of these; then each
// has all slots' values of HD / WARPS elements, and weighs each warp's slots.

#define ROWS 16
#define STAGES 3
#define WARP_SLOTS (SLOTS / WARPS)

// A sequence of the launch.
typedef struct {
    // Its tokens, and slots of its cache; how many of these are a part, and how many parts there are.
    int start, tokens, slots, part_slots, parts;
    // Where its rows begin in `space`, in tokens: sequences of `most` tokens never meet, and none is beyond all tokens.
    i64 at;
} Sequence;

// The sequence of number s, the first one of the launch being `first`. What comes from memory is kept within bounds; no tokens:
// it has too many.
FN Sequence sequence_of(int s, int first, const uchar *q_start, const uchar *kv_len, int tokens, int most, i64 room) {
    Sequence it;
    const int start = INTS(q_start)[s], end = INTS(q_start)[s + 1], slots = INTS(kv_len)[s];
    it.start = max_int(0, min_int(start, tokens));
    it.tokens = max_int(0, min_int(end, tokens) - it.start);
    if (it.tokens > most) it.tokens = 0;
    it.slots = max_int(0, min_int(slots, (int)min_long(room, MOST_SLOTS)));
    it.part_slots = SLOTS * max_int(1, (it.slots - 1) / (SLOTS * PARTS) + 1);
    it.parts = (it.slots + it.part_slots - 1) / it.part_slots;
    it.at = min_long(it.start, (i64)(s - first) * most);
    return it;
}

// The parts of a row in `space`: their values, then maximum and sum of each.
FN float *row_parts(uchar *space, Sequence it, int t, int heads, int head, int parts) {
    return (float *)space + ((it.at + t) * heads + head) * parts * (HD + 4);
}

// Where a group's next slots are.
typedef struct {
    int part, block;
} Place;

FN Place next_place(Place p, Sequence it, int groups) {
    p.block += SLOTS;
    if (p.block >= min_int(it.slots, (p.part + 1) * it.part_slots)) {
        p.part += groups;
        p.block = p.part * it.part_slots;
    }
    return p;
}

// Rows of the cache that the slots of a place are in.
#define FIND(stage, p)                            \
    for (int j = ITEM; j < SLOTS; j += GROUP) \
    from[stage][j] = cache_row(cache, (p).block + j, (p).part < it.parts ? it.slots : 0)

#define COPY(number)                                    \
    do {                                                \
        const int of = number;                          \
        uchar *to = cached + of * 2 * TILE_BYTES;       \
        copy_rows(to, k_pages, from[of]);               \
        copy_rows(to + TILE_BYTES, v_pages, from[of]);  \
    } while (0)

KERNEL attention_few(OUT(out), OUT(space), IN(q), IN(k_pages), IN(v_pages), IN(table), IN(q_start), IN(kv_len), IN(prefix),
                     int tokens, int heads, int kv_heads, int pages, int page_size, int sequences, i64 max_pages,
                     i64 out_token, i64 out_head, i64 q_token, i64 q_head, float scale, int mask,
                     int first, int count, int most, int tiles, int parts, int groups) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(out);
    BIND_OUT(space);
    BIND_IN(q);
    BIND_IN(k_pages);
    BIND_IN(v_pages);
    BIND_IN(table);
    BIND_IN(q_start);
    BIND_IN(kv_len);
    BIND_IN(prefix);
    LOCAL_OF_LAUNCH(cached);
    LOCAL int from[STAGES][SLOTS];
    // Of the slots of each warp: probabilities as operands of a lane, maximum and sum of each row.
    LOCAL uint4 weights[WARPS][32];
    LOCAL float ends[WARPS][ROWS][2];
    const int share = heads / kv_heads, g = GROUP_Y;
    if (GROUP_X >= count * tiles) {
        // Tokens before the first sequence and after the last one.
        const int before = max_int(0, min_int(INTS(q_start)[0], tokens));
        const int after = max_int(before, min_int(INTS(q_start)[sequences], tokens));
        for (int t = GROUP_Z; t < tokens; t += groups) {
            if (t >= before && t < after) continue;
            for (int e = ITEM; e < share * HD; e += GROUP) {
                STORE(X, out, t * out_token + (g * share + e / HD) * out_head + e % HD, 0.0f);
            }
        }
        return;
    }
    const int s = first + GROUP_X % count;
    const int shared = mask == 1 ? INTS(prefix)[s] : 0;
    const Sequence it = sequence_of(s, first, q_start, kv_len, tokens, most, pages > 0 ? max_pages * page_size : 0);
    if (GROUP_Z >= max_int(it.parts, 1)) return;
    const int rows = it.tokens * share;
    const Cache cache = {INTS(table) + s * max_pages, g, kv_heads, pages, page_size};
    const float factor = scale * LOG2_E;
    const int along = LANE % 16, across = LANE % 8 + LANE / 16 * 8;
    for (int first_row = ROWS * (GROUP_X / count); first_row < rows; first_row += ROWS * tiles) {
        Place now = {GROUP_Z, GROUP_Z * it.part_slots}, ahead = next_place(now, it, groups);
        FIND(0, now);
        FIND(1, ahead);
        ahead = next_place(ahead, it, groups);
        FIND(2, ahead);
        ahead = next_place(ahead, it, groups);
        // Queries are where the third stage comes when all have read them.
        uchar *queries = cached + 4 * TILE_BYTES;
        load_queries(queries, ROWS, q, q_token, q_head, it.start, first_row, rows - first_row, g * share, share);
        BARRIER;
        if (it.parts > 0) COPY(0);
        COPY_COMMIT;
        if (next_place(now, it, groups).part < it.parts) COPY(1);
        COPY_COMMIT;
        uint query[HD / 16][4];
#pragma unroll
        for (int u = 0; u < HD / 16; u++) LOAD_MATRICES(query[u], queries + place(along, 2 * u + LANE / 16));
        int visible[2];
        for (int i = 0; i < 2; i++) {
            const int t = (first_row + 8 * i + LANE_ROW) / share;
            visible[i] = seen(it.slots - it.tokens + t, mask, it.slots, shared);
        }

        float sum[2 * HD / 64][4], most_of[2] = {NEG_INF, NEG_INF}, total[2] = {0.0f, 0.0f};
#pragma unroll
        for (int d = 0; d < 2 * HD / 64; d++) {
            for (int e = 0; e < 4; e++) sum[d][e] = 0.0f;
        }
        for (int stage = 0; now.part < it.parts; stage = stage == STAGES - 1 ? 0 : stage + 1) {
            // This stage is there, and nobody uses the one before it any more.
            COPY_WAIT(STAGES - 2);
            BARRIER;
            const Place next = next_place(now, it, groups);
            if (next_place(next, it, groups).part < it.parts) COPY(stage == 0 ? STAGES - 1 : stage - 1);
            COPY_COMMIT;
            const int row_ahead =
                ITEM < SLOTS ? cache_row(cache, ahead.block + ITEM, ahead.part < it.parts ? it.slots : 0) : 0;
            ahead = next_place(ahead, it, groups);
            const uchar *keys = cached + stage * 2 * TILE_BYTES, *values = keys + TILE_BYTES;

            float score[2][4];
            for (int e = 0; e < 8; e++) score[e / 4][e % 4] = 0.0f;
#pragma unroll
            for (int u = 0; u < HD / 16; u++) {
                uint key[4];
                LOAD_MATRICES(key, keys + place(WARP_SLOTS * WARP + across, 2 * u + LANE / 8 % 2));
                MMA(score[0], query[u][0], query[u][1], query[u][2], query[u][3], key[0], key[1]);
                MMA(score[1], query[u][0], query[u][1], query[u][2], query[u][3], key[2], key[3]);
            }
            float top[2] = {NEG_INF, NEG_INF}, added[2] = {0.0f, 0.0f};
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const int slot = now.block + WARP_SLOTS * WARP + e / 4 * 8 + 2 * LANE_PART + e % 2, i = e % 4 / 2;
                if (slot >= visible[i]) score[e / 4][e % 4] = NEG_INF;
                top[i] = MAX_NAN(top[i], score[e / 4][e % 4]);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) top[i] = row_max(top[i]) * factor;
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const int i = e % 4 / 2;
                const float p = EXP2(FMA(score[e / 4][e % 4], factor, -measured_from(top[i])));
                score[e / 4][e % 4] = p;
                added[i] += p;
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                added[i] = row_sum(added[i]);
                if (LANE_PART == 0) {
                    ends[WARP][8 * i + LANE_ROW][0] = top[i];
                    ends[WARP][8 * i + LANE_ROW][1] = added[i];
                }
            }
            // Sums of the scores' product are operands of the next: the same lanes have the same rows and slots.
            weights[WARP][LANE] = make_uint4(pack_2(score[0][0], score[0][1]), pack_2(score[0][2], score[0][3]),
                                             pack_2(score[1][0], score[1][1]), pack_2(score[1][2], score[1][3]));
            if (ITEM < SLOTS) from[stage][ITEM] = row_ahead;
            BARRIER;

            float weight[WARPS][2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int r = 8 * i + LANE_ROW;
                float highest = most_of[i];
#pragma unroll
                for (int w = 0; w < WARPS; w++) highest = MAX_NAN(highest, ends[w][r][0]);
                const float from_here = measured_from(highest), shrink = EXP2(most_of[i] - from_here);
                most_of[i] = highest;
                total[i] *= shrink;
#pragma unroll
                for (int d = 0; d < 2 * HD / 64; d++) {
                    for (int e = 0; e < 2; e++) sum[d][2 * i + e] *= shrink;
                }
#pragma unroll
                for (int w = 0; w < WARPS; w++) {
                    weight[w][i] = EXP2(ends[w][r][0] - from_here);
                    total[i] = FMA(ends[w][r][1], weight[w][i], total[i]);
                }
            }
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const uint4 a = weights[w][LANE];
#pragma unroll
                for (int d = 0; d < HD / 64; d++) {
                    uint v[4];
                    LOAD_TRANSPOSED(v, values + place(WARP_SLOTS * w + along, WARP * (PIECES / WARPS) + 2 * d + LANE / 16));
                    float low[4] = {0.0f, 0.0f, 0.0f, 0.0f}, high[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                    MMA(low, a.x, a.y, a.z, a.w, v[0], v[1]);
                    MMA(high, a.x, a.y, a.z, a.w, v[2], v[3]);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        sum[2 * d][e] = FMA(low[e], weight[w][e / 2], sum[2 * d][e]);
                        sum[2 * d + 1][e] = FMA(high[e], weight[w][e / 2], sum[2 * d + 1][e]);
                    }
                }
            }
            if (next.part != now.part && it.parts > 1) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int row = first_row + 8 * i + LANE_ROW;
                    if (row < rows) {
                        float *to = row_parts(space, it, row / share, heads, g * share + row % share, parts);
                        float *end = to + parts * HD + 2 * now.part;
                        to += now.part * HD + HD / WARPS * WARP + 2 * LANE_PART;
#pragma unroll
                        for (int d = 0; d < 2 * HD / 64; d++) {
                            to[8 * d] = sum[d][2 * i];
                            to[8 * d + 1] = sum[d][2 * i + 1];
                        }
                        if (WARP == 0 && LANE_PART == 0) {
                            end[0] = most_of[i];
                            end[1] = total[i];
                        }
                    }
                    most_of[i] = NEG_INF;
                    total[i] = 0.0f;
                }
#pragma unroll
                for (int d = 0; d < 2 * HD / 64; d++) {
                    for (int e = 0; e < 4; e++) sum[d][e] = 0.0f;
                }
            }
            now = next;
        }
        COPY_WAIT(0);
        if (it.parts <= 1) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = first_row + 8 * i + LANE_ROW;
                if (row >= rows) continue;
                const float one = total[i] == 0.0f ? 0.0f : 1.0f / total[i];
                const i64 to = (it.start + row / share) * out_token + (g * share + row % share) * out_head +
                               HD / WARPS * WARP + 2 * LANE_PART;
#pragma unroll
                for (int d = 0; d < 2 * HD / 64; d++) {
                    for (int e = 0; e < 2; e++) STORE(X, out, to + 8 * d + e, sum[d][2 * i + e] * one);
                }
            }
        }
        // Local memory is the next tile's.
        BARRIER;
    }
}

// Elements of a row that a group merges, PIECE to a work-item; as many slices of the parts as work-items are left.
#define COLUMNS 32
#define PIECE 4
#define SLICES (GROUP / (COLUMNS / PIECE))

// Merges the parts of rows in `space`: a group has COLUMNS elements of one query head of some of a sequence's tokens.
KERNEL attention_merge(OUT(out), IN(space), IN(q_start), IN(kv_len), int tokens, int heads, int pages, int page_size,
                       i64 max_pages, i64 out_token, i64 out_head, int first, int count, int most, int parts) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(out);
    BIND_IN(space);
    BIND_IN(q_start);
    BIND_IN(kv_len);
    LOCAL float sums[WARPS][COLUMNS];
    const int s = first + GROUP_X % count, turn = GROUP_X / count, turns = GROUPS_X / count;
    const int head = GROUP_Y, column = COLUMNS * GROUP_Z;
    const Sequence it = sequence_of(s, first, q_start, kv_len, tokens, most, pages > 0 ? max_pages * page_size : 0);
    if (it.parts <= 1) return;
    const int piece = ITEM % (COLUMNS / PIECE), slice = ITEM / (COLUMNS / PIECE);
    for (int t = turn; t < it.tokens; t += turns) {
        const float *values = row_parts((uchar *)space, it, t, heads, head, parts), *ends = values + parts * HD;
        float4 value[PARTS / SLICES];
        float top[PARTS / SLICES];
#pragma unroll
        for (int k = 0; k < PARTS / SLICES; k++) {
            const int part = slice + SLICES * k;
            value[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            top[k] = NEG_INF;
            if (part < it.parts) {
                value[k] = *(const float4 *)(values + (i64)part * HD + column + PIECE * piece);
                top[k] = ends[2 * part];
            }
        }
        // Every warp looks at all maxima and sums, a lane at PARTS / 32 of them.
        float highest = NEG_INF, total = 0.0f, tops[PARTS / 32], totals[PARTS / 32];
#pragma unroll
        for (int k = 0; k < PARTS / 32; k++) {
            const int part = LANE + 32 * k;
            tops[k] = part < it.parts ? ends[2 * part] : NEG_INF;
            totals[k] = part < it.parts ? ends[2 * part + 1] : 0.0f;
            highest = MAX_NAN(highest, tops[k]);
        }
#pragma unroll
        for (int n = 16; n > 0; n >>= 1) highest = MAX_NAN(highest, EXCHANGE_XOR(highest, n));
        const float from_here = measured_from(highest);
#pragma unroll
        for (int k = 0; k < PARTS / 32; k++) total = FMA(totals[k], EXP2(tops[k] - from_here), total);
#pragma unroll
        for (int n = 16; n > 0; n >>= 1) total += EXCHANGE_XOR(total, n);
        float sum[PIECE] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int k = 0; k < PARTS / SLICES; k++) {
            const float weight = EXP2(top[k] - from_here);
            sum[0] = FMA(value[k].x, weight, sum[0]);
            sum[1] = FMA(value[k].y, weight, sum[1]);
            sum[2] = FMA(value[k].z, weight, sum[2]);
            sum[3] = FMA(value[k].w, weight, sum[3]);
        }
        // Four slices are one warp's.
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            sum[i] += EXCHANGE_XOR(sum[i], 8);
            sum[i] += EXCHANGE_XOR(sum[i], 16);
            if (LANE < 8) sums[WARP][PIECE * piece + i] = sum[i];
        }
        BARRIER;
        if (ITEM < COLUMNS) {
            float all = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) all += sums[w][ITEM];
            const float y = total == 0.0f ? 0.0f : all / total;
            STORE(X, out, (it.start + t) * out_token + head * out_head + column + ITEM, y);
        }
        BARRIER;
    }
}
