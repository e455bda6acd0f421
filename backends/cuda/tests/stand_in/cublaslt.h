// The functions of libcublasLt that the back end calls: products in f64, queued on the stand-in's streams.
//
// STAND_IN_BLAS: the version of CUDA that the library is of (13000). What NVIDIA's table of types has not, or no kernel is
// there for, is not supported, as there: here, operands at odd elements. A kernel adds in the type of `out` if it is allowed to.

#include <cmath>

// The library's codes are its own; in a dead context it fails.
#define ENTER_BLAS                               \
    ENTER_COMPILER;                              \
    if (stand_in::last_code) return BLAS_INTERNAL
enum { BLAS_INVALID = 7, BLAS_INTERNAL = 14, BLAS_NOT_SUPPORTED = 15 };
enum { TYPE_F32 = 0, TYPE_F16 = 2, TYPE_BF16 = 14 };

struct BlasOperation {
    int compute, scale, transposed_a;
};
// Columns of `rows` elements.
struct BlasLayout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
    bool operator==(const BlasLayout &o) const {
        return type == o.type && rows == o.rows && columns == o.columns && stride == o.stride;
    }
};
struct BlasPreference {
    uint64_t scratch;
    uint32_t schemes, aligned[4];
};
// What an algorithm's 64 bytes hold.
struct BlasAlgorithm {
    uint64_t shape, scratch;
    uint32_t aligned[4], in_out_type;
};
struct BlasFound {
    uint64_t algorithm[8];
    size_t scratch;
    int state;
    float waves;
    int reserved[4];
};

static int blas_bytes(int type) { return type == TYPE_F32 ? 4 : 2; }

