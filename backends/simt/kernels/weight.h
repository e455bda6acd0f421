// A weight [rows, cols] as the planners pack it: rows of `row_bytes` (a multiple of 32; zeros after the last column),
// and from byte `scales_at` on the scales, row by row. FORMAT: 0 f32, 1 f16, 2 bf16, 3 int8, 4 int4 (two columns per
// byte, the even one in the high half). SCALED: 0 no scales, 1 one f32 per row, 2 one f16 per WEIGHT_GROUP columns.

// The element at column c of a row, without its scale.
FN float weight_at(GLOBAL const uchar *row, i64 c) {
#if FORMAT == 0
    return load_f32(row, c);
#elif FORMAT == 1
    return load_f16(row, c);
#elif FORMAT == 2
    return load_bf16(row, c);
#elif FORMAT == 3
    return (float)((GLOBAL const signed char *)row)[c];
#else
    const uint byte = row[c >> 1];
    return (float)((int)(byte << (c & 1 ? 28 : 24)) >> 28);
#endif
}

// The elements at columns c to c + 7 of a packed row, without their scale. c is a multiple of 8.
FN void weight_8(GLOBAL const uchar *row, i64 c, float *w) {
#if FORMAT == 4
    const uint v = *(GLOBAL const uint *)(row + (c >> 1));
    w[0] = (float)((int)(v << 24) >> 28);
    w[1] = (float)((int)(v << 28) >> 28);
    w[2] = (float)((int)(v << 16) >> 28);
    w[3] = (float)((int)(v << 20) >> 28);
    w[4] = (float)((int)(v << 8) >> 28);
    w[5] = (float)((int)(v << 12) >> 28);
    w[6] = (float)((int)v >> 28);
    w[7] = (float)((int)(v << 4) >> 28);
#else
    for (int i = 0; i < 8; i++) w[i] = weight_at(row, c + i);
#endif
}

// The scale of column c in row r.
FN float weight_scale(GLOBAL const uchar *scales, i64 r, i64 cols, i64 c) {
#if SCALED == 0
    return 1.0f;
#elif SCALED == 1
    return load_f32(scales, r);
#else
    return load_f16(scales, r * (cols / WEIGHT_GROUP) + c / WEIGHT_GROUP);
#endif
}
