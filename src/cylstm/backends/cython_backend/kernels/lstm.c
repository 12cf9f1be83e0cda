/* The tiles of one line of kernels.def: ISA_NAME, PRECISION, DOUBLE (the state's type), and the headers of the
 * instruction set and of the weights. See kernels.h for every argument. */
#include "kernels.h"
#include ISA_HEADER
#include "activations.h"
#include "transpose.h"
#include WEIGHTS_HEADER

/* A NaN in the input reaches the padding; from there it must not reach the sums over all units. */
INLINE void store_padded(real *p, vec v, ptrdiff_t lanes)
{
    if (lanes == VL) {
        store(p, v);
        return;
    }
    store(p, (vec){0});
    store_some(p, v, lanes);
}

#if TRAINS
#include "cell.h"
#else
#include "quick_cell.h"
#endif

/* eq. (4) of row r, after all of (3): a tanh that waits for its c has the other rows to overlap with */
INLINE void hidden_row(const GatesTile *t, ptrdiff_t r, const vec sums[4])
{
    vec h = hidden_of(sums);
    real *h_row = (real *)t->h_out + r * t->h_out_stride;
    if (t->lanes == VL)
        store(h_row, h);
    else
        store_some(h_row, h, t->lanes);
}

/* eq. (1) */
INLINE void sum_rows(const int m, vec sums[][4], const GatesTile *t, const char *next)
{
    UNROLL
    for (int r = 0; r < m; r++)
        UNROLL
    for (int v = 0; v < 4; v++)
        sums[r][v] = load((const real *)t->start + r * t->start_stride + v * VL);
    accumulate(m, sums, t->input, t->input_stride, 1, t->I, t->weight_ih, NULL);
    accumulate_state(m, sums, t, next);
}

INLINE void gates_rows(const int m, const GatesTile *t, const char *next)
{
    vec sums[MAX_ROWS][4];
    sum_rows(m, sums, t, next);
    UNROLL_CELL
    for (int r = 0; r < m; r++)
        cell_row(t, r, sums[r]);
    UNROLL_CELL
    for (int r = 0; r < m; r++)
        hidden_row(t, r, sums[r]);
}

static void gates_pair(const GatesTile *t)
{
    vec sums[2][4];
    for (int b = 0; b < 2; b++)
        for (int v = 0; v < 4; v++)
            sums[b][v] = load((const real *)t[b].start + v * VL);
    accumulate_pair(sums, t->input, t->I, t[0].weight_ih, t[1].weight_ih);
    accumulate_state_pair(sums, t);
    for (int b = 0; b < 2; b++)
        cell_row(&t[b], 0, sums[b]);
    for (int b = 0; b < 2; b++)
        hidden_row(&t[b], 0, sums[b]);
}

#include "options.h"

INLINE void product_rows(const int m, const ProductTile *t, const ptrdiff_t a_k, const char *next)
{
    vec sums[MAX_ROWS][4];
    for (int r = 0; r < m; r++)
        for (int v = 0; v < 4; v++)
            sums[r][v] = t->start ? load((const real *)t->start + r * t->start_stride + v * VL) : (vec){0};
    const operand *a = t->a;
    const weight *panel = t->panel;
    for (ptrdiff_t s = 0; s < t->segments; s++)
        accumulate(m, sums, a + s * t->a_segment, t->a_row, a_k, t->K, panel + s * t->K * 4 * VL,
                   next ? next + s * t->K * LINE : NULL);
    for (int r = 0; r < m; r++) {
        real *out = (real *)t->out + r * t->out_stride;
        for (int v = 0; v < 4; v++) {
            ptrdiff_t left = t->columns - v * VL;
            if (left >= VL)
                store(out + v * VL, sums[r][v]);
            else if (left > 0)
                store_some(out + v * VL, sums[r][v], left);
        }
    }
}

/* One copy of the code per number of rows, so that the sums are registers, and per value of what else is a constant. */
#define ROW_COUNT(m, function, ...) \
    case m: function(m, __VA_ARGS__); break;
#define FOR_ROWS(function, t, ...) \
    switch ((t)->rows) { \
        EACH_ROW_COUNT(ROW_COUNT, function, t, __VA_ARGS__) \
    }

