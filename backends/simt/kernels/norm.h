// What the four normalisations share: one group per row, two or three passes in f32.

// 1 / sqrt(mean(v^2) + eps) over a row that VALUE(i) reads.
#define RMS_SCALE(result, dim, eps, scratch, VALUE)                                                                    \
    {                                                                                                                  \
        float part = 0.0f;                                                                                             \
        for (i64 i = ITEM; i < dim; i += GROUP) {                                                                      \
            const float v = VALUE(i);                                                                                  \
            part += v * v;                                                                                             \
        }                                                                                                              \
        result = 1.0f / SQRT(group_sum(part, scratch) / (float)dim + eps);                                             \
    }

// Mean, and 1 / sqrt(variance + eps) from deviations.
#define LAYER_SCALE(mean, result, dim, eps, scratch, VALUE)                                                            \
    {                                                                                                                  \
        float part = 0.0f;                                                                                             \
        for (i64 i = ITEM; i < dim; i += GROUP) part += VALUE(i);                                                      \
        mean = group_sum(part, scratch) / (float)dim;                                                                  \
        part = 0.0f;                                                                                                   \
        for (i64 i = ITEM; i < dim; i += GROUP) {                                                                      \
            const float d = VALUE(i) - mean;                                                                           \
            part += d * d;                                                                                             \
        }                                                                                                              \
        result = 1.0f / SQRT(group_sum(part, scratch) / (float)dim + eps);                                             \
    }

// Row r of the residual sum, as it is stored. Each work-item later reads back only what it wrote itself.
#define SUM_ROW(sum, x, residual, r, dim, sum_stride, x_stride, residual_stride, alpha)                                \
    for (i64 i = ITEM; i < dim; i += GROUP) {                                                                          \
        const float y = alpha * LOAD(X, residual, r * residual_stride + i);                                            \
        STORE(X, sum, r * sum_stride + i, LOAD(X, x, r * x_stride + i) + y);                                           \
    }
