// out[r, i] = f(x[r, i]), elements of type X.

KERNEL activation(OUT(out), IN(x), i64 rows, i64 dim, i64 out_stride, i64 x_stride, int act) {
    BIND_OUT(out);
    BIND_IN(x);
    const i64 n = rows * dim, step = (i64)GROUPS_X * GROUP;
    for (i64 i = (i64)GROUP_X * GROUP + ITEM; i < n; i += step) {
        const i64 r = i / dim, c = i % dim;
        STORE(X, out, r * out_stride + c, activate(act, LOAD(X, x, r * x_stride + c)));
    }
}
