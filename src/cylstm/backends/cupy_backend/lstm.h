// The LSTM of one row and one unit, and where a row finds the state before it. Plain C++, for a GPU and for a CPU.
//
// Symbols are those of cylstm/backends/base.py, equation numbers those of docs/equations.md. Defined by the compiler's
// options: STORAGE, the type of states and weights (float, double, Half or Bfloat); ARITHMETIC, the type computed in
// (float or double).
#pragma once

#ifdef __CUDACC__
#define INLINE __device__ __forceinline__
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#define INLINE static inline
using std::exp;
using std::tanh;
#endif

// float16 and bfloat16 in memory; they are computed in float. No header of CUDA is needed for them.
struct Half {
    unsigned short bits;
};
struct Bfloat {  // the upper half of a float
    unsigned short bits;
};

INLINE float widened(float a) { return a; }
INLINE double widened(double a) { return a; }
INLINE void store(float *to, float a) { *to = a; }
INLINE void store(double *to, double a) { *to = a; }

#ifdef __CUDACC__
INLINE unsigned bits_of(float a) { return __float_as_uint(a); }
INLINE float float_of(unsigned bits) { return __uint_as_float(bits); }
INLINE float widened(Half a) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(a.bits));
    return wide;
}
INLINE void store(Half *to, float a) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(a)); }
#else
INLINE unsigned bits_of(float a) {
    unsigned bits;
    std::memcpy(&bits, &a, sizeof bits);
    return bits;
}
INLINE float float_of(unsigned bits) {
    float a;
    std::memcpy(&a, &bits, sizeof a);
    return a;
}
INLINE float widened(Half a) {
    const int exponent = a.bits >> 10 & 31, fraction = a.bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(float(fraction), -24)
                                       : std::ldexp(float(1024 + fraction), exponent - 25);
    return a.bits >> 15 ? -size : size;
}
INLINE void store(Half *to, float a) {  // to the nearest, ties to even, as std::nearbyint does it
    const unsigned short sign = std::signbit(a) ? 0x8000 : 0;
    const float size = std::fabs(a);
    unsigned short bits;
    if (std::isnan(size)) {
        bits = 0x7e00;
    } else if (size >= 65520.0f) {
        bits = 0x7c00;
    } else {
        int exponent = -13;
        if (size > 0) std::frexp(size, &exponent);                               // size < 2^exponent
        exponent = exponent < -13 ? -13 : exponent;                              // below lie the subnormal numbers
        const int steps = int(std::nearbyint(std::ldexp(size, 11 - exponent)));  // of 2^(exponent - 11); 2048 carries
        bits = (unsigned short)(((exponent + 13) << 10) + steps);
    }
    to->bits = sign | bits;
}
#endif

INLINE float widened(Bfloat a) { return float_of(unsigned(a.bits) << 16); }
INLINE void store(Bfloat *to, float a) {  // to the nearest, ties to even: what is cut off carries into what stays
    const unsigned bits = bits_of(a), sign = bits >> 31, size = bits & 0x7fffffff;
    const unsigned rounded = size > 0x7f800000 ? 0x7fc00000 : size + 0x7fff + (size >> 16 & 1);  // nan, or a number
    to->bits = (unsigned short)(sign << 15 | rounded >> 16);
}

// What reading it from memory gives back.
INLINE ARITHMETIC rounded(ARITHMETIC a) {
    STORAGE stored;
    store(&stored, a);
    return widened(stored);
}

#ifdef __CUDACC__
INLINE float reciprocal(float a) {  // to the last place, and without a branch
    float one_over_a;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(one_over_a) : "f"(a));
    return one_over_a;
}
#else
INLINE float reciprocal(float a) { return 1 / a; }
#endif
INLINE double reciprocal(double a) { return 1 / a; }

// (2). exp(-a) = inf gives the right limit, 0.
INLINE ARITHMETIC sigmoid(ARITHMETIC a) { return reciprocal(1 + exp(-a)); }

// One step of one direction: which packed rows it takes, and where the same sequences have the step before it, in the
// order of the walk. Sequence b < rows has row first + b; the step before has row before + b of it if b < carried, and
// else the sequence begins here. The same table, walked from the other end, serves the backward pass.
struct Step {
    int first, rows, before, carried;
};

struct Gates {
    ARITHMETIC i, f, g, o;
};

// (2) of the four sums a of a unit.
INLINE Gates activated(const ARITHMETIC a[4]) { return {sigmoid(a[0]), sigmoid(a[1]), tanh(a[2]), sigmoid(a[3])}; }

// (3)
INLINE ARITHMETIC next_cell(const Gates &gates, ARITHMETIC c_prev) {
    return rounded(gates.f * c_prev + gates.i * gates.g);
}

// (4)
INLINE ARITHMETIC next_hidden(const Gates &gates, ARITHMETIC c) { return gates.o * tanh(c); }

// The gradients of the four sums a of a unit, from that of its h (before the projection). dc is the gradient of c that
// the step after this one gave; it becomes that of c_prev.
INLINE void gate_gradients(const Gates &gates, ARITHMETIC c_prev, ARITHMETIC dh, ARITHMETIC &dc, ARITHMETIC da[4]) {
    const ARITHMETIC tanh_c = tanh(next_cell(gates, c_prev));
    const ARITHMETIC d_o = dh * tanh_c;  // (4)
    dc += dh * gates.o * (1 - tanh_c * tanh_c);
    da[0] = dc * gates.g * (gates.i * (1 - gates.i));  // (3), (2): sigmoid' = s (1 - s), tanh' = 1 - t^2
    da[1] = dc * c_prev * (gates.f * (1 - gates.f));
    da[2] = dc * gates.i * (1 - gates.g * gates.g);
    da[3] = d_o * (gates.o * (1 - gates.o));
    dc *= gates.f;
}
