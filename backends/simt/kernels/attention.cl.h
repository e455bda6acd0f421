// Attention over a paged cache: q and out of type X, pages of type Y; masks: 0 causal, 1 prefix, 2 full.
//
// A group takes BR rows of one sequence and one key-value head: rows are pairs of a token and one of the query heads
// that share the key-value head, so that a decoding step with grouped heads reads the cache once. Keys and values pass
// through local memory BC slots at a time; the softmax runs along (online). HD is head_dim rounded up.
//
// A cache of more than PART slots is taken in parts, each with its own maximum, sum and values. Where SHARED, the groups
// of one tile share the parts and leave them in `space`, where `attention_merge` finds them; else a group alone merges
// its own. Both merge in the order of the parts, by the same arithmetic: how many groups there are changes no bit.
//
// Tokens before the first and after the last sequence are handled as sequences without slots: their rows are zeros.

#define EACH (BR * HD / GROUP)
#define WIDE (HD + 1)

// Rows of a cache, from the elements `from` on, to local memory; zeros for those that are -1, and beyond head_dim.
FN void load_rows(LOCAL_PTR float *cached, GLOBAL const uchar *pages, LOCAL_PTR const i64 *from, int head_dim) {
    for (int e = ITEM; e < BC * HD; e += GROUP) {
        const int j = e / HD, d = e % HD;
        cached[j * WIDE + d] = from[j] >= 0 && d < head_dim ? LOAD(Y, pages, from[j] + d) : 0.0f;
    }
}

