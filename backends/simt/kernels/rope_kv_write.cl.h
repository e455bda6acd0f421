// Turns the heads of queries and keys in place, elements of type X, and writes keys and values to their slots in pages of
// type Y. One work-item per pair, then one per element that is only copied. `half_split`: pairs (i, i + pairs) instead of
// (2i, 2i + 1).

KERNEL rope_kv_write(OUT(qkv), OUT(k_pages), OUT(v_pages), IN(slots), IN(positions), IN(cosines), IN(sines), int heads,
                     int kv_heads, i64 pages, i64 page_size, i64 table_rows, i64 qkv_token, i64 qkv_head,
                     i64 position_stream, i64 position_token, i64 tokens, int head_dim, int pairs, int streams,
                     int half_split) {
    BIND_OUT(qkv);
    BIND_OUT(k_pages);
    BIND_OUT(v_pages);
    BIND_IN(slots);
    BIND_IN(positions);
    BIND_IN(cosines);
    BIND_IN(sines);
    const int part = head_dim / streams, all = heads + 2 * kv_heads, of_part = part - pairs;
    const i64 items = (i64)streams * of_part, n = tokens * all * items, step = (i64)GROUPS_X * GROUP;
    for (i64 at = (i64)GROUP_X * GROUP + ITEM; at < n; at += step) {
        const i64 t = at / items / all;
        const int h = (int)(at / items % all), stream = (int)(at % items) / of_part, i = (int)(at % items) % of_part;
        int a = pairs + i, b = pairs + i;
        if (i < pairs) {
            a = half_split ? i : 2 * i;
            b = half_split ? i + pairs : 2 * i + 1;
        }
        a += stream * part;
        b += stream * part;
        const i64 x = t * qkv_token + h * qkv_head;
        float p = LOAD(X, qkv, x + a), q = LOAD(X, qkv, x + b);
        if (i < pairs && h < heads + kv_heads) {
            // Read from memory: the nearest row of the table.
            i64 row = INTS(positions)[stream * position_stream + t * position_token];
            row = row < 0 ? 0 : min_long(row, table_rows - 1);
            const float c = FLOATS(cosines)[row * pairs + i], s = FLOATS(sines)[row * pairs + i], turned = p * c - q * s;
            q = q * c + p * s;
            p = turned;
            STORE(X, qkv, x + a, p);
            STORE(X, qkv, x + b, q);
        }
        if (h < heads) continue;
        const i64 slot = INTS(slots)[t];
        // Read from memory: a slot outside the cache skips the token.
        if (slot < 0 || slot >= pages * page_size) continue;
        GLOBAL uchar *cache = h < heads + kv_heads ? k_pages : v_pages;
        const int kv_head = (h - heads) % kv_heads;
        const i64 to = ((slot / page_size * kv_heads + kv_head) * page_size + slot % page_size) * head_dim;
        STORE(Y, cache, to + a, p);
        STORE(Y, cache, to + b, q);
    }
}
