// The functions of libnnopbase and libopapi that the back end calls. After `acl.h`.
//
// An operator's first function checks everything that the vendor's documents say of its arguments, and gives an executor that
// knows them; its second function wants that executor, once, with its workspace, while the tensors are alive. The work is done when
// the stream gets there: by plain loops in f64, rounded to the result's type.
//
// What the documents do not promise is refused: results over arguments where an operator is not element by element, results with
// gaps where none are allowed, indices outside of what they index.

enum { F32 = 0, F16 = 1, I8 = 2, I32 = 3, U8 = 4, I64 = 9, BOOL = 12, BF16 = 27 };
static const int NULL_PARAMETER = 161001, INVALID_PARAMETER = 161002;
// Formats: rows, and squares of 16 x 16 elements.
static const int ND = 2, NZ = 29, SIDE = 16;
typedef std::vector<int64_t> Dims;

static size_t bytes_of(int dtype) {
    switch (dtype) {
    case F32: case I32: return 4;
    case F16: case BF16: return 2;
    case I8: case U8: case BOOL: return 1;
    case I64: return 8;
    default: return 0;
    }
}
static bool is_float(int dtype) { return dtype == F32 || dtype == F16 || dtype == BF16; }
static bool is_integer(int dtype) { return dtype == I32 || dtype == I64; }

struct aclTensor {
    int dtype;
    Dims dims, strides;
    uint64_t data;
    int format = ND;
    // Lengths of its memory, when it is in squares.
    Dims storage = {};
    int64_t length() const {
        int64_t n = 1;
        for (int64_t dim : dims) n *= dim;
        return n;
    }
    int64_t span() const {
        if (!length()) return 0;
        int64_t n = 1;
        if (format == NZ) {
            for (int64_t of : storage) n *= of;
            return n;
        }
        for (size_t i = 0; i < dims.size(); i++) n += (dims[i] - 1) * strides[i];
        return n;
    }
    bool contiguous() const {
        int64_t expected = 1;
        for (size_t i = dims.size(); i-- > 0;) {
            if (dims[i] != 1 && strides[i] != expected) return false;
            expected *= std::max<int64_t>(dims[i], 1);
        }
        return true;
    }
};
struct aclScalar {
    int dtype;
    double value;
};
struct aclIntArray {
    Dims values;
};
struct aclTensorList {
    std::vector<const aclTensor *> tensors;
};
struct aclOpExecutor {
    std::string name;
    uint64_t workspace;
    std::vector<const aclTensor *> tensors;
    std::function<void(const std::vector<aclTensor> &)> work;
    bool repeatable;
};
static std::set<const void *> alive;
static std::set<aclOpExecutor *> repeatables;

template <class X> static X *make(X *made, const char *what) {
    alive.insert(made);
    stand_in::live[what]++;
    return made;
}
template <class X> static int unmake(const X *made, const char *what) {
    if (!alive.erase(made)) return INVALID_PARAMETER;
    stand_in::live[what]--;
    delete made;
    return 0;
}

// Numbers of any type, as f64. Integers of 64 bits are exact below 2^53.
static double rounded(double x, int bits, int least) {
    // To `bits` significant bits, and to multiples of 2^least.
    if (x == 0 || !std::isfinite(x)) return x;
    int exponent;
    std::frexp(x, &exponent);
    const int unit = std::max(exponent - bits, least);
    return std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
}
static double round_to(int dtype, double x) {
    switch (dtype) {
    case F32: return (float)x;
    case F16: x = rounded(x, 11, -24); return std::fabs(x) > 65504 ? std::copysign(INFINITY, x) : x;
    case BF16: x = rounded(x, 8, -133); return std::fabs(x) > 3.3895313892515355e38 ? std::copysign(INFINITY, x) : x;
    default: return x;
    }
}
static uint16_t half_bits(double x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return 0x7e00;
    x = std::fabs(x);
    if (std::isinf(x)) return sign | 0x7c00;
    if (x < 6.103515625e-05) return sign | (uint16_t)(x * 16777216.0);
    int exponent;
    const double fraction = std::frexp(x, &exponent);
    return sign | (uint16_t)((exponent + 14) << 10) | (uint16_t)((fraction * 2 - 1) * 1024);
}
static double half_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double x = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return bits & 0x8000 ? -x : x;
}
static double load(int dtype, const void *at) {
    switch (dtype) {
    case F32: return *(const float *)at;
    case F16: return half_value(*(const uint16_t *)at);
    case BF16: {
        const uint32_t bits = (uint32_t)*(const uint16_t *)at << 16;
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    case I8: return *(const int8_t *)at;
    case U8: return *(const uint8_t *)at;
    case BOOL: return *(const uint8_t *)at != 0;
    case I32: return *(const int32_t *)at;
    default: return (double)*(const int64_t *)at;
    }
}
static void store(int dtype, void *at, double x) {
    if (is_float(dtype)) x = round_to(dtype, x);
    switch (dtype) {
    case F32: *(float *)at = (float)x; break;
    case F16: *(uint16_t *)at = half_bits(x); break;
    case BF16: {
        const float f = (float)x;
        uint32_t bits;
        memcpy(&bits, &f, 4);
        *(uint16_t *)at = std::isnan(x) ? 0x7fc0 : bits >> 16;
        break;
    }
    case I8: *(int8_t *)at = (int8_t)x; break;
    case U8: *(uint8_t *)at = (uint8_t)x; break;
    case BOOL: *(uint8_t *)at = x != 0; break;
    case I32: *(int32_t *)at = (int32_t)x; break;
    default: *(int64_t *)at = (int64_t)x; break;
    }
}

// Calls f with the place of every element of `dims`, in order, in a tensor that is broadcast to them.
template <class F> static void places(const aclTensor &t, const Dims &dims, F f) {
    const size_t rank = dims.size(), missing = rank - t.dims.size();
    Dims index(rank, 0), strides(rank, 0);
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++) {
        n *= dims[i];
        if (i >= missing && t.dims[i - missing] != 1) strides[i] = t.strides[i - missing];
    }
    const size_t bytes = bytes_of(t.dtype);
    int64_t at = 0;
    for (int64_t k = 0; k < n; k++) {
        f((unsigned char *)(t.data + at * bytes));
        for (size_t i = rank; i-- > 0;) {
            at += strides[i];
            if (++index[i] < dims[i]) break;
            at -= strides[i] * dims[i];
            index[i] = 0;
        }
    }
}
static std::vector<double> read(const aclTensor &t, const Dims &dims) {
    std::vector<double> all;
    if (t.dims == dims && t.contiguous()) {
        // As below, and faster: most tensors are without gaps.
        all.resize(t.length());
        const size_t bytes = bytes_of(t.dtype);
        for (size_t i = 0; i < all.size(); i++) all[i] = load(t.dtype, (const void *)(t.data + i * bytes));
        return all;
    }
    places(t, dims, [&](unsigned char *at) { all.push_back(load(t.dtype, at)); });
    return all;
}
static std::vector<double> read(const aclTensor &t) { return read(t, t.dims); }
static void write(const aclTensor &t, const std::vector<double> &all) {
    size_t i = 0;
    places(t, t.dims, [&](unsigned char *at) { store(t.dtype, at, all[i++]); });
}

