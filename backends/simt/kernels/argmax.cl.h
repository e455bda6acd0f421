// Index of the largest element of each row of type X, one group per row.

KERNEL argmax(OUT(out), IN(x), i64 cols, i64 x_stride) {
    BIND_OUT(out);
    BIND_IN(x);
    LOCAL ulong scratch[GROUP];
    const i64 r = GROUP_X;
    ulong first = 0;
    for (i64 c = ITEM; c < cols; c += GROUP) {
        const ulong place = place_of(LOAD(X, x, r * x_stride + c), c);
        if (place > first) first = place;
    }
    first = group_first(first, scratch);
    if (ITEM == 0) ((GLOBAL int *)out)[r] = (int)index_of(first);
}
