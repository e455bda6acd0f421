// The k largest elements of each row of type X, largest first, one group per row: each pass finds the next.

KERNEL top_k(OUT(values), OUT(indices), IN(x), i64 k, i64 cols, i64 x_stride) {
    BIND_OUT(values);
    BIND_OUT(indices);
    BIND_IN(x);
    LOCAL ulong scratch[GROUP];
    const i64 r = GROUP_X;
    ulong last = 0;
    for (i64 j = 0; j < k; j++) {
        ulong first = 0;
        for (i64 c = ITEM; c < cols; c += GROUP) {
            const ulong place = place_of(LOAD(X, x, r * x_stride + c), c);
            if ((j == 0 || place < last) && place > first) first = place;
        }
        last = group_first(first, scratch);
        if (ITEM == 0) {
            const i64 c = index_of(last);
            ((GLOBAL int *)indices)[r * k + j] = (int)c;
            STORE(X, values, r * k + j, LOAD(X, x, r * x_stride + c));
        }
    }
}
