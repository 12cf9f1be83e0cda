/* W_hh and h in 8 bits, their products summed in int32, exactly; W_ih x and W_hr h in bfloat16. Sums are scaled by row:
 * of W_hh with h, of W_ih where a model brings weights with scales of their own (docs/equations.md). */
#include "bf16_products.h"

#define HEADROOM BF16_HEADROOM

INLINE ptrdiff_t groups_of(ptrdiff_t K, ptrdiff_t group) { return (K + group - 1) / group; }

/* Behind the weights of an input panel: (4, VL) scales. */
INLINE float *input_scales(const weight *panel, ptrdiff_t K)
{
    return (float *)(panel + groups_of(K, GROUP) * GROUP * 4 * VL);
}

static void pack_input(const PackTask *t)
{
    pack_weights(t);
    for (int v = 0; v < 4; v++)
        for (ptrdiff_t lane = 0; lane < t->lanes[v]; lane++)
            input_scales(t->panel, t->K)[v * VL + lane] = t->scale[v] ? t->scale[v][lane] : 1;
}

INLINE void add_scaled(vec *sum, vec products, const float *scale) { *sum = fma_(products, load(scale), *sum); }

INLINE void accumulate(const int m, vec sums[][4], const operand *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t K,
                       const weight *panel, const char *next)
{
    if (!K)
        return;
    vec products[MAX_ROWS][4];
    UNROLL
    for (int r = 0; r < m; r++)
        UNROLL
    for (int v = 0; v < 4; v++)
        products[r][v] = (vec){0};
    add_products(m, products, a, a_row, a_k, K, panel, next);
    UNROLL
    for (int r = 0; r < m; r++)
        UNROLL
    for (int v = 0; v < 4; v++)
        add_scaled(&sums[r][v], products[r][v], input_scales(panel, K) + v * VL);
}

INLINE void accumulate_pair(vec sums[2][4], const operand *a, ptrdiff_t K, const weight *panel_0, const weight *panel_1)
{
    if (!K)
        return;
    vec products[2][4] = {{{0}}};
    add_products_pair(products, a, K, panel_0, panel_1);
    UNROLL
    for (int v = 0; v < 4; v++) {
        add_scaled(&sums[0][v], products[0][v], input_scales(panel_0, K) + v * VL);
        add_scaled(&sums[1][v], products[1][v], input_scales(panel_1, K) + v * VL);
    }
}

/* A panel of W_hh is (K / DOT_GROUP, 4, VL, DOT_GROUP) int8. Behind it: (4, VL) scales, and (4, VL) sums over k of
 * DOT_OFFSET * weight, which operands with that offset bring in. An operand is DOT_GROUP numbers in 4 bytes. */
enum { STATE_PANEL = 4 * DOT_GROUP };

INLINE float *state_scales(const void *panel, ptrdiff_t K)
{
    return (float *)((int8_t *)panel + groups_of(K, DOT_GROUP) * STATE_PANEL * VL);
}

static void pack_state(const PackTask *t)
{
    int8_t *panel = t->panel;
    float *scales = state_scales(panel, t->K);
    int32_t *offsets = (int32_t *)(scales + 4 * VL);
    for (int v = 0; v < 4; v++)
        for (ptrdiff_t lane = 0; lane < t->lanes[v]; lane++) {
            const int8_t *row = (const int8_t *)t->matrix[v] + lane * t->stride;
            int32_t total = 0;
            for (ptrdiff_t k = 0; k < t->K; k++) {
                panel[((k / DOT_GROUP * 4 + v) * VL + lane) * DOT_GROUP + k % DOT_GROUP] = row[k];
                total += row[k];
            }
            scales[v * VL + lane] = t->scale[v][lane];
            offsets[v * VL + lane] = DOT_OFFSET * total;
        }
}

