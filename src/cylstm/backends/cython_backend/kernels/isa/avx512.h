/* x86-64 with AVX-512 F, DQ, BW and VL. */
#include <immintrin.h>

#define VECTOR_BYTES 64
#define EACH_ROW_COUNT(X, ...) /* 24 sums of 32 registers */ \
    X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)
enum { MAX_ROWS = 6 };

#include "../vec.h"

#if DOUBLE
#define OP(name) _mm512_##name##_pd
typedef __mmask8 mask;
INLINE mask is_less(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
#else
#define OP(name) _mm512_##name##_ps
typedef __mmask16 mask;
INLINE mask is_less(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
#endif

INLINE vec fma_(vec a, vec b, vec c) { return OP(fmadd)(a, b, c); }
INLINE vec at_most(vec x, real bound) { return OP(min)(all(bound), x); } /* the second operand where one is NaN */
INLINE vec at_least(vec x, real bound) { return OP(max)(all(bound), x); }
INLINE vec where_less(vec x, real bound, vec a, vec b) { return OP(mask_mov)(b, is_less(x, all(bound)), a); }

INLINE mask first(ptrdiff_t n) { return (mask)((1u << n) - 1); }
INLINE vec load_some(const real *p, ptrdiff_t n) { return OP(maskz_loadu)(first(n), p); }
INLINE void store_some(real *p, vec v, ptrdiff_t n) { OP(mask_storeu)(p, first(n), v); }

/* Products of small numbers, for the precisions of a float32 state. */
#if !DOUBLE
typedef __m512i dot_weights;
INLINE dot_weights all_dot(const void *p) { return _mm512_set1_epi32(word_at(p)); }
#if VNNI /* four unsigned operands with four signed weights */
#define DOT_GROUP 4
#define DOT_OFFSET 128
#define DOT_SPEED 4
typedef uint8_t dot_operand;
INLINE dot_weights load_dot_weights(const int8_t *p) { return _mm512_loadu_si512(p); }
INLINE ivec int8_dot(ivec sum, dot_weights x, dot_weights w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w)); /* GCC 12 spills the sums of the intrinsic */
    return sum;
}
#else /* pairs of int16, widened from int8 when they are loaded */
#define DOT_GROUP 2
#define DOT_OFFSET 0
#define DOT_SPEED 1
typedef int16_t dot_operand;
INLINE dot_weights load_dot_weights(const int8_t *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
INLINE ivec int8_dot(ivec sum, dot_weights x, dot_weights w) { return sum + (ivec)_mm512_madd_epi16(x, w); }
#endif

#if BF16_DOT
typedef __m512bh pairs;
INLINE pairs all_pairs(const void *p) { return (pairs)_mm512_set1_epi32(word_at(p)); }
INLINE pairs load_pairs(const uint16_t *p) { return (pairs)_mm512_loadu_si512(p); }
INLINE vec bf16_dot(vec sum, pairs x, pairs w) { return (vec)_mm512_dpbf16_ps((__m512)sum, x, w); }
#endif
#endif
