/* A plugin in portable C: a "device" whose memory is the host's and whose streams work at once. It shows every function
 * of glm_hal.h and some kernels in plain loops; a real one queues work on its chip instead. Build:
 *     cc -std=c11 -O2 -shared -fPIC -I ../../include example.c -o libexample.so -lm */
#define _POSIX_C_SOURCE 200809L
#include "glm_hal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef const glm_hal_view *const *views;

struct glm_hal_device { int unused; };
struct glm_hal_buffer { void *data; uint64_t bytes; };
struct glm_hal_event { uint64_t nanoseconds; };

struct glm_hal_plan {
    void (*kernel)(const glm_hal_plan *plan, views args);
    glm_hal_device *device;
    float alpha, eps;
    char function[16]; /* of elementwise and activation; empty for none */
    uint64_t rows, cols; /* of the weight; 0 without one */
    uint32_t weight;     /* index of the packed weight among the arguments; 0 without one */
    int bias, residual;
};

/* One recorded launch. */
typedef struct record { struct record *next; glm_hal_plan *plan; uint32_t count; glm_hal_view args[10]; } record;
struct glm_hal_graph { record *first, **last; };
struct glm_hal_stream { glm_hal_graph *capture; /* NULL outside captures */ };

static uint32_t fail(glm_hal_error *error, uint32_t code, const char *why) {
    snprintf(error->text, sizeof error->text, "%s", why);
    return code;
}

/* Elements as f32: bits of f16 and bf16 by hand, for C11 has no such types. */

static float of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static float from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) return of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    float x = ldexpf((float)((magnitude & 0x3ffu) + (magnitude >= 0x400u ? 0x400u : 0u)),
                     magnitude >= 0x400u ? (int)(magnitude >> 10) - 25 : -24);
    return sign ? -x : x;
}

static uint16_t to_f16(float x) {
    uint16_t sign = (uint16_t)(to_bits(x) >> 16 & 0x8000u);
    if (isnan(x)) return 0x7e00u;
    float a = fabsf(x);
    if (a >= 65520.0f) return sign | 0x7c00u;
    int exponent = 0;
    frexpf(a, &exponent);
    if (exponent < -13 || a == 0) exponent = -13; /* below the normal range: steps of 2^-24 */
    /* Half to even, as the default rounding of rintf; a carry goes on into the exponent. */
    uint32_t steps = (uint32_t)rintf(ldexpf(a, 11 - exponent));
    return (uint16_t)(sign + ((uint32_t)(exponent + 13) << 10) + steps);
}