// The first function of an operator: what is wrong with its arguments, or an executor.
struct Checks {
    std::vector<const aclTensor *> tensors;
    int status = 0;
    std::string why;

    void refuse(int with, const std::string &what) {
        if (status) return;
        status = with;
        why = what;
    }
    void require(bool holds, const char *what) {
        if (!holds) refuse(INVALID_PARAMETER, what);
    }
    template <class X> bool there(const X *x, const char *what) {
        if (!x) refuse(NULL_PARAMETER, what);
        else if (!alive.count(x)) refuse(INVALID_PARAMETER, std::string(what) + " was destroyed");
        return !status;
    }
    void add(const aclTensor *t) {
        tensors.push_back(t);
        if (there(t, "a tensor") && first_generation() && t->dtype == BF16) refuse(INVALID_PARAMETER, "no bf16 on this chip");
        if (!status && t->format != ND && t != folded) refuse(INVALID_PARAMETER, "a format that it does not take");
    }
    // The one that may be in squares.
    const aclTensor *folded = nullptr;
};

static bool broadcasts(const aclTensor *t, const Dims &dims) {
    if (t->dims.size() > dims.size()) return false;
    for (size_t i = 0; i < t->dims.size(); i++) {
        const int64_t dim = dims[dims.size() - t->dims.size() + i];
        if (t->dims[i] != dim && t->dims[i] != 1) return false;
    }
    return true;
}
static bool overlap(const aclTensor *a, const aclTensor *b) {
    const uint64_t a_end = a->data + a->span() * bytes_of(a->dtype), b_end = b->data + b->span() * bytes_of(b->dtype);
    return a->data < b_end && b->data < a_end;
}

static int finish(const char *function, Checks &checks, uint64_t *bytes, aclOpExecutor **executor,
                  std::function<void(const std::vector<aclTensor> &)> work) {
    std::string name = function;
    name = name.substr(0, name.size() - strlen("GetWorkspaceSize"));
    if (!context) checks.refuse(361001, "no context is current");
    if (checks.status) {
        fprintf(stderr, "stand-in: %s: %s\n", name.c_str(), checks.why.c_str());
        return checks.status;
    }
    // Some operators want no workspace.
    const uint64_t wanted = name.size() % 3 ? 64 * checks.tensors.size() : 0;
    *bytes = wanted;
    *executor = make(new aclOpExecutor{name, wanted, checks.tensors, std::move(work), false}, "executor");
    return 0;
}

// The second function of every operator.
static int queue_operator(const char *name, void *workspace, uint64_t bytes, aclOpExecutor *executor, void *stream) {
    stand_in::Locked locked(stand_in::lock);
    if (const int code = stand_in::enter(name)) {
        if (alive.count(executor) && !executor->repeatable) unmake(executor, "executor");
        return code;
    }
    if (!context) return 361001;
    auto of = stand_in::find(stream);
    if (!of || !alive.count(executor) || executor->name != name) return INVALID_PARAMETER;
    if (bytes < executor->workspace || (executor->workspace && !workspace)) return INVALID_PARAMETER;
    std::vector<aclTensor> tensors;
    for (const aclTensor *t : executor->tensors) {
        if (!alive.count(t)) {
            fprintf(stderr, "stand-in: %s is queued after a tensor was destroyed\n", name);
            return INVALID_PARAMETER;
        }
        tensors.push_back(*t);
    }
    const uint64_t scratch = executor->workspace;
    auto work = executor->work;
    const std::string operation = name;
    auto run = [=] {
        int code = 0;
        if (stand_in::fails("kernel", &code)) return stand_in::die(code, operation + " is made to fail");
        stand_in::kernels_run.insert(operation);
        if (scratch) {
            if (!stand_in::usable((uintptr_t)workspace, scratch, (operation + "'s workspace").c_str())) return;
            memset(workspace, 0xa5, scratch);
        }
        for (const aclTensor &t : tensors)
            if (t.length() && !stand_in::usable(t.data, t.span() * bytes_of(t.dtype), operation.c_str())) return;
        work(tensors);
        if (scratch) memset(workspace, 0x5a, scratch);
    };
    if (of->capturing) recorded[stream].push_back(run);
    else stand_in::push(of, run);
    if (!executor->repeatable) unmake(executor, "executor");
    return 0;
}

EXPORT aclTensor *aclCreateTensor(const int64_t *dims, uint64_t rank, int dtype, const int64_t *strides, int64_t offset, int format,
                                  const int64_t *storage, uint64_t storage_rank, void *data) {
    stand_in::Locked locked(stand_in::lock);
    if (stand_in::enter(__func__)) return nullptr;
    aclTensor t{dtype, Dims(dims, dims + rank), Dims(strides, strides + rank), (uintptr_t)data, format, {}};
    if (format == NZ) t.storage.assign(storage, storage + storage_rank);
    int64_t room = 1;
    for (uint64_t i = 0; i < storage_rank; i++) room *= storage[i];
    bool fine = bytes_of(dtype) && (format == ND || (format == NZ && rank == 2 && storage_rank == 4)) && rank <= 8 && offset == 0 && t.span() <= room && (uintptr_t)data % bytes_of(dtype) == 0;
    for (int64_t stride : t.strides) fine &= stride >= 0;
    if (!fine) {
        fprintf(stderr, "stand-in: a tensor is described that there cannot be\n");
        return nullptr;
    }
    return make(new aclTensor(t), "tensor");
}
static int unmake_tensor(const aclTensor *t) {
    for (aclOpExecutor *executor : repeatables)
        for (const aclTensor *known : executor->tensors)
            if (known == t) stand_in::die(DIED, "a tensor is destroyed before an executor that may use it again");
    return unmake(t, "tensor");
}
EXPORT int aclDestroyTensor(const aclTensor *t) {
    ENTER_TO_FREE;
    const int failed = unmake_tensor(t);
    return failed ? failed : code;
}
// A list takes its tensors with it.
EXPORT aclTensorList *aclCreateTensorList(const aclTensor *const *tensors, uint64_t n) {
    stand_in::Locked locked(stand_in::lock);
    if (stand_in::enter(__func__)) return nullptr;
    return make(new aclTensorList{{tensors, tensors + n}}, "list");
}
EXPORT int aclDestroyTensorList(const aclTensorList *list) {
    ENTER_TO_FREE;
    if (!alive.count(list)) return INVALID_PARAMETER;
    int failed = 0;
    for (const aclTensor *t : list->tensors) failed |= unmake_tensor(t);
    unmake(list, "list");
    return failed ? failed : code;
}
EXPORT aclScalar *aclCreateScalar(void *value, int dtype) {
    stand_in::Locked locked(stand_in::lock);
    if (stand_in::enter(__func__) || !bytes_of(dtype)) return nullptr;
    return make(new aclScalar{dtype, load(dtype, value)}, "scalar");
}
EXPORT int aclDestroyScalar(const aclScalar *s) {
    ENTER_TO_FREE;
    const int failed = unmake(s, "scalar");
    return failed ? failed : code;
}
EXPORT aclIntArray *aclCreateIntArray(const int64_t *values, uint64_t n) {
    stand_in::Locked locked(stand_in::lock);
    if (stand_in::enter(__func__)) return nullptr;
    return make(new aclIntArray{Dims(values, values + n)}, "array");
}
EXPORT int aclDestroyIntArray(const aclIntArray *a) {
    ENTER_TO_FREE;
    const int failed = unmake(a, "array");
    return failed ? failed : code;
}
// Only one that may be used again outlives its use, and is destroyed.
EXPORT int aclSetAclOpExecutorRepeatable(aclOpExecutor *executor) {
    ENTER_TO_FREE;
    // It does not ask the device, which may be dead.
    if (code && !stand_in::last_code) return code;
    if (!alive.count(executor)) return 561103;
    executor->repeatable = true;
    repeatables.insert(executor);
    return 0;
}
EXPORT int aclDestroyAclOpExecutor(aclOpExecutor *executor) {
    ENTER_TO_FREE;
    if (!alive.count(executor) || !executor->repeatable) return 561103;
    repeatables.erase(executor);
    unmake(executor, "executor");
    return code;
}
EXPORT int aclSetTensorAddr(aclOpExecutor *executor, size_t index, aclTensor *tensor, void *to) {
    ENTER;
    if (!alive.count(executor) || !executor->repeatable) return 561103;
    if (index >= executor->tensors.size() || executor->tensors[index] != tensor || !tensor || (uintptr_t)to % 32) return INVALID_PARAMETER;
    tensor->data = (uintptr_t)to;
    return 0;
}

