// out[r, c] = w[first + r, c], int8 or int4 numbers times their scales, rounded to type X: a slab of a packed weight for a
// library of products. Rows of out begin CHUNK columns of each 64 packed bytes apart, padding included.
//
// Bound by memory: a work-item loads 16 bytes of a row, neighbours 512 bytes in a row, and stores 16 bytes for each unit.

KERNEL dequantise(OUT(out), IN(weight), i64 first, i64 rows, i64 row_bytes, i64 scales_at, i64 k) {
    BIND_OUT(out);
    BIND_IN(weight);
    // Division of 64 bits takes longer than all the rest.
    const uint pieces = (uint)(row_bytes / 16), e = (uint)GROUP_X * GROUP + ITEM;
    const i64 row = e / pieces, piece = e % pieces;
    if (row >= rows) return;
    const uchar *scales = weight + scales_at;
    const i64 from = first + row, groups = SCALED == 2 ? k / WEIGHT_GROUP : 0;
    const uint4 packed = load_16(weight + from * row_bytes + 16 * piece);
    const float whole = row_scale(scales, from);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const i64 unit = piece / 4 * CHUNK + 32 * u;
        // Columns of the padding have no scale.
        const float scale = whole * group_scale(scales, from, groups, unit < k ? unit : 0);
        float x[8];
        unpack_8(weight_unit(packed, u), x);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] *= scale;
        store_16(out + (row * (row_bytes / 64 * CHUNK) + unit + piece % 4 * 8) * 2, pack_8(x));
    }
}
