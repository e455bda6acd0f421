// Rotates pairs of each head by the tables' angles, elements of type X. One work-item per pair, then one per element
// that is only copied. `half_split`: pairs (i, i + pairs) instead of (2i, 2i + 1).

KERNEL rope(OUT(out), IN(x), IN(positions), IN(cosines), IN(sines), i64 tokens, i64 heads, int head_dim, int pairs,
            int streams, int half_split, i64 table_rows, i64 out_token, i64 out_head, i64 x_token, i64 x_head,
            i64 position_stream, i64 position_token) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(positions);
    BIND_IN(cosines);
    BIND_IN(sines);
    const int part = head_dim / streams, rest = part - 2 * pairs;
    const i64 items = (i64)streams * (pairs + rest), n = tokens * heads * items, step = (i64)GROUPS_X * GROUP;
    for (i64 at = (i64)GROUP_X * GROUP + ITEM; at < n; at += step) {
        const i64 t = at / items / heads, h = at / items % heads;
        const int stream = (int)(at % items) / (pairs + rest), i = (int)(at % items) % (pairs + rest);
        const i64 from = t * x_token + h * x_head + stream * part, to = t * out_token + h * out_head + stream * part;
        if (i >= pairs) {
            STORE(X, out, to + pairs + i, LOAD(X, x, from + pairs + i));
            continue;
        }
        // Read from memory: the nearest row of the table.
        i64 row = INTS(positions)[stream * position_stream + t * position_token];
        row = row < 0 ? 0 : min_long(row, table_rows - 1);
        const float c = FLOATS(cosines)[row * pairs + i], s = FLOATS(sines)[row * pairs + i];
        const int a = half_split ? i : 2 * i, b = half_split ? i + pairs : 2 * i + 1;
        const float p = LOAD(X, x, from + a), q = LOAD(X, x, from + b);
        STORE(X, out, to + a, p * c - q * s);
        STORE(X, out, to + b, q * c + p * s);
    }
}