static uint16_t to_bf16(float x) {
    uint32_t bits = to_bits(x);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static float load(uint32_t dtype, const void *at) {
    uint16_t h;
    float x;
    if (dtype == GLM_HAL_F32) return memcpy(&x, at, 4), x;
    memcpy(&h, at, 2);
    return dtype == GLM_HAL_F16 ? from_f16(h) : of_bits((uint32_t)h << 16);
}

static uint64_t size_of(uint32_t dtype) {
    return dtype == GLM_HAL_F32 || dtype == GLM_HAL_I32 ? 4 : dtype == GLM_HAL_F16 || dtype == GLM_HAL_BF16 ? 2 : 1;
}

/* Views. `at` counts elements from the view's first one. */

static char *element(const glm_hal_view *v, uint64_t at) {
    return (char *)v->buffer->data + v->offset_bytes + at * size_of(v->dtype);
}

static float get(const glm_hal_view *v, uint64_t at) { return load(v->dtype, element(v, at)); }

static void set(const glm_hal_view *v, uint64_t at, float x) {
    uint16_t h = v->dtype == GLM_HAL_F16 ? to_f16(x) : to_bf16(x);
    if (v->dtype == GLM_HAL_F32) memcpy(element(v, at), &x, 4);
    else memcpy(element(v, at), &h, 2);
}

static uint64_t length(const glm_hal_view *v) {
    uint64_t n = 1;
    for (uint32_t d = 0; d < v->rank; d++) n *= v->shape[d];
    return n;
}

/* Where element i in row-major order lies. */
static uint64_t place(const glm_hal_view *v, uint64_t i) {
    uint64_t at = 0;
    for (uint32_t d = v->rank; d-- > 0; i /= v->shape[d]) at += i % v->shape[d] * v->strides[d];
    return at;
}

/* Kernels. Arguments come in the order outputs, inputs, weights. */

static void copy(const glm_hal_plan *plan, views args) {
    (void)plan;
    for (uint64_t i = 0, n = length(args[0]); i < n; i++)
        memcpy(element(args[0], place(args[0], i)), element(args[1], place(args[1], i)), size_of(args[0]->dtype));
}

static void elementwise(const glm_hal_plan *plan, views args) {
    for (uint64_t i = 0, n = length(args[0]); i < n; i++) {
        float a = get(args[1], place(args[1], i)), b = plan->alpha * get(args[2], place(args[2], i));
        float y = plan->function[0] == 'a' ? a + b : plan->function[0] == 's' ? a - b : a * b;
        set(args[0], place(args[0], i), y);
    }
}

static double activate(const char *function, double x) {
    if (!function[0]) return x;
    if (x == -INFINITY) return 0;
    if (!strcmp(function, "gelu_erf")) return 0.5 * x * erfc(-x * sqrt(0.5));
    if (!strcmp(function, "gelu_tanh"))
        return x / (1 + exp(-2 * sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    return x / (1 + exp(!strcmp(function, "gelu_quick") ? -1.702 * x : -x));
}

static void activation(const glm_hal_plan *plan, views args) {
    for (uint64_t i = 0, n = length(args[0]); i < n; i++)
        set(args[0], place(args[0], i), (float)activate(plan->function, get(args[1], place(args[1], i))));
}

static void rms_norm(const glm_hal_plan *plan, views args) {
    const glm_hal_view *out = args[0], *x = args[1], *weight = args[2];
    for (uint64_t r = 0; r < x->shape[0]; r++) {
        float sum = 0;
        for (uint64_t i = 0; i < x->shape[1]; i++) {
            float element = get(x, r * x->strides[0] + i);
            sum += element * element;
        }
        float scale = 1 / sqrtf(sum / (float)x->shape[1] + plan->eps);
        for (uint64_t i = 0; i < x->shape[1]; i++)
            set(out, r * out->strides[0] + i, get(x, r * x->strides[0] + i) * scale * get(weight, i));
    }
}

/* out[m, n] = f(sum over k of x[m, k] w[n, k] + bias[n]) + residual[m, n]; w lies packed as f32. */
static void matmul(const glm_hal_plan *plan, views args) {
    const glm_hal_view *out = args[0], *x = args[1], *bias = plan->bias ? args[3] : NULL;
    const glm_hal_view *residual = plan->residual ? args[3 + plan->bias] : NULL;
    const float *w = (const float *)element(args[2], 0);
    for (uint64_t m = 0; m < x->shape[0]; m++)
        for (uint64_t n = 0; n < plan->rows; n++) {
            float sum = 0;
            for (uint64_t k = 0; k < plan->cols; k++)
                sum += get(x, m * x->strides[0] + k) * w[n * plan->cols + k];
            if (bias) sum += get(bias, n);
            sum = (float)activate(plan->function, sum);
            if (residual) sum += get(residual, m * residual->strides[0] + n);
            set(out, m * out->strides[0] + n, sum);
        }
}

/* Device and memory. */

static uint32_t device_open(const char *options, glm_hal_device **device, glm_hal_error *error) {
    if (options[0]) return fail(error, GLM_HAL_INVALID_ARGUMENT, "this device has no options: leave out what follows '#'");
    *device = calloc(1, sizeof **device);
    return *device ? GLM_HAL_OK : GLM_HAL_OUT_OF_MEMORY;
}

static void device_close(glm_hal_device *device) { free(device); }

static uint32_t device_info(glm_hal_device *device, glm_hal_info *info, glm_hal_error *error) {
    (void)device, (void)error;
    info->parallelism = 1;
    info->native_floats = 1u << GLM_HAL_F32;
    info->floats = 1u << GLM_HAL_F32 | 1u << GLM_HAL_F16 | 1u << GLM_HAL_BF16;
    info->accumulator = GLM_HAL_F32;
    info->operand_bits = 24;
    snprintf(info->name, sizeof info->name, "example plugin");
    snprintf(info->detail, sizeof info->detail, "host memory, plain loops in C");
    return GLM_HAL_OK;
}

static uint32_t buffer_alloc(glm_hal_device *device, uint64_t bytes, glm_hal_buffer **buffer, glm_hal_error *error) {
    (void)device;
    glm_hal_buffer *made = malloc(sizeof *made);
    void *data = bytes <= SIZE_MAX / 2 ? calloc(bytes ? (size_t)bytes : 1, 1) : NULL;
    if (!made || !data) {
        free(made), free(data);
        return fail(error, GLM_HAL_OUT_OF_MEMORY, "the system refused");
    }
    made->data = data, made->bytes = bytes;
    *buffer = made;
    return GLM_HAL_OK;
}

static void buffer_free(glm_hal_device *device, glm_hal_buffer *buffer) {
    (void)device;
    free(buffer->data), free(buffer);
}

/* Streams and events: what is called is done on return. */

static void graph_drop(glm_hal_graph *graph) {
    for (record *next, *at = graph ? graph->first : NULL; at; at = next) next = at->next, free(at);
    free(graph);
}

static uint32_t stream_open(glm_hal_device *device, glm_hal_stream **stream, glm_hal_error *error) {
    (void)device, (void)error;
    *stream = calloc(1, sizeof **stream);
    return *stream ? GLM_HAL_OK : GLM_HAL_OUT_OF_MEMORY;
}

static void stream_drop(glm_hal_stream *stream) { graph_drop(stream->capture), free(stream); }

static uint32_t upload(glm_hal_stream *stream, glm_hal_buffer *buffer, uint64_t offset_bytes, const void *source,
                       uint64_t bytes, glm_hal_error *error) {
    (void)stream, (void)error;
    memcpy((char *)buffer->data + offset_bytes, source, bytes);
    return GLM_HAL_OK;
}

static uint32_t download(glm_hal_stream *stream, void *target, glm_hal_buffer *buffer, uint64_t offset_bytes,
                         uint64_t bytes, glm_hal_error *error) {
    (void)stream, (void)error;
    memcpy(target, (char *)buffer->data + offset_bytes, bytes);
    return GLM_HAL_OK;
}

static uint32_t synchronize(glm_hal_stream *stream, glm_hal_error *error) {
    (void)stream, (void)error;
    return GLM_HAL_OK;
}

static uint32_t event_record(glm_hal_stream *stream, glm_hal_event **event, glm_hal_error *error) {
    (void)stream, (void)error;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!(*event = malloc(sizeof **event))) return GLM_HAL_OUT_OF_MEMORY;
    (*event)->nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return GLM_HAL_OK;
}

static void event_drop(glm_hal_event *event) { free(event); }

static uint32_t event_wait(glm_hal_stream *stream, glm_hal_event *event, glm_hal_error *error) {
    (void)stream, (void)event, (void)error;
    return GLM_HAL_OK;
}

static uint32_t event_synchronize(glm_hal_event *event, glm_hal_error *error) {
    (void)event, (void)error;
    return GLM_HAL_OK;
}

static uint32_t event_elapsed(glm_hal_event *earlier, glm_hal_event *later, uint64_t *nanoseconds, glm_hal_error *error) {
    (void)error;
    *nanoseconds = later->nanoseconds > earlier->nanoseconds ? later->nanoseconds - earlier->nanoseconds : 0;
    return GLM_HAL_OK;
}

/* Planning. The specification is flat JSON as serde_json writes it: no spaces. */

static const struct { const char *name; void (*kernel)(const glm_hal_plan *, views); } KERNELS[] = {
    {"copy", copy}, {"elementwise", elementwise}, {"activation", activation}, {"rms_norm", rms_norm}, {"matmul", matmul},
};

static uint32_t op_claimed(glm_hal_device *device, const char *op) {
    (void)device;
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (!strcmp(KERNELS[i].name, op)) return 1;
    return 0;
}

/* What follows "key": in the specification, or "" without it. */
static const char *field(const char *spec, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(spec, quoted);
    return at ? at + strlen(quoted) : "";
}

static void word(const char *spec, const char *key, char *out, size_t bytes) {
    const char *at = field(spec, key);
    if (*at == '"') snprintf(out, bytes, "%.*s", (int)strcspn(at + 1, "\""), at + 1);
}

static uint32_t plan(glm_hal_device *device, const char *op, const char *spec, const glm_hal_arg *const *args,
                     uint32_t count, glm_hal_plan **out, glm_hal_error *error) {
    glm_hal_plan made = {0};
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (!strcmp(KERNELS[i].name, op)) made.kernel = KERNELS[i].kernel;
    if (!made.kernel) return fail(error, GLM_HAL_UNSUPPORTED, "no kernel for this operation");
    made.device = device;
    made.alpha = strtof(field(spec, "alpha"), NULL);
    made.eps = strtof(field(spec, "eps"), NULL);
    made.rows = strtoull(field(spec, "n"), NULL, 10);
    made.cols = strtoull(field(spec, "k"), NULL, 10);
    made.bias = *field(spec, "bias") == 't';
    made.residual = *field(spec, "residual") == 't';
    word(spec, "kind", made.function, sizeof made.function);
    word(spec, "act", made.function, sizeof made.function);
    word(spec, "activation", made.function, sizeof made.function);
    for (uint32_t i = 0; i < count; i++)
        if (args[i]->role == GLM_HAL_WEIGHT) made.weight = i;
    if (!(*out = malloc(sizeof **out))) return GLM_HAL_OUT_OF_MEMORY;
    **out = made;
    return GLM_HAL_OK;
}

static void plan_drop(glm_hal_plan *made) { free(made); }

/* Every format becomes f32 rows: simple, and large. A real kernel keeps the bits it was given. */
static uint32_t plan_pack(glm_hal_plan *made, const glm_hal_weight *weight, glm_hal_buffer **buffer, uint64_t *bytes,
                          glm_hal_error *error) {
    if (weight->rows != made->rows || weight->cols != made->cols)
        return fail(error, GLM_HAL_INVALID_ARGUMENT, "the weight has another shape than the plan");
    *bytes = weight->rows * weight->cols * 4;
    uint32_t code = buffer_alloc(made->device, *bytes, buffer, error);
    if (code) return code;
    const char *format = weight->format, *group_at = strstr(format, "-g");
    uint64_t group = group_at ? strtoull(group_at + 2, NULL, 10) : weight->cols;
    int bits = !strncmp(format, "int4", 4) ? 4 : !strncmp(format, "int8", 4) ? 8 : 0;
    uint32_t dtype = !strcmp(format, "f16") ? GLM_HAL_F16 : !strcmp(format, "bf16") ? GLM_HAL_BF16 : GLM_HAL_F32;
    const signed char *data = weight->data;
    float *to = (*buffer)->data;
    for (uint64_t i = 0; i < weight->rows * weight->cols; i++) {
        uint64_t row = i / weight->cols, col = i % weight->cols;
        if (!bits) {
            to[i] = load(dtype, data + i * size_of(dtype));
            continue;
        }
        int q = data[bits == 8 ? i : i / 2];
        if (bits == 4) q = ((col % 2 ? q : q >> 4) & 15) ^ 8, q -= 8;
        uint64_t scale = group_at ? row * (weight->cols / group) + col / group : row;
        uint32_t scales = group_at ? GLM_HAL_F16 : GLM_HAL_F32;
        to[i] = (float)q * load(scales, (const char *)weight->scales + scale * size_of(scales));
    }
    return GLM_HAL_OK;
}

static uint32_t launch(glm_hal_plan *made, glm_hal_stream *stream, views args, uint32_t count,
                       const glm_hal_view *workspace, glm_hal_error *error) {
    (void)workspace;
    if (made->weight && args[made->weight]->buffer->bytes - args[made->weight]->offset_bytes < made->rows * made->cols * 4)
        return fail(error, GLM_HAL_INVALID_ARGUMENT, "the weight was not packed by this plan");
    if (!stream->capture) return made->kernel(made, args), GLM_HAL_OK;
    record *one = calloc(1, sizeof *one);
    if (!one || count > 10) return free(one), GLM_HAL_OUT_OF_MEMORY;
    one->plan = made, one->count = count;
    for (uint32_t i = 0; i < count; i++) one->args[i] = *args[i];
    *stream->capture->last = one, stream->capture->last = &one->next;
    return GLM_HAL_OK;
}

static uint32_t capture_begin(glm_hal_stream *stream, glm_hal_error *error) {
    (void)error;
    if (!(stream->capture = calloc(1, sizeof *stream->capture))) return GLM_HAL_OUT_OF_MEMORY;
    stream->capture->last = &stream->capture->first;
    return GLM_HAL_OK;
}

static uint32_t capture_end(glm_hal_stream *stream, glm_hal_graph **graph, glm_hal_error *error) {
    (void)error;
    *graph = stream->capture, stream->capture = NULL;
    return GLM_HAL_OK;
}

static uint32_t graph_launch(glm_hal_graph *graph, glm_hal_stream *stream, glm_hal_error *error) {
    (void)stream, (void)error;
    for (const record *at = graph->first; at; at = at->next) {
        const glm_hal_view *args[10];
        for (uint32_t i = 0; i < at->count; i++) args[i] = &at->args[i];
        at->plan->kernel(at->plan, args);
    }
    return GLM_HAL_OK;
}

GLM_HAL_EXPORT const glm_hal_table *glm_hal_plugin(uint32_t version) {
    static const glm_hal_table TABLE = {
        sizeof(glm_hal_table), GLM_HAL_VERSION, device_open, device_close, device_info, NULL, buffer_alloc, buffer_free,
        stream_open, stream_drop, upload, download, synchronize, event_record, event_drop, event_wait, event_synchronize,
        event_elapsed, op_claimed, plan, plan_drop, NULL, plan_pack, launch, capture_begin, capture_end, graph_launch,
        graph_drop,
    };
    return version == GLM_HAL_VERSION ? &TABLE : NULL;
}
