// One dialect for OpenCL C 1.2, CUDA C (NVRTC, and MUSA's MTRTC), HIP (hiprtc) and C++ on the host.
//
// Rules that keep one text compilable by all of them: no includes, no templates, no generic address space (pointers to
// local memory are marked LOCAL_PTR), local arrays only at the top of a kernel, 64-bit numbers are i64, memory comes as
// bytes with an offset (IN, OUT). f16 and bf16 are converted to f32 in registers. GROUP is the number of work-items in a group, a
// power of two; groups are one-dimensional. Kernels with barriers do not return early (PoCL 3.1 miscompiles that).

#if defined(__OPENCL_VERSION__) || defined(__OPENCL_C_VERSION__)
#define DIALECT_OPENCL
#elif defined(__HIPCC__) || defined(__HIPCC_RTC__) || defined(__HIP__)
#define DIALECT_HIP
#elif defined(__CUDACC__) || defined(__CUDACC_RTC__) || defined(__MUSACC__) || defined(__MUSACC_RTC__) || defined(__MUSA__)
#define DIALECT_CUDA
#else
#define DIALECT_HOST
#endif

#ifdef DIALECT_OPENCL
#pragma OPENCL FP_CONTRACT ON
#define KERNEL __kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
#define GLOBAL __global
#define LOCAL __local
#define LOCAL_PTR __local
#define FN static inline
#define GROUP_X ((int)get_group_id(0))
#define GROUP_Y ((int)get_group_id(1))
#define GROUP_Z ((int)get_group_id(2))
#define GROUPS_X ((int)get_num_groups(0))
#define ITEM ((int)get_local_id(0))
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE)
#define BARRIER_GLOBAL barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
typedef long i64;
#define AS_FLOAT(x) as_float(x)
#define AS_UINT(x) as_uint(x)
#define EXP(x) exp(x)
#define SQRT(x) sqrt(x)
#define ERFC(x) erfc(x)
#define FABS(x) fabs(x)
#define FMA(a, b, c) fma(a, b, c)
#ifdef SUBGROUPS
#pragma OPENCL EXTENSION cl_khr_subgroups : enable
#define WAVE_ITEM ((int)get_sub_group_local_id())
#define WAVE_ID ((int)get_sub_group_id())
#define WAVES ((int)get_num_sub_groups())
#define WAVE_SUM(x) sub_group_reduce_add(x)
#endif
#endif

#if defined(DIALECT_CUDA) || defined(DIALECT_HIP)
#if defined(DIALECT_CUDA) && defined(RESIDENT)
// Registers for so many groups on a multiprocessor. Without a number NVIDIA's compiler spills some to fit more groups.
#define KERNEL extern "C" __global__ void __launch_bounds__(GROUP, RESIDENT)
#else
#define KERNEL extern "C" __global__ void __launch_bounds__(GROUP)
#endif
#define GLOBAL
#define LOCAL __shared__
#define LOCAL_PTR
#define FN static __device__ __forceinline__
#define GROUP_X ((int)blockIdx.x)
#define GROUP_Y ((int)blockIdx.y)
#define GROUP_Z ((int)blockIdx.z)
#define GROUPS_X ((int)gridDim.x)
#define ITEM ((int)threadIdx.x)
#define BARRIER __syncthreads()
#define BARRIER_GLOBAL __syncthreads()
// Macros, because headers that a compiler brings along may have types of these names.
#define uchar unsigned char
#define ushort unsigned short
#define uint unsigned int
#define ulong unsigned long long
#define i64 long long
#define AS_FLOAT(x) __uint_as_float(x)
#define AS_UINT(x) __float_as_uint(x)
#define EXP(x) expf(x)
#define SQRT(x) sqrtf(x)
#define ERFC(x) erfcf(x)
#define FABS(x) fabsf(x)
#define FMA(a, b, c) fmaf(a, b, c)
#ifdef WAVE
#define WAVE_ITEM (ITEM % WAVE)
#define WAVE_ID (ITEM / WAVE)
#define WAVES (GROUP / WAVE)
#define WAVE_SUM(x) wave_sum(x)
FN float wave_sum(float x) {
    for (int n = WAVE / 2; n > 0; n >>= 1) {
#ifdef DIALECT_CUDA
        x += __shfl_xor_sync(0xffffffffu, x, n);
#else
        x += __shfl_xor(x, n);
#endif
    }
    return x;
}
#endif
#endif

#ifdef DIALECT_HOST
// The host's side declares host_group_x() and its like, host_item() and host_barrier() before this text, WAVE_SUM where WAVE is
// defined, and runs one group at a time.
#define KERNEL extern "C" void
#define GLOBAL
#define LOCAL static
#define LOCAL_PTR
#define FN static inline
#define GROUP_X (host_group_x())
#define GROUP_Y (host_group_y())
#define GROUP_Z (host_group_z())
#define GROUPS_X (host_groups_x())
#define ITEM (host_item())
#define BARRIER host_barrier(__LINE__)
#define BARRIER_GLOBAL host_barrier(__LINE__)
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long long ulong;
typedef long long i64;
FN float host_float(uint x) { float y; __builtin_memcpy(&y, &x, 4); return y; }
FN uint host_uint(float x) { uint y; __builtin_memcpy(&y, &x, 4); return y; }
#define AS_FLOAT(x) host_float(x)
#define AS_UINT(x) host_uint(x)
#define EXP(x) __builtin_expf(x)
#define SQRT(x) __builtin_sqrtf(x)
#define ERFC(x) __builtin_erfcf(x)
#define FABS(x) __builtin_fabsf(x)
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

