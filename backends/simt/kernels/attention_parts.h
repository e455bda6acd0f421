// How attention's rows are cut into tiles, and caches into parts: shared by all its kernels, so that whichever computes a part,
// it is merged by the same arithmetic.

// Some rows of one sequence: its tokens are start to end; −1 and `sequences`: tokens before and after all of them; −2: none.
typedef struct {
    int sequence, start, end;
    i64 tile;
} Tile;

// The tile of this number, when each has `tile_rows` rows, and each token `share`. Starts come from memory: they are kept
// ascending and within the tokens.
FN Tile find_tile(i64 number, GLOBAL const uchar *q_start, int sequences, int tokens, int share, int tile_rows) {
    Tile found;
    found.sequence = -2;
    found.start = found.end = 0;
    found.tile = 0;
    int at = 0;
    for (int s = -1; s <= sequences && found.sequence == -2; s++) {
        const int next = s < sequences ? max_int(at, min_int(INTS(q_start)[s + 1], tokens)) : tokens;
        const i64 tiles = ((i64)(next - at) * share + tile_rows - 1) / tile_rows;
        if (number < tiles) {
            found.sequence = s;
            found.start = at;
            found.end = next;
            found.tile = number;
        }
        number -= tiles;
        at = next;
    }
    return found;
}

// Of a part whose largest score is `most`: its weight among parts of which the largest is `top`.
FN float part_weight(float most, float top) { return most == NEG_INF ? 0.0f : EXP(most - top); }

// What is written. `groups` share the parts of a tile; `space`, in units of 4 bytes: the number of parts of each row;
// maximum and sum of each row's parts; their values.
#if SHARED
#define RESULT OUT(space), i64 parts, int groups
#define FIRST_PART GROUP_Z
#define NEXT_PART groups
#else
#define RESULT OUT(out), i64 out_token, i64 out_head
#define FIRST_PART 0
#define NEXT_PART 1
#endif

// Merges what the groups of each tile left in `space`: one group per token and query head.
KERNEL attention_merge(OUT(out), IN(space), int tokens, int heads, int head_dim, i64 parts, i64 out_token, i64 out_head) {
    BIND_OUT(out);
    BIND_IN(space);
    const i64 row = GROUP_X, all_rows = (i64)tokens * heads;
    GLOBAL const float *ends = FLOATS(space) + all_rows + 2 * row * parts;
    GLOBAL const float *values = FLOATS(space) + all_rows + 2 * all_rows * parts + row * parts * head_dim;
    const int count = INTS(space)[row];
    for (int d = ITEM; d < head_dim; d += GROUP) {
        float most = NEG_INF, total = 0.0f, sum = 0.0f;
        for (int part = 0; part < count; part++) {
            const float top = max_nan(most, ends[2 * part]);
            const float kept = part_weight(most, top), added = part_weight(ends[2 * part], top);
            total = FMA(ends[2 * part + 1], added, total * kept);
            sum = FMA(values[(i64)part * head_dim + d], added, sum * kept);
            most = top;
        }
        STORE(X, out, row / heads * out_token + row % heads * out_head + d, most == NEG_INF ? 0.0f : sum / total);
    }
}
