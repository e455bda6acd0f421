// What NVIDIA's matrix units need, on sm_80 and newer: PTX on the chip; on the host the same as plain functions, by the
// tables of fragments in the PTX ISA ("Matrix Fragments for mma.m16n8k16", "ldmatrix"), so that kernels are tested without a
// chip. The host has the words of a wave by `host_exchange`.
//
// X, the type of products' operands, is f16 or bf16. Lanes of a warp in fours: LANE_ROW 0 to 7, LANE_PART 0 to 3.
//
// Products are summed in any order of k, so kernels let a lane have eight k in a row (16 bytes), and take elements 0 to 3
// of all four lanes as the sixteen k of one mma, 4 to 7 as those of the next: no ldmatrix for operands with k innermost.

#define LANE (ITEM % 32)
#define WARP (ITEM / 32)
#define WARPS (GROUP / 32)
#define LANE_ROW (LANE / 4)
#define LANE_PART (LANE % 4)

// a − b, two elements of type X in a word each. By bytes: one of the eight of a and b for each four bits of `selector`.
#ifdef DIALECT_HOST
FN uint subtract_2(uint a, uint b) {
    return pack_2(unpack_low(a) - unpack_low(b), unpack_high(a) - unpack_high(b));
}
FN uint byte_perm(uint a, uint b, uint selector) {
    const ulong bytes = (ulong)b << 32 | a;
    uint result = 0;
    for (int i = 0; i < 4; i++) result |= (uint)(bytes >> 8 * (selector >> 4 * i & 7u) & 0xffu) << 8 * i;
    return result;
}
#define IN_REGISTER(x) (x)
#define EXP2(x) __builtin_exp2f(x)
#else
FN uint subtract_2(uint a, uint b) {
    uint d;
#ifdef X_IS_bf16
    // a · 1 − b: sub.bf16x2 is of sm_90.
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x3f803f80u), "r"(b ^ 0x80008000u));
#else
    asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#endif
    return d;
}
FN uint byte_perm(uint a, uint b, uint selector) { return __byte_perm(a, b, selector); }
// The number x, which the compiler does not know to be one: it would put it in a register anew for each use. Groups have no
// second dimension.
#define IN_REGISTER(x) ((x) + blockIdx.y)
// Within 2 units in the last place; subnormal results are zero.
FN float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#define EXP2(x) exp2_approx(x)
#endif

