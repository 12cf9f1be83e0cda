/* The register tiles of the LSTM. lstm.c is compiled once per line of kernels.def (instruction set x precision) and
 * select.c picks a table when the program runs. Threads, the loop over time and the layout of calls are in the .pyx and
 * .pxd files of the folder above.
 *
 * A *block* is VL hidden units, VL being the lanes of a vector. A *panel* holds the weights of one block as
 * (k, 4 gates, VL lanes), so that a tile reads it from front to end. A *tile* is `rows` rows x one block, all four
 * gates: rows x 4 vectors of sums that stay in registers while k runs.
 *
 * The rule that makes results independent of how a call is cut: every sum starts from its bias, then runs over the
 * input, then over h, k ascending, one fused multiply-add per term (multiply, then add, where the instruction set has
 * none). Sums that are stored between two tiles and loaded again lose nothing.
 *
 * `void *` stands for the state's type, float or double, unless a field says otherwise; strides of such arrays count
 * elements. Panels of weights are opaque: of the precision's own type, counted in bytes. So are operands, the rows of
 * input and h as a precision multiplies them: `Factor` says how a row becomes one. Panels, sums and the arrays marked
 * (m, VL) or (m, 4, VL) are contiguous and padded; their padding is written too.
 */
#ifndef CYLSTM_KERNELS_H
#define CYLSTM_KERNELS_H

#include <stddef.h>

enum { LINE = 64 }; /* bytes, of the caches */

typedef struct {           /* one panel of weights, zeroed before */
    const void *matrix[4]; /* IN (lanes[v], K): the rows that become the lanes of part v; int8 where they have scales */
    const float *scale[4]; /* IN (lanes[v],) of the rows, or NULL: 1. For precisions that scale, else not read */
    ptrdiff_t lanes[4]; /* that exist: 0 ... VL; the others stay as they are */
    ptrdiff_t stride; /* between rows of the matrix */
    ptrdiff_t K;
    void *panel; /* OUT (K, 4, VL) weights, and what follows them */
} PackTask;

/* How a product takes its factors. Weights that are multiplied `group` at a time lie side by side in a panel, which is
 * (ceil(K / group), 4, VL, group) then. */
typedef struct {
    ptrdiff_t group; /* K is padded to a multiple of it, with zeros */
    ptrdiff_t group_bytes; /* of a panel: group * 4 * VL weights */
    ptrdiff_t tail_bytes; /* of a panel, behind the weights: what scales the sums */
    ptrdiff_t operand_bytes; /* of one number of an operand; strides of operands count these */
    ptrdiff_t speed; /* products in the time of one of float32, about */
    void (*pack)(const PackTask *);
    /* NULL where a row of state is an operand as it is. `scale` is written where the precision scales h. */
    void (*convert)(const void *row, /* IN (K,) */
                    ptrdiff_t K, void *operand, /* OUT (K, padded to a group) */
                    float *scale);
} Factor;

enum { OF_SIGMOID, OF_TANH, OF_RAMP };
typedef struct {
    int kind; /* sigmoid(x), alpha tanh(beta x), or alpha x + beta between `low` and `high` */
    double alpha, beta, low, high;
} Activation;

typedef struct { /* what a direction computes beyond PyTorch's LSTM: LayerOptions of backends/base.py */
    Activation f, g, h;
    double clip, cell_clip, proj_clip; /* INFINITY: none */
    int input_forget;
} CellOptions;

