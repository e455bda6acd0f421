// Pages of type X[pages, kv_heads, page_size, head_dim] at each token's slot = k and v of the same type, eight elements at a time.

KERNEL kv_write_eights(OUT(k_pages), OUT(v_pages), IN(k), IN(v), IN(slots), i64 tokens, i64 kv_heads, i64 head_dim, i64 pages,
                       i64 page_size, i64 k_token, i64 k_head, i64 v_token, i64 v_head, int aligned) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(k_pages);
    BIND_OUT(v_pages);
    BIND_IN(k);
    BIND_IN(v);
    BIND_IN(slots);
    const int eights = (int)head_dim / 8, heads = (int)kv_heads;
    const i64 at = (i64)GROUP_X * GROUP + ITEM;
    if (at >= tokens * heads * eights) return;
    const int e = (int)(at % eights), h = (int)(at / eights % heads);
    const i64 t = at / eights / heads, slot = INTS(slots)[t];
    // Read from memory: a slot outside the cache skips the token.
    if (slot < 0 || slot >= pages * page_size) return;
    const i64 to = 2 * (((slot / page_size * heads + h) * page_size + slot % page_size) * head_dim + 8 * e);
    store_8(k_pages + to, load_8(k + 2 * (t * k_token + h * k_head + 8 * e), 8, aligned), 8, aligned);
    store_8(v_pages + to, load_8(v + 2 * (t * v_token + h * v_head + 8 * e), 8, aligned), 8, aligned);
}
