// Softmax of rows of type X, one group per row: three passes in f32. `masked`: 0 none, 1 causal, 2 prefix, 3 full.

FN int sees(int masked, i64 position, i64 slot, i64 kv_len, i64 prefix) {
    return slot < kv_len && (masked == 3 || slot <= position || (masked == 2 && slot < prefix));
}

KERNEL softmax(OUT(out), IN(x), IN(q_range), IN(kv_len), IN(prefix), i64 rows, i64 cols, i64 out_batch, i64 out_row,
               i64 x_batch, i64 x_row, float scale, int masked) {
    BIND_OUT(out);
    BIND_IN(x);
    LOCAL float scratch[GROUP];
    const int item = ITEM;
    const i64 b = GROUP_X / rows, r = GROUP_X % rows;
    x += (b * x_batch + r * x_row) * BYTES(X);
    out += (b * out_batch + r * out_row) * BYTES(X);
    i64 position = 0, slots = 0, shared = 0;
    int inside = 1;
    if (masked) {
        BIND_IN(q_range);
        BIND_IN(kv_len);
        BIND_IN(prefix);
        const i64 start = INTS(q_range)[0], end = INTS(q_range)[1];
        slots = INTS(kv_len)[0];
        shared = masked == 2 ? INTS(prefix)[0] : 0;
        position = slots - end + r;
        inside = r >= start && r < end;
    }
    float most = NEG_INF;
    for (i64 c = item; c < cols; c += GROUP) {
        if (!masked || (inside && sees(masked, position, c, slots, shared))) most = max_nan(most, scale * LOAD(X, x, c));
    }
    most = group_max(most, scratch);
    float sum = 0.0f;
    if (most != NEG_INF) {
        for (i64 c = item; c < cols; c += GROUP) {
            if (!masked || (inside && sees(masked, position, c, slots, shared))) sum += EXP(scale * LOAD(X, x, c) - most);
        }
    }
    sum = group_sum(sum, scratch);
    for (i64 c = item; c < cols; c += GROUP) {
        float y = 0.0f;
        if (most != NEG_INF && (!masked || (inside && sees(masked, position, c, slots, shared)))) {
            y = EXP(scale * LOAD(X, x, c) - most) / sum;
        }
        STORE(X, out, c, y);
    }
}
