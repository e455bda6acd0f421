// Rotates pairs of each head by the tables' angles, elements of type X, eight at a time. PAIRS and REST, of a stream, are multiples
// of eight: REST elements are only copied, or not even that in place. HALF_SPLIT: pairs (i, i + PAIRS) instead of (2i, 2i + 1).

// What a work-item does of a stream: eight pairs of half-split ones, four of neighbours, eight elements of the rest.
#if HALF_SPLIT
#define TURNS (PAIRS / 8)
#else
#define TURNS (PAIRS / 4)
#endif
#define PART (2 * PAIRS + REST)

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
    const uchar *from = x + 2 * (t * x_token + h * x_head + stream * PART);
    uchar *to = out + 2 * (t * out_token + h * out_head + stream * PART);
    if (work >= TURNS) {
        const int i = 2 * PAIRS + 8 * (work - TURNS);
        store_8(to + 2 * i, load_8(from + 2 * i, 8, aligned), 8, aligned);
        return;
    }
    // Read from memory: the nearest row of the table.
    i64 row = INTS(positions)[stream * position_stream + t * position_token];
    row = row < 0 ? 0 : min_long(row, table_rows - 1);
    float a[8], b[8];
#if HALF_SPLIT
    const int i = 8 * work;
    const float *c = FLOATS(cosines) + row * PAIRS + i, *s = FLOATS(sines) + row * PAIRS + i;
    unpack_8(load_8(from + 2 * i, 8, aligned), a);
    unpack_8(load_8(from + 2 * (i + PAIRS), 8, aligned), b);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float p = a[e], q = b[e];
        a[e] = p * c[e] - q * s[e];
        b[e] = q * c[e] + p * s[e];
    }
    store_8(to + 2 * i, pack_8(a), 8, aligned);
    store_8(to + 2 * (i + PAIRS), pack_8(b), 8, aligned);
#else
    const int i = 4 * work;
    const float *c = FLOATS(cosines) + row * PAIRS + i, *s = FLOATS(sines) + row * PAIRS + i;
    unpack_8(load_8(from + 4 * i, 8, aligned), a);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        b[2 * e] = a[2 * e] * c[e] - a[2 * e + 1] * s[e];
        b[2 * e + 1] = a[2 * e + 1] * c[e] + a[2 * e] * s[e];
    }
    store_8(to + 4 * i, pack_8(b), 8, aligned);
#endif
}
