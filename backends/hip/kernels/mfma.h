// Matrix units of gfx908 and its kin: builtins on the chip; on the host the same as a plain function, by AMD's description of the
// instructions (V_MFMA_F32_16X16X16F16, …16BF16_1K, …8BF16), so that kernels are tested without a chip. The host has the words of
// a wave by `host_exchange`.
//
// MULTIPLY: c[16, 16] += a[16, k] · b[k, 16] for sixteen k by a wave of 64. A lane has four k of a row of a, and of a column of b:
// row and column `lane % 16`, k from `lane / 16 · 4` on, in a word of 64 bits each. It has of c: column `lane % 16`, rows from `lane / 16 · 4` on.
// For bf16, the first of these chips, gfx908, has an instruction for eight k, of which a lane has two: products are summed in any
// order of k, so the first two of a lane's four go by one and the others by another. Compilers do not refuse the later
// instruction there, they end the process; so the macro by which they name the chip decides.

#ifdef __gfx908__
#define BF16_PAIRS
#endif

#define LANE (ITEM % 64)

#ifdef DIALECT_HOST
#if defined(X_IS_f16) ? !defined(HOST_HAS_mfma_f16) : defined(BF16_PAIRS) ? !defined(HOST_HAS_mfma_bf16) : !defined(HOST_HAS_mfma_bf16_1k)
#error "this chip has no such instruction"
#endif
struct sums_4 {
    float of[4];
    float &operator[](int i) { return of[i]; }
};
// Of a and b, `words` of two elements each in a lane. Sums are exact up to f64, then rounded.
FN void host_mfma(sums_4 &c, ulong a, ulong b, int words, int line) {
    const uint mine[4] = {(uint)a, (uint)(a >> 32), (uint)b, (uint)(b >> 32)};
    host_exchange(mine, sizeof mine, line);
    for (int i = 0; i < 4; i++) {
        const int row = LANE / 16 * 4 + i, column = LANE % 16;
        double sum = c[i];
        for (int k = 0; k < 8 * words; k++) {
            const int quarter = k / (2 * words), word = k % (2 * words) / 2;
            const uint x = ((const uint *)host_lane(16 * quarter + row))[word], y = ((const uint *)host_lane(16 * quarter + column))[2 + word];
            sum += k % 2 ? (double)unpack_high(x) * unpack_high(y) : (double)unpack_low(x) * unpack_low(y);
        }
        c[i] = (float)sum;
    }
}
#ifdef BF16_PAIRS
#define MULTIPLY(c, a, b)                                \
    do {                                                 \
        host_mfma(c, (uint)(a), (uint)(b), 1, __LINE__); \
        host_mfma(c, (a) >> 32, (b) >> 32, 1, __LINE__); \
    } while (0)
#else
#define MULTIPLY(c, a, b) host_mfma(c, a, b, 2, __LINE__)
#endif
#else
typedef float sums_4 __attribute__((ext_vector_type(4)));
#if defined(X_IS_f16)
typedef _Float16 f16_4 __attribute__((ext_vector_type(4)));
#define MULTIPLY(c, a, b) \
    c = __builtin_amdgcn_mfma_f32_16x16x16f16(__builtin_bit_cast(f16_4, a), __builtin_bit_cast(f16_4, b), c, 0, 0, 0)
#elif defined(BF16_PAIRS)
typedef short bf16_2 __attribute__((ext_vector_type(2)));
#define MULTIPLY_8(c, a, b) \
    c = __builtin_amdgcn_mfma_f32_16x16x8bf16(__builtin_bit_cast(bf16_2, a), __builtin_bit_cast(bf16_2, b), c, 0, 0, 0)
#define MULTIPLY(c, a, b)                                   \
    do {                                                    \
        MULTIPLY_8(c, (uint)(a), (uint)(b));                \
        MULTIPLY_8(c, (uint)((a) >> 32), (uint)((b) >> 32)); \
    } while (0)
#else
typedef short bf16_4 __attribute__((ext_vector_type(4)));
#define MULTIPLY(c, a, b) \
    c = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(bf16_4, a), __builtin_bit_cast(bf16_4, b), c, 0, 0, 0)
#endif
#endif
