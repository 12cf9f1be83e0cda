/* Products that are added to the sums as they are, W_hh h like W_ih x. */
INLINE void accumulate(const int m, vec sums[][4], const operand *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t K,
                       const weight *panel, const char *next)
{
    add_products(m, sums, a, a_row, a_k, K, panel, next);
}

INLINE void accumulate_pair(vec sums[2][4], const operand *a, ptrdiff_t K, const weight *panel_0, const weight *panel_1)
{
    add_products_pair(sums, a, K, panel_0, panel_1);
}

INLINE void accumulate_state(const int m, vec sums[][4], const GatesTile *t, const char *next)
{
    add_products(m, sums, t->h, t->h_stride, 1, t->R, t->weight_hh, next);
}

INLINE void accumulate_state_pair(vec sums[2][4], const GatesTile *t)
{
    add_products_pair(sums, t[0].h, t[0].R, t[0].weight_hh, t[1].weight_hh);
}

#define INPUT_FACTOR \
    {.group = GROUP, \
     .group_bytes = GROUP * 4 * VL * sizeof(weight), \
     .operand_bytes = sizeof(operand), \
     .speed = SPEED, \
     .pack = pack_weights, \
     .convert = CONVERT}
#define STATE_FACTOR INPUT_FACTOR