static double blas_load(int type, uint64_t base, uint64_t i) {
    if (type == TYPE_F32) return ((const float *)base)[i];
    const uint16_t half = ((const uint16_t *)base)[i];
    if (type == TYPE_BF16) {
        const uint32_t bits = (uint32_t)half << 16;
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    const int exponent = half >> 10 & 31, digits = half & 1023;
    const double x = exponent == 31 ? (digits ? NAN : INFINITY) : exponent ? ldexp(1024 + digits, exponent - 25) : ldexp(digits, -24);
    return half & 0x8000 ? -x : x;
}

// To the nearest, half to even, with `digits` bits after the first and exponents from `least` on.
static double blas_round(double x, int digits, int least, double most) {
    if (x == 0 || !std::isfinite(x)) return x;
    const int exponent = std::max(ilogb(x), least);
    const double rounded = ldexp(nearbyint(ldexp(x, digits - exponent)), exponent - digits);
    return std::fabs(rounded) > most ? std::copysign(INFINITY, x) : rounded;
}
static double blas_as(int type, double x) {
    if (type == TYPE_F16) return blas_round(x, 10, -14, 65504);
    if (type == TYPE_BF16) return blas_round(x, 7, -126, 3.3895313892515355e38);
    return (float)x;
}
static void blas_store(int type, uint64_t base, uint64_t i, double value) {
    const double x = blas_as(type, value);
    const float narrow = (float)x;
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    if (type == TYPE_F32) ((float *)base)[i] = narrow;
    else if (type == TYPE_BF16) ((uint16_t *)base)[i] = bits >> 16 | (std::isnan(x) ? 0x40 : 0);
    else {
        const uint16_t sign = bits >> 16 & 0x8000;
        uint16_t rest;
        if (std::isnan(x)) rest = 0x7e00;
        else if (std::isinf(x)) rest = 0x7c00;
        else if (std::fabs(x) < ldexp(1, -14)) rest = (uint16_t)ldexp(std::fabs(x), 24);
        else rest = (uint16_t)(((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
        ((uint16_t *)base)[i] = sign | rest;
    }
}

// A number for the shapes, strides and types of a product.
static uint64_t blas_shape(std::initializer_list<const BlasLayout *> layouts) {
    uint64_t all = 14695981039346656037u;
    auto add = [&](uint64_t n) { all = (all ^ n) * 1099511628211u; };
    for (auto l : layouts) {
        add(l->type), add(l->rows), add(l->columns), add(l->stride);
    }
    return all;
}

// 0 for what is computed: out [n, m] = weight [k, n], transposed, times x [k, m], in columns.
static int blas_check(const BlasOperation *o, const BlasLayout *a, const BlasLayout *b, const BlasLayout *c, const BlasLayout *d) {
    for (auto l : {a, b, c, d}) if (!l->rows || !l->columns || l->stride < (int64_t)l->rows) return BLAS_INVALID;
    if (!o->transposed_a || a->rows != b->rows || d->rows != a->columns || d->columns != b->columns) return BLAS_INVALID;
    if (c->rows != d->rows || c->columns != d->columns) return BLAS_INVALID;
    if (o->compute != 68 || o->scale != TYPE_F32 || a->type != b->type || c->type != d->type) return BLAS_NOT_SUPPORTED;
    if (a->type == TYPE_F32 || (d->type != a->type && d->type != TYPE_F32)) return BLAS_NOT_SUPPORTED;
    return 0;
}

EXPORT size_t cublasLtGetVersion() { return 130000; }
EXPORT size_t cublasLtGetCudartVersion() { return setting("STAND_IN_BLAS", 13000); }
EXPORT const char *cublasLtGetStatusName(int code) {
    return code == 3 ? "CUBLAS_STATUS_ALLOC_FAILED" : code == 7 ? "CUBLAS_STATUS_INVALID_VALUE" :
        code == 13 ? "CUBLAS_STATUS_EXECUTION_FAILED" : code == 15 ? "CUBLAS_STATUS_NOT_SUPPORTED" : nullptr;
}
EXPORT const char *cublasLtGetStatusString(int code) { return cublasLtGetStatusName(code); }
EXPORT int cublasLtCreate(void **handle) {
    ENTER_BLAS;
    if (current < 0) return 1;
    *handle = new int(current);
    stand_in::live["handle"]++;
    return 0;
}
// It waits for the device, as NVIDIA's does.
EXPORT int cublasLtDestroy(void *handle) {
    stand_in::Locked locked(stand_in::lock);
    stand_in::drain_all();
    delete (int *)handle;
    stand_in::live["handle"]--;
    return 0;
}
EXPORT int cublasLtMatmulDescCreate(void **operation, int compute, int scale) {
    ENTER_BLAS;
    *operation = new BlasOperation{compute, scale, 0};
    stand_in::live["description"]++;
    return 0;
}
EXPORT int cublasLtMatmulDescSetAttribute(void *operation, int which, const void *value, size_t bytes) {
    ENTER_BLAS;
    auto o = (BlasOperation *)operation;
    if (which != 3 || bytes != 4) return BLAS_INVALID;
    memcpy(&o->transposed_a, value, 4);
    return 0;
}
EXPORT int cublasLtMatmulDescDestroy(void *operation) {
    stand_in::Locked locked(stand_in::lock);
    delete (BlasOperation *)operation;
    stand_in::live["description"]--;
    return 0;
}
EXPORT int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    ENTER_BLAS;
    *layout = new BlasLayout{type, rows, columns, stride};
    stand_in::live["layout"]++;
    return 0;
}
EXPORT int cublasLtMatrixLayoutDestroy(void *layout) {
    stand_in::Locked locked(stand_in::lock);
    delete (BlasLayout *)layout;
    stand_in::live["layout"]--;
    return 0;
}
EXPORT int cublasLtMatmulPreferenceCreate(void **preference) {
    ENTER_BLAS;
    *preference = new BlasPreference{0, 7, {256, 256, 256, 256}};
    stand_in::live["preference"]++;
    return 0;
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(void *preference, int which, const void *value, size_t bytes) {
    ENTER_BLAS;
    auto p = (BlasPreference *)preference;
    if (which == 1 && bytes == 8) memcpy(&p->scratch, value, 8);
    else if (which == 3 && bytes == 4) memcpy(&p->schemes, value, 4);
    else if (which >= 5 && which <= 8 && bytes == 4) memcpy(&p->aligned[which - 5], value, 4);
    else return BLAS_INVALID;
    return 0;
}
EXPORT int cublasLtMatmulPreferenceDestroy(void *preference) {
    stand_in::Locked locked(stand_in::lock);
    delete (BlasPreference *)preference;
    stand_in::live["preference"]--;
    return 0;
}
EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                          int wanted, void *results, int *count) {
    ENTER_BLAS;
    auto o = (BlasOperation *)operation;
    auto p = (BlasPreference *)preference;
    if (!handle || wanted < 1) return BLAS_INVALID;
    *count = 0;
    if (const int code = blas_check(o, (BlasLayout *)a, (BlasLayout *)b, (BlasLayout *)c, (BlasLayout *)d)) return code;
    for (uint32_t aligned : p->aligned) if (aligned < 4) return BLAS_NOT_SUPPORTED;
    BlasAlgorithm algorithm = {};
    algorithm.shape = blas_shape({(BlasLayout *)a, (BlasLayout *)b, (BlasLayout *)c, (BlasLayout *)d});
    algorithm.scratch = std::min(p->scratch, (uint64_t)4 << 20);
    memcpy(algorithm.aligned, p->aligned, sizeof p->aligned);
    algorithm.in_out_type = (p->schemes & ~2u) != 0;
    static_assert(sizeof algorithm <= 64, "");
    auto found = (BlasFound *)results;
    *found = {};
    memcpy(found->algorithm, &algorithm, sizeof algorithm);
    found->scratch = algorithm.scratch;
    *count = 1;
    return 0;
}
EXPORT int cublasLtMatmul(void *handle, void *operation, const float *alpha, uint64_t a, void *a_layout, uint64_t b, void *b_layout,
                          const float *beta, uint64_t c, void *c_layout, uint64_t d, void *d_layout, const void *chosen,
                          uint64_t scratch, size_t scratch_bytes, void *stream) {
    ENTER_BLAS;
    const BlasOperation o = *(BlasOperation *)operation;
    const BlasLayout la = *(BlasLayout *)a_layout, lb = *(BlasLayout *)b_layout, lc = *(BlasLayout *)c_layout, ld = *(BlasLayout *)d_layout;
    auto of = stand_in::find(stream);
    if (!handle || !of) return BLAS_INVALID;
    if (const int code = blas_check(&o, &la, &lb, &lc, &ld)) return code;
    BlasAlgorithm algorithm;
    memcpy(&algorithm, chosen, sizeof algorithm);
    if (algorithm.shape != blas_shape({&la, &lb, &lc, &ld})) return BLAS_INVALID;
    const uint64_t pointers[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) if (pointers[i] % algorithm.aligned[i]) return BLAS_INVALID;
    if (scratch % 256 || scratch_bytes < algorithm.scratch) return BLAS_INVALID;
    // In place, or apart.
    if (*beta != 0 && c == d && !(lc == ld)) return BLAS_INVALID;
    const double times = *alpha, added = *beta;
    stand_in::push_launch(of, [=] {
        auto whole = [](const BlasLayout &l) { return ((l.columns - 1) * l.stride + l.rows) * blas_bytes(l.type); };
        const char *who = "a product";
        if (!stand_in::usable(a, whole(la), who) || !stand_in::usable(b, whole(lb), who) || !stand_in::usable(d, whole(ld), who)) return;
        if (added != 0 && !stand_in::usable(c, whole(lc), who)) return;
        if (!stand_in::usable(scratch, scratch_bytes, who)) return;
        memset((void *)scratch, 0xee, scratch_bytes);
        for (uint64_t m = 0; m < ld.columns; m++) {
            for (uint64_t n = 0; n < ld.rows; n++) {
                double sum = 0;
                for (uint64_t k = 0; k < la.rows; k++) {
                    sum += blas_load(la.type, a, n * la.stride + k) * blas_load(lb.type, b, m * lb.stride + k);
                    if (algorithm.in_out_type) sum = blas_as(ld.type, sum);
                }
                double x = times * sum;
                if (added != 0) x += added * blas_load(lc.type, c, m * lc.stride + n);
                blas_store(ld.type, d, m * ld.stride + n, x);
            }
        }
    });
    return 0;
}
