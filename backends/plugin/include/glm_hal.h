/* A device as a shared library: what a vendor implements, without showing its source.
 *
 * The library exports one symbol, glm_hal_plugin, and is opened as `--device plugin:./libmychip.so`.
 * C11 and C++17. No C++ type and no exception crosses this boundary: catch everything inside.
 *
 * Growth: a struct is only ever appended to, and its first member is its size as its maker knows it (struct_size).
 * Read no member that lies beyond the struct_size of what you are given; write none beyond that of what you fill in.
 * A new glm_hal_plugin version is another table, asked for by its number.
 *
 * Results: every call that can fail returns a code below. GLM_HAL_OK is 0. A failing callee may write what was wrong, and
 * what to do next, into error->text (UTF-8); the text is the caller's and is copied. After GLM_HAL_DEVICE_LOST
 * the host makes no call on this device but those that free and drop, which must then still work.
 *
 * Threads: "any thread" means concurrently from several; "its thread" means one call on this object at a time,
 * not always from the same thread. Calls on different objects may run concurrently.
 *
 * Ownership: what a call gives in an out parameter is the host's until it calls the matching free, drop or close, which it
 * does exactly once. Everything that the host passes in is valid for the duration of the call only, texts included.
 * Objects are freed in any order, but device_close comes last, and the library is unloaded only after it. */
#ifndef GLM_HAL_H
#define GLM_HAL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLM_HAL_VERSION 1u
#define GLM_HAL_MAX_RANK 4
#define GLM_HAL_TEXT_BYTES 512

#if defined(_WIN32)
#define GLM_HAL_EXPORT __declspec(dllexport)
#else
#define GLM_HAL_EXPORT __attribute__((visibility("default")))
#endif

/* Result codes. A code that the host does not know counts as GLM_HAL_UNEXPECTED. */
#define GLM_HAL_OK 0u
#define GLM_HAL_UNSUPPORTED 1u      /* this device cannot do it; another, or another type or option, may */
#define GLM_HAL_INVALID_ARGUMENT 2u /* no device could do it */
#define GLM_HAL_OUT_OF_MEMORY 3u
#define GLM_HAL_DEVICE_LOST 4u
#define GLM_HAL_COMPILE_FAILED 5u
#define GLM_HAL_NOT_FOUND 6u
#define GLM_HAL_CORRUPT 7u
#define GLM_HAL_NUMERIC 8u
#define GLM_HAL_IO 9u
#define GLM_HAL_UNEXPECTED 10u /* a bug */

/* Element types; as a set, bit 1 << type. */
#define GLM_HAL_F32 0u
#define GLM_HAL_F16 1u
#define GLM_HAL_BF16 2u
#define GLM_HAL_I8 3u
#define GLM_HAL_U8 4u
#define GLM_HAL_I32 5u

/* What an argument of an operation is for. */
#define GLM_HAL_OUT 0u    /* written everywhere, never read */
#define GLM_HAL_INOUT 1u  /* read, and written in part */
#define GLM_HAL_IN 2u     /* read */
#define GLM_HAL_WEIGHT 3u /* read; bytes that plan_pack made */

/* The plugin's own objects: the host only carries the pointers, which are never NULL. */
typedef struct glm_hal_device glm_hal_device;
typedef struct glm_hal_buffer glm_hal_buffer;
typedef struct glm_hal_stream glm_hal_stream;
typedef struct glm_hal_event glm_hal_event;
typedef struct glm_hal_graph glm_hal_graph;
typedef struct glm_hal_plan glm_hal_plan;

/* Filled in by the callee when it fails. The host gives it empty, and reads up to the first zero byte or to its end. */
typedef struct glm_hal_error {
    uint32_t struct_size;
    uint32_t reserved;
    char text[GLM_HAL_TEXT_BYTES];
} glm_hal_error;

/* Facts of a device, filled in by device_info. The host gives zeros. */
typedef struct glm_hal_info {
    uint32_t struct_size;
    uint32_t parallelism;   /* cores or compute units, at least 1 */
    uint32_t native_floats; /* set of float types that it computes with; others are converted in registers */
    uint32_t floats;        /* set of float types that kernels take; cases with others may be declined */
    uint32_t accumulator;   /* the type that products are added up in */
    uint32_t operand_bits;  /* bits of the significand that f32 operands of products keep: 24, 11 (TF32) or 8 (bf16) */
    uint32_t flushes;       /* set of operand types whose products treat numbers below 2^-126 as zero */
    uint32_t rounds_probabilities; /* not 0: attention rounds its probabilities to the cache's type before they meet the values */
    char name[128];   /* what the vendor calls it; UTF-8, ends with a zero byte */
    char detail[256]; /* driver and compiler versions and the like */
    uint32_t rounds_weights; /* not 0: products of many rows round the elements of a quantised weight to the type of x */
} glm_hal_info;

