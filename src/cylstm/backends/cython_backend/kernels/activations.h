/* sigmoid and tanh of a vector (vec.h), each within 2 ulp. Coefficients: tools/minimax.py. */
#ifndef CYLSTM_ACTIVATIONS_H
#define CYLSTM_ACTIVATIONS_H

#if DOUBLE
#define EXP_LOW -709.0
#define EXP_HIGH 709.0 /* 2^1023 */
#define LOG2_E 1.4426950408889634
#define LN2_HIGH 0.693145751953125 /* 20 bits: n * LN2_HIGH is exact */
#define LN2_LOW 1.42860682030941723212e-6
#define ROUND 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer, found in the low bits */
#define EXPONENT_BIAS 1023
#define MANTISSA_BITS 52
static const double EXP[] = {0.50000000000000010223,     0.16666666666666674529,   0.041666666666624123852,
                             0.0083333333333222087606,   0.0013888888917215383774, 0.00019841269886586277474,
                             0.000024801521293745645704, 2.7557242342237328091e-6, 2.76200893617774943e-7,
                             2.5110047746466712056e-8};
static const double TANH[] = {-0.33333333333333332965,    0.1333333333333305859,       -0.053968253967914339986,
                              0.02186948851969957286,     -0.00886323511737109582,     0.0035921219196874343717,
                              -0.0014557766653654942846,  0.00058966664415928825529,   -0.00023760901939974667648,
                              0.000092606166188231949961, -0.000031238799628333450425, 6.5026962884346031857e-6};
#else
#define EXP_LOW -88.3f
#define EXP_HIGH 88.3f /* 2^127 */
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f /* 9 bits */
#define LN2_LOW -2.12194440e-4f
#define ROUND 12582912.0f /* 1.5 * 2^23 */
#define EXPONENT_BIAS 127
#define MANTISSA_BITS 23
static const float EXP[] = {0.50000000269505407474f, 0.16666576970040478003f, 0.041666375132324476661f,
                            0.0083631812345435942848f, 0.0013941124127479292871f};
static const float TANH[] = {-0.33333329249594968923f, 0.1333279454998278684f, -0.053854070062736627431f,
                             0.021010082540518814767f, -0.0061131928807126040832f};
#endif

#define TERMS(coefficients) ((int)(sizeof(coefficients) / sizeof(*coefficients)))

INLINE vec polynomial(const real *coefficients, int terms, vec x)
{
    vec p = all(coefficients[terms - 1]);
    for (int k = terms - 2; k >= 0; k--)
        p = fma_(p, x, all(coefficients[k]));
    return p;
}

/* 1 + exp(x), from exp(x) = 2^n (1 + p), p = r + r² q(r), n = round(x / ln 2), |r| <= ln(2) / 2: the greater of
 * 1 and 2^n is added last, so that the other's rounding hardly counts. The bounds keep 2^n finite; 1 / it is then 0,
 * denormals being off. */
INLINE vec one_plus_exp(vec x)
{
    x = at_least(at_most(x, EXP_HIGH), EXP_LOW);
    vec shifted = fma_(x, all(LOG2_E), all(ROUND));
    vec n = shifted - all(ROUND);
    vec r = fma_(n, all(-LN2_LOW), fma_(n, all(-LN2_HIGH), x));
    vec p = fma_(r * r, polynomial(EXP, TERMS(EXP), r), r);
    ivec bits = (ivec)shifted - (ivec)all(ROUND) + EXPONENT_BIAS;
    vec power = (vec)(bits << MANTISSA_BITS); /* 2^n */
    return at_least(power, 1) + fma_(power, p, at_most(power, 1));
}

INLINE vec sigmoid(vec x) { return all(1) / one_plus_exp(-x); }

/* Odd polynomial where 1 - 2 / (exp(2 |x|) + 1) would cancel. */
INLINE vec hyperbolic_tangent(vec x)
{
    const ivec sign = (ivec)all((real)-0.0);
    vec magnitude = (vec)((ivec)x & ~sign);
    vec large = all(1) - all(2) / one_plus_exp(magnitude + magnitude);
    large = (vec)((ivec)large | ((ivec)x & sign));
    vec s = x * x;
    vec small = fma_(x * s, polynomial(TANH, TERMS(TANH), s), x);
    return where_less(magnitude, (real)0.625, small, large);
}

#endif
