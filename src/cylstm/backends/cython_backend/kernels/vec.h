/* One vector of VL reals for the instruction set this file is compiled for.
 * Arithmetic (+ - * /) is the compiler's own on vector types; only what it does not promise to keep stands here. */
#ifndef CYLSTM_VEC_H
#define CYLSTM_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if DOUBLE
typedef double real;
typedef int64_t integer; /* of the same width as real */
#else
typedef float real;
typedef int32_t integer;
#endif

#if defined(ISA_AVX512)
#define VECTOR_BYTES 64
#define MAX_ROWS 6 /* 24 sums of 32 registers */
#elif defined(ISA_AVX2)
#define VECTOR_BYTES 32
#define MAX_ROWS 3 /* 12 sums of 16 registers */
#else
#define VECTOR_BYTES 16
#if defined(__aarch64__)
#define MAX_ROWS 6 /* 24 sums of 32 registers */
#else
#define MAX_ROWS 2 /* 8 sums of 16 registers: without FMA a product needs one too */
#endif
#endif

#define VL ((ptrdiff_t)(VECTOR_BYTES / sizeof(real)))

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef integer ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const real *p) { return *(const vec_unaligned *)p; }
INLINE void store(real *p, vec v) { *(vec_unaligned *)p = v; }
INLINE vec all(real s) { return s - (vec){0}; } /* s in every lane, -0 kept */

/* a * b + c, rounded once where the instruction set can */
INLINE vec fma_(vec a, vec b, vec c);
/* the lesser / the greater; a NaN in x passes through */
INLINE vec at_most(vec x, real bound);
INLINE vec at_least(vec x, real bound);
/* x < bound ? a : b, in every lane; false for NaN */
INLINE vec where_less(vec x, real bound, vec a, vec b);

#if defined(ISA_AVX512)
#include <immintrin.h>
#if DOUBLE
INLINE vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_pd(a, b, c); }
INLINE vec at_most(vec x, real bound) { return _mm512_min_pd(all(bound), x); }
INLINE vec at_least(vec x, real bound) { return _mm512_max_pd(all(bound), x); }
INLINE vec where_less(vec x, real bound, vec a, vec b)
{
    return _mm512_mask_mov_pd(b, _mm512_cmp_pd_mask(x, all(bound), _CMP_LT_OQ), a);
}
INLINE vec load_some(const real *p, ptrdiff_t n) { return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
INLINE void store_some(real *p, vec v, ptrdiff_t n) { _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), v); }
#else
INLINE vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec at_most(vec x, real bound) { return _mm512_min_ps(all(bound), x); }
INLINE vec at_least(vec x, real bound) { return _mm512_max_ps(all(bound), x); }
INLINE vec where_less(vec x, real bound, vec a, vec b)
{
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, all(bound), _CMP_LT_OQ), a);
}
INLINE vec load_some(const real *p, ptrdiff_t n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void store_some(real *p, vec v, ptrdiff_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v); }
#endif
#else

#if defined(ISA_AVX2)
#include <immintrin.h>
#if DOUBLE
INLINE vec fma_(vec a, vec b, vec c) { return _mm256_fmadd_pd(a, b, c); }
INLINE vec at_most(vec x, real bound) { return _mm256_min_pd(all(bound), x); }
INLINE vec at_least(vec x, real bound) { return _mm256_max_pd(all(bound), x); }
#else
INLINE vec fma_(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec at_most(vec x, real bound) { return _mm256_min_ps(all(bound), x); }
INLINE vec at_least(vec x, real bound) { return _mm256_max_ps(all(bound), x); }
#endif
#else
#if defined(__aarch64__)
#include <arm_neon.h>
#if DOUBLE
INLINE vec fma_(vec a, vec b, vec c) { return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#else
INLINE vec fma_(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#endif
#else
INLINE vec fma_(vec a, vec b, vec c) { return a * b + c; } /* -ffp-contract=off: two roundings, always */
#endif
INLINE vec at_most(vec x, real bound)
{
    ivec above = x > all(bound);
    return (vec)((above & (ivec)all(bound)) | (~above & (ivec)x));
}
INLINE vec at_least(vec x, real bound)
{
    ivec below = x < all(bound);
    return (vec)((below & (ivec)all(bound)) | (~below & (ivec)x));
}
#endif
INLINE vec where_less(vec x, real bound, vec a, vec b)
{
    ivec less = x < all(bound);
    return (vec)((less & (ivec)a) | (~less & (ivec)b));
}
INLINE vec load_some(const real *p, ptrdiff_t n)
{
    vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof(real));
    return v;
}
INLINE void store_some(real *p, vec v, ptrdiff_t n) { memcpy(p, &v, (size_t)n * sizeof(real)); }
#endif

#endif
