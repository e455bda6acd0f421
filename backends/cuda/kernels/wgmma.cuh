// What the matrix units of sm_90 add (wgmma): a warpgroup, four warps whose first one's number is a multiple of four, multiplies
// from local memory, and goes on while it does. PTX on the chip; on the host plain functions over local memory and
// descriptors, by the canonical layouts of the PTX ISA ("Asynchronous Warpgroup Level Matrix Shared Memory Layout").
//
// Operands in local memory lie in panels of 64 elements (128 bytes) by any number of rows; a panel begins at a multiple of
// 1024 bytes, and 16 bytes c of row r are at c ^ r % 8 (128-byte swizzle).

// Describes an operand from `p` on, in panels that are `panel_bytes` apart: eight rows are 1024 bytes. The panels' distance
// counts where these follow each other within one product, which is where rows are k; elsewhere k is within a panel.
FN ulong describe(const uchar *p, int panel_bytes) {
#ifdef DIALECT_HOST
    const ulong address = (ulong)p & 0x3ffff;
#else
    const ulong address = (uint)__cvta_generic_to_shared(p) & 0x3ffff;
#endif
    return address >> 4 | (ulong)(panel_bytes >> 4) << 16 | (ulong)(1024 >> 4) << 32 | 1ull << 62;
}

// c[64, 128] += a[64, 16] · b[16, 128]; WG_MMA_ROWS: rows of a and columns of b are rows of local memory, and c is made new
// where `add` is 0. WG_MMA_VALUES: a is in registers, and the k of b are rows. Lanes have of c: as of a product of 16 rows
// (MMA), warps one after the other, 8 columns after 8 columns; so of a in registers. WG_BEGIN comes before the first product
// after registers were written; WG_COMMIT closes a batch; WG_WAIT(n) returns when all but the last n batches are done: until
// then nobody touches their registers and operands. WG_DONE, after that, of each array that was in use.
//
// WG_AFTER(x): what comes after waits until x is there, which the compiler would put off.
//
// WG_VISIBLE: what this work-item has written to local memory is seen by products, of others after a barrier.
#ifdef DIALECT_HOST
// Nothing is multiplied before it is waited for, so that a wait that is missing shows.
struct host_product { float *c; ulong a, b; uint rows[2][8]; const uchar *near; int of_rows, add, batch; };
static host_product host_products[1024][32];
static int host_product_count[1024], host_product_batch[1024];
// Where in local memory bits 0 to 17 of an address point to; `near` is where operands begin.
FN const uchar *host_local(uint address, const uchar *near) {
    return near + (address - (uint)((ulong)near & 0x3ffff) & 0x3ffff);
}
FN uint host_element(ulong described, const uchar *near, int row, int column, int rows_are_k) {
    const uint start = (uint)(described & 0x3fff) << 4, apart = (uint)(described >> 16 & 0x3fff) << 4;
    const uint eight = (uint)(described >> 32 & 0x3fff) << 4;
    // Elements of a row are one after the other; rows are 128 bytes, eight rows `eight`; 64 elements `apart`.
    const uint from = start + row % 8 * 128 + row / 8 * eight + column % 64 * 2 + (rows_are_k ? column / 64 * apart : 0);
    const uchar *at = host_local(from & 0x3ffff, near);
    if (described >> 62 == 1) at = (const uchar *)((ulong)at ^ ((ulong)at >> 7 & 7) << 4);
    return *(const ushort *)at;
}
FN void host_multiply(const host_product *p) {
    for (int i = 0; i < 64; i++) {
        const int row = LANE_ROW + i / 2 % 2 * 8, column = i / 4 * 8 + 2 * LANE_PART + i % 2;
        double sum = p->add ? p->c[i] : 0.0f;
        for (int k = 0; k < 16; k++) {
            const uint word = p->rows[row / 8][k / 2];
            const uint a = p->of_rows ? host_element(p->a, p->near, WARP % 4 * 16 + row, k, 0) : k % 2 ? word >> 16 : word & 0xffff;
            const uint b = p->of_rows ? host_element(p->b, p->near, column, k, 0) : host_element(p->b, p->near, k, column, 1);
            sum += (double)unpack_low(a) * unpack_low(b);
        }
        float rounded = (float)sum;
        const double error = (double)rounded - sum;
        if ((sum > 0.0 && error > 0.0) || (sum < 0.0 && error < 0.0)) rounded = AS_FLOAT(AS_UINT(rounded) - 1u);
        p->c[i] = rounded;
    }
}
FN void host_queue(float *c, ulong a, ulong b, const uint *mine, const uchar *near, int add, int line) {
    host_product p = {c, a, b, {}, near, mine == 0, add, host_product_batch[ITEM]};
    const uint none[4] = {0, 0, 0, 0};
    host_exchange(mine ? mine : none, 16, line);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 8; k++) p.rows[i][k] = ((const uint *)host_lane(LANE_ROW * 4 + k % 4))[k / 4 * 2 + i];
    }
    host_products[ITEM][host_product_count[ITEM]++] = p;
}
FN void host_product_wait(int batches) {
    int kept = 0;
    for (int i = 0; i < host_product_count[ITEM]; i++) {
        const host_product p = host_products[ITEM][i];
        if (p.batch >= host_product_batch[ITEM] - batches) host_products[ITEM][kept++] = p;
        else host_multiply(&p);
    }
    host_product_count[ITEM] = kept;
}
#define WG_MMA_ROWS(c, a, b, add, near) host_queue(c, a, b, 0, near, add, __LINE__)
#define WG_MMA_VALUES(c, a, b, near) host_queue(c, 0, b, a, near, 1, __LINE__)
#define WG_BEGIN (void)0
#define WG_COMMIT (void)host_product_batch[ITEM]++
#define WG_WAIT(n) host_product_wait(n)
#define WG_VISIBLE (void)0
#define WG_AFTER(x) (void)(x)
#define WG_DONE_FLOATS(c) (void)(c)
#define WG_DONE_WORDS(a) (void)(a)
#else
#ifdef X_IS_bf16
#define WG_TYPES "f32.bf16.bf16"
#else
#define WG_TYPES "f32.f16.f16"
#endif
#define WG_64                                                                        \
    "{" \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63" \
    "}"
