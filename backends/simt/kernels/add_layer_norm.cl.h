// sum = x + alpha * residual, out = layer_norm(sum as stored), rows of type X.

KERNEL add_layer_norm(OUT(out), OUT(sum), IN(x), IN(residual), IN(weight), IN(bias), i64 dim, i64 out_stride,
                      i64 sum_stride, i64 x_stride, i64 residual_stride, float alpha, float eps) {
    BIND_OUT(out);
    BIND_OUT(sum);
    BIND_IN(x);
    BIND_IN(residual);
    BIND_IN(weight);
    BIND_IN(bias);
    LOCAL float scratch[GROUP];
    const i64 r = GROUP_X;
    SUM_ROW(sum, x, residual, r, dim, sum_stride, x_stride, residual_stride, alpha)
    sum += r * sum_stride * BYTES(X);
    out += r * out_stride * BYTES(X);
    float mean, scale;
#define VALUE(i) LOAD(X, sum, i)
    LAYER_SCALE(mean, scale, dim, eps, scratch, VALUE)
    for (i64 i = ITEM; i < dim; i += GROUP) {
        STORE(X, out, i, (VALUE(i) - mean) * scale * FLOATS(weight)[i] + FLOATS(bias)[i]);
    }
}