// An operator: its second function, and the beginning of its first one.
#define OPERATOR(name, ...)                                                                                              \
    EXPORT int aclnn##name(void *workspace, uint64_t bytes, aclOpExecutor *executor, void *stream) {                     \
        return queue_operator(__func__, workspace, bytes, executor, stream);                                             \
    }                                                                                                                    \
    EXPORT int aclnn##name##GetWorkspaceSize(__VA_ARGS__, uint64_t *bytes, aclOpExecutor **executor) {                   \
        stand_in::Locked locked(stand_in::lock);                                                                         \
        if (const int code = stand_in::enter(__func__)) return code;                                                     \
        Checks checks;

#define WITH(...)                                           \
    for (const aclTensor *t : {__VA_ARGS__}) checks.add(t); \
    if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
// A number is what it was when the operator was told of it.
#define SCALAR(s) const double s##_value = checks.there(s, "a scalar") ? s->value : 0;
#define INTEGERS(a) const Dims a##_values = checks.there(a, "an array") ? a->values : Dims();
#define RUNS return finish(__func__, checks, bytes, executor, [=](const std::vector<aclTensor> &t) {
#define END \
    });     \
    }

typedef const aclTensor *T;
typedef const aclScalar *S;
typedef const std::vector<double> V;

static void elementwise(Checks &checks, T out, std::initializer_list<T> in) {
    for (T x : in) {
        checks.require(broadcasts(x, out->dims), "lengths differ");
        const bool same = x->data == out->data && x->dims == out->dims && x->strides == out->strides && x->dtype == out->dtype;
        checks.require(same || !overlap(x, out), "the result lies over another part of an argument");
    }
}
static void apart(Checks &checks, T out, std::initializer_list<T> in) {
    for (T x : in) checks.require(!overlap(x, out), "the result lies over an argument");
}
static void same_types(Checks &checks, std::initializer_list<T> all) {
    for (T x : all) checks.require(x->dtype == (*all.begin())->dtype, "types differ");
}
template <class F> static void map1(const aclTensor &out, const aclTensor &x, F f) {
    std::vector<double> all = read(x, out.dims);
    for (double &v : all) v = f(v);
    write(out, all);
}
template <class F> static void map2(const aclTensor &out, const aclTensor &a, const aclTensor &b, F f) {
    std::vector<double> x = read(a, out.dims);
    V y = read(b, out.dims);
    for (size_t i = 0; i < x.size(); i++) x[i] = f(x[i], y[i]);
    write(out, x);
}

OPERATOR(InplaceCopy, T self, T src)
WITH(self, src)
elementwise(checks, self, {src});
checks.require(self->dtype == src->dtype, "types differ");
RUNS
// Bit for bit: a number that is none keeps its bits.
const size_t bytes = bytes_of(t[0].dtype);
std::vector<unsigned char> all;
places(t[1], t[0].dims, [&](unsigned char *at) { all.insert(all.end(), at, at + bytes); });
size_t i = 0;
places(t[0], t[0].dims, [&](unsigned char *at) { memcpy(at, &all[i], bytes), i += bytes; });
END

OPERATOR(Cast, T self, int dtype, T out)
WITH(self, out)
elementwise(checks, out, {self});
checks.require(out->dtype == dtype && self->dims == out->dims, "another type or other lengths than said");
RUNS
map1(t[1], t[0], [](double x) { return x; });
END

OPERATOR(InplaceFillScalar, T self, S value)
WITH(self)
SCALAR(value)
RUNS
map1(t[0], t[0], [=](double) { return value_value; });
END

OPERATOR(InplaceMaskedFillScalar, T self, T mask, S value)
WITH(self, mask)
SCALAR(value)
checks.require(mask->dtype == BOOL, "the mask is not of bool");
elementwise(checks, self, {mask});
RUNS
map2(t[0], t[0], t[1], [=](double x, double m) { return m != 0 ? value_value : x; });
END

OPERATOR(SWhere, T condition, T self, T other, T out)
WITH(condition, self, other, out)
checks.require(condition->dtype == BOOL, "the condition is not of bool");
same_types(checks, {out, self, other});
elementwise(checks, out, {condition, self, other});
RUNS
V condition = read(t[0], t[3].dims), a = read(t[1], t[3].dims), b = read(t[2], t[3].dims);
std::vector<double> all(a.size());
for (size_t i = 0; i < all.size(); i++) all[i] = condition[i] != 0 ? a[i] : b[i];
write(t[3], all);
END

OPERATOR(Arange, S start, S end, S step, T out)
WITH(out)
SCALAR(start)
SCALAR(end)
SCALAR(step)
checks.require(out->dims.size() == 1 && out->contiguous(), "not a list");
checks.require(step_value > 0 && (int64_t)std::ceil((end_value - start_value) / step_value) == out->length(), "another length");
RUNS
std::vector<double> all;
for (int64_t i = 0; i < t[0].length(); i++) all.push_back(start_value + i * step_value);
write(t[0], all);
END

