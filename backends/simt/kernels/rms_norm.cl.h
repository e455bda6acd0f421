// out[r, i] = x[r, i] * weight[i] / sqrt(mean(x[r, ..]^2) + eps), rows of type X.

KERNEL rms_norm(OUT(out), IN(x), IN(weight), i64 dim, i64 out_stride, i64 x_stride, float eps) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    LOCAL float scratch[GROUP];
    const i64 r = GROUP_X;
    x += r * x_stride * BYTES(X);
    out += r * out_stride * BYTES(X);
    float scale;
#define VALUE(i) LOAD(X, x, i)
    RMS_SCALE(scale, dim, eps, scratch, VALUE)
    for (i64 i = ITEM; i < dim; i += GROUP) STORE(X, out, i, VALUE(i) * scale * FLOATS(weight)[i]);
}
