// Draws a token per row, one group per row, by the rules of ops/src/sample.rs.
//
// No sort: a place in the order (rank.h) is found digit by digit, four bits at a time, from sums of what lies in each
// of the 16 buckets below the digits that are known. Sums have a fixed order, so a draw is repeatable. `scores` and
// `weights` are workspace of rows x vocab floats: logits after the penalty, and exp(score - largest). Of its own elements, every
// GROUP-th, a work-item lists those that stay in `kept`, and of them those below the digits that are known in `live`: after a
// few digits there are few.

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

KERNEL sample(OUT(out), IN(logits), IN(floats), IN(ints), IN(history), IN(history_len), OUT(workspace), i64 vocab,
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
    GLOBAL float *scores = (GLOBAL float *)workspace + 4 * r * vocab, *weights = scores + vocab;
    GLOBAL int *kept = (GLOBAL int *)(weights + vocab), *live = kept + vocab;
    const float temperature = FLOATS(floats)[3 * r], top_p = FLOATS(floats)[3 * r + 1];
    const float penalty = FLOATS(floats)[3 * r + 2];
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
    const int draws = temperature != 0.0f;
    const float most = scores[index_of(first)] / temperature;
    for (i64 i = ITEM; i < vocab; i += GROUP) weights[i] = EXP(scores[i] / temperature - most);
    BARRIER_GLOBAL;
    const uint top = (uint)INTS(ints)[4 * r];
    const uint word = philox_word((uint)INTS(ints)[4 * r + 1], (uint)INTS(ints)[4 * r + 2], (uint)INTS(ints)[4 * r + 3]);
    const float u = (float)(word >> 8) / 16777216.0f;
    // Three times the place of the first element, in order, at which a running sum reaches a target; of the last element
    // when none does. Stage 0, top-k: elements are counted. 1, top-p: the sum of weights reaches top_p of all. 2, the
    // draw: it passes u of those that stay. (One loop in the kernel's own body: PoCL
    // 3.1 shares local arrays among groups when a function this large is called with them.)
    ulong least = 0;
    // The n-th of a list; of one that was not written yet, which has all elements.
#define NTH(list, n) ((list) == 0 ? (n) * GROUP + ITEM : (list)[(i64)(n) * GROUP + ITEM])
    GLOBAL int *stay = 0;
    int stay_count = ITEM < vocab ? (int)((vocab - ITEM + GROUP - 1) / GROUP) : 0;
    for (int stage = 0; stage < 3; stage++) {
        float part = 0.0f;
        for (int n = 0; n < stay_count; n++) part += weights[NTH(stay, n)];
        const float mass = group_sum(part, sums);
        const float target = stage == 0 ? (float)top : stage == 1 ? top_p * mass : u * mass;
        const int cuts = stage == 0 ? top > 0 && (i64)top < vocab : stage == 1 ? top_p < 1.0f : 1;
        const int digits = draws && cuts ? 8 + index_digits : 0;
        ulong known = 0, mask = 0;
        float before = 0.0f;
        GLOBAL int *below = stay;
        int below_count = stay_count;
        for (int pass = 0; pass < digits; pass++) {
            // Eight digits of the value, then those of the index that vary.
            const int shift = pass < 8 ? 60 - 4 * pass : 4 * (index_digits - 1 - (pass - 8));
            uint present = 0;
            // A column of its own for each work-item.
            for (int d = 0; d < DIGITS; d++) sums[d * GROUP + ITEM] = 0.0f;
            for (int n = 0; n < below_count; n++) {
                const int i = NTH(below, n), digit = (int)(place_of(scores[i], i) >> shift & 15);
                sums[digit * GROUP + ITEM] += stage == 0 ? 1.0f : weights[i];
                present |= 1u << digit;
            }
            seen[ITEM] = present;
            BARRIER;
            for (int n = GROUP / 2; n > 0; n >>= 1) {
                for (int e = ITEM; e < DIGITS * n; e += GROUP) {
                    const int d = e / n, i = e % n;
                    sums[d * GROUP + i] += sums[d * GROUP + i + n];
                }
                if (ITEM < n) seen[ITEM] |= seen[ITEM + n];
                BARRIER;
            }
            present = seen[0];
            int chosen = -1, last = 0;
            float before_last = before;
            for (int d = DIGITS - 1; d >= 0; d--) {
                if (chosen >= 0 || !(present >> d & 1u)) continue;
                const float after = before + sums[d * GROUP];
                if (stage == 2 ? after > target : after >= target) {
                    chosen = d;
                } else {
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
            int count = 0;
            for (int n = 0; n < below_count; n++) {
                const int i = NTH(below, n);
                if ((place_of(scores[i], i) & mask) == known) live[(i64)count++ * GROUP + ITEM] = i;
            }
            below = live;
            below_count = count;
            BARRIER;
        }
        if (digits == 0) continue;
        least = known;
        int count = 0;
        for (int n = 0; n < stay_count; n++) {
            const int i = NTH(stay, n);
            if (place_of(scores[i], i) >= least) kept[(i64)count++ * GROUP + ITEM] = i;
        }
        stay = kept;
        stay_count = count;
    }
    if (ITEM == 0) ((GLOBAL int *)out)[r] = (int)index_of(draws ? least : first);
}
