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
    // Each work-item reads back only what it wrote itself.
    for (i64 i = ITEM; i < dim; i += GROUP) {
        const float y = alpha * LOAD(X, residual, r * residual_stride + i);
        STORE(X, sum, r * sum_stride + i, LOAD(X, x, r * x_stride + i) + y);
    }
    sum += r * sum_stride * BYTES(X);
    out += r * out_stride * BYTES(X);
    float mean, scale;
#define VALUE(i) LOAD(X, sum, i)
    LAYER_SCALE(mean, scale, dim, eps, scratch, VALUE)
    for (i64 i = ITEM; i < dim; i += GROUP) {
        STORE(X, out, i, (VALUE(i) - mean) * scale * FLOATS(weight)[i] + FLOATS(bias)[i]);
    }
}
