// Index of the largest element of each row of type X, one group per row. Of a long row several groups take a span each, and
// leave the place of what is first there in `places`.

FN ulong first_of(GLOBAL const uchar *x, i64 start, i64 from, i64 to) {
    ulong first = 0;
    for (i64 c = from + ITEM; c < to; c += GROUP) {
        const ulong place = place_of(LOAD(X, x, start + c), c);
        if (place > first) first = place;
    }
    return first;
}

KERNEL argmax(OUT(out), IN(x), i64 cols, i64 x_stride) {
    BIND_OUT(out);
    BIND_IN(x);
    LOCAL ulong scratch[GROUP];
    const i64 r = GROUP_X;
    const ulong first = group_first(first_of(x, r * x_stride, 0, cols), scratch);
    if (ITEM == 0) ((GLOBAL int *)out)[r] = (int)index_of(first);
}

KERNEL argmax_spans(OUT(places), IN(x), i64 cols, i64 x_stride, i64 spans, i64 span) {
    BIND_OUT(places);
    BIND_IN(x);
    LOCAL ulong scratch[GROUP];
    const i64 r = GROUP_X / spans, from = GROUP_X % spans * span;
    const ulong first = group_first(first_of(x, r * x_stride, from, min_long(cols, from + span)), scratch);
    if (ITEM == 0) ((GLOBAL ulong *)places)[GROUP_X] = first;
}

KERNEL argmax_of_spans(OUT(out), IN(places), i64 spans) {
    BIND_OUT(out);
    BIND_IN(places);
    LOCAL ulong scratch[GROUP];
    const i64 r = GROUP_X;
    ulong first = 0;
    for (i64 i = ITEM; i < spans; i += GROUP) {
        const ulong place = ((GLOBAL const ulong *)places)[r * spans + i];
        if (place > first) first = place;
    }
    first = group_first(first, scratch);
    if (ITEM == 0) ((GLOBAL int *)out)[r] = (int)index_of(first);
}