// Factors are rounded to the type of the tensors, and so is their product.
#define SUM(name, sign)                                                                                        \
    OPERATOR(name, T self, T other, S alpha, T out)                                                            \
    WITH(self, other, out)                                                                                     \
    SCALAR(alpha)                                                                                              \
    same_types(checks, {out, self, other});                                                                    \
    elementwise(checks, out, {self, other});                                                                   \
    RUNS                                                                                                       \
    const int dtype = t[2].dtype;                                                                              \
    map2(t[2], t[0], t[1], [=](double a, double b) {                                                           \
        return a sign(alpha_value == 1 ? b : round_to(dtype, round_to(dtype, alpha_value) * b));               \
    });                                                                                                        \
    END
SUM(Add, +)
SUM(Sub, -)

OPERATOR(Adds, T self, S other, S alpha, T out)
WITH(self, out)
SCALAR(other)
SCALAR(alpha)
same_types(checks, {out, self});
elementwise(checks, out, {self});
RUNS
map1(t[1], t[0], [=](double x) { return x + alpha_value * other_value; });
END

#define BINARY(name, condition, expression)                                  \
    OPERATOR(name, T self, T other, T out)                                   \
    WITH(self, other, out)                                                   \
    same_types(checks, {out, self, other});                                  \
    elementwise(checks, out, {self, other});                                 \
    checks.require(condition, "a type that it does not take");               \
    RUNS                                                                     \
    map2(t[2], t[0], t[1], [](double a, double b) { return expression; });   \
    END
BINARY(Mul, true, a * b)
BINARY(Div, is_float(out->dtype), a / b)
BINARY(Maximum, out->dtype != BOOL, std::isnan(a) || a > b ? a : b)
BINARY(Minimum, out->dtype != BOOL, std::isnan(a) || a < b ? a : b)
BINARY(LogicalAnd, out->dtype == BOOL, a != 0 && b != 0)
BINARY(BitwiseXorTensor, is_integer(out->dtype), (double)((int64_t)a ^ (int64_t)b))

#define COMPARISON(name, operation)                                              \
    OPERATOR(name, T self, T other, T out)                                       \
    WITH(self, other, out)                                                       \
    same_types(checks, {self, other});                                           \
    elementwise(checks, out, {self, other});                                     \
    checks.require(out->dtype == BOOL, "the result is not of bool");             \
    RUNS                                                                         \
    map2(t[2], t[0], t[1], [](double a, double b) { return a operation b; });    \
    END
COMPARISON(LtTensor, <)
COMPARISON(GeTensor, >=)
COMPARISON(GtTensor, >)
COMPARISON(NeTensor, !=)
COMPARISON(EqTensor, ==)

OPERATOR(EqScalar, T self, S other, T out)
WITH(self, out)
SCALAR(other)
elementwise(checks, out, {self});
checks.require(out->dtype == BOOL, "the result is not of bool");
RUNS
map1(t[1], t[0], [=](double x) { return x == other_value; });
END

#define WITH_NUMBER(name, condition, expression)                     \
    OPERATOR(name, T self, S other, T out)                           \
    WITH(self, out)                                                  \
    SCALAR(other)                                                    \
    same_types(checks, {out, self});                                 \
    elementwise(checks, out, {self});                                \
    checks.require(condition, "a type that it does not take");       \
    RUNS                                                             \
    const double b = other_value;                                    \
    map1(t[1], t[0], [=](double a) { return expression; });          \
    END
WITH_NUMBER(Muls, true, a * b)
WITH_NUMBER(FloorDivides, is_integer(out->dtype), std::floor(a / b))
WITH_NUMBER(BitwiseAndScalar, is_integer(out->dtype), (double)((int64_t)a & (int64_t)b))
WITH_NUMBER(Swish, is_float(out->dtype), a == -INFINITY ? 0 : a / (1 + std::exp(-b * a)))

OPERATOR(Clamp, T self, S least, S most, T out)
WITH(self, out)
SCALAR(least)
SCALAR(most)
same_types(checks, {out, self});
elementwise(checks, out, {self});
RUNS
map1(t[1], t[0], [=](double x) { return x < least_value ? least_value : x > most_value ? most_value : x; });
END

static double silu(double x) { return x == -INFINITY ? 0 : x / (1 + std::exp(-x)); }
static double gelu_erf(double x) { return x == -INFINITY ? 0 : 0.5 * x * std::erfc(-x * M_SQRT1_2); }
static double gelu_tanh(double x) {
    return x == -INFINITY ? 0 : x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
#define ACTIVATION(name, function)                                            \
    OPERATOR(name, T self, T out)                                             \
    WITH(self, out)                                                           \
    same_types(checks, {out, self});                                          \
    elementwise(checks, out, {self});                                         \
    checks.require(is_float(out->dtype), "a type that it does not take");     \
    RUNS                                                                      \
    map1(t[1], t[0], [](double x) { return function(x); });                   \
    END
ACTIVATION(Silu, silu)
ACTIVATION(Gelu, gelu_tanh)
ACTIVATION(Rsqrt, 1 / std::sqrt)

OPERATOR(GeluV2, T self, int64_t approximate, T out)
WITH(self, out)
same_types(checks, {out, self});
elementwise(checks, out, {self});
checks.require(approximate == 0 || approximate == 1, "another approximation");
RUNS
map1(t[1], t[0], [=](double x) { return approximate ? gelu_tanh(x) : gelu_erf(x); });
END

OPERATOR(SwiGlu, T x, int64_t dim, T out)
WITH(x, out)
same_types(checks, {out, x});
apart(checks, out, {x});
checks.require(dim == 1 && x->dims.size() == 2 && out->dims == Dims({x->dims[0], x->dims[1] / 2}), "other lengths");
RUNS
V all = read(t[0]);
const int64_t rows = t[1].dims[0], dim = t[1].dims[1];
std::vector<double> result;
for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < dim; i++) result.push_back(silu(all[r * 2 * dim + i]) * all[r * 2 * dim + dim + i]);
write(t[1], result);
END

// Of the last dimension, which stays with length 1.
#define REDUCTION(name, ...)                                                                                              \
    OPERATOR(name, T self, const aclIntArray *dims, bool keep, __VA_ARGS__)                                               \
    WITH(self, out)                                                                                                       \
    INTEGERS(dims)                                                                                                        \
    apart(checks, out, {self});                                                                                           \
    same_types(checks, {out, self});                                                                                      \
    Dims reduced = self->dims;                                                                                            \
    reduced.back() = 1;                                                                                                   \
    checks.require(dims_values == Dims({(int64_t)self->dims.size() - 1}) && keep && out->dims == reduced, "other lengths");
