// Eight elements of type X, f16 or bf16, at a time: the 16 bytes that a work-item loads and stores best. X_IS_bf16 is defined
// for bf16. For CUDA, HIP and the host.

// Kernels of sources that begin early: AWAIT_BEFORE, met by all work-items, returns when the work before is done; only what
// no kernel writes, weights, may be read sooner. LET_NEXT_BEGIN lets the next such kernel begin, which waits likewise. Chips
// before sm_90 begin nothing early.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define AWAIT_BEFORE asm volatile("griddepcontrol.wait;" ::: "memory")
#define LET_NEXT_BEGIN asm volatile("griddepcontrol.launch_dependents;" ::: "memory")
#else
#define AWAIT_BEFORE (void)0
#define LET_NEXT_BEGIN (void)0
#endif

#ifdef DIALECT_HOST
struct alignas(16) uint4 { uint x, y, z, w; };
struct alignas(8) uint2 { uint x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline uint4 make_uint4(uint x, uint y, uint z, uint w) { return uint4{x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
#endif

// 16 bytes from an address that is a multiple of 16.
FN uint4 load_16(const uchar *p) { return *(const uint4 *)p; }

FN void store_16(uchar *p, uint4 v) { *(uint4 *)p = v; }

// The f16 in the low half of a word.
#if defined(DIALECT_HOST)
FN float f16_low(uint v) { return f16_decode((ushort)v); }
#elif defined(DIALECT_HIP)
FN float f16_low(uint v) {
    const ushort low = (ushort)v;
    return (float)__builtin_bit_cast(_Float16, low);
}
#else
FN float f16_low(uint v) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((ushort)v));
    return x;
}
#endif

// Two elements in a word, the first in the low half.
#ifdef X_IS_bf16
FN float unpack_low(uint v) { return AS_FLOAT(v << 16); }
FN float unpack_high(uint v) { return AS_FLOAT(v & 0xffff0000u); }
#else
FN float unpack_low(uint v) { return f16_low(v); }
FN float unpack_high(uint v) { return f16_low(v >> 16); }
#endif

#if !defined(DIALECT_CUDA) && defined(X_IS_bf16)
FN uint pack_2(float low, float high) { return bf16_encode(low) | (uint)bf16_encode(high) << 16; }
#elif defined(DIALECT_HOST)
FN uint pack_2(float low, float high) { return f16_encode(low) | (uint)f16_encode(high) << 16; }
#elif defined(DIALECT_HIP)
FN uint pack_2(float low, float high) {
    const _Float16 halves[2] = {(_Float16)low, (_Float16)high};
    return __builtin_bit_cast(ushort, halves[0]) | (uint)__builtin_bit_cast(ushort, halves[1]) << 16;
}
#else
#ifdef X_IS_bf16
#define PACK "cvt.rn.bf16x2.f32 %0, %1, %2;"
#else
#define PACK "cvt.rn.f16x2.f32 %0, %1, %2;"
#endif
FN uint pack_2(float low, float high) {
    uint v;
    asm(PACK : "=r"(v) : "f"(high), "f"(low));
    return v;
}
#endif

FN void unpack_8(uint4 v, float *x) {
    const uint words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = unpack_low(words[i]);
        x[2 * i + 1] = unpack_high(words[i]);
    }
}

FN uint4 pack_8(const float *x) {
    return make_uint4(pack_2(x[0], x[1]), pack_2(x[2], x[3]), pack_2(x[4], x[5]), pack_2(x[6], x[7]));
}

// Eight elements in a row, of which `count` are there; the others are zeros. `aligned`: the address is a multiple
// of 16. The other way is rare, and short rather than fast: it stands wherever operands are loaded.
FN uint4 load_8(const uchar *p, int count, int aligned) {
    if (count >= 8 && aligned) return load_16(p);
    ulong low = 0, high = 0;
#pragma unroll 1
    for (int i = 0; i < min_int(count, 8); i++) {
        const ulong bits = (ulong)((const ushort *)p)[i] << i % 4 * 16;
        if (i < 4) low |= bits;
        else high |= bits;
    }
    return make_uint4((uint)low, (uint)(low >> 32), (uint)high, (uint)(high >> 32));
}

// The other way round: `count` of eight elements.
FN void store_8(uchar *p, uint4 v, int count, int aligned) {
    if (count >= 8 && aligned) return store_16(p, v);
    const ulong low = (ulong)v.y << 32 | v.x, high = (ulong)v.w << 32 | v.z;
#pragma unroll 1
    for (int i = 0; i < min_int(count, 8); i++) ((ushort *)p)[i] = (ushort)((i < 4 ? low : high) >> i % 4 * 16);
}