typedef struct {
    ptrdiff_t rows; /* m: 1 ... max_rows */
    ptrdiff_t lanes; /* units of this block that exist: 1 ... VL */
    const void *start; /* IN (m, 4, VL) the sums so far; with start_stride = 0 one row for all: the bias */
    ptrdiff_t start_stride; /* 4 * VL or 0 */
    const void *input; /* IN (m, I) operands */
    ptrdiff_t input_stride;
    ptrdiff_t I; /* 0 where `start` holds the input's part of the sums already */
    const void *weight_ih; /* IN panel (I, 4, VL) */
    const void *h; /* IN (m, R) operands: the state before the step */
    const float *h_scale; /* IN (m,) of their rows; for precisions that scale, else not read */
    ptrdiff_t h_stride;
    ptrdiff_t R; /* 0 where the state is zero */
    const void *weight_hh; /* IN panel (R, 4, VL) */
    const void *prefetch; /* a line per group of R, brought to the second cache meanwhile; or NULL */
    void *c; /* IN/OUT (m, VL) */
    void *h_out; /* OUT (m, lanes) */
    ptrdiff_t h_out_stride;
    void *c_prev; /* OUT (m, VL) c before the step, or NULL */
    void *gates; /* OUT (m, 4, VL) activated gates, or NULL; not written where the precision is for inference only */
    const CellOptions *options; /* of gates_with_options, which writes neither c_prev nor gates; else NULL */
    const void *weight_ch; /* IN (3, VL) peepholes of the gates i, f, o, or NULL; likewise */
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
    ptrdiff_t prefetch_rows; /* from these gates to those of the next tile, which are prefetched */
    void *h; /* OUT (m, VL), rows h_stride apart: o * tanh(c) again, which the projection saw; or NULL */
    ptrdiff_t h_stride;
} GatesBackwardTile;

typedef struct {
    ptrdiff_t rows;
    ptrdiff_t columns; /* that exist: 1 ... 4 * VL */
    const void *start; /* IN (m, 4 * VL), or NULL: zero */
    ptrdiff_t start_stride; /* 0: one row for all */
    const void *a; /* IN operands: a[r * a_row + s * a_segment + k * a_k], r < m, s < segments, k < K */
    ptrdiff_t a_row, a_k, a_segment;
    ptrdiff_t K, segments;
    const void *panel; /* IN panel (segments * K, 4 * VL); one segment where the group is not 1 */
    const void *prefetch; /* a line per group of k, brought to the second cache meanwhile if a_k is 1; or NULL */
    void *out; /* OUT (m, columns) = start + a @ panel */
    ptrdiff_t out_stride;
} ProductTile;

typedef struct {
    const char *isa, *precision; /* as kernels.def names them */
    ptrdiff_t itemsize; /* of the state: input, h, c, output, sums and gradients */
    ptrdiff_t lanes; /* VL */
    ptrdiff_t max_rows; /* of a tile */
    double headroom; /* weights that stay finite when multiplied by this stay finite when they are packed */
    Factor input; /* W_ih x, and the projection W_hr h */
    Factor state; /* W_hh h */
    void (*gates)(const GatesTile *); /* eq. (1) to (4) */
    void (*gates_pair)(const GatesTile *); /* of two blocks, one row each with the same input and h */
    void (*gates_with_options)(const GatesTile *); /* likewise, with options; nothing is prefetched */
    void (*product)(const ProductTile *); /* where the precision trains, the panel may hold state too */
    void (*gates_backward)(
        const GatesBackwardTile *); /* eq. (6) to (10); NULL where the precision is for inference only */
    /* Panels of the transposed matrix; NULL where the precision is for inference only. */
    void (*transpose)(const void *panels, /* IN (groups of n, K, 4 VL) weights */
                      void *transposed, /* OUT (groups of K, n, 4 VL) weights, zeroed before */
                      ptrdiff_t n, ptrdiff_t K);
    void (*activate)(int tanh, ptrdiff_t n, const void *in, void *out); /* for tests: sigmoid or tanh of n elements */
} Kernels;

/* Line `index` of kernels.def, of those for this architecture, best instruction set first; NULL beyond the last. */
const Kernels *cylstm_kernels_line(ptrdiff_t index);

/* Whether this processor, and the operating system, can run a table. */
int cylstm_kernels_run_here(const Kernels *kernels);

/* The table of this name; NULL where there is none or this processor cannot run it. */
const Kernels *cylstm_kernels(const char *isa, const char *precision);

#endif
