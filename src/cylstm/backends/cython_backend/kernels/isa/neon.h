/* 64-bit Arm. */
#include <arm_neon.h>

#define VECTOR_BYTES 16
#define EACH_ROW_COUNT(X, ...) /* 24 sums of 32 registers */ \
    X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)
enum { MAX_ROWS = 6 };

#include "../vec.h"

#if DOUBLE
INLINE vec fma_(vec a, vec b, vec c) { return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#else
INLINE vec fma_(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#endif

#define at_most plain_at_most
#define at_least plain_at_least
#define where_less plain_where_less
#define load_some plain_load_some
#define store_some plain_store_some

#if NEON_DOT && !DOUBLE /* four signed operands with four signed weights */
#define DOT_GROUP 4
#define DOT_OFFSET 0
#define DOT_SPEED 4
typedef int8_t dot_operand;
typedef int8x16_t dot_weights;
INLINE dot_weights all_dot(const void *p) { return vreinterpretq_s8_s32(vdupq_n_s32(word_at(p))); }
INLINE dot_weights load_dot_weights(const int8_t *p) { return vld1q_s8(p); }
INLINE ivec int8_dot(ivec sum, dot_weights x, dot_weights w) { return (ivec)vdotq_s32((int32x4_t)sum, x, w); }
#else
#include "../plain_dot.h"
#endif

#if BF16_DOT && !DOUBLE
typedef bfloat16x8_t pairs;
INLINE pairs all_pairs(const void *p) { return vreinterpretq_bf16_s32(vdupq_n_s32(word_at(p))); }
INLINE pairs load_pairs(const uint16_t *p) { return vreinterpretq_bf16_u16(vld1q_u16(p)); }
INLINE vec bf16_dot(vec sum, pairs x, pairs w) { return (vec)vbfdotq_f32((float32x4_t)sum, x, w); }
#endif
