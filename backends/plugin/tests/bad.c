/* The example with something wrong, by definitions:
 *   -DNO_SYMBOL, -DNO_TABLE, -DVERSION_IS=n, -DSIZE_IS=n   what the loader sees
 *   -DMISSING=entry                                        a function that is not there
 *   -DFAILING=entry -DCODE=n [-DENDLESS]                   a function that does nothing and gives code n (0: no error),
 *                                                          with a text that fills its place and has no end
 *   -DFACT=field -DVALUE=n                                 device_info gives n for a field */
#define glm_hal_plugin good_plugin
#include "../examples/host/example.c"
#undef glm_hal_plugin

#ifndef NO_SYMBOL

#ifndef CODE
#define CODE 0
#endif
#define JOIN(a, b) a##b
#define BAD(name) JOIN(bad_, name)

static inline uint32_t bad(glm_hal_error *error) {
#ifdef ENDLESS
    memset(error->text, 'x', sizeof error->text);
#else
    (void)error;
#endif
    return CODE;
}

static inline uint32_t bad_device_open(const char *a, glm_hal_device **b,
    glm_hal_error *error) { (void)a, (void)b; return bad(error); }
static inline uint32_t bad_device_info(glm_hal_device *a, glm_hal_info *b,
    glm_hal_error *error) { (void)a, (void)b; return bad(error); }
static inline uint32_t bad_buffer_alloc(glm_hal_device *a, uint64_t b, glm_hal_buffer **c,
    glm_hal_error *error) { (void)a, (void)b, (void)c; return bad(error); }
static inline uint32_t bad_stream_open(glm_hal_device *a, glm_hal_stream **b,
    glm_hal_error *error) { (void)a, (void)b; return bad(error); }
static inline uint32_t bad_upload(glm_hal_stream *a, glm_hal_buffer *b, uint64_t c, const void *d, uint64_t e,
    glm_hal_error *error) { (void)a, (void)b, (void)c, (void)d, (void)e; return bad(error); }
static inline uint32_t bad_download(glm_hal_stream *a, void *b, glm_hal_buffer *c, uint64_t d, uint64_t e,
    glm_hal_error *error) { (void)a, (void)b, (void)c, (void)d, (void)e; return bad(error); }
static inline uint32_t bad_synchronize(glm_hal_stream *a, glm_hal_error *error) { (void)a; return bad(error); }
static inline uint32_t bad_event_record(glm_hal_stream *a, glm_hal_event **b,
    glm_hal_error *error) { (void)a, (void)b; return bad(error); }
static inline uint32_t bad_event_wait(glm_hal_stream *a, glm_hal_event *b,
    glm_hal_error *error) { (void)a, (void)b; return bad(error); }
static inline uint32_t bad_event_synchronize(glm_hal_event *a, glm_hal_error *error) { (void)a; return bad(error); }
static inline uint32_t bad_event_elapsed(glm_hal_event *a, glm_hal_event *b, uint64_t *c,
    glm_hal_error *error) { (void)a, (void)b, (void)c; return bad(error); }
static inline uint32_t bad_plan(glm_hal_device *a, const char *b, const char *c, const glm_hal_arg *const *d, uint32_t e, glm_hal_plan **f,
    glm_hal_error *error) { (void)a, (void)b, (void)c, (void)d, (void)e, (void)f; return bad(error); }
static inline uint32_t bad_plan_pack(glm_hal_plan *a, const glm_hal_weight *b, glm_hal_buffer **c, uint64_t *d,
    glm_hal_error *error) { (void)a, (void)b, (void)c, (void)d; return bad(error); }
static inline uint32_t bad_launch(glm_hal_plan *a, glm_hal_stream *b, const glm_hal_view *const *c, uint32_t d, const glm_hal_view *e,
    glm_hal_error *error) { (void)a, (void)b, (void)c, (void)d, (void)e; return bad(error); }
static inline uint32_t bad_capture_begin(glm_hal_stream *a, glm_hal_error *error) { (void)a; return bad(error); }
static inline uint32_t bad_capture_end(glm_hal_stream *a, glm_hal_graph **b,
    glm_hal_error *error) { (void)a, (void)b; return bad(error); }
static inline uint32_t bad_graph_launch(glm_hal_graph *a, glm_hal_stream *b,
    glm_hal_error *error) { (void)a, (void)b; return bad(error); }

#ifdef FACT
static uint32_t false_info(glm_hal_device *device, glm_hal_info *info, glm_hal_error *error) {
    device_info(device, info, error);
    info->FACT = VALUE;
    return GLM_HAL_OK;
}
#endif

GLM_HAL_EXPORT const glm_hal_table *glm_hal_plugin(uint32_t version) {
#ifdef NO_TABLE
    version++;
#endif
    static glm_hal_table table;
    const glm_hal_table *good = good_plugin(version);
    if (!good) return NULL;
    table = *good;
#ifdef VERSION_IS
    table.version = VERSION_IS;
#endif
#ifdef SIZE_IS
    table.struct_size = SIZE_IS;
#endif
#ifdef MISSING
    table.MISSING = NULL;
#endif
#ifdef FAILING
    table.FAILING = BAD(FAILING);
#endif
#ifdef FACT
    table.device_info = false_info;
#endif
    return &table;
}

#endif
