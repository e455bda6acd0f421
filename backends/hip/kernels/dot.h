// Sums of two products of f16, in f32: an instruction on gfx906 and its kin (V_DOT2_F32_F16), on the host a plain function. It
// takes f32 numbers below 2^-126 for zero, as kernels may.

#ifdef DIALECT_HOST
#ifndef HOST_HAS_dot
#error "this chip has no such instruction"
#endif
// Exact up to f64, then rounded.
FN float dot_2(uint a, uint b, float sum) {
    return (float)((double)unpack_low(a) * unpack_low(b) + (double)unpack_high(a) * unpack_high(b) + sum);
}
#else
typedef _Float16 f16_2 __attribute__((ext_vector_type(2)));
FN float dot_2(uint a, uint b, float sum) {
    return __builtin_amdgcn_fdot2(__builtin_bit_cast(f16_2, a), __builtin_bit_cast(f16_2, b), sum, false);
}
#endif
