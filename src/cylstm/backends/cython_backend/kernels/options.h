/* The gates of a layer with options beyond PyTorch's LSTM: tiles of their own, so that the plain LSTM pays nothing. */
#ifndef CYLSTM_OPTIONS_H
#define CYLSTM_OPTIONS_H

INLINE vec between(vec x, double low, double high) { return at_most(at_least(x, (real)low), (real)high); }

INLINE vec activated(const Activation *a, vec x)
{
    switch (a->kind) {
    case OF_SIGMOID: return sigmoid(x);
    case OF_TANH: return all((real)a->alpha) * hyperbolic_tangent(all((real)a->beta) * x);
    default: return between(all((real)a->alpha) * x + all((real)a->beta), a->low, a->high);
    }
}

/* eq. (2) to (4), from the sums of eq. (1) */
static __attribute__((noinline)) void finish_rows(ptrdiff_t m, const vec (*sums)[4], const GatesTile *t)
{
    const CellOptions *options = t->options;
    const double clip = options->clip;
    const real *weight_ch = t->weight_ch;
    for (ptrdiff_t r = 0; r < m; r++) {
        real *c_row = (real *)t->c + r * VL;
        vec c = load(c_row), a_i = sums[r][0], a_f = sums[r][1], a_o = sums[r][3];
        if (weight_ch) {
            a_i = fma_(load(weight_ch), c, a_i);
            a_f = fma_(load(weight_ch + VL), c, a_f);
        }
        vec i = activated(&options->f, between(a_i, -clip, clip)); /* (2) */
        vec f = options->input_forget ? all(1) - i : activated(&options->f, between(a_f, -clip, clip));
        vec g = activated(&options->g, between(sums[r][2], -clip, clip));
        c = between(fma_(f, c, i * g), -options->cell_clip, options->cell_clip); /* (3) */
        store(c_row, c);
        if (weight_ch)
            a_o = fma_(load(weight_ch + 2 * VL), c, a_o);
        vec h = activated(&options->f, between(a_o, -clip, clip)) * activated(&options->h, c); /* (4) */
        store_some((real *)t->h_out + r * t->h_out_stride, h, t->lanes);
    }
}

INLINE void optional_rows(const int m, const GatesTile *t, const char *next)
{
    vec sums[MAX_ROWS][4];
    sum_rows(m, sums, t, next);
    finish_rows(m, (const vec(*)[4])sums, t);
}

#endif
