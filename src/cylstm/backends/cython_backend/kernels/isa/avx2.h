/* x86-64 with AVX2 and FMA. */
#include <immintrin.h>

#define VECTOR_BYTES 32
#define EACH_ROW_COUNT(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) /* 12 sums of 16 registers */
enum { MAX_ROWS = 3 };

#include "../vec.h"

#if DOUBLE
#define OP(name) _mm256_##name##_pd
#else
#define OP(name) _mm256_##name##_ps
#endif

INLINE vec fma_(vec a, vec b, vec c) { return OP(fmadd)(a, b, c); }
INLINE vec at_most(vec x, real bound) { return OP(min)(all(bound), x); } /* the second operand where one is NaN */
INLINE vec at_least(vec x, real bound) { return OP(max)(all(bound), x); }

#define where_less plain_where_less
#define load_some plain_load_some
#define store_some plain_store_some

/* Products of small numbers, for the precisions of a float32 state. */
#if !DOUBLE
typedef __m256i dot_weights;
INLINE dot_weights all_dot(const void *p) { return _mm256_set1_epi32(word_at(p)); }
#if VNNI /* four unsigned operands with four signed weights */
#define DOT_GROUP 4
#define DOT_OFFSET 128
#define DOT_SPEED 4
typedef uint8_t dot_operand;
INLINE dot_weights load_dot_weights(const int8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE ivec int8_dot(ivec sum, dot_weights x, dot_weights w)
{
    return (ivec)_mm256_dpbusd_avx_epi32((__m256i)sum, x, w);
}
#else /* pairs of int16, the weights widened from int8 when they are loaded */
#define DOT_GROUP 2
#define DOT_OFFSET 0
#define DOT_SPEED 1
typedef int16_t dot_operand;
INLINE dot_weights load_dot_weights(const int8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}
INLINE ivec int8_dot(ivec sum, dot_weights x, dot_weights w) { return sum + (ivec)_mm256_madd_epi16(x, w); }
#endif
#endif
