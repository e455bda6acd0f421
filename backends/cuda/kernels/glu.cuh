// out[r, i] = act(gate) · up, elements of type X; the halves of x begin at columns `gate` and `up`; ACT: the activation's
// number. A work-item has eight columns
// of a row.

KERNEL glu_eights(OUT(out), IN(x), int dim, i64 out_stride, i64 x_stride, i64 gate, i64 up, int limited, float limit,
                  int aligned) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(out);
    BIND_IN(x);
    const i64 r = GROUP_X;
    const int c = (GROUP_Y * GROUP + ITEM) * 8;
    if (c >= dim) return;
    float g[8], u[8];
    unpack_8(load_8(x + 2 * (r * x_stride + gate + c), dim - c, aligned), g);
    unpack_8(load_8(x + 2 * (r * x_stride + up + c), dim - c, aligned), u);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        if (limited) {
            // A NaN stays one.
            g[e] = g[e] > limit ? limit : g[e];
            u[e] = u[e] > limit ? limit : u[e] < -limit ? -limit : u[e];
        }
        g[e] = activate(ACT, g[e]) * u[e];
    }
    store_8(out + 2 * (r * out_stride + c), pack_8(g), dim - c, aligned);
}