#define WG_8(c, i)                                                                                                    \
    "+f"((c)[i]), "+f"((c)[i + 1]), "+f"((c)[i + 2]), "+f"((c)[i + 3]), "+f"((c)[i + 4]), "+f"((c)[i + 5]), "+f"((c)[i + 6]), \
        "+f"((c)[i + 7])
#define WG_C(c) WG_8(c, 0), WG_8(c, 8), WG_8(c, 16), WG_8(c, 24), WG_8(c, 32), WG_8(c, 40), WG_8(c, 48), WG_8(c, 56)
#define WG_MMA_ROWS(c, a, b, add, near)                                                                       \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16." WG_TYPES " " WG_64 \
                 ", %64, %65, p, 1, 1, 0, 0;\n}"                                                              \
                 : WG_C(c) : "l"(a), "l"(b), "r"((int)(add)))
#define WG_MMA_VALUES(c, a, b, near)                                                                          \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16." WG_TYPES " " WG_64 ", {%64, %65, %66, %67}, %68, 1, 1, 1, 1;" \
                 : WG_C(c) : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "l"(b))
#define WG_BEGIN asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define WG_COMMIT asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WG_WAIT(n) asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(n) : "memory")
#define WG_VISIBLE asm volatile("fence.proxy.async.shared::cta;" ::: "memory")
FN void wg_done_floats(float *c) {
#pragma unroll
    for (int i = 0; i < 64; i++) asm volatile("" : "+f"(c[i]) :: "memory");
}
FN void wg_done_words(uint *a) {
#pragma unroll
    for (int i = 0; i < 32; i++) asm volatile("" : "+r"(a[i]) :: "memory");
}
// A branch that is never taken: x, a sum, is no NaN but the one of all bits below the sign.
FN void wg_after(float x) {
    if (AS_UINT(x) == 0xffffffffu) asm volatile("nanosleep.u32 1;" ::: "memory");
}
#define WG_AFTER(x) wg_after(x)
#define WG_DONE_FLOATS(c) wg_done_floats(c)
#define WG_DONE_WORDS(a) wg_done_words(a)
#endif
