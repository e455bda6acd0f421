// Draws a token per row, one group per row, by the rules of ops/src/sample.rs.
//
// No sort: a place in the order (rank.h) is found digit by digit, four bits at a time, from sums of what lies in each
// of the 16 buckets below the digits that are known. Sums have a fixed order, so a draw is repeatable. `scores` and
// `weights` are workspace of rows x vocab floats: logits after the penalty, and exp(score - largest).

#define DIGITS 16

FN uint philox_word(uint seed_low, uint seed_high, uint counter) {
    uint k0 = seed_low, k1 = seed_high, x0 = counter, x1 = 0, x2 = 0, x3 = 0;
    for (int i = 0; i < 10; i++) {
        const ulong a = (ulong)x0 * 0xd2511f53u, b = (ulong)x2 * 0xcd9e8d57u;
        const uint y0 = (uint)(b >> 32) ^ x1 ^ k0, y2 = (uint)(a >> 32) ^ x3 ^ k1;
        x1 = (uint)b;
        x3 = (uint)a;
        x0 = y0;
        x2 = y2;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return x0;
}

// The place of the first element, in order, at which the running sum reaches `target` (passes it, when `beyond`); of the
// last element when none does. Sums count elements when `count`, weights otherwise. Elements before `least` are out.
// `passes` digits are looked at; 0 leaves everything as it is and returns `least`.
FN ulong find(GLOBAL const float *scores, GLOBAL const float *weights, i64 vocab, int index_digits, int passes, int count,
              float target, int beyond, ulong least, LOCAL_PTR float *sums, LOCAL_PTR uint *seen) {
    ulong known = 0, mask = 0;
    float before = 0.0f;
    const int item = ITEM;
    for (int pass = 0; pass < passes; pass++) {
        // Eight digits of the value, then those of the index that vary.
        const int shift = pass < 8 ? 60 - 4 * pass : 4 * (index_digits - 1 - (pass - 8));
        float part[DIGITS];
        uint present = 0;
        for (int d = 0; d < DIGITS; d++) part[d] = 0.0f;
        for (i64 i = item; i < vocab; i += GROUP) {
            const ulong place = place_of(scores[i], i);
            if (place >= least && (place & mask) == known) {
                const int digit = (int)(place >> shift & 15);
                const float w = count ? 1.0f : weights[i];
                for (int d = 0; d < DIGITS; d++) part[d] += d == digit ? w : 0.0f;
                present |= 1u << digit;
            }
        }
        for (int d = 0; d < DIGITS; d++) sums[d * GROUP + item] = part[d];
        seen[item] = present;
        BARRIER;
        for (int n = GROUP / 2; n > 0; n >>= 1) {
            for (int e = item; e < DIGITS * n; e += GROUP) {
                const int d = e / n, i = e % n;
                sums[d * GROUP + i] += sums[d * GROUP + i + n];
            }
            if (item < n) seen[item] |= seen[item + n];
            BARRIER;
        }
        present = seen[0];
        int chosen = -1, last = 0;
        float before_last = before;
        for (int d = DIGITS - 1; d >= 0; d--) {
            if (chosen >= 0 || !(present >> d & 1u)) continue;
            const float after = before + sums[d * GROUP];
            if (beyond ? after > target : after >= target) chosen = d;
            else {
                before_last = before;
                before = after;
                last = d;
            }
        }
        // Not reached: the last bucket, which is not before itself.
        if (chosen < 0) {
            chosen = last;
            before = before_last;
        }
        known |= (ulong)chosen << shift;
        mask |= (ulong)15 << shift;
        // The digits of the index that do not vary are ones, as in every place.
        if (pass == 7 && index_digits < 8) {
            const ulong ones = 0xffffffffu & ~(((ulong)1 << (4 * index_digits)) - 1);
            known |= ones;
            mask |= ones;
        }
        BARRIER;
    }
    return passes == 0 ? least : known;
}

FN float sum_kept(GLOBAL const float *scores, GLOBAL const float *weights, i64 vocab, ulong least, LOCAL_PTR float *scratch) {
    float sum = 0.0f;
    for (i64 i = ITEM; i < vocab; i += GROUP) sum += place_of(scores[i], i) >= least ? weights[i] : 0.0f;
    return group_sum(sum, scratch);
}

KERNEL sample(OUT(out), IN(logits), IN(floats), IN(ints), IN(history), IN(history_len), OUT(workspace), i64 rows, i64 vocab,
              i64 logits_stride, i64 history_stride, i64 capacity, int index_digits) {
    BIND_OUT(out);
    BIND_IN(logits);
    BIND_IN(floats);
    BIND_IN(ints);
    BIND_IN(history);
    BIND_IN(history_len);
    BIND_OUT(workspace);
    LOCAL float sums[DIGITS * GROUP];
    LOCAL uint seen[GROUP];
    LOCAL ulong firsts[GROUP];
    const i64 r = GROUP_X;
    GLOBAL float *scores = (GLOBAL float *)workspace + 2 * r * vocab, *weights = scores + vocab;
    const float temperature = FLOATS(floats)[3 * r], top_p = FLOATS(floats)[3 * r + 1];
    const float penalty = FLOATS(floats)[3 * r + 2];
    const uint top = (uint)INTS(ints)[4 * r];
    logits += 4 * r * logits_stride;
    for (i64 i = ITEM; i < vocab; i += GROUP) scores[i] = FLOATS(logits)[i];
    BARRIER_GLOBAL;
    // Read from memory. An id that occurs twice is written twice, with the same value.
    const i64 ids = min_long(INTS(history_len)[r], capacity);
    for (i64 i = ITEM; i < ids; i += GROUP) {
        const i64 id = INTS(history)[r * history_stride + i];
        if (id >= 0 && id < vocab) {
            const float l = FLOATS(logits)[id];
            scores[id] = l > 0.0f ? l / penalty : l * penalty;
        }
    }
    BARRIER_GLOBAL;
    ulong first = 0;
    for (i64 i = ITEM; i < vocab; i += GROUP) {
        const ulong place = place_of(scores[i], i);
        if (place > first) first = place;
    }
    first = group_first(first, firsts);
    // The greedy choice makes no passes, so that barriers are met by all.
    const int draws = temperature != 0.0f, passes = draws ? 8 + index_digits : 0;
    const float most = scores[index_of(first)] / temperature;
    for (i64 i = ITEM; i < vocab; i += GROUP) weights[i] = EXP(scores[i] / temperature - most);
    BARRIER_GLOBAL;
    const int cuts = top > 0 && (i64)top < vocab;
    ulong least = find(scores, weights, vocab, index_digits, cuts ? passes : 0, 1, (float)top, 0, 0, sums, seen);
    float kept = sum_kept(scores, weights, vocab, least, sums);
    least = find(scores, weights, vocab, index_digits, top_p < 1.0f ? passes : 0, 0, top_p * kept, 0, least, sums, seen);
    kept = sum_kept(scores, weights, vocab, least, sums);
    const uint word = philox_word((uint)INTS(ints)[4 * r + 1], (uint)INTS(ints)[4 * r + 2], (uint)INTS(ints)[4 * r + 3]);
    const float u = (float)(word >> 8) / 16777216.0f;
    const ulong drawn = find(scores, weights, vocab, index_digits, passes, 0, u * kept, 1, least, sums, seen);
    if (ITEM == 0) ((GLOBAL int *)out)[r] = (int)index_of(draws ? drawn : first);
}
