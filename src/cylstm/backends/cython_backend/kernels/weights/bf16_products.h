/* Products of bfloat16 numbers, the upper halves of float32: weights and operands are rounded to nearest, ties to even,
 * a NaN stays one. Where the instruction set multiplies pairs of them (BF16_DOT) it does, else weights are widened when
 * they are loaded, and the operand is a row of rounded float32. */
#define TRAINS 0
#define BF16_HEADROOM (1 + 0x1p-8) /* half of the last bit is lost or gained */

_Static_assert(sizeof(real) == 4, "the state beside bfloat16 weights is float32");
typedef uint16_t weight;

typedef uint32_t uvec __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t halves __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));

/* The bits of the nearest bfloat16 in the upper half of each lane; the lower half is left over. */
INLINE uvec rounded(vec x)
{
    uvec bits = (uvec)x, nan = (uvec)(x != x);
    return (nan & (bits | 0x400000)) | (~nan & (bits + 0x7fff + (bits >> 16 & 1)));
}

INLINE weight to_weight(real value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (weight)(bits >> 16 | 0x40);
    return (weight)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#ifdef BF16_DOT
#include "bf16_pairs.h"
#else
typedef real operand;
#define BF16_SPEED 1

INLINE vec load_weights(const weight *p) { return (vec)(__builtin_convertvector(*(const halves *)p, uvec) << 16); }

/* out (columns, rows) = a (rows, columns) transposed and rounded */
INLINE void transpose_weights(const real *a, ptrdiff_t a_stride, weight *out, ptrdiff_t out_stride, ptrdiff_t rows,
                              ptrdiff_t columns)
{
    for (ptrdiff_t c = 0; c < columns; c++)
        for (ptrdiff_t r = 0; r < rows; r++)
            out[c * out_stride + r] = to_weight(a[r * a_stride + c]);
}

INLINE void store_operand(operand *p, uvec bits) { store(p, (vec)(bits & 0xffff0000)); }

#include "one_k.h"
#endif

static void to_operand(const void *row, ptrdiff_t K, void *out, float *scale)
{
    (void)scale;
    for (ptrdiff_t k = 0; k < K; k += VL) {
        const real *x = (const real *)row + k;
        store_operand((operand *)out + k, rounded(K - k < VL ? load_some(x, K - k) : load(x)));
    }
}
