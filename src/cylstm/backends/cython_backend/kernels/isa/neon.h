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
