/* The register tiles: the only C in cylstm. One object file per instruction set and precision, chosen when the
 * program runs (probe.c). Everything above a tile (threads, the loop over time, packing) is in _lstm.pyx.
 *
 * A *block* is VL hidden units, VL being the number of lanes of a vector. A *panel* holds the weights of one block as
 * (k, 4 gates, VL lanes), so that a tile reads it from front to end. A *tile* is `rows` rows x one block, all four
 * gates: rows x 4 vectors of sums that stay in registers while k runs.
 *
 * The rule that makes results independent of how a call is cut: every sum starts from its bias, then runs over the
 * input, then over h, k ascending, one fused multiply-add per term (multiply, then add, where the instruction set has
 * none). Sums that are stored between two tiles and loaded again lose nothing.
 *
 * `void *` stands for float or double, as the table says. Strides count elements. Panels, sums and the arrays marked
 * (m, VL) or (m, 4, VL) are contiguous and padded; their padding is written too.
 */
#ifndef CYLSTM_KERNELS_H
#define CYLSTM_KERNELS_H

#include <stddef.h>

enum { LINE = 64 }; /* bytes, of the caches */

typedef struct {
    ptrdiff_t rows;  /* m: 1 ... max_rows */
    ptrdiff_t lanes; /* units of this block that exist: 1 ... VL */
    const void *start; /* IN (m, 4, VL) the sums so far; with start_stride = 0 one row for all: the bias */
    ptrdiff_t start_stride; /* 4 * VL or 0 */
    const void *input; /* IN (m, I) */
    ptrdiff_t input_stride;
    ptrdiff_t I; /* 0 where `start` holds the input's share already */
    const void *weight_ih; /* IN (I, 4, VL) */
    const void *h; /* IN (m, R) state before the step */
    ptrdiff_t h_stride;
    ptrdiff_t R; /* 0 where the state is zero */
    const void *weight_hh; /* IN (R, 4, VL) */
    const void *fetch; /* R lines, to be fetched into the cache meanwhile; or NULL */
    void *c; /* IN/OUT (m, VL) */
    void *h_out; /* OUT (m, lanes) */
    ptrdiff_t h_out_stride;
    void *c_prev; /* OUT (m, VL) c before the step, or NULL */
    void *gates; /* OUT (m, 4, VL) activated gates, or NULL */
} GatesTile;

typedef struct {
    ptrdiff_t rows;
    ptrdiff_t lanes;
    const void *gates; /* IN (m, 4, VL) activated */
    const void *c_prev; /* IN (m, VL) */
    const void *grad_h; /* IN (m, VL), rows grad_h_stride apart: through the next step */
    ptrdiff_t grad_h_stride;
    const void *grad_output; /* IN (m, lanes) to be added, or NULL */
    ptrdiff_t grad_output_stride;
    void *grad_c; /* IN/OUT (m, VL): of c after the step -> of c before it */
    void *grad_a; /* OUT (m, 4, VL): of the gates before activation; 0 beyond lanes */
    ptrdiff_t next; /* from these rows to those of the next tile, which are fetched into the cache */
    void *h; /* OUT (m, VL), rows h_stride apart: o * tanh(c) again, which the projection saw; or NULL */
    ptrdiff_t h_stride;
} GatesBackwardTile;

typedef struct {
    ptrdiff_t rows;
    ptrdiff_t columns; /* that exist: 1 ... 4 * VL */
    const void *start; /* IN (m, 4 * VL), or NULL: zero */
    ptrdiff_t start_stride; /* 0: one row for all */
    const void *a; /* IN: a[r * a_row + s * a_segment + k * a_k], r < m, s < segments, k < K */
    ptrdiff_t a_row, a_k, a_segment;
    ptrdiff_t K, segments;
    const void *panel; /* IN (segments * K, 4 * VL) */
    const void *fetch; /* segments * K lines, to be fetched into the cache meanwhile if a_k is 1; or NULL */
    void *out; /* OUT (m, columns) = start + a @ panel */
    ptrdiff_t out_stride;
} ProductTile;

typedef struct {
    const char *isa;     /* "generic" (NEON on 64-bit Arm), "avx2", "avx512" */
    ptrdiff_t itemsize;  /* 4: float, 8: double */
    ptrdiff_t lanes;     /* VL */
    ptrdiff_t max_rows;
    void (*gates)(const GatesTile *);                   /* eq. (1) to (4) */
    void (*gates_pair)(const GatesTile *);              /* of two blocks, one row each with the same input and h */
    void (*gates_backward)(const GatesBackwardTile *);  /* eq. (6) to (10) */
    void (*product)(const ProductTile *);
    void (*activate)(int tanh, ptrdiff_t n, const void *in, void *out); /* for tests: sigmoid or tanh of n elements */
} Kernels;

/* The best table this processor can run for the item size, or the named one; NULL where it cannot run it. */
const Kernels *cylstm_kernels(const char *isa, ptrdiff_t itemsize);

#endif
