/* Weights kept as bfloat16, the upper half of a float32, and widened when they are loaded: exact. Arithmetic and sums
 * are those of float32. */
#define TRAINS 0
#define HEADROOM (1 + 0x1p-8) /* half of the last bit is lost or gained */

_Static_assert(sizeof(real) == 4, "the state beside bfloat16 weights is float32");
typedef uint16_t weight;

typedef weight weights_unaligned __attribute__((vector_size(VECTOR_BYTES / 2), aligned(sizeof(weight)), may_alias));
typedef uint32_t uvec __attribute__((vector_size(VECTOR_BYTES)));

INLINE vec load_weights(const weight *p)
{
    return (vec)(__builtin_convertvector(*(const weights_unaligned *)p, uvec) << 16);
}

/* The nearest bfloat16, ties to even; a NaN stays one. */
INLINE weight to_weight(real value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (weight)(bits >> 16 | 0x40);
    return (weight)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* out (columns, rows) = a (rows, columns) transposed and rounded */
INLINE void transpose_weights(const real *a, ptrdiff_t a_stride, weight *out, ptrdiff_t out_stride, ptrdiff_t rows,
                              ptrdiff_t columns)
{
    for (ptrdiff_t c = 0; c < columns; c++)
        for (ptrdiff_t r = 0; r < rows; r++)
            out[c * out_stride + r] = to_weight(a[r * a_stride + c]);
}

#include "one_k.h"