static void gates(const GatesTile *t)
{
    if (!t->prefetch)
        FOR_ROWS(gates_rows, t, NULL)
    else
        FOR_ROWS(gates_rows, t, t->prefetch)
}

static void gates_with_options(const GatesTile *t) { FOR_ROWS(optional_rows, t, NULL) }

static void product(const ProductTile *t)
{
    if (t->a_k != 1)
        FOR_ROWS(product_rows, t, t->a_k, NULL)
    else if (!t->prefetch)
        FOR_ROWS(product_rows, t, 1, NULL)
    else
        FOR_ROWS(product_rows, t, 1, t->prefetch)
}

#if TRAINS
static void transpose_panels(const void *panels, void *transposed, ptrdiff_t n, ptrdiff_t K)
{
    const ptrdiff_t W = 4 * VL;
    for (ptrdiff_t g = 0; g * W < n; g++)
        for (ptrdiff_t h = 0; h * W < K; h++)
            transpose_weights((const weight *)panels + (g * K + h * W) * W, W,
                              (weight *)transposed + (h * n + g * W) * W, W, K - h * W < W ? K - h * W : W,
                              n - g * W < W ? n - g * W : W);
}

static void gates_backward(const GatesBackwardTile *t)
{
    const vec one = all(1);
    for (ptrdiff_t r = 0; r < t->rows; r++) {
        const real *gates = (const real *)t->gates + r * 4 * VL;
        vec i = load(gates), f = load(gates + VL), g = load(gates + 2 * VL), o = load(gates + 3 * VL);
        vec c_prev = load((const real *)t->c_prev + r * VL);
        for (ptrdiff_t byte = 0; byte < 4 * VECTOR_BYTES; byte += 64)
            __builtin_prefetch((const char *)(gates + t->prefetch_rows * 4 * VL) + byte);
        __builtin_prefetch((const real *)t->c_prev + (r + t->prefetch_rows) * VL);
        vec tanh_c = hyperbolic_tangent(fma_(f, c_prev, i * g));
        vec grad_h = load((const real *)t->grad_h + r * t->grad_h_stride);
        if (t->grad_output)
            grad_h += load_some((const real *)t->grad_output + r * t->grad_output_stride, t->lanes); /* (6) */
        real *grad_c_row = (real *)t->grad_c + r * VL;
        vec grad_c = fma_(grad_h * o, one - tanh_c * tanh_c, load(grad_c_row)); /* (8) */
        real *grad_a = (real *)t->grad_a + r * 4 * VL; /* (9), (10) */
        store_padded(grad_a, grad_c * g * (i * (one - i)), t->lanes);
        store_padded(grad_a + VL, grad_c * c_prev * (f * (one - f)), t->lanes);
        store_padded(grad_a + 2 * VL, grad_c * i * (one - g * g), t->lanes);
        store_padded(grad_a + 3 * VL, grad_h * tanh_c * (o * (one - o)), t->lanes);
        store(grad_c_row, grad_c * f); /* (9) */
        if (t->h)
            store_padded((real *)t->h + r * t->h_stride, o * tanh_c, t->lanes);
    }
}
#endif

static void activate(int tanh, ptrdiff_t n, const void *in, void *out)
{
    for (ptrdiff_t k = 0; k < n; k += VL) {
        ptrdiff_t some = n - k < VL ? n - k : VL;
        vec x = load_some((const real *)in + k, some);
        store_some((real *)out + k, tanh ? hyperbolic_tangent(x) : sigmoid(x), some);
    }
}

#define JOIN2(a, b, c) a##b##_##c
#define JOIN(a, b, c) JOIN2(a, b, c)
#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)
#define TABLE JOIN(cylstm_, ISA_NAME, PRECISION)

extern const Kernels TABLE;
const Kernels TABLE = {
    .isa = TEXT(ISA_NAME),
    .precision = TEXT(PRECISION),
    .itemsize = sizeof(real),
    .lanes = VL,
    .max_rows = MAX_ROWS,
    .headroom = HEADROOM,
    .input = INPUT_FACTOR,
    .state = STATE_FACTOR,
    .gates = gates,
    .gates_pair = gates_pair,
    .gates_with_options = gates_with_options,
    .product = product,
#if TRAINS
    .gates_backward = gates_backward,
    .transpose = transpose_panels,
#endif
    .activate = activate,
};
