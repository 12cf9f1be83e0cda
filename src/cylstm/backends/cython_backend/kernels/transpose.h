/* out (columns, rows) = a (rows, columns) transposed; strides between rows, in elements.
 * In squares of one 16-byte vector a side, gathered into larger squares so that both arrays stay in the cache. */
#ifndef CYLSTM_TRANSPOSE_H
#define CYLSTM_TRANSPOSE_H

#include <stddef.h>

enum { SQUARE = 16 };

/* GCC has clang's builtin since version 12 only. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE_FLOAT(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#define SHUFFLE_DOUBLE(a, b, i, j) __builtin_shufflevector(a, b, i, j)
#else
typedef int int4 __attribute__((vector_size(16)));
typedef long long long2 __attribute__((vector_size(16)));
#define SHUFFLE_FLOAT(a, b, i, j, k, l) __builtin_shuffle(a, b, (int4){i, j, k, l})
#define SHUFFLE_DOUBLE(a, b, i, j) __builtin_shuffle(a, b, (long2){i, j})
#endif

typedef float float4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef double double2 __attribute__((vector_size(16), aligned(8), may_alias));

static inline void transpose_square_float(const float *a, ptrdiff_t a_stride, float *out, ptrdiff_t out_stride)
{
    float4 a0 = *(const float4 *)a, a1 = *(const float4 *)(a + a_stride);
    float4 a2 = *(const float4 *)(a + 2 * a_stride), a3 = *(const float4 *)(a + 3 * a_stride);
    float4 b0 = SHUFFLE_FLOAT(a0, a1, 0, 4, 1, 5), b1 = SHUFFLE_FLOAT(a0, a1, 2, 6, 3, 7);
    float4 b2 = SHUFFLE_FLOAT(a2, a3, 0, 4, 1, 5), b3 = SHUFFLE_FLOAT(a2, a3, 2, 6, 3, 7);
    *(float4 *)out = SHUFFLE_FLOAT(b0, b2, 0, 1, 4, 5);
    *(float4 *)(out + out_stride) = SHUFFLE_FLOAT(b0, b2, 2, 3, 6, 7);
    *(float4 *)(out + 2 * out_stride) = SHUFFLE_FLOAT(b1, b3, 0, 1, 4, 5);
    *(float4 *)(out + 3 * out_stride) = SHUFFLE_FLOAT(b1, b3, 2, 3, 6, 7);
}

static inline void transpose_square_double(const double *a, ptrdiff_t a_stride, double *out, ptrdiff_t out_stride)
{
    double2 a0 = *(const double2 *)a, a1 = *(const double2 *)(a + a_stride);
    *(double2 *)out = SHUFFLE_DOUBLE(a0, a1, 0, 2);
    *(double2 *)(out + out_stride) = SHUFFLE_DOUBLE(a0, a1, 1, 3);
}

#define DEFINE_TRANSPOSE(real, SIDE) \
    static inline void transpose_##real(const real *a, ptrdiff_t a_stride, real *out, ptrdiff_t out_stride, \
                                        ptrdiff_t rows, ptrdiff_t columns) \
    { \
        for (ptrdiff_t c0 = 0; c0 < columns; c0 += SQUARE) \
            for (ptrdiff_t r0 = 0; r0 < rows; r0 += SQUARE) { \
                ptrdiff_t c1 = c0 + SQUARE < columns ? c0 + SQUARE : columns; \
                ptrdiff_t r1 = r0 + SQUARE < rows ? r0 + SQUARE : rows, c = c0; \
                for (; c + SIDE <= c1; c += SIDE) { \
                    ptrdiff_t r = r0; \
                    for (; r + SIDE <= r1; r += SIDE) \
                        transpose_square_##real(a + r * a_stride + c, a_stride, out + c * out_stride + r, out_stride); \
                    for (; r < r1; r++) \
                        for (ptrdiff_t k = c; k < c + SIDE; k++) \
                            out[k * out_stride + r] = a[r * a_stride + k]; \
                } \
                for (; c < c1; c++) \
                    for (ptrdiff_t r = r0; r < r1; r++) \
                        out[c * out_stride + r] = a[r * a_stride + c]; \
            } \
    }
DEFINE_TRANSPOSE(float, 4)
DEFINE_TRANSPOSE(double, 2)

#endif
