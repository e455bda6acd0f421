// Rotates pairs of each head by the tables' angles, elements of type X, eight at a time. What is not turned is copied, or in place
// left alone: `works` of a stream.

KERNEL rope_eights(OUT(out), IN(x), IN(positions), IN(cosines), IN(sines), int heads, i64 table_rows, i64 out_token,
                   i64 out_head, i64 x_token, i64 x_head, i64 position_stream, i64 position_token, int aligned,
                   int works, i64 items) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(positions);
    BIND_IN(cosines);
    BIND_IN(sines);
    // Tokens by heads by streams by what is done of one.
    const i64 at = (i64)GROUP_X * GROUP + ITEM;
    if (at >= items) return;
    const int of_token = heads * STREAMS * works, item = (int)(at % of_token);
    const int work = item % works, stream = item / works % STREAMS, h = item / works / STREAMS;
    const i64 t = at / of_token;
    uint4 v[2];
    load_work(x + 2 * (t * x_token + h * x_head + stream * PART), work, aligned, v);
    if (work < TURNS) {
        const i64 row = table_row(INTS(positions)[stream * position_stream + t * position_token], table_rows);
        turn(v, work, FLOATS(cosines) + row * PAIRS, FLOATS(sines) + row * PAIRS);
    }
    store_work(out + 2 * (t * out_token + h * out_head + stream * PART), work, aligned, v);
}
