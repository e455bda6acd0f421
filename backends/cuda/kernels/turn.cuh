// Eight elements of a head at a time, in rotary embeddings. PAIRS and REST, of a stream, are multiples of eight: REST elements are
// only copied. HALF_SPLIT: pairs (i, i + PAIRS) instead of (2i, 2i + 1).

// What a work-item has of a stream: eight pairs of half-split ones, four of neighbours, eight elements of the rest.
#if HALF_SPLIT
#define TURNS (PAIRS / 8)
#define PAIRS_OF_TURN 8
#define EIGHTS_OF_TURN 2
#else
#define TURNS (PAIRS / 4)
#define PAIRS_OF_TURN 4
#define EIGHTS_OF_TURN 1
#endif
#define PART (2 * PAIRS + REST)

// Where eight `e` of what work-item `work` of a stream has begins in it; a turn of half-split pairs has a second one.
FN int eight_at(int work, int e) { return 8 * work + (work < TURNS ? e * PAIRS : 2 * PAIRS - 8 * TURNS); }

FN void load_work(const uchar *from, int work, int aligned, uint4 v[2]) {
    v[0] = load_8(from + 2 * eight_at(work, 0), 8, aligned);
    if (EIGHTS_OF_TURN == 2 && work < TURNS) v[1] = load_8(from + 2 * eight_at(work, 1), 8, aligned);
}

FN void store_work(uchar *to, int work, int aligned, const uint4 v[2]) {
    store_8(to + 2 * eight_at(work, 0), v[0], 8, aligned);
    if (EIGHTS_OF_TURN == 2 && work < TURNS) store_8(to + 2 * eight_at(work, 1), v[1], 8, aligned);
}

// The pairs of a turn by their angles: the row of a position in the tables.
FN void turn(uint4 v[2], int work, const float *cosines, const float *sines) {
    const float *c = cosines + PAIRS_OF_TURN * work, *s = sines + PAIRS_OF_TURN * work;
    float a[8];
    unpack_8(v[0], a);
#if HALF_SPLIT
    float b[8];
    unpack_8(v[1], b);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float p = a[e], q = b[e];
        a[e] = p * c[e] - q * s[e];
        b[e] = q * c[e] + p * s[e];
    }
    v[1] = pack_8(b);
#else
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const float p = a[2 * e], q = a[2 * e + 1];
        a[2 * e] = p * c[e] - q * s[e];
        a[2 * e + 1] = q * c[e] + p * s[e];
    }
#endif
    v[0] = pack_8(a);
}

// The nearest row of a table of so many for a position that was read from memory.
FN i64 table_row(int position, i64 rows) { return position < 0 ? 0 : min_long(position, rows - 1); }
