/* Weights of the state's own type: float32 and float64. */
#define TRAINS 1
#define HEADROOM 1

typedef real weight;
typedef real operand;

INLINE vec load_weights(const weight *p) { return load(p); }

/* out (columns, rows) = a (rows, columns) transposed */
INLINE void transpose_weights(const real *a, ptrdiff_t a_stride, weight *out, ptrdiff_t out_stride, ptrdiff_t rows,
                              ptrdiff_t columns)
{
#if DOUBLE
    transpose_double(a, a_stride, out, out_stride, rows, columns);
#else
    transpose_float(a, a_stride, out, out_stride, rows, columns);
#endif
}

#include "one_k.h"

#define CONVERT NULL
#define SPEED 1
#include "unscaled.h"
