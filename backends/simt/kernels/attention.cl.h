// Attention over a paged cache: q and out of type X, pages of type Y; masks: 0 causal, 1 prefix, 2 full.
//
// A group takes BR rows of one sequence and one key-value head: rows are pairs of a token and one of the query heads
// that share the key-value head, so that a decoding step with grouped heads reads the cache once. Keys and values pass
// through local memory BC slots at a time; the softmax runs along (online). HD is head_dim rounded up.
//
// Tokens before the first and after the last sequence are handled as sequences without slots: their rows are zeros.

#define EACH (BR * HD / GROUP)
#define WIDE (HD + 1)

KERNEL attention(OUT(out), IN(q), IN(k_pages), IN(v_pages), IN(table), IN(q_start), IN(kv_len), IN(prefix), int tokens,
                 int heads, int kv_heads, int head_dim, i64 pages, i64 page_size, int sequences, i64 max_pages,
                 i64 out_token, i64 out_head, i64 q_token, i64 q_head, float scale, int mask) {
    BIND_OUT(out);
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
    const int item = ITEM, g = GROUP_Y, share = heads / kv_heads;
    // Which sequence this group's rows are of: one work-item looks, all read. Starts come from memory: they are kept
    // ascending and within the tokens.
    LOCAL int found[3];
    LOCAL i64 place[1];
    if (item == 0) {
        int at = 0, sequence = -2;
        i64 tile = GROUP_X;
        for (int s = -1; s <= sequences && sequence == -2; s++) {
            const int next = s < sequences ? max_int(at, min_int(INTS(q_start)[s + 1], tokens)) : tokens;
            const i64 tiles = ((i64)(next - at) * share + BR - 1) / BR;
            if (tile < tiles) {
                sequence = s;
                found[1] = at;
                found[2] = next;
                place[0] = tile;
            }
            tile -= tiles;
            at = next;
        }
        found[0] = sequence;
        if (sequence == -2) found[1] = found[2] = 0;
        if (sequence == -2) place[0] = 0;
    }
    BARRIER;
    const int sequence = found[0], start = found[1], end = found[2];
    const i64 tile = place[0];
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

    for (int e = item; e < BR * HD; e += GROUP) {
        const int r = e / HD, d = e % HD;
        const i64 row = first_row + r, t = start + row / share, h = g * share + row % share;
        queries[e] = r < rows && d < head_dim ? LOAD(X, q, t * q_token + h * q_head + d) : 0.0f;
    }
    for (int r = item; r < BR; r += GROUP) {
        most[r] = NEG_INF;
        total[r] = 0.0f;
    }
    float sum[EACH];
    for (int e = 0; e < EACH; e++) sum[e] = 0.0f;
    BARRIER;
    for (i64 from = 0; from < limit; from += BC) {
        for (int e = item; e < BC * HD; e += GROUP) {
            const int j = e / HD, d = e % HD;
            float x = 0.0f;
            if (from + j < limit && d < head_dim) {
                i64 page = INTS(table)[sequence * max_pages + (from + j) / page_size];
                page = page < 0 ? 0 : min_long(page, pages - 1);
                x = LOAD(Y, k_pages, ((page * kv_heads + g) * page_size + (from + j) % page_size) * head_dim + d);
            }
            cached[j * WIDE + d] = x;
        }
        BARRIER;
        for (int e = item; e < BR * BC; e += GROUP) {
            const int r = e / BC, j = e % BC;
            const i64 slot = from + j, position = origin + (first_row + r) / share;
            const int visible = r < rows && slot < limit && (mask == 2 || slot <= position || (mask == 1 && slot < shared));
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
            float part = 0.0f;
            for (int j = 0; j < BC; j++) {
                const float p = none || scores[r * BC + j] == NEG_INF ? 0.0f : EXP(scores[r * BC + j] - top);
                scores[r * BC + j] = p;
                part += p;
            }
            total[r] = total[r] * keep + part;
            shrink[r] = keep;
            most[r] = top;
        }
        // Needed by PoCL 3.1 alone, which drops the block above when a loop follows it.
        BARRIER;
        for (int e = item; e < BC * HD; e += GROUP) {
            const int j = e / HD, d = e % HD;
            float x = 0.0f;
            if (from + j < limit && d < head_dim) {
                i64 page = INTS(table)[sequence * max_pages + (from + j) / page_size];
                page = page < 0 ? 0 : min_long(page, pages - 1);
                x = LOAD(Y, v_pages, ((page * kv_heads + g) * page_size + (from + j) % page_size) * head_dim + d);
            }
            cached[j * WIDE + d] = x;
        }
        BARRIER;
        for (int e = 0; e < EACH; e++) {
            const int i = item + e * GROUP, r = i / HD, d = i % HD;
            float part = sum[e] * shrink[r];
            for (int j = 0; j < BC; j++) {
                // A hidden slot's value may be anything.
                const float p = scores[r * BC + j];
                part = p != 0.0f ? FMA(p, cached[j * WIDE + d], part) : part;
            }
            sum[e] = part;
        }
        BARRIER;
    }
    for (int e = 0; e < EACH; e++) {
        const int i = item + e * GROUP, r = i / HD, d = i % HD;
        const i64 row = first_row + r, t = start + row / share, h = g * share + row % share;
        if (r < rows && d < head_dim) {
            STORE(X, out, t * out_token + h * out_head + d, most[r] == NEG_INF ? 0.0f : sum[e] / total[r]);
        }
    }
}