typedef struct glm_hal_memory {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t total_bytes;
    uint64_t free_bytes; /* what an allocation could get now */
} glm_hal_memory;

/* One argument in an operation's signature. */
typedef struct glm_hal_arg {
    uint32_t struct_size;
    uint32_t role;
    uint32_t dtype;
    uint32_t reserved;
    const char *name;
    const char *weight; /* the weight's format: f32, f16, bf16, int8, int8-g32, int4, int4-g32, …; NULL for others */
} glm_hal_arg;

typedef struct glm_hal_shape {
    uint32_t struct_size;
    uint32_t rank;
    uint64_t dims[GLM_HAL_MAX_RANK];
} glm_hal_shape;

/* Elements in a buffer: [i, j, …] lies at offset_bytes + (i * strides[0] + j * strides[1] + …) * size of dtype.
 * The host has checked that all of them lie in the buffer. Strides count elements; 0 repeats a dimension (inputs only). */
typedef struct glm_hal_view {
    uint32_t struct_size;
    uint32_t dtype;
    uint32_t rank;
    uint32_t reserved;
    glm_hal_buffer *buffer;
    uint64_t offset_bytes;
    uint64_t shape[GLM_HAL_MAX_RANK];
    uint64_t strides[GLM_HAL_MAX_RANK];
} glm_hal_view;

/* A weight matrix in host memory, row-major and little-endian. Value = element * scale of its row or group of columns.
 * Int8 and int4 elements are two's complement; a byte of int4 holds two columns, the even one in the high nibble.
 * Scales: none (dense), one f32 per row (int8, int4), or one f16 per group of N columns (int8-gN, int4-gN). */
typedef struct glm_hal_weight {
    uint32_t struct_size;
    uint32_t reserved;
    const char *format;
    uint64_t rows;
    uint64_t cols;
    const void *data;
    uint64_t data_bytes;
    const void *scales;
    uint64_t scales_bytes;
} glm_hal_weight;

