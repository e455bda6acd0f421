// Weights as the matrix units' planner packs them: rows of `row_bytes`, a multiple of 64, zeros after the last column; from
// byte `scales_at` on the scales, row by row. FORMAT: 0 of type X, 3 int8, 4 int4. SCALED: 0 no scales, 1 one f32 per row,
// 2 one f16 per WEIGHT_GROUP columns, a multiple of 32.
//
// A lane takes 16 bytes of a row at a time: of each run of 64 bytes those at 16·LANE_PART. They are UNITS times eight
// elements, and those of unit u are the columns 32·u + 8·LANE_PART and on, of the CHUNK columns that 64 bytes hold. Plain
// rows lie like that by themselves. Int8 comes in pieces of eight bytes: piece (part, unit) of those 64. Int4 comes in
// words of eight columns, word (part, unit) of those 64; each nibble holds its number plus 8, and a word's nibbles from the
// lowest on are columns 0, 2, 4, 6, 1, 3, 5, 7, so that shifts of four bits give pairs.

#if FORMAT == 3
#define UNITS 2
#elif FORMAT == 4
#define UNITS 4
#else
#define UNITS 1
#endif
#define CHUNK (32 * UNITS)

FN uint word_of(uint4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Numbers −128 to 127, as type X: bytes of `word`, whose sign bits are turned, at 2·pair and the next.
FN uint int8_pair(uint word, int pair) {
#ifdef X_IS_bf16
    // 2^23 + byte, in f32.
    const float low = AS_FLOAT(byte_perm(word, 0x4b000000u, 0x7440u + 2 * pair)) - 8388736.0f;
    const float high = AS_FLOAT(byte_perm(word, 0x4b000000u, 0x7441u + 2 * pair)) - 8388736.0f;
    return pack_2(low, high);
#else
    // 1024 + byte, in f16.
    return subtract_2(byte_perm(word, 0x64646464u, pair ? 0x4342u : 0x4140u), 0x64806480u);
#endif
}

// Unit u of a lane's 16 bytes as eight elements of type X.
FN uint4 weight_unit(uint4 v, int u) {
#if FORMAT == 3
    const uint a = (u ? v.z : v.x) ^ 0x80808080u, b = (u ? v.w : v.y) ^ 0x80808080u;
    return make_uint4(int8_pair(a, 0), int8_pair(a, 1), int8_pair(b, 0), int8_pair(b, 1));
#elif FORMAT == 4
    const uint w = word_of(v, u), mask = IN_REGISTER(0x000f000fu);
#ifdef X_IS_bf16
    // 128 + nibble − 136.
    const uint one = 0x43004300u, away = 0x43084308u;
#else
    // 1024 + nibble − 1032.
    const uint one = 0x64006400u, away = 0x64086408u;
#endif
    return make_uint4(subtract_2((w & mask) | one, away), subtract_2((w >> 4 & mask) | one, away),
                      subtract_2((w >> 8 & mask) | one, away), subtract_2((w >> 12 & mask) | one, away));
#else
    return v;
#endif
}

// The scale of row r for the 32 columns from c on.
FN float group_scale(const uchar *scales, i64 r, i64 groups, i64 c) {
#if SCALED == 2
    return load_f16(scales, r * groups + c / WEIGHT_GROUP);
#else
    return 1.0f;
#endif
}

// The scale of a whole row.
FN float row_scale(const uchar *scales, i64 r) {
#if SCALED == 1
    return load_f32(scales, r);
#else
    return 1.0f;
#endif
}

// c += w · x over the 32 columns of a unit; `low`, `high`: the scales of the lane's two rows.
FN void multiply_unit(float *c, uint4 w_low, uint4 w_high, uint4 x, float low, float high) {
#if SCALED == 2
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    MMA_32(part, w_low, w_high, x);
    c[0] = FMA(low, part[0], c[0]);
    c[1] = FMA(low, part[1], c[1]);
    c[2] = FMA(high, part[2], c[2]);
    c[3] = FMA(high, part[3], c[3]);
#else
    MMA_32(c, w_low, w_high, x);
#endif
}

// Eight elements of x at column c of row i, wherever they lie; rows and columns that are not there are zeros.
FN uint4 x_unit(const uchar *x, i64 i, i64 c, i64 m, i64 k, i64 x_stride) {
    if (i >= m || c >= k) return make_uint4(0, 0, 0, 0);
    return load_8(x + (i * x_stride + c) * 2, (int)min_long(k - c, 8), 0);
}
