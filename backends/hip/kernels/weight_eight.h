// Eight columns of a packed row (weight.h), from c on, as elements of type X: f16 or bf16, without their scale. The numbers of int8
// and int4 are exact in both.
FN uint4 weight_eight(const uchar *row, i64 c) {
#if FORMAT == 1 || FORMAT == 2
    return load_16(row + 2 * c);
#else
    float w[8];
    weight_8(row, c, w);
#ifdef X_IS_bf16
    uint words[4];
    for (int i = 0; i < 4; i++) words[i] = AS_UINT(w[2 * i]) >> 16 | (AS_UINT(w[2 * i + 1]) & 0xffff0000u);
    return make_uint4(words[0], words[1], words[2], words[3]);
#else
    return pack_8(w);
#endif
#endif
}
