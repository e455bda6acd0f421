// out[r, i] = act(gate) * up, elements of type X; the halves of x begin at columns `gate` and `up`.

KERNEL glu(OUT(out), IN(x), i64 rows, i64 dim, i64 out_stride, i64 x_stride, i64 gate, i64 up, int act, int limited, float limit) {
    BIND_OUT(out);
    BIND_IN(x);
    const i64 n = rows * dim, step = (i64)GROUPS_X * GROUP;
    for (i64 i = (i64)GROUP_X * GROUP + ITEM; i < n; i += step) {
        const i64 r = i / dim, c = i % dim;
        float g = LOAD(X, x, r * x_stride + gate + c), u = LOAD(X, x, r * x_stride + up + c);
        if (limited) {
            // A NaN stays one.
            g = g > limit ? limit : g;
            u = u > limit ? limit : u < -limit ? -limit : u;
        }
        STORE(X, out, r * out_stride + c, activate(act, g) * u);
    }
}