typedef struct glm_hal_table {
    uint32_t struct_size;
    uint32_t version; /* GLM_HAL_VERSION */

    /* Opens a device. options: what stands after '#' in the device's name, "" without. Any thread. */
    uint32_t (*device_open)(const char *options, glm_hal_device **device, glm_hal_error *error);
    /* Frees the device. Nothing of it is left, no call on it is under way. */
    void (*device_close)(glm_hal_device *device);
    /* Called once, after device_open. */
    uint32_t (*device_info)(glm_hal_device *device, glm_hal_info *info, glm_hal_error *error);
    /* Memory, now. Any thread. May be NULL: the device does not tell. */
    uint32_t (*device_memory)(glm_hal_device *device, glm_hal_memory *memory, glm_hal_error *error);

    /* Uninitialised memory of at least `bytes` bytes (0 is allowed), aligned for every kernel. Any thread. */
    uint32_t (*buffer_alloc)(glm_hal_device *device, uint64_t bytes, glm_hal_buffer **buffer, glm_hal_error *error);
    /* Work that uses the buffer may still be queued: delay the free until it is done. Any thread. */
    void (*buffer_free)(glm_hal_device *device, glm_hal_buffer *buffer);

    /* A new in-order queue. Any thread. */
    uint32_t (*stream_open)(glm_hal_device *device, glm_hal_stream **stream, glm_hal_error *error);
    /* Work may still be queued: it is carried out all the same. */
    void (*stream_drop)(glm_hal_stream *stream);
    /* Copies to the buffer, in order; `source` is free to be reused on return. Its thread. */
    uint32_t (*upload)(glm_hal_stream *stream, glm_hal_buffer *buffer, uint64_t offset_bytes, const void *source,
                       uint64_t bytes, glm_hal_error *error);
    /* Copies from the buffer after all earlier work; `target` is filled on return. Its thread. */
    uint32_t (*download)(glm_hal_stream *stream, void *target, glm_hal_buffer *buffer, uint64_t offset_bytes,
                         uint64_t bytes, glm_hal_error *error);
    /* Returns when all queued work is done; reports what any of it failed with. Its thread. */
    uint32_t (*synchronize)(glm_hal_stream *stream, glm_hal_error *error);

    /* A mark after all work queued so far. The stream's thread. */
    uint32_t (*event_record)(glm_hal_stream *stream, glm_hal_event **event, glm_hal_error *error);
    /* Any thread; the event's stream may be gone. */
    void (*event_drop)(glm_hal_event *event);
    /* Later work of the stream waits until the mark, of any stream of this device, has passed. The stream's thread. */
    uint32_t (*event_wait)(glm_hal_stream *stream, glm_hal_event *event, glm_hal_error *error);
    /* Returns when the mark has passed. Any thread. */
    uint32_t (*event_synchronize)(glm_hal_event *event, glm_hal_error *error);
    /* Device time between two marks in nanoseconds, 0 when `later` came first; GLM_HAL_INVALID_ARGUMENT when one has not
     * passed. Any thread. */
    uint32_t (*event_elapsed)(glm_hal_event *earlier, glm_hal_event *later, uint64_t *nanoseconds, glm_hal_error *error);

    /* Whether there are kernels for operation `op` ("rms_norm") at all: 1 or 0. Then plan must accept every
     * specification of it whose types are in info.floats; the conformance suite counts a refusal as a failure. What is
     * not claimed is composed from smaller operations where there is a way, or is unsupported. Any thread. */
    uint32_t (*op_claimed)(glm_hal_device *device, const char *op);
    /* A kernel for one specification. spec: a JSON object with the fields of the operation's struct of that name in the
     * crate glm-ops, such as {"dim":4096,"dtype":"f16","eps":1e-5}; types, formats and functions are lower-case names, what
     * is optional is null without. args: outputs, inputs, weights, in the order of every launch. GLM_HAL_UNSUPPORTED:
     * there is none. Any thread. */
    uint32_t (*plan)(glm_hal_device *device, const char *op, const char *spec, const glm_hal_arg *const *args,
                     uint32_t count, glm_hal_plan **plan, glm_hal_error *error);
    /* Any thread. Launches of it may still be queued, and must be carried out. */
    void (*plan_drop)(glm_hal_plan *plan);
    /* Bytes of workspace for arguments of these shapes; never less for larger ones. Any thread. NULL: none is needed. */
    uint64_t (*plan_workspace_bytes)(glm_hal_plan *plan, const glm_hal_shape *const *shapes, uint32_t count);
    /* Brings a weight into the kernel's own layout. The format is the planned one; rows and cols are for the plugin to
     * check. Sets the buffer and its size. Any thread. NULL: no operation has weights. */
    uint32_t (*plan_pack)(glm_hal_plan *plan, const glm_hal_weight *weight, glm_hal_buffer **buffer, uint64_t *bytes,
                          glm_hal_error *error);
    /* Queues the work: no allocation, lock or wait if the chip allows it. Count, types, shapes and overlap have been
     * checked by the rules of the operation, the device of every buffer too; the size of a weight has not. Bound what
     * is read from memory (ids, page numbers, lengths): wrong values may give wrong numbers, never a fault.
     * workspace: may be NULL when none was asked for. The stream's thread; one plan may be launched from several at once. */
    uint32_t (*launch)(glm_hal_plan *plan, glm_hal_stream *stream, const glm_hal_view *const *args, uint32_t count,
                       const glm_hal_view *workspace, glm_hal_error *error);

    /* Captures. All four, or all NULL: streams record nothing. Between begin and end the stream gets launches only, which
     * are recorded and not carried out. The host keeps plans and buffers of a graph alive. The stream's thread. */
    uint32_t (*capture_begin)(glm_hal_stream *stream, glm_hal_error *error);
    uint32_t (*capture_end)(glm_hal_stream *stream, glm_hal_graph **graph, glm_hal_error *error);
    /* Queues the recorded launches in their order, on any stream of the device. A graph may be launched on two at once. */
    uint32_t (*graph_launch)(glm_hal_graph *graph, glm_hal_stream *stream, glm_hal_error *error);
    /* Any thread. Launches of it may still be queued, and must be carried out. */
    void (*graph_drop)(glm_hal_graph *graph);
} glm_hal_table;

/* The one exported symbol: the table of that version, or NULL when the library does not speak it. The table is the
 * library's, and stays as it is until the library is unloaded. Any thread. */
GLM_HAL_EXPORT const glm_hal_table *glm_hal_plugin(uint32_t version);

#ifdef __cplusplus
}
#endif

#endif
