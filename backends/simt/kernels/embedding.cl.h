// out[t, :] = table[ids[t], :], some groups per token, a span of columns to each; zeros for an id outside the table.

#if FORMAT == 0
#define UNIT uint
#else
#define UNIT ushort
#endif

KERNEL embedding(OUT(out), IN(ids), IN(table), i64 vocab, i64 dim, i64 out_stride, i64 row_bytes, i64 scales_at, int out_code,
                 i64 spans, i64 span) {
    BIND_OUT(out);
    BIND_IN(ids);
    BIND_IN(table);
    const i64 t = GROUP_X / spans, from = GROUP_X % spans * span, end = min_long(dim, from + span), id = INTS(ids)[t];
    // Read from memory.
    const int inside = id >= 0 && id < vocab;
    GLOBAL const uchar *row = table + (inside ? id : 0) * row_bytes;
    for (i64 c = from + ITEM; c < end; c += GROUP) {
        const i64 to = t * out_stride + c;
        if (!inside) store_any(out_code, out, to, 0.0f);
#if SCALED == 0
        // Bit for bit, whatever the device does to small numbers.
        else if (out_code == FORMAT) ((GLOBAL UNIT *)out)[to] = ((GLOBAL const UNIT *)row)[c];
#endif
        else store_any(out_code, out, to, weight_at(row, c) * weight_scale(table + scales_at, id, dim, c));
    }
}