#define OVER_ROWS(start, step, end)                                 \
    RUNS                                                            \
    V all = read(t[0]);                                             \
    const int64_t n = t[0].dims.back();                             \
    std::vector<double> result;                                     \
    for (size_t r = 0; r * n < all.size(); r++) {                   \
        double s = start;                                           \
        for (int64_t i = 0; i < n; i++) {                           \
            const double x = all[r * n + i];                        \
            step;                                                   \
        }                                                           \
        result.push_back(end);                                      \
    }                                                               \
    write(t[1], result);                                            \
    END
REDUCTION(Mean, int dtype, T out)
checks.require(dtype == out->dtype, "another type");
OVER_ROWS(0, s += x, s / n)
REDUCTION(ReduceSum, int dtype, T out)
checks.require(dtype == out->dtype, "another type");
OVER_ROWS(0, s += x, s)
REDUCTION(Amax, T out)
OVER_ROWS(-INFINITY, s = std::isnan(x) || x > s ? x : s, s)

OPERATOR(RmsNorm, T x, T gamma, double epsilon, T out, T rstd)
WITH(x, gamma, out, rstd)
same_types(checks, {out, x});
apart(checks, out, {x, gamma});
checks.require(gamma->dtype == x->dtype || (gamma->dtype == F32 && !first_generation()), "types that do not go together");
checks.require(soc().rfind("Ascend910", 0) || !first_generation(), "not on this chip");
checks.require(rstd->dtype == F32 && x->dims.size() == 2 && rstd->dims == Dims({x->dims[0], 1}), "another rstd");
checks.require(out->dims == x->dims && gamma->dims == Dims({x->dims[1]}), "other lengths");
RUNS
std::vector<double> all = read(t[0]), scales;
V gamma = read(t[1]);
const int64_t n = t[0].dims[1];
for (int64_t r = 0; r < t[0].dims[0]; r++) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += all[r * n + i] * all[r * n + i];
    scales.push_back(1 / std::sqrt(s / n + epsilon));
    for (int64_t i = 0; i < n; i++) all[r * n + i] *= scales.back() * gamma[i];
}
write(t[2], all);
write(t[3], scales);
END

OPERATOR(LayerNorm, T x, const aclIntArray *shape, T weight, T bias, double epsilon, T out, T mean, T rstd)
WITH(x, weight, bias, out)
INTEGERS(shape)
same_types(checks, {out, x});
same_types(checks, {weight, bias});
apart(checks, out, {x, weight, bias});
checks.require(weight->dtype == x->dtype || weight->dtype == F32, "types that do not go together");
checks.require(soc().rfind("Ascend310P", 0) != 0, "not on this chip");
checks.require(!mean && !rstd && x->dims.size() == 2 && shape_values == Dims({x->dims[1]}) && out->dims == x->dims, "other lengths");
checks.require(weight->dims == shape_values && bias->dims == shape_values, "other lengths of weights");
RUNS
std::vector<double> all = read(t[0]);
V weight = read(t[1]), bias = read(t[2]);
const int64_t n = t[0].dims[1];
for (int64_t r = 0; r < t[0].dims[0]; r++) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; i++) mean += all[r * n + i];
    mean /= n;
    for (int64_t i = 0; i < n; i++) variance += (all[r * n + i] - mean) * (all[r * n + i] - mean);
    const double scale = 1 / std::sqrt(variance / n + epsilon);
    for (int64_t i = 0; i < n; i++) all[r * n + i] = (all[r * n + i] - mean) * scale * weight[i] + bias[i];
}
write(t[3], all);
END

OPERATOR(Softmax, T self, int64_t dim, T out)
WITH(self, out)
same_types(checks, {out, self});
apart(checks, out, {self});
checks.require(is_float(out->dtype) && out->dims == self->dims && dim == (int64_t)self->dims.size() - 1, "other lengths");
RUNS
std::vector<double> all = read(t[0]);
const int64_t n = t[0].dims.back();
for (size_t r = 0; r * n < all.size(); r++) {
    double *row = &all[r * n], most = -INFINITY, s = 0;
    for (int64_t i = 0; i < n; i++) most = std::isnan(row[i]) || row[i] > most ? row[i] : most;
    for (int64_t i = 0; i < n; i++) s += row[i] = std::exp(row[i] - most);
    for (int64_t i = 0; i < n; i++) row[i] /= s;
}
write(t[1], all);
END

OPERATOR(Matmul, T self, T mat2, T out, int8_t cube_math_type)
WITH(self, mat2, out)
apart(checks, out, {self, mat2});
const size_t rank = out->dims.size();
checks.require(rank >= 2 && rank <= 6 && self->dims.size() == rank && mat2->dims.size() == rank, "other dimensions");
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
const int64_t m = out->dims[rank - 2], n = out->dims[rank - 1], k = self->dims[rank - 1];
checks.require(self->dims[rank - 2] == m && mat2->dims[rank - 2] == k && mat2->dims[rank - 1] == n && k > 0, "other lengths");
for (size_t i = 0; i + 2 < rank; i++) {
    const int64_t a = self->dims[i], b = mat2->dims[i];
    checks.require(out->dims[i] == std::max(a, b) && (a == b || a == 1 || b == 1), "other batches");
}
checks.require(is_float(self->dtype), "a type that it does not take");
same_types(checks, {self, mat2});
checks.require(out->dtype == self->dtype || out->dtype == F32, "another type of the result");
checks.require(out->contiguous(), "a result with gaps");
checks.require(cube_math_type == 0 && !(first_generation() && self->dtype == F32), "digits that this chip does not keep");
RUNS
const size_t rank = t[2].dims.size();
Dims a_dims = t[2].dims, b_dims = t[2].dims;
a_dims[rank - 1] = b_dims[rank - 2] = t[0].dims[rank - 1];
const int64_t m = t[2].dims[rank - 2], n = t[2].dims[rank - 1], k = t[0].dims[rank - 1];
// The columns of the second one beside each other.
aclTensor second = t[1];
std::swap(second.dims[rank - 2], second.dims[rank - 1]);
std::swap(second.strides[rank - 2], second.strides[rank - 1]);
std::swap(b_dims[rank - 2], b_dims[rank - 1]);
V a = read(t[0], a_dims), b = read(second, b_dims);
std::vector<double> all;
for (int64_t batch = 0; batch * m * k < (int64_t)a.size(); batch++)
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            const double *x = &a[(batch * m + i) * k], *y = &b[(batch * n + j) * k];
            double s = 0;
            for (int64_t l = 0; l < k; l++) s += x[l] * y[l];
            all.push_back(s);
        }
write(t[2], all);
END

