/* One vector of VL reals: types and the operations that every instruction set has. The header of an instruction set
 * (isa/) defines VECTOR_BYTES, includes this and adds what it does better. Arithmetic (+ - * /) is the compiler's own on
 * vector types. */
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

#define VL ((ptrdiff_t)(VECTOR_BYTES / sizeof(real)))

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef integer ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* Before a loop over rows or parts: GCC keeps an array in registers from one loop to the next where both are unrolled
 * early. */
#if defined(__GNUC__) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 8")
#else
#define UNROLL
#endif

INLINE vec load(const real *p) { return *(const vec_unaligned *)p; }
INLINE void store(real *p, vec v) { *(vec_unaligned *)p = v; }
INLINE vec all(real s) { return s - (vec){0}; } /* s in every lane, -0 kept */
INLINE int32_t word_at(const void *p)
{
    int32_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

/* What isa/ gives:
 *   fma_(a, b, c)                 a * b + c, rounded once where the instruction set can
 *   at_most(x, bound), at_least   the lesser, the greater; a NaN in x passes through
 *   where_less(x, bound, a, b)    x < bound ? a : b in every lane; false for NaN
 *   load_some(p, n), store_some   the first n lanes; the others are 0
 * The functions below serve where it has nothing better. */
INLINE vec plain_at_most(vec x, real bound)
{
    ivec above = x > all(bound);
    return (vec)((above & (ivec)all(bound)) | (~above & (ivec)x));
}
INLINE vec plain_at_least(vec x, real bound)
{
    ivec below = x < all(bound);
    return (vec)((below & (ivec)all(bound)) | (~below & (ivec)x));
}
INLINE vec plain_where_less(vec x, real bound, vec a, vec b)
{
    ivec less = x < all(bound);
    return (vec)((less & (ivec)a) | (~less & (ivec)b));
}
INLINE vec plain_load_some(const real *p, ptrdiff_t n)
{
    vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof(real));
    return v;
}
INLINE void plain_store_some(real *p, vec v, ptrdiff_t n) { memcpy(p, &v, (size_t)n * sizeof(real)); }

/* What isa/ gives for the precisions of a float32 state, those of plain_dot.h where it has no better:
 *   int8_dot(sum, x, w)     sum + products of DOT_GROUP operands, of all_dot(p), with those of load_dot_weights(p);
 *                           operands have DOT_OFFSET added
 *   bf16_dot(sum, x, w)     likewise of pairs of bfloat16, of all_pairs(p) and load_pairs(p); only with BF16_DOT */

#endif
