/* Panels (K / 2, 4, VL, 2) for instructions that multiply and add pairs of bfloat16. */
typedef uint16_t operand;
#define BF16_SPEED 2
enum { GROUP = 2 };

INLINE void store_operand(operand *p, uvec bits) { *(halves *)p = __builtin_convertvector(bits >> 16, halves); }

static void pack_weights(const PackTask *t)
{
    for (int v = 0; v < 4; v++)
        for (ptrdiff_t lane = 0; lane < t->lanes[v]; lane++)
            for (ptrdiff_t k = 0; k < t->K; k++)
                ((weight *)t->panel)[((k / 2 * 4 + v) * VL + lane) * 2 + k % 2] =
                    to_weight(((const real *)t->matrix[v])[lane * t->stride + k]);
}

/* sums[r][v] += sum over k of a[r, k] * panel[k, v]; meanwhile a line of `next` for each pair is brought to the second
 * cache. m and whether `next` is NULL are constants where this is inlined. */
INLINE void add_products(const int m, vec sums[][4], const operand *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t K,
                         const weight *panel, const char *next)
{
    (void)a_k; /* 1 */
    for (ptrdiff_t g = 0; g < (K + 1) / 2; g++) {
        if (next)
            __builtin_prefetch(next + g * LINE, 0, 2);
        pairs w[4];
        for (int v = 0; v < 4; v++)
            w[v] = load_pairs(panel + (4 * g + v) * 2 * VL);
        for (int r = 0; r < m; r++) {
            pairs x = all_pairs(a + r * a_row + 2 * g);
            for (int v = 0; v < 4; v++)
                sums[r][v] = bf16_dot(sums[r][v], x, w[v]);
        }
    }
}

/* sums[b][v] += sum over k of a[k] * panels[b][k, v] */
INLINE void add_products_pair(vec sums[2][4], const operand *a, ptrdiff_t K, const weight *panel_0,
                              const weight *panel_1)
{
    for (ptrdiff_t g = 0; g < (K + 1) / 2; g++) {
        pairs x = all_pairs(a + 2 * g);
        for (int v = 0; v < 4; v++) {
            sums[0][v] = bf16_dot(sums[0][v], x, load_pairs(panel_0 + (4 * g + v) * 2 * VL));
            sums[1][v] = bf16_dot(sums[1][v], x, load_pairs(panel_1 + (4 * g + v) * 2 * VL));
        }
    }
}
