/* isa/avx_vnni.h for a processor without that instruction, which is written out here. */
#include <immintrin.h>
#include <stdint.h>

static inline __m256i emulated_dpbusd(__m256i sum, __m256i x, __m256i w) {
    union {
        __m256i vector;
        int32_t sums[8];
        uint8_t x[32];
        int8_t w[32];
    } s = {sum}, a = {x}, b = {w};
    for (int k = 0; k < 32; k++) s.sums[k / 4] += a.x[k] * b.w[k];
    return s.vector;
}
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
#include "isa/avx_vnni.h"
