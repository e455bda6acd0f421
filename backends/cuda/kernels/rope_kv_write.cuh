// Turns the heads of queries and keys in place, elements of type X, and writes keys and values to their slots in pages of the same
// type, eight at a time.

#define WORKS (TURNS + REST / 8)

KERNEL rope_kv_write_eights(OUT(qkv), OUT(k_pages), OUT(v_pages), IN(slots), IN(positions), IN(cosines), IN(sines), int heads,
                            int kv_heads, i64 pages, i64 page_size, i64 table_rows, i64 qkv_token, i64 qkv_head,
                            i64 position_stream, i64 position_token, int aligned, i64 items) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(qkv);
    BIND_OUT(k_pages);
    BIND_OUT(v_pages);
    BIND_IN(slots);
    BIND_IN(positions);
    BIND_IN(cosines);
    BIND_IN(sines);
    // Tokens by heads by streams by what is done of one.
    const i64 at = (i64)GROUP_X * GROUP + ITEM;
    if (at >= items) return;
    const int of_token = (heads + 2 * kv_heads) * STREAMS * WORKS, item = (int)(at % of_token);
    const int work = item % WORKS, stream = item / WORKS % STREAMS, h = item / WORKS / STREAMS;
    const i64 t = at / of_token;
    const int turns = work < TURNS && h < heads + kv_heads, goes = h >= heads;
    if (!turns && !goes) return;
    uchar *x = qkv + 2 * (t * qkv_token + h * qkv_head + stream * PART);
    uint4 v[2];
    load_work(x, work, aligned, v);
    if (turns) {
        const i64 row = table_row(INTS(positions)[stream * position_stream + t * position_token], table_rows);
        turn(v, work, FLOATS(cosines) + row * PAIRS, FLOATS(sines) + row * PAIRS);
        store_work(x, work, aligned, v);
    }
    if (!goes) return;
    const i64 slot = INTS(slots)[t];
    // Read from memory: a slot outside the cache skips the token.
    if (slot < 0 || slot >= pages * page_size) return;
    const int kv_head = (h - heads) % kv_heads;
    const i64 to = ((slot / page_size * kv_heads + kv_head) * page_size + slot % page_size) * STREAMS + stream;
    store_work((h < heads + kv_heads ? k_pages : v_pages) + 2 * to * PART, work, aligned, v);
}
