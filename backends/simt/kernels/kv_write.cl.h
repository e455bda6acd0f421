// Pages of type Y[pages, kv_heads, page_size, head_dim] at each token's slot = k and v of type X.

KERNEL kv_write(OUT(k_pages), OUT(v_pages), IN(k), IN(v), IN(slots), i64 tokens, i64 kv_heads, i64 head_dim, i64 pages,
                i64 page_size, i64 k_token, i64 k_head, i64 v_token, i64 v_head) {
    BIND_OUT(k_pages);
    BIND_OUT(v_pages);
    BIND_IN(k);
    BIND_IN(v);
    BIND_IN(slots);
    const i64 n = tokens * kv_heads * head_dim, step = (i64)GROUPS_X * GROUP;
    for (i64 i = (i64)GROUP_X * GROUP + ITEM; i < n; i += step) {
        const i64 d = i % head_dim, h = i / head_dim % kv_heads, t = i / head_dim / kv_heads;
        const i64 slot = INTS(slots)[t];
        // Read from memory: a slot outside the cache skips the token.
        if (slot < 0 || slot >= pages * page_size) continue;
        const i64 to = ((slot / page_size * kv_heads + h) * page_size + slot % page_size) * head_dim + d;
        STORE(Y, k_pages, to, LOAD(X, k, t * k_token + h * k_head + d));
        STORE(Y, v_pages, to, LOAD(X, v, t * v_token + h * v_head + d));
    }
}