// A parameter: memory, and where in it the view begins.
#define IN(name) GLOBAL const uchar *name##_memory, i64 name##_offset
#define OUT(name) GLOBAL uchar *name##_memory, i64 name##_offset
#define BIND_IN(name) GLOBAL const uchar *name = name##_memory + name##_offset
#define BIND_OUT(name) GLOBAL uchar *name = name##_memory + name##_offset
#define INTS(name) ((GLOBAL const int *)(name))
#define FLOATS(name) ((GLOBAL const float *)(name))

#define POS_INF AS_FLOAT(0x7f800000u)
#define NEG_INF AS_FLOAT(0xff800000u)
#define IS_NAN(x) ((x) != (x))

FN int min_int(int a, int b) { return a < b ? a : b; }
FN int max_int(int a, int b) { return a > b ? a : b; }
FN i64 min_long(i64 a, i64 b) { return a < b ? a : b; }

// The larger one; a NaN wins.
FN float max_nan(float a, float b) { return a > b || IS_NAN(a) ? a : b; }

// Element types. Codes of types that are chosen at run time: 0 f32, 1 f16, 2 bf16.

FN float f16_decode(ushort h) {
    const uint sign = (uint)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return AS_FLOAT(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x400u) return AS_FLOAT(sign | ((rest << 13) + 0x38000000u));
    // Below the normal range: rest * 2^-24, exact.
    return AS_FLOAT(sign | AS_UINT((float)rest * 5.9604644775390625e-8f));
}

FN ushort f16_encode(float x) {
    const uint bits = AS_UINT(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return (ushort)(sign | 0x7e00u);
    // 65520 and beyond round to infinity.
    if (rest >= 0x477ff000u) return (ushort)(sign | 0x7c00u);
    if (rest >= 0x38800000u) {
        const uint odd = rest >> 13 & 1u;
        return (ushort)(sign | ((rest - 0x38000000u + 0xfffu + odd) >> 13));
    }
    // Below the normal range of f16: shift the significand right, half to even.
    if (rest < 0x33000000u) return (ushort)sign;
    const uint exponent = rest >> 23, significand = (rest & 0x7fffffu) | 0x800000u;
    const uint shift = 126u - exponent;
    const uint kept = significand >> shift, lost = significand & ((1u << shift) - 1u);
    const uint half_way = 1u << (shift - 1u);
    return (ushort)(sign | (kept + (lost > half_way || (lost == half_way && (kept & 1u)))));
}

FN float bf16_decode(ushort h) { return AS_FLOAT((uint)h << 16); }

FN ushort bf16_encode(float x) {
    const uint bits = AS_UINT(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (ushort)(bits >> 16 | 0x40u);
    return (ushort)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

FN float load_f32(GLOBAL const uchar *p, i64 i) { return ((GLOBAL const float *)p)[i]; }
FN void store_f32(GLOBAL uchar *p, i64 i, float x) { ((GLOBAL float *)p)[i] = x; }
FN float load_bf16(GLOBAL const uchar *p, i64 i) { return bf16_decode(((GLOBAL const ushort *)p)[i]); }
FN void store_bf16(GLOBAL uchar *p, i64 i, float x) { ((GLOBAL ushort *)p)[i] = bf16_encode(x); }

#if defined(DIALECT_OPENCL)
#ifdef F16_BITS
// For processors whose compiler makes a call of vload_half: no branch, so that it can be vectorised. Needs subnormal f32.
FN float load_f16(GLOBAL const uchar *p, i64 i) {
    const uint h = ((GLOBAL const ushort *)p)[i], rest = h & 0x7fffu;
    const uint bits = AS_UINT(AS_FLOAT(rest << 13) * AS_FLOAT(0x77800000u)) | (rest >= 0x7c00u ? 0x7f800000u : 0u);
    return AS_FLOAT(bits | (h & 0x8000u) << 16);
}
#else
FN float load_f16(GLOBAL const uchar *p, i64 i) { return vload_half((size_t)i, (GLOBAL const half *)p); }
#endif
FN void store_f16(GLOBAL uchar *p, i64 i, float x) { vstore_half_rte(x, (size_t)i, (GLOBAL half *)p); }
#elif defined(DIALECT_CUDA)
FN float load_f16(GLOBAL const uchar *p, i64 i) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(((const ushort *)p)[i]));
    return x;
}
FN void store_f16(GLOBAL uchar *p, i64 i, float x) {
    ushort h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    ((ushort *)p)[i] = h;
}
#elif defined(DIALECT_HIP)
FN float load_f16(GLOBAL const uchar *p, i64 i) { return (float)((const _Float16 *)p)[i]; }
FN void store_f16(GLOBAL uchar *p, i64 i, float x) { ((_Float16 *)p)[i] = (_Float16)x; }
#else
FN float load_f16(GLOBAL const uchar *p, i64 i) { return f16_decode(((GLOBAL const ushort *)p)[i]); }
FN void store_f16(GLOBAL uchar *p, i64 i, float x) { ((GLOBAL ushort *)p)[i] = f16_encode(x); }
#endif

// Of the type that a macro names: LOAD(X, x, i).
#define LOAD(type, p, i) JOIN(load_, type)(p, i)
#define STORE(type, p, i, x) JOIN(store_, type)(p, i, x)
#define BYTES_f32 4
#define BYTES_f16 2
#define BYTES_bf16 2
#define BYTES(type) JOIN(BYTES_, type)

// Of a type that is chosen at run time.
FN void store_any(int code, GLOBAL uchar *p, i64 i, float x) {
    if (code == 0) store_f32(p, i, x);
    else if (code == 1) store_f16(p, i, x);
    else store_bf16(p, i, x);
}
