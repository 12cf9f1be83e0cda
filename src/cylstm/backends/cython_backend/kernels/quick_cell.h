/* eq. (2) to (4) for the precisions for inference, whose sums are right to three digits: sigmoid and tanh to 2e-6 of
 * their value (of a sigmoid near 0 up to 1e-5), no gate by itself, so that c and h take three divisions instead of five. */
#define UNROLL_CELL UNROLL
#define LOG2_E2 2.88539008f /* of e² */
#define POWER_HIGH 127.0f
#define TANH_HIGH 30.0f /* tanh is 1 there, in float32; and its denominator times a sigmoid's is finite or irrelevant */
static const float EXP2[] = {0.69314719552340191362f, 0.24022348713525667287f, 0.05550333119441648688f,
                             0.009666392281188633713f, 0.0013400463110456056045f};

/* exp2(x) = power (1 + p), from the nearest integer and p = r q(r), |r| <= 1/2, for -126 <= x <= high */
typedef struct {
    vec power, p;
} Exponential;

INLINE Exponential exponential(vec x, real high)
{
    x = at_least(at_most(x, high), -126);
    vec shifted = x + all(ROUND);
    vec r = x - (shifted - all(ROUND));
    ivec bits = (ivec)shifted - (ivec)all(ROUND) + EXPONENT_BIAS;
    return (Exponential){(vec)(bits << MANTISSA_BITS), r * polynomial(EXP2, TERMS(EXP2), r)};
}

/* The denominator of a sigmoid: 1 + exp(-x). */
INLINE vec sigmoid_denominator(vec x)
{
    Exponential e = exponential(x * all(-LOG2_E), POWER_HIGH);
    return fma_(e.power, e.p, e.power + all(1));
}

/* The numerator of a tanh: exp(2 x) - 1, near 0 as exact as elsewhere; the denominator is 2 more. */
INLINE vec tanh_numerator(vec x)
{
    Exponential e = exponential(x * all(LOG2_E2), TANH_HIGH);
    return fma_(e.power, e.p, e.power - all(1));
}

/* sums[0] becomes c, sums[3] the denominator of o */
INLINE void cell_row(const GatesTile *t, ptrdiff_t r, vec sums[4])
{
    real *c_row = (real *)t->c + r * VL;
    vec c = load(c_row), g = tanh_numerator(sums[2]);
    if (t->c_prev)
        store((real *)t->c_prev + r * VL, c);
    vec i_g = g / ((g + all(2)) * sigmoid_denominator(sums[0]));
    sums[0] = fma_(all(1) / sigmoid_denominator(sums[1]), c, i_g);
    sums[3] = sigmoid_denominator(sums[3]);
    store(c_row, sums[0]);
}

INLINE vec hidden_of(const vec sums[4])
{
    vec h = tanh_numerator(sums[0]);
    return h / ((h + all(2)) * sums[3]);
}
