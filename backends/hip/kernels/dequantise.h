// out[r, c] = w[first + r, c], int8 or int4 numbers times their scales, rounded to type X: a slab of a packed weight for a
// library of products. Rows of out are as long as packed ones, padding included. A work-item has eight columns.

#if FORMAT == 4
#define PACKED_BYTES 4
#else
#define PACKED_BYTES 8
#endif

KERNEL dequantise(OUT(out), IN(weight), i64 first, i64 rows, i64 row_bytes, i64 scales_at, i64 k) {
    BIND_OUT(out);
    BIND_IN(weight);
    // Division of 64 bits takes longer than all the rest.
    const uint eights = (uint)(row_bytes / PACKED_BYTES), e = (uint)GROUP_X * GROUP + ITEM;
    const i64 row = e / eights, c = e % eights * 8;
    if (row >= rows) return;
    float w[8];
    weight_8(weight + (first + row) * row_bytes, c, w);
    // Columns of the padding have no scale.
    const float scale = weight_scale(weight + scales_at, first + row, k, c < k ? c : 0);
    for (int i = 0; i < 8; i++) STORE(X, out, row * eights * 8 + c + i, w[i] * scale);
}
