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
