/* What precisions have in common that multiply one k at a time, the operand being a row of the state's type:
 * load_weights and transpose_weights are theirs. */
#ifndef CYLSTM_ONE_K_H
#define CYLSTM_ONE_K_H

static void pack_weights(const PackTask *t)
{
    for (int v = 0; v < 4; v++)
        transpose_weights(t->matrix[v], t->stride, (weight *)t->panel + v * VL, 4 * VL, t->lanes[v], t->K);
}

/* sums[r][v] += sum over k of a[r, k] * panel[k, v]; meanwhile K lines of `next` are brought to the second cache.
 * m, a_k and whether `next` is NULL are constants where this is inlined. */
INLINE void add_products(const int m, vec sums[][4], const operand *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t K,
                         const weight *panel, const char *next)
{
    for (ptrdiff_t k = 0; k < K; k++) {
        if (next)
            __builtin_prefetch(next + k * LINE, 0, 2);
        vec w[4];
        for (int v = 0; v < 4; v++)
            w[v] = load_weights(panel + (4 * k + v) * VL);
        for (int r = 0; r < m; r++) {
            vec s = all(a[r * a_row + k * a_k]);
            for (int v = 0; v < 4; v++)
                sums[r][v] = fma_(s, w[v], sums[r][v]);
        }
    }
}

/* sums[b][v] += sum over k of a[k] * panels[b][k, v] */
INLINE void add_products_pair(vec sums[2][4], const operand *a, ptrdiff_t K, const weight *panel_0,
                              const weight *panel_1)
{
    for (ptrdiff_t k = 0; k < K; k++) {
        vec s = all(a[k]);
        for (int v = 0; v < 4; v++) {
            sums[0][v] = fma_(s, load_weights(panel_0 + (4 * k + v) * VL), sums[0][v]);
            sums[1][v] = fma_(s, load_weights(panel_1 + (4 * k + v) * VL), sums[1][v]);
        }
    }
}

enum { GROUP = 1 };

#endif