// c[16, 8] += a[16, 16] · b[16, 8] by a warp. A lane has of c: rows LANE_ROW, LANE_ROW + 8, columns 2·LANE_PART and the
// next; of a: the same rows, k from 2·LANE_PART (a0, a1) and from 2·LANE_PART + 8 (a2, a3) on; of b: column LANE_ROW, the
// same k (b0, b1).
#ifdef DIALECT_HOST
#define MMA(c, a0, a1, a2, a3, b0, b1) host_mma(c, a0, a1, a2, a3, b0, b1, __LINE__)
// Sums are exact up to f64, then rounded towards zero, as matrix units are known to do.
FN void host_mma(float *c, uint a0, uint a1, uint a2, uint a3, uint b0, uint b1, int line) {
    const uint mine[6] = {a0, a1, a2, a3, b0, b1};
    host_exchange(mine, sizeof mine, line);
    for (int i = 0; i < 4; i++) {
        const int row = LANE_ROW + i / 2 * 8, column = 2 * LANE_PART + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; k++) {
            const uint *a = (const uint *)host_lane(row % 8 * 4 + k % 8 / 2), *b = (const uint *)host_lane(column * 4 + k % 8 / 2);
            const uint x = a[k / 8 * 2 + row / 8], y = b[4 + k / 8];
            sum += k % 2 ? (double)unpack_high(x) * unpack_high(y) : (double)unpack_low(x) * unpack_low(y);
        }
        float rounded = (float)sum;
        const double error = (double)rounded - sum;
        if ((sum > 0.0 && error > 0.0) || (sum < 0.0 && error < 0.0)) rounded = AS_FLOAT(AS_UINT(rounded) - 1u);
        c[i] = rounded;
    }
}
#else
#ifdef X_IS_bf16
#define MMA_TYPES "f32.bf16.bf16.f32"
#else
#define MMA_TYPES "f32.f16.f16.f32"
#endif
#define MMA(c, a0, a1, a2, a3, b0, b1) \
    asm("mma.sync.aligned.m16n8k16.row.col." MMA_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
#endif

// c += a · b over 32 k: of each row a lane has eight k in a row, `low` of row LANE_ROW and `high` of row LANE_ROW + 8.
#define MMA_32(c, low, high, b)                                   \
    do {                                                          \
        MMA(c, (low).x, (high).x, (low).y, (high).y, (b).x, (b).y); \
        MMA(c, (low).z, (high).z, (low).w, (high).w, (b).z, (b).w); \
    } while (0)

// Four 8 x 8 matrices of 16-bit elements from local memory: lane l gives the address of row l % 8 of matrix l / 8, and gets of
// matrix i, in word i, elements (LANE_ROW, 2·LANE_PART) and (LANE_ROW, 2·LANE_PART + 1). LOAD_TRANSPOSED: of its transpose.
#ifdef DIALECT_HOST
#define LOAD_MATRICES(r, row) host_load_matrices(r, row, 0, __LINE__)
#define LOAD_TRANSPOSED(r, row) host_load_matrices(r, row, 1, __LINE__)
FN void host_load_matrices(uint *r, const uchar *row, int transposed, int line) {
    host_exchange(&row, sizeof row, line);
    for (int i = 0; i < 4; i++) {
        ushort element[2];
        for (int e = 0; e < 2; e++) {
            const int of_row = transposed ? 2 * LANE_PART + e : LANE_ROW, column = transposed ? LANE_ROW : 2 * LANE_PART + e;
            element[e] = (*(const ushort *const *)host_lane(8 * i + of_row))[column];
        }
        r[i] = element[0] | (uint)element[1] << 16;
    }
}
#else
#define LOAD_MATRICES_AS(how, r, row) \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" how ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                 : "=r"((r)[0]), "=r"((r)[1]), "=r"((r)[2]), "=r"((r)[3]) : "r"((uint)__cvta_generic_to_shared(row)) : "memory")
#define LOAD_MATRICES(r, row) LOAD_MATRICES_AS("", r, row)
#define LOAD_TRANSPOSED(r, row) LOAD_MATRICES_AS(".trans", r, row)
#endif

// The larger one; a NaN wins.
#ifdef DIALECT_HOST
#define MAX_NAN(a, b) max_nan(a, b)
#else
FN float max_nan_of(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
#define MAX_NAN(a, b) max_nan_of(a, b)
#endif

// Waits for the other lanes, whose writes to local memory are then there.
#ifdef DIALECT_HOST
#define WARP_BARRIER host_exchange("", 1, __LINE__)
#else
#define WARP_BARRIER __syncwarp()
#endif

// Keeps what is computed from the number x from being computed before: it costs registers to keep it.
#ifdef DIALECT_HOST
#define NOT_BEFORE(x) (void)(x)
#else
#define NOT_BEFORE(x) asm volatile("" : "+r"(x))
#endif

// Whether x is true in any lane.
#ifdef DIALECT_HOST
#define ANY_LANE(x) host_any_lane(x, __LINE__)
FN int host_any_lane(int x, int line) {
    host_exchange(&x, sizeof x, line);
    int any = 0;
    for (int lane = 0; lane < 32; lane++) any |= *(const int *)host_lane(lane) != 0;
    return any;
}
#else
#define ANY_LANE(x) __any_sync(0xffffffffu, x)
#endif

// The x of the lane whose number differs in `bits`.
#ifdef DIALECT_HOST
#define EXCHANGE_XOR(x, bits) host_exchange_xor(x, bits, __LINE__)
FN float host_exchange_xor(float x, int bits, int line) {
    host_exchange(&x, sizeof x, line);
    return *(const float *)host_lane(LANE ^ bits);
}
#else
#define EXCHANGE_XOR(x, bits) __shfl_xor_sync(0xffffffffu, x, bits)
#endif

// Copies of 16 bytes to local memory that go on while the work-item does; both addresses are multiples of 16. Where there
// is nothing (`there` is 0) they fill with zeros. COPY_COMMIT closes a batch; COPY_WAIT(n) returns when all but the last n
// batches of this work-item are there; other work-items see them after a barrier.
#ifdef DIALECT_HOST
// Nothing is copied before it is waited for, so that a wait that is missing shows.
struct host_copy { uchar *to; const uchar *from; int there, batch; };
static host_copy host_copies[1024][256];
static int host_copy_count[1024], host_copy_batch[1024];
FN void copy_16(uchar *to, const uchar *from, int there) {
    host_copies[ITEM][host_copy_count[ITEM]++] = host_copy{to, from, there, host_copy_batch[ITEM]};
}
#define COPY_COMMIT (void)host_copy_batch[ITEM]++
FN void host_copy_wait(int batches) {
    int kept = 0;
    for (int i = 0; i < host_copy_count[ITEM]; i++) {
        const host_copy c = host_copies[ITEM][i];
        if (c.batch >= host_copy_batch[ITEM] - batches) host_copies[ITEM][kept++] = c;
        else if (c.there) __builtin_memcpy(c.to, c.from, 16);
        else __builtin_memset(c.to, 0, 16);
    }
    host_copy_count[ITEM] = kept;
}
#define COPY_WAIT(n) host_copy_wait(n)
#else
FN void copy_16(uchar *to, const uchar *from, int there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((uint)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
#define COPY_COMMIT asm volatile("cp.async.commit_group;" ::: "memory")
#define COPY_WAIT(n) asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory")
#endif

// Local memory of LOCAL_BYTES bytes that a launch gives.
#ifdef DIALECT_HOST
#define LOCAL_OF_LAUNCH(name) alignas(16) static uchar name[LOCAL_BYTES]
#else
#define LOCAL_OF_LAUNCH(name) extern __shared__ __align__(16) uchar name[]
#endif
