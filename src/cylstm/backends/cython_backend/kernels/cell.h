/* eq. (2) to (4), within 2 ulp. */
#define UNROLL_CELL /* nothing gained */

/* eq. (2) and (3) of row r; sums[0] becomes c, sums[3] becomes o */
INLINE void cell_row(const GatesTile *t, ptrdiff_t r, vec sums[4])
{
    real *c_row = (real *)t->c + r * VL;
    vec c = load(c_row);
    vec i = sigmoid(sums[0]), f = sigmoid(sums[1]); /* (2) */
    vec g = hyperbolic_tangent(sums[2]), o = sigmoid(sums[3]);
    if (t->c_prev)
        store((real *)t->c_prev + r * VL, c);
    if (t->gates) {
        real *gates = (real *)t->gates + r * 4 * VL;
        store(gates, i), store(gates + VL, f), store(gates + 2 * VL, g), store(gates + 3 * VL, o);
    }
    sums[0] = fma_(f, c, i * g); /* (3) */
    sums[3] = o;
    store(c_row, sums[0]);
}

/* eq. (4) */
INLINE vec hidden_of(const vec sums[4]) { return sums[3] * hyperbolic_tangent(sums[0]); }