// Weights in squares: down the rows of the first 16 columns, then of the next ones.
static bool can_fold(T weight) {
    return soc().rfind("Ascend950", 0) && (!first_generation() || !soc().rfind("Ascend310P", 0)) && (weight->dtype == F16 || weight->dtype == BF16);
}
static int64_t squares(int64_t n) { return (n + SIDE - 1) / SIDE; }
static Dims folded_dims(int64_t rows, int64_t cols) { return {squares(cols), squares(rows), SIDE, SIDE}; }
static int64_t folded_at(int64_t rows, int64_t r, int64_t c) { return (c / SIDE * squares(rows) * SIDE + r) * SIDE + c % SIDE; }
EXPORT int aclnnCalculateMatmulWeightSizeV2(const aclIntArray *dims, int dtype, uint64_t *elements) {
    ENTER;
    if (!alive.count(dims)) return NULL_PARAMETER;
    if (dims->values.size() != 2 || !dims->values[0] || !dims->values[1] || (dtype != F16 && dtype != BF16)) return INVALID_PARAMETER;
    *elements = squares(dims->values[0]) * squares(dims->values[1]) * SIDE * SIDE;
    return 0;
}
// It changes what it is told of at once, and its memory later.
OPERATOR(TransMatmulWeight, aclTensor *weight)
WITH(weight)
checks.require(can_fold(weight) && weight->dims.size() == 2 && weight->contiguous(), "a weight that it does not fold");
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
weight->format = NZ;
weight->storage = folded_dims(weight->dims[0], weight->dims[1]);
RUNS
aclTensor flat = t[0];
flat.format = ND;
V all = read(flat);
const int64_t rows = flat.dims[0], cols = flat.dims[1];
memset((void *)flat.data, 0, t[0].span() * bytes_of(flat.dtype));
for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) store(flat.dtype, (void *)(flat.data + folded_at(rows, r, c) * bytes_of(flat.dtype)), all[r * cols + c]);
END

OPERATOR(MatmulWeightNz, T self, T mat2, T out, int8_t cube_math_type)
checks.folded = mat2;
WITH(self, mat2, out)
apart(checks, out, {self, mat2});
checks.require(self->dims.size() == 2 && mat2->dims.size() == 2 && out->dims.size() == 2, "other dimensions");
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
const int64_t m = self->dims[0], k = self->dims[1], n = out->dims[1];
checks.require(out->dims[0] == m && mat2->dims == Dims({k, n}) && k > 1 && n > 1, "other lengths");
checks.require(mat2->strides == Dims({1, k}) && mat2->format == NZ && mat2->storage == folded_dims(n, k), "a weight that is not in squares");
checks.require(can_fold(mat2) && self->dtype == mat2->dtype && (out->dtype == self->dtype || out->dtype == F32), "types that do not go together");
checks.require(out->contiguous() && cube_math_type == 0, "a result with gaps, or digits that this chip does not keep");
RUNS
V x = read(t[0]);
const int64_t m = t[0].dims[0], k = t[0].dims[1], n = t[2].dims[1];
std::vector<double> all;
for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
        double s = 0;
        for (int64_t l = 0; l < k; l++) s += x[i * k + l] * load(t[1].dtype, (const void *)(t[1].data + folded_at(n, j, l) * 2));
        all.push_back(s);
    }
write(t[2], all);
END

// Integers times their scales are rounded to the type of x before the product.
OPERATOR(WeightQuantBatchMatmulV2, T x, T weight, T scale, T offset, T quant_scale, T quant_offset, T bias, int group, T y)
WITH(x, weight, scale, y)
same_types(checks, {x, scale, y});
apart(checks, y, {x, weight, scale});
checks.require(!first_generation() && (x->dtype == F16 || x->dtype == BF16) && weight->dtype == I8, "a type that it does not take");
checks.require(!offset && !quant_scale && !quant_offset && !bias && group == 0, "more than is emulated");
checks.require(x->dims.size() == 2 && weight->dims.size() == 2 && y->dims.size() == 2, "other dimensions");
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
const int64_t m = x->dims[0], k = x->dims[1], n = y->dims[1];
checks.require(y->dims[0] == m && weight->dims == Dims({k, n}) && scale->dims == Dims({n}), "other lengths");
checks.require(m > 0 && k > 0 && n > 0 && k <= 65535 && n <= 65535, "lengths that it does not take");
checks.require(x->contiguous() && y->contiguous() && scale->contiguous(), "gaps");
checks.require(weight->contiguous() || weight->strides == Dims({1, k}), "a weight that is neither transposed nor not");
RUNS
V x = read(t[0]), w = read(t[1]), s = read(t[2]);
const int64_t m = t[0].dims[0], k = t[0].dims[1], n = t[3].dims[1];
std::vector<double> all;
for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
        double sum = 0;
        for (int64_t l = 0; l < k; l++) sum += x[i * k + l] * round_to(t[0].dtype, w[l * n + j] * s[j]);
        all.push_back(sum);
    }
write(t[3], all);
END

// An index outside of what it indexes stops the chip.
static bool indexes(const char *who, double index, int64_t n) {
    if (index >= 0 && index < n) return true;
    stand_in::die(DIED, std::string(who) + ": an index is outside");
    return false;
}
// Rows of the first dimension.
static void rows_of(const char *who, const aclTensor &out, const aclTensor &table, const aclTensor &index) {
    aclTensor to = out, from = table;
    Dims row(table.dims.begin() + 1, table.dims.end());
    to.dims = from.dims = row;
    to.strides.assign(out.strides.begin() + 1, out.strides.end());
    from.strides.assign(table.strides.begin() + 1, table.strides.end());
    int64_t r = 0;
    for (double i : read(index)) {
        if (!indexes(who, i, table.dims[0])) return;
        from.data = table.data + (int64_t)i * table.strides[0] * bytes_of(table.dtype);
        to.data = out.data + r++ * out.strides[0] * bytes_of(out.dtype);
        const size_t bytes = bytes_of(out.dtype);
        std::vector<unsigned char> all;
        places(from, row, [&](unsigned char *at) { all.insert(all.end(), at, at + bytes); });
        size_t k = 0;
        places(to, row, [&](unsigned char *at) { memcpy(at, &all[k], bytes), k += bytes; });
    }
}
// The i-th part of the first dimension, or all where it is the one that is selected from.
static aclTensor inner(const aclTensor &t, int64_t dim, int64_t i) {
    if (!dim) return t;
    aclTensor part = t;
    part.data += i * t.strides[0] * bytes_of(t.dtype);
    part.dims.erase(part.dims.begin());
    part.strides.erase(part.strides.begin());
    return part;
}
static void selection(Checks &checks, T table, T index, T out) {
    same_types(checks, {table, out});
    apart(checks, out, {table, index});
    Dims dims = table->dims;
    checks.require(index->dims.size() == 1 && is_integer(index->dtype) && !dims.empty(), "not a list of indices");
    if (!checks.status) dims[0] = index->dims[0];
    checks.require(out->dims == dims, "other lengths");
}
OPERATOR(Embedding, T weight, T indices, T out)
WITH(weight, indices, out)
selection(checks, weight, indices, out);
checks.require(weight->dims.size() == 2 && out->contiguous(), "not a table, or a result with gaps");
RUNS
rows_of("aclnnEmbedding", t[2], t[0], t[1]);
END
OPERATOR(IndexSelect, T self, int64_t dim, T index, T out)
WITH(self, index, out)
checks.require(dim == 0 || (dim == 1 && self->dims.size() == 3 && out->dims.size() == 3), "another dimension");
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
if (dim == 1) checks.require(out->dims[0] == self->dims[0], "other lengths");
const aclTensor part = inner(*self, dim, 0), to = inner(*out, dim, 0);
selection(checks, &part, index, &to);
apart(checks, out, {self, index});
RUNS
for (int64_t i = 0; i < (dim ? t[0].dims[0] : 1); i++) rows_of("aclnnIndexSelect", inner(t[2], dim, i), inner(t[0], dim, i), t[1]);
END

