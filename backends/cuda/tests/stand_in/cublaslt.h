// The functions of libcublasLt that the back end calls: products in f64, queued on the stand-in's streams.
//
// STAND_IN_BLAS: the version of CUDA that the library is of (13000). What NVIDIA's table of types has not, or no kernel is
// there for, is not supported, as there: here, operands at odd elements. A kernel adds in the type of `out` if it is allowed to.

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

static stand_in::Element blas_element(int type) {
    return type == TYPE_F32 ? stand_in::F32 : type == TYPE_F16 ? stand_in::F16 : stand_in::BF16;
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
    auto matrix = [](uint64_t at, const BlasLayout &l) {
        return stand_in::Matrix{blas_element(l.type), at, l.rows, l.columns, l.stride};
    };
    const stand_in::Product product = {matrix(a, la), matrix(b, lb), matrix(c, lc), matrix(d, ld), true, false,
                                       algorithm.in_out_type != 0, *alpha, *beta, scratch, scratch_bytes};
    stand_in::push_launch(of, [=] { product.run(); });
    return 0;
}