KERNEL attention(RESULT, IN(q), IN(k_pages), IN(v_pages), IN(table), IN(q_start), IN(kv_len), IN(prefix),
                 int tokens, int heads, int kv_heads, int head_dim, i64 pages, i64 page_size, int sequences,
                 i64 max_pages, i64 q_token, i64 q_head, float scale, int mask) {
    BIND_IN(q);
    BIND_IN(k_pages);
    BIND_IN(v_pages);
    BIND_IN(table);
    BIND_IN(q_start);
    BIND_IN(kv_len);
    BIND_IN(prefix);
    LOCAL float queries[BR * HD];
    LOCAL float cached[BC * WIDE];
    LOCAL float scores[BR * BC];
    LOCAL float most[BR], total[BR], shrink[BR];
    // Of each row; a token of -1 where the tile has no such row.
    LOCAL int token[BR], head[BR];
    LOCAL i64 from[BC];
#if !SHARED
    // Of the parts merged so far.
    LOCAL float all_most[BR], all_total[BR];
#endif
    const int item = ITEM, g = GROUP_Y, share = heads / kv_heads;
    // One work-item looks, all read.
    LOCAL Tile found[1];
    if (item == 0) found[0] = find_tile(GROUP_X, q_start, sequences, tokens, share, BR, 0);
    BARRIER;
    const int sequence = found[0].sequence, start = found[0].start, end = found[0].end;
    const i64 tile = found[0].tile;
    const int real = sequence >= 0 && sequence < sequences && pages > 0;
    const i64 first_row = tile * BR, rows = sequence == -2 ? 0 : min_long((i64)(end - start) * share - first_row, BR);
    i64 slots = real ? INTS(kv_len)[sequence] : 0;
    slots = slots < 0 ? 0 : min_long(slots, max_pages * page_size);
    const i64 shared = real && mask == 1 ? INTS(prefix)[sequence] : 0;
    // Slot of the token at place t of the sequence: origin + t.
    const i64 origin = slots - (end - start);
    const i64 last = origin + (first_row + rows - 1) / share + 1;
    i64 limit = mask == 2 ? slots : last > shared ? last : shared;
    limit = rows <= 0 || limit < 0 ? 0 : min_long(limit, slots);
    const i64 count = (limit + PART - 1) / PART;
#if SHARED
    BIND_OUT(space);
    const i64 all_rows = (i64)tokens * heads;
    GLOBAL float *ends = (GLOBAL float *)space + all_rows, *values = ends + 2 * all_rows * parts;
#endif

    for (int r = item; r < BR; r += GROUP) {
        const i64 row = first_row + r;
        token[r] = r < rows ? start + (int)(row / share) : -1;
        head[r] = g * share + (int)(row % share);
#if SHARED
        if (GROUP_Z == 0 && r < rows) ((GLOBAL int *)space)[(i64)token[r] * heads + head[r]] = (int)count;
#else
        all_most[r] = NEG_INF;
        all_total[r] = 0.0f;
#endif
    }
    BARRIER;
    for (int e = item; e < BR * HD; e += GROUP) {
        const int r = e / HD, d = e % HD;
        const int asked = token[r] >= 0 && d < head_dim;
        queries[e] = asked ? LOAD(X, q, token[r] * q_token + head[r] * q_head + d) : 0.0f;
    }
    float sum[EACH];
#if !SHARED
    float all_sum[EACH];
    for (int e = 0; e < EACH; e++) all_sum[e] = 0.0f;
#endif
    BARRIER;
    for (i64 part = FIRST_PART; part < count; part += NEXT_PART) {
        const i64 part_end = min_long(limit, (part + 1) * PART);
        for (int r = item; r < BR; r += GROUP) {
            most[r] = NEG_INF;
            total[r] = 0.0f;
        }
        for (int e = 0; e < EACH; e++) sum[e] = 0.0f;
        for (i64 block = part * PART; block < part_end; block += BC) {
            for (int j = item; j < BC; j += GROUP) {
                const i64 slot = block + j;
                i64 page = slot < part_end ? INTS(table)[sequence * max_pages + slot / page_size] : 0;
                page = page < 0 ? 0 : min_long(page, pages - 1);
                from[j] = slot < part_end ? ((page * kv_heads + g) * page_size + slot % page_size) * head_dim : -1;
            }
            BARRIER;
            load_rows(cached, k_pages, from, head_dim);
            BARRIER;
            for (int e = item; e < BR * BC; e += GROUP) {
                const int r = e / BC, j = e % BC;
                const i64 slot = block + j, position = origin + token[r] - start;
                const int visible =
                    token[r] >= 0 && slot < limit && (mask == 2 || slot <= position || (mask == 1 && slot < shared));
                float dot = 0.0f;
                for (int d = 0; d < HD; d++) dot = FMA(queries[r * HD + d], cached[j * WIDE + d], dot);
                scores[e] = visible ? scale * dot : NEG_INF;
            }
            BARRIER;
            // One work-item per row; there are at least as many.
            if (item < BR) {
                const int r = item;
                float top = most[r];
                for (int j = 0; j < BC; j++) top = max_nan(top, scores[r * BC + j]);
                // Nothing visible yet.
                const int none = top == NEG_INF;
                const float keep = none ? 1.0f : EXP(most[r] - top);
                float added = 0.0f;
                for (int j = 0; j < BC; j++) {
                    const float p = none || scores[r * BC + j] == NEG_INF ? 0.0f : EXP(scores[r * BC + j] - top);
                    scores[r * BC + j] = p;
                    added += p;
                }
                total[r] = total[r] * keep + added;
                shrink[r] = keep;
                most[r] = top;
            }
            // Needed by PoCL 3.1 alone, which drops the block above when a loop follows it.
            BARRIER;
            load_rows(cached, v_pages, from, head_dim);
            BARRIER;
            for (int e = 0; e < EACH; e++) {
                const int i = item + e * GROUP, r = i / HD, d = i % HD;
                float added = sum[e] * shrink[r];
                for (int j = 0; j < BC; j++) {
                    // A hidden slot's value may be anything.
                    const float p = scores[r * BC + j];
                    added = p != 0.0f ? FMA(p, cached[j * WIDE + d], added) : added;
                }
                sum[e] = added;
            }
            BARRIER;
        }
        for (int e = 0; e < EACH; e++) {
            const int i = item + e * GROUP, r = i / HD, d = i % HD;
#if SHARED
            if (token[r] >= 0 && d < head_dim) {
                values[(((i64)token[r] * heads + head[r]) * parts + part) * head_dim + d] = sum[e];
            }
#else
            const float top = max_nan(all_most[r], most[r]);
            all_sum[e] = FMA(sum[e], part_weight(most[r], top), all_sum[e] * part_weight(all_most[r], top));
#endif
        }
        BARRIER;
        for (int r = item; r < BR; r += GROUP) {
#if SHARED
            if (token[r] >= 0) {
                GLOBAL float *end = ends + (((i64)token[r] * heads + head[r]) * parts + part) * 2;
                end[0] = most[r];
                end[1] = total[r];
            }
#else
            const float top = max_nan(all_most[r], most[r]);
            all_total[r] = FMA(total[r], part_weight(most[r], top), all_total[r] * part_weight(all_most[r], top));
            all_most[r] = top;
#endif
        }
        BARRIER;
    }
#if !SHARED
    BIND_OUT(out);
    for (int e = 0; e < EACH; e++) {
        const int i = item + e * GROUP, r = i / HD, d = i % HD;
        if (token[r] >= 0 && d < head_dim) {
            STORE(X, out, token[r] * out_token + head[r] * out_head + d,
                  all_most[r] == NEG_INF ? 0.0f : all_sum[e] / all_total[r]);
        }
    }
#endif
}