OPERATOR(InplaceIndexCopy, T self, int64_t dim, T index, T source)
WITH(self, index, source)
same_types(checks, {self, source});
apart(checks, self, {index, source});
checks.require(dim == 0 && index->dims.size() == 1 && is_integer(index->dtype) && self->dims.size() == 2, "not a list of indices");
if (!checks.status) checks.require(source->dims == Dims({index->dims[0], self->dims[1]}), "other lengths");
RUNS
V all = read(t[2]);
const int64_t n = t[0].dims[1];
size_t at = 0;
// Of equal indices any one may be the last: here the first is.
std::set<int64_t> written;
for (double i : read(t[1])) {
    if (!indexes("aclnnInplaceIndexCopy", i, t[0].dims[0])) return;
    const bool first = written.insert((int64_t)i).second;
    for (int64_t c = 0; c < n; c++, at++)
        if (first) store(t[0].dtype, (void *)(t[0].data + ((int64_t)i * t[0].strides[0] + c * t[0].strides[1]) * bytes_of(t[0].dtype)), all[at]);
}
END

// Of the last of two dimensions.
static void along(Checks &checks, T self, int64_t dim, T index, T other) {
    same_types(checks, {self, other});
    checks.require(dim == 1 && self->dims.size() == 2 && index->dims.size() == 2 && index->dtype == I64, "not an index of i64");
    checks.require(index->dims == other->dims && index->dims[0] == self->dims[0], "other lengths");
}
static void *element(const aclTensor &t, int64_t row, int64_t column) {
    return (void *)(t.data + (row * t.strides[0] + column * t.strides[1]) * bytes_of(t.dtype));
}
OPERATOR(Gather, T self, int64_t dim, T index, T out)
WITH(self, index, out)
along(checks, self, dim, index, out);
apart(checks, out, {self, index});
RUNS
std::vector<double> all;
for (double i : read(t[1])) {
    if (!indexes("aclnnGather", i, t[0].dims[1])) return;
    all.push_back(load(t[0].dtype, element(t[0], all.size() / t[1].dims[1], (int64_t)i)));
}
write(t[2], all);
END
OPERATOR(InplaceScatter, T self, int64_t dim, T index, T source, int64_t reduce)
WITH(self, index, source)
along(checks, self, dim, index, source);
apart(checks, self, {index, source});
checks.require(reduce == 0, "another reduction");
RUNS
V all = read(t[2]);
size_t k = 0;
for (double i : read(t[1])) {
    if (!indexes("aclnnInplaceScatter", i, t[0].dims[1])) return;
    store(t[0].dtype, element(t[0], k / t[1].dims[1], (int64_t)i), all[k]);
    k++;
}
END

// Whether a comes before b from the largest on; numbers that are none come first.
static bool before(double a, double b) { return std::isnan(a) ? !std::isnan(b) : a > b; }

OPERATOR(ArgMax, T self, int64_t dim, bool keep, T out)
WITH(self, out)
apart(checks, out, {self});
Dims reduced = self->dims;
if (!reduced.empty()) {
    if (keep) reduced.back() = 1;
    else reduced.pop_back();
}
checks.require(is_integer(out->dtype) && dim == (int64_t)self->dims.size() - 1 && out->dims == reduced, "other lengths");
RUNS
V all = read(t[0]);
const int64_t n = t[0].dims.back();
std::vector<double> result;
for (size_t r = 0; r * n < all.size(); r++) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (before(all[r * n + i], all[r * n + best])) best = i;
    result.push_back(best);
}
write(t[1], result);
END

OPERATOR(Sort, T self, bool stable, int64_t dim, bool descending, T values, T indices)
WITH(self, values, indices)
same_types(checks, {self, values});
apart(checks, values, {self});
checks.require(indices->dtype == I64 && dim == 1 && self->dims.size() == 2 && descending, "another order");
checks.require(values->dims == self->dims && indices->dims == self->dims, "other lengths");
RUNS
V all = read(t[0]);
const int64_t n = t[0].dims[1];
std::vector<double> sorted, order;
for (int64_t r = 0; r < t[0].dims[0]; r++) {
    std::vector<int64_t> of(n);
    for (int64_t i = 0; i < n; i++) of[i] = i;
    const double *row = &all[r * n];
    std::stable_sort(of.begin(), of.end(), [&](int64_t a, int64_t b) { return before(row[a], row[b]); });
    // Equal ones in the other order, where nothing was asked.
    if (!stable) std::sort(of.begin(), of.end(), [&](int64_t a, int64_t b) { return before(row[a], row[b]) || (!before(row[b], row[a]) && a > b); });
    for (int64_t i : of) sorted.push_back(row[i]), order.push_back(i);
}
write(t[1], sorted);
write(t[2], order);
END

OPERATOR(Cumsum, T self, int64_t dim, int dtype, T out)
WITH(self, out)
same_types(checks, {self, out});
apart(checks, out, {self});
checks.require(dtype == out->dtype && dim == (int64_t)self->dims.size() - 1 && out->dims == self->dims, "other lengths");
RUNS
std::vector<double> all = read(t[0]);
const int64_t n = t[0].dims.back();
// In the type of the result, one after the other.
for (size_t i = 0; i < all.size(); i++)
    if (i % n) all[i] = round_to(t[0].dtype, all[i] + all[i - 1]);
write(t[1], all);
END

// Attention, over pages or not. Hidden scores are very small numbers, and probabilities have the type of what they are multiplied with.
static const double HIDDEN = -1e30;
static bool is_mask(T mask, int64_t batch, int64_t rows, int64_t least) {
    Dims dims = mask->dims;
    if (dims.size() < 2 || dims.size() > 4 || dims.back() < least) return false;
    dims.pop_back();
    const int64_t first = dims.front(), last = dims.back();
    for (size_t i = 1; i + 1 < dims.size(); i++)
        if (dims[i] != 1) return false;
    // A row for each sequence, or as many for all or each of them.
    if (rows == 1) return first == batch && (dims.size() == 1 || last == 1);
    return last == rows && (dims.size() == 1 || first == 1 || first == batch);
}
OPERATOR(FusedInferAttentionScoreV2, T query, const aclTensorList *keys, const aclTensorList *values, T pse_shift, T mask,
         const aclIntArray *lengths, const aclIntArray *kv_lengths, T deq_scale1, T quant_scale1, T deq_scale2, T quant_scale2,
         T quant_offset2, T antiquant_scale, T antiquant_offset, T block_table, T query_padding, T kv_padding, T key_scale, T key_offset,
         T value_scale, T value_offset, T key_prefix, T value_prefix, const aclIntArray *prefix_length, int64_t heads, double scale,
         int64_t before, int64_t after, const char *layout, int64_t kv_heads, int64_t sparse_mode, int64_t precise, int64_t block_size,
         int64_t antiquant_mode, bool lse_flag, int64_t key_mode, int64_t value_mode, T out, T lse)
