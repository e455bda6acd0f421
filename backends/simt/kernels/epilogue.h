// What a product does with a sum before it stores it: out[m, n] = act(sum + bias[n]) + residual[m, n].

FN void epilogue(GLOBAL uchar *out, GLOBAL const uchar *bias, GLOBAL const uchar *residual, i64 m, i64 n, i64 out_stride,
               i64 residual_stride, int out_code, int has_bias, int act, int has_residual, float sum) {
    if (has_bias) sum += FLOATS(bias)[n];
    sum = activate(act, sum);
    if (has_residual) sum += LOAD(X, residual, m * residual_stride + n);
    store_any(out_code, out, m * out_stride + n, sum);
}
