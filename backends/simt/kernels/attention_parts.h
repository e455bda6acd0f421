// How caches are cut into parts, and how these are merged: by the same arithmetic, whichever kernel does it.

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
