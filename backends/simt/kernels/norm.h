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
