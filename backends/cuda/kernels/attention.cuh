// What all kernels of attention by the matrix units have in common: q, out and pages of type X; masks: 0 causal, 1 prefix,
// 2 full; HD: head_dim, 64 or 128.
//
// Rows are pairs of a token and one of the query heads that share a key-value head, as in the portable kernel. Slots come to
// local memory SLOTS at a time; the softmax runs along (online), in powers of 2, its rows in registers. Probabilities are
// rounded to X before they meet the values. Scales are positive: the largest product is that of the largest score.

#define LOG2_E 1.44269504088896341f
// Pieces of 16 bytes in a row of a head.
#define PIECES (HD / 8)
#define ROW_BYTES (2 * HD)
#define TILE_BYTES (SLOTS * ROW_BYTES)
// Slots are numbered by 31 bits, and so are the ends of blocks and parts.
#define MOST_SLOTS 0x7ff00000

// Where piece p of row r lies in local memory: the same piece of eight rows is in different banks. PANEL_ROWS: of tiles that
// are panels of eight pieces by so many rows.
#ifdef PANEL_ROWS
FN int place(int r, int p) { return p / 8 * PANEL_ROWS * 128 + r * 128 + 16 * (p % 8 ^ (r & 7)); }
#else
FN int place(int r, int p) { return r * ROW_BYTES + 16 * (p ^ (r & 7)); }
#endif

// The largest of the four lanes of a row; a NaN wins.
FN float row_max(float x) {
    x = MAX_NAN(x, EXCHANGE_XOR(x, 1));
    return MAX_NAN(x, EXCHANGE_XOR(x, 2));
}

FN float row_sum(float x) {
    x += EXCHANGE_XOR(x, 1);
    return x + EXCHANGE_XOR(x, 2);
}

// What scores are measured from, of which this is the largest; −∞: none is visible.
FN float measured_from(float most) { return most == NEG_INF ? 0.0f : most; }

// Of slots that are numbered from 0, how many the token in this slot sees.
FN int seen(int slot, int mask, int slots, int shared) {
    return mask == 2 ? slots : max_int(0, min_int(max_int(slot + 1, shared), slots));
}

// One sequence's cache as its key-value head has it.
typedef struct {
    const int *table;
    int head, heads, pages, page_size;
} Cache;

// The row of the cache that has this slot; −1 from slot `end` on.
FN int cache_row(Cache cache, int slot, int end) {
    if (slot >= end) return -1;
    const int nth = slot / cache.page_size;
    const int page = max_int(0, min_int(cache.table[nth], cache.pages - 1));
    return (page * cache.heads + cache.head) * cache.page_size + slot - nth * cache.page_size;
}

// Begins to copy the SLOTS rows that `from` has to a tile; zeros for those that are −1.
FN void copy_rows(uchar *tile, const uchar *pages, const int *from) {
    const int p = ITEM % PIECES;
#pragma unroll
    for (int i = 0; i < SLOTS * PIECES / GROUP; i++) {
        const int j = ITEM / PIECES + i * (GROUP / PIECES), row = from[j];
        copy_16(tile + place(j, p), pages + (i64)max_int(row, 0) * ROW_BYTES + 16 * p, row >= 0);
    }
}

// Rows of queries, or zeros from `rows` on, to local memory; row 0 is that of `first_row` of the tokens from `start` on.
FN void load_queries(uchar *queries, int tile_rows, const uchar *q, i64 q_token, i64 q_head, int start, int first_row, int rows,
                     int first_head, int share) {
    const int aligned = (q_token | q_head) % 8 == 0 && (ulong)q % 16 == 0;
    for (int e = ITEM; e < tile_rows * PIECES; e += GROUP) {
        const int r = e / PIECES, p = e % PIECES, row = first_row + r;
        const i64 at = (start + row / share) * q_token + (first_head + row % share) * q_head + 8 * p;
        *(uint4 *)(queries + place(r, p)) = r < rows ? load_8(q + 2 * at, 8, aligned) : make_uint4(0, 0, 0, 0);
    }
}