/* h -> rint(h * 127 / m), m = max |h|; the scale is m / 127. Of h with inf or NaN it is NaN, of h next to zero 0. */
static void quantize(const void *row, ptrdiff_t K, void *out, float *scale)
{
    typedef dot_operand narrow __attribute__((vector_size(sizeof(dot_operand) * VL), aligned(1), may_alias));
    const real *h = row;
    vec greatest = {0}, not_finite = {0};
    for (ptrdiff_t k = 0; k < K; k += VL) {
        vec x = K - k < VL ? load_some(h + k, K - k) : load(h + k);
        vec size = (vec)((ivec)x & 0x7fffffff);
        not_finite += x * 0; /* NaN then */
        ivec more = size > greatest;
        greatest = (vec)((more & (ivec)size) | (~more & (ivec)greatest));
    }
    real m = 0, total = 0;
    for (ptrdiff_t k = 0; k < VL; k++) {
        m = greatest[k] > m ? greatest[k] : m;
        total += not_finite[k];
    }
    int zero = total != 0 || m < 0x1p-100f;
    *scale = total != 0 ? __builtin_nanf("") : zero ? 0 : m / 127;
    vec inverse = all(zero ? 0 : 127 / m), magic = all(ROUND);
    for (ptrdiff_t k = 0; k < K; k += VL) {
        vec x = K - k < VL ? load_some(h + k, K - k) : load(h + k);
        ivec q = (ivec)(x * inverse + magic) - (ivec)magic;
        if (zero)
            q = (ivec){0};
        *(narrow *)((dot_operand *)out + k) = __builtin_convertvector(q + DOT_OFFSET, narrow);
    }
}

INLINE void add_whole(vec *sum, ivec whole, const float *scales, float h_scale)
{
    ivec offset = (ivec)load(scales + 4 * VL);
    *sum = fma_(__builtin_convertvector(whole - offset, vec), load(scales) * all(h_scale), *sum);
}

INLINE void accumulate_state(const int m, vec sums[][4], const GatesTile *t, const char *next)
{
    if (!t->R)
        return;
    ivec whole[MAX_ROWS][4];
    UNROLL
    for (int r = 0; r < m; r++)
        UNROLL
    for (int v = 0; v < 4; v++)
        whole[r][v] = (ivec){0};
    for (ptrdiff_t g = 0; g < groups_of(t->R, DOT_GROUP); g++) {
        const int8_t *panel = (const int8_t *)t->weight_hh + g * STATE_PANEL * VL;
        if (next)
            __builtin_prefetch(next + g * LINE, 0, 2);
        dot_weights w[4];
        UNROLL
        for (int v = 0; v < 4; v++)
            w[v] = load_dot_weights(panel + v * VL * DOT_GROUP);
        UNROLL
        for (int r = 0; r < m; r++) {
            dot_weights x = all_dot((const dot_operand *)t->h + r * t->h_stride + g * DOT_GROUP);
            UNROLL
            for (int v = 0; v < 4; v++)
                whole[r][v] = int8_dot(whole[r][v], x, w[v]);
        }
    }
    UNROLL
    for (int r = 0; r < m; r++)
        UNROLL
    for (int v = 0; v < 4; v++)
        add_whole(&sums[r][v], whole[r][v], state_scales(t->weight_hh, t->R) + v * VL, t->h_scale[r]);
}

INLINE void accumulate_state_pair(vec sums[2][4], const GatesTile *t)
{
    if (!t[0].R)
        return;
    ivec whole[2][4] = {{{0}}};
    for (ptrdiff_t g = 0; g < groups_of(t[0].R, DOT_GROUP); g++) {
        dot_weights x = all_dot((const dot_operand *)t[0].h + g * DOT_GROUP);
        UNROLL
        for (int b = 0; b < 2; b++)
            UNROLL
        for (int v = 0; v < 4; v++)
            whole[b][v] = int8_dot(whole[b][v], x,
                                   load_dot_weights((const int8_t *)t[b].weight_hh + (4 * g + v) * VL * DOT_GROUP));
    }
    UNROLL
    for (int b = 0; b < 2; b++)
        UNROLL
    for (int v = 0; v < 4; v++)
        add_whole(&sums[b][v], whole[b][v], state_scales(t[b].weight_hh, t[b].R) + v * VL, t[0].h_scale[0]);
}

#define INPUT_FACTOR \
    {.group = GROUP, \
     .group_bytes = GROUP * 4 * VL * sizeof(weight), \
     .tail_bytes = 4 * VL * sizeof(float), \
     .operand_bytes = sizeof(operand), \
     .speed = BF16_SPEED, \
     .pack = pack_input, \
     .convert = to_operand}
#define STATE_FACTOR \
    {.group = DOT_GROUP, \
     .group_bytes = STATE_PANEL * VL, \
     .tail_bytes = 4 * VL * (sizeof(float) + sizeof(int32_t)), \
     .operand_bytes = sizeof(dot_operand), \
     .speed = DOT_SPEED, \
     .pack = pack_state, \
     .convert = quantize}