if (!checks.there(keys, "keys") || !checks.there(values, "values")) return finish(__func__, checks, bytes, executor, nullptr);
checks.require(keys->tensors.size() == 1 && values->tensors.size() == 1, "several keys or values");
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
T key = keys->tensors[0], value = values->tensors[0];
WITH(query, key, value, mask)
if (block_table) checks.add(block_table);
checks.add(out);
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
checks.require(!first_generation() && soc().rfind("Ascend950", 0), "not on this chip");
checks.require(query->dtype == F16 || query->dtype == BF16, "a type that it does not take");
same_types(checks, {query, key, value, out});
apart(checks, out, {query, key, value, mask});
for (T t : checks.tensors) checks.require(t->contiguous(), "gaps");
for (const void *more : {(const void *)pse_shift, (const void *)lengths, (const void *)deq_scale1, (const void *)quant_scale1, (const void *)deq_scale2,
                         (const void *)quant_scale2, (const void *)quant_offset2, (const void *)antiquant_scale, (const void *)antiquant_offset,
                         (const void *)query_padding, (const void *)kv_padding, (const void *)key_scale, (const void *)key_offset,
                         (const void *)value_scale, (const void *)value_offset, (const void *)key_prefix, (const void *)value_prefix,
                         (const void *)prefix_length, (const void *)lse})
    checks.require(!more, "more than is emulated");
checks.require(!antiquant_mode && !lse_flag && !key_mode && !value_mode && !sparse_mode, "modes that are not emulated");
checks.require(before == 2147483647 && after == 2147483647, "another window");
checks.require(query->dims.size() == 4 && key->dims.size() == 4 && out->dims == query->dims && value->dims == key->dims, "other lengths");
const bool heads_first = !strcmp(layout, "BNSD");
checks.require(heads_first || !strcmp(layout, "BSND"), "another layout");
if (checks.status) return finish(__func__, checks, bytes, executor, nullptr);
// Where heads and slots are.
const int n_at = heads_first ? 1 : 2, s_at = heads_first ? 2 : 1;
const int64_t batch = query->dims[0], rows = query->dims[s_at], dim = query->dims[3], page = key->dims[2];
checks.require(query->dims[n_at] == heads && key->dims[n_at] == kv_heads && key->dims[3] == dim, "other heads");
checks.require(kv_heads > 0 && heads % kv_heads == 0 && heads / kv_heads <= 64 && heads <= 256, "heads that it does not take");
checks.require(dim <= 512 && dim % 16 == 0 && (heads_first || heads * dim < 65535), "heads of a size that it does not take");
checks.require(precise >= 0 && precise <= (rows == 1 ? 1 : 3), "another precision");
const int64_t room = block_table ? block_table->dims.back() * block_size : key->dims[s_at];
if (block_table) {
    checks.require(block_table->dtype == I32 && block_table->dims.size() == 2 && block_table->dims[0] == batch, "another table of pages");
    checks.require(heads_first && block_size == page, "another page");
    checks.require(rows == 1 ? page % 16 == 0 && page <= 512 : page % 128 == 0 && page <= 512, "pages of a size that it does not take");
    checks.require(kv_lengths, "pages without lengths");
} else checks.require(key->dims[0] == batch && !block_size, "other sequences");
Dims slots(batch, room);
if (kv_lengths) {
    INTEGERS(kv_lengths)
    const int64_t n = kv_lengths_values.size();
    checks.require(n == 1 || n >= batch, "another number of lengths");
    if (!checks.status)
        for (int64_t b = 0; b < batch; b++) slots[b] = kv_lengths_values[n == 1 ? 0 : b];
    for (int64_t n : slots) checks.require(n >= 0 && n <= room, "a length that is not there");
}
checks.require(mask->dtype == BOOL && is_mask(mask, batch, rows, room), "another mask");
const bool paged = block_table;
RUNS
V q = read(t[0]), hidden = read(t[3]), table = paged ? read(t[4]) : std::vector<double>();
const aclTensor &k = t[1], &v = t[2], &out = t.back();
const int64_t wide = t[3].dims.back(), columns = paged ? t[4].dims[1] : 0, all_rows = hidden.size() / wide;
std::vector<double> result(q.size());
for (int64_t b = 0; b < batch; b++)
    for (int64_t g = 0; g < kv_heads; g++) {
        std::vector<double> ks, vs;
        for (int64_t j = 0; j < slots[b]; j++) {
            int64_t at[4] = {b, 0, 0, 0};
            at[n_at] = g, at[s_at] = j;
            if (paged) {
                const double id = table[b * columns + j / page];
                if (!indexes("aclnnFusedInferAttentionScoreV2", id, k.dims[0])) return;
                at[0] = (int64_t)id, at[2] = j % page;
            }
            const int64_t first = at[0] * k.strides[0] + at[1] * k.strides[1] + at[2] * k.strides[2];
            for (int64_t d = 0; d < dim; d++) {
                ks.push_back(load(k.dtype, (const void *)(k.data + (first + d) * 2)));
                vs.push_back(load(v.dtype, (const void *)(v.data + (first + d) * 2)));
            }
        }
        for (int64_t h = g * (heads / kv_heads); h < (g + 1) * (heads / kv_heads); h++)
            for (int64_t i = 0; i < rows; i++) {
                const int64_t place = ((b * t[0].dims[1] + (n_at == 1 ? h : i)) * t[0].dims[2] + (n_at == 1 ? i : h)) * dim;
                const int64_t mask_row = rows == 1 ? b : all_rows == rows ? i : b * rows + i;
                std::vector<double> p;
                double most = HIDDEN, sum = 0;
                for (int64_t j = 0; j < slots[b]; j++) {
                    double s = 0;
                    for (int64_t d = 0; d < dim; d++) s += q[place + d] * ks[j * dim + d];
                    s = hidden[mask_row * wide + j] != 0 ? HIDDEN : s * scale;
                    most = std::isnan(s) || s > most ? s : most;
                    p.push_back(s);
                }
                for (int64_t j = 0; j < slots[b]; j++) {
                    const double e = std::exp(p[j] - most), rounded = round_to(v.dtype, e);
                    sum += e;
                    for (int64_t d = 0; d < dim; d++) result[place + d] += rounded * vs[j * dim + d];
                }
                for (int64_t d = 0; d < dim; d++) result[place + d] /= sum;
            }
    }
write(out, result);
END
