// out = rms_norm(x) or layer_norm(x), and of a residual sum = x + alpha · residual as it is stored; rows of type X, a group to
// each. ADDS: there is a sum; LAYER: mean and variance instead of the mean square, and a bias.
//
// A work-item keeps up to KEPT eights of its row in registers; those beyond it reads again.

#define KEPT 4

#if ADDS
#define SUM_PARAMETER OUT(sum),
#define RESIDUAL_PARAMETER IN(residual),
#define SUM_STRIDE i64 sum_stride,
#define RESIDUAL_STRIDE i64 residual_stride,
#define ALPHA float alpha,
#else
#define SUM_PARAMETER
#define RESIDUAL_PARAMETER
#define SUM_STRIDE
#define RESIDUAL_STRIDE
#define ALPHA
#endif
#if LAYER
#define BIAS_PARAMETER IN(bias),
#else
#define BIAS_PARAMETER
#endif

KERNEL norm_rows(OUT(out), SUM_PARAMETER IN(x), RESIDUAL_PARAMETER IN(weight), BIAS_PARAMETER i64 dim, i64 out_stride,
            SUM_STRIDE i64 x_stride, RESIDUAL_STRIDE ALPHA float eps, int aligned) {
    LET_NEXT_BEGIN;
    AWAIT_BEFORE;
    BIND_OUT(out);
    BIND_IN(x);
    BIND_IN(weight);
    LOCAL float scratch[GROUP];
    const i64 r = GROUP_X;
    out += r * out_stride * 2;
    x += r * x_stride * 2;
#if ADDS
    BIND_OUT(sum);
    BIND_IN(residual);
    sum += r * sum_stride * 2;
    residual += r * residual_stride * 2;
#endif
#if LAYER
    BIND_IN(bias);
#endif
    const int eights = (int)((dim + 7) / 8);
    uint4 kept[KEPT];
    // What is normalised: x, or the sum as it is stored.
#if ADDS
#define FIRST(i, v)                                                               \
    {                                                                             \
        float a[8], b[8];                                                         \
        unpack_8(load_8(x + 16 * (i64)(i), (int)dim - 8 * (i), aligned), a);      \
        unpack_8(load_8(residual + 16 * (i64)(i), (int)dim - 8 * (i), aligned), b); \
        for (int e = 0; e < 8; e++) a[e] = FMA(alpha, b[e], a[e]);                \
        v = pack_8(a);                                                            \
        store_8(sum + 16 * (i64)(i), v, (int)dim - 8 * (i), aligned);             \
    }
#define AGAIN(i) load_8(sum + 16 * (i64)(i), (int)dim - 8 * (i), aligned)
#else
#define FIRST(i, v) v = load_8(x + 16 * (i64)(i), (int)dim - 8 * (i), aligned)
#define AGAIN(i) load_8(x + 16 * (i64)(i), (int)dim - 8 * (i), aligned)
#endif
    // Adds f(element), named `y`, over the eights of this work-item; elements beyond the row's end are left out.
#define EACH_OF(v, i, work)                                    \
    {                                                          \
        float y_8[8];                                          \
        unpack_8(v, y_8);                                      \
        for (int e = 0; e < 8; e++) {                          \
            const float y = y_8[e];                            \
            if (8 * (i) + e < (int)dim) { work; }              \
        }                                                      \
    }
#define ROW_SUM(result, load_kept, work)                                       \
    {                                                                          \
        float part = 0.0f;                                                     \
        _Pragma("unroll") for (int n = 0; n < KEPT; n++) {                     \
            const int i = ITEM + n * GROUP;                                    \
            if (i < eights) {                                                  \
                load_kept;                                                     \
                EACH_OF(kept[n], i, work)                                      \
            }                                                                  \
        }                                                                      \
        for (int i = ITEM + KEPT * GROUP; i < eights; i += GROUP) {            \
            const uint4 v = AGAIN(i);                                          \
            EACH_OF(v, i, work)                                                \
        }                                                                      \
        result = group_sum(part, scratch) / (float)dim;                        \
    }
#if ADDS
    for (int i = ITEM + KEPT * GROUP; i < eights; i += GROUP) {
        uint4 v;
        FIRST(i, v);
    }
#endif
    float square;
#if LAYER
    float mean;
    ROW_SUM(mean, FIRST(i, kept[n]), part += y)
    ROW_SUM(square, , part = FMA(y - mean, y - mean, part))
#else
    const float mean = 0.0f;
    ROW_SUM(square, FIRST(i, kept[n]), part = FMA(y, y, part))
#endif
    const float scale = 1.0f / SQRT(square + eps);
#pragma unroll
    for (int n = 0; n < KEPT + 1; n++) {
        for (int i = ITEM + n * GROUP; i < eights; i += GROUP) {
            const uint4 v = n < KEPT ? kept[n < KEPT ? n : 0] : AGAIN(i);
            float y[8];
            unpack_8(v, y);
            for (int e = 0; e < 8; e++) {
                const int c = min_int(8 * i + e, (int)dim - 1);
                y[e] = (y[e] - mean) * scale * FLOATS(weight)[c];
#if LAYER
                y[e] += FLOATS(bias)[c];
#endif
            }
            store_8(out + 16 * (i64)i, pack_8(y), (int)dim - 8 * i, aligned);
            if (n < KEPT) break;
        }
    }
}
