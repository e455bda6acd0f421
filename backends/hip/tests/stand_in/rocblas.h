// The functions of librocblas that the back end calls: products in f64, queued on the stand-in's streams.
//
// STAND_IN_BLAS_TYPES: 0 for a library that has no products (of any type). What rocBLAS refuses is refused here: other types than
// those of its documentation, leading dimensions that are too small, a handle or memory that is none. Without a workspace of the
// user's it has one of its own. Kernels may add to `out` atomically, and then in its type, unless atomics are not allowed.

// The library's codes are its own; in a dead context it fails.
#define ENTER_BLAS                               \
    ENTER_COMPILER;                              \
    if (stand_in::last_code) return BLAS_INTERNAL
enum { BLAS_HANDLE = 1, BLAS_NOT_IMPLEMENTED = 2, BLAS_POINTER = 3, BLAS_SIZE = 4, BLAS_INTERNAL = 6, BLAS_VALUE = 11 };
enum { TYPE_F16 = 150, TYPE_F32 = 151, TYPE_BF16 = 168 };
enum { BLAS_PLAIN = 111, BLAS_TRANSPOSED = 112 };

struct BlasHandle {
    int device;
    void *stream;
    uint64_t scratch;
    size_t scratch_bytes;
    // Memory of its own, until it is given some.
    bool owns, atomics;
};

static stand_in::Element blas_element(int type) {
    return type == TYPE_F32 ? stand_in::F32 : type == TYPE_F16 ? stand_in::F16 : stand_in::BF16;
}

EXPORT const char *rocblas_status_to_string(int code) {
    return code == 2 ? "rocblas_status_not_implemented" : code == 5 ? "rocblas_status_memory_error" :
        code == 6 ? "rocblas_status_internal_error" : code == 11 ? "rocblas_status_invalid_value" : "<undefined rocblas_status value>";
}
EXPORT int rocblas_get_version_string(char *to, size_t bytes) {
    ENTER_BLAS;
    if (bytes < 6) return BLAS_SIZE;
    strcpy(to, "4.2.1");
    return 0;
}
EXPORT int rocblas_create_handle(void **handle) {
    ENTER_BLAS;
    if (current < 0) return BLAS_INTERNAL;
    *handle = new BlasHandle{current, nullptr, 0, 0, true, true};
    stand_in::live["handle"]++;
    stand_in::live["handle's memory"]++;
    return 0;
}
static void blas_disown(BlasHandle *of) {
    if (!of->owns) return;
    of->owns = false;
    stand_in::live["handle's memory"]--;
    // As any giving back of memory does.
    stand_in::drain_all();
}
EXPORT int rocblas_destroy_handle(void *handle) {
    stand_in::Locked locked(stand_in::lock);
    stand_in::calls.push_back(__func__);
    auto of = (BlasHandle *)handle;
    blas_disown(of);
    stand_in::drain_all();
    delete of;
    stand_in::live["handle"]--;
    return 0;
}
EXPORT int rocblas_set_stream(void *handle, void *stream) {
    ENTER_BLAS;
    if (!handle) return BLAS_HANDLE;
    if (!stand_in::find(stream)) return BLAS_VALUE;
    ((BlasHandle *)handle)->stream = stream;
    return 0;
}
EXPORT int rocblas_set_workspace(void *handle, void *memory, size_t bytes) {
    ENTER_BLAS;
    auto of = (BlasHandle *)handle;
    if (!of) return BLAS_HANDLE;
    // To give back its own memory it would wait, which a capture does not permit.
    if (of->owns && stand_in::any_capture()) return BLAS_INTERNAL;
    blas_disown(of);
    of->scratch = (uint64_t)memory;
    of->scratch_bytes = memory ? bytes : 0;
    return 0;
}
EXPORT int rocblas_set_atomics_mode(void *handle, int mode) {
    ENTER_BLAS;
    if (!handle) return BLAS_HANDLE;
    if (mode != 0 && mode != 1) return BLAS_VALUE;
    ((BlasHandle *)handle)->atomics = mode;
    return 0;
}
EXPORT int rocblas_gemm_ex(void *handle, int transposed_a, int transposed_b, int m, int n, int k, const float *alpha, uint64_t a,
                           int a_type, int lda, uint64_t b, int b_type, int ldb, const float *beta, uint64_t c, int c_type, int ldc,
                           uint64_t d, int d_type, int ldd, int compute, int algorithm, int solution, unsigned flags) {
    ENTER_BLAS;
    auto of = (BlasHandle *)handle;
    if (!of) return BLAS_HANDLE;
    auto stream = stand_in::find(of->stream);
    if (!stream || of->device != current || algorithm || solution || flags) return BLAS_VALUE;
    for (int operation : {transposed_a, transposed_b}) if (operation != BLAS_PLAIN && operation != BLAS_TRANSPOSED) return BLAS_VALUE;
    const bool ta = transposed_a == BLAS_TRANSPOSED, tb = transposed_b == BLAS_TRANSPOSED;
    if (m < 0 || n < 0 || k < 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m || ldd < m) return BLAS_SIZE;
    if (c == d && (c_type != d_type || ldc != ldd)) return BLAS_SIZE;
    if (!m || !n) return 0;
    if (!a || !b || !c || !d || !alpha || !beta) return BLAS_POINTER;
    // Inputs, outputs, sums: of one type, or 16 bits and sums of 32, which may be what comes out.
    const bool known = a_type == TYPE_F16 || a_type == TYPE_BF16 || a_type == TYPE_F32;
    const bool types = known && a_type == b_type && c_type == d_type && compute == TYPE_F32 && (d_type == a_type || d_type == TYPE_F32);
    if (!types || !setting("STAND_IN_BLAS_TYPES", 1)) return BLAS_NOT_IMPLEMENTED;
    auto matrix = [](int type, uint64_t at, int rows, int columns, int stride) {
        return stand_in::Matrix{blas_element(type), at, (uint64_t)rows, (uint64_t)columns, stride};
    };
    const stand_in::Product product = {matrix(a_type, a, ta ? k : m, ta ? m : k, lda), matrix(b_type, b, tb ? n : k, tb ? k : n, ldb),
                                       matrix(c_type, c, m, n, ldc), matrix(d_type, d, m, n, ldd), ta, tb, of->atomics,
                                       *alpha, *beta, of->scratch, of->scratch_bytes};
    stand_in::push_launch(stream, [=] { product.run(); });
    return 0;
}
