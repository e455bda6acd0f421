// out[r, i] = (x[r, i] - mean) / sqrt(var + eps) * weight[i] + bias[i], rows of type X.

KERNEL layer_norm(OUT(out), IN(x), IN(weight), IN(bias), i64 dim, i64 out_stride, i64 x_stride, float eps) {
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    BIND_IN(bias);
    LOCAL float scratch[GROUP];
    const i64 r = GROUP_X;
    x += r * x_stride * BYTES(X);
    out += r * out_stride * BYTES(X);
    float mean, scale;
#define VALUE(i) LOAD(X, x, i)
    LAYER_SCALE(mean, scale, dim, eps, scratch, VALUE)
    for (i64 i = ITEM; i < dim; i += GROUP) {
        STORE(X, out, i, (VALUE(i) - mean) * scale * FLOATS(weight)[i] + FLOATS(bias)[i]);
    }
}
