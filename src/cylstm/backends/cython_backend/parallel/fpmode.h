/* One floating-point mode for all threads, whatever the caller's is: denormal numbers are zero (they make arithmetic tens
 * of times slower), nothing traps, rounding is to nearest. The caller's mode is returned, to be given back. */
#ifndef CYLSTM_FPMODE_H
#define CYLSTM_FPMODE_H

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static inline unsigned long long fpmode_set(void)
{
#if defined(__x86_64__)
    unsigned int mode = _mm_getcsr();
    _mm_setcsr(0x9fc0u); /* flush to zero, denormals are zero, all exceptions masked, rounding to nearest */
    return mode;
#elif defined(__aarch64__)
    unsigned long long mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(1ull << 24)); /* flush to zero */
    return mode;
#else
    return 0;
#endif
}

static inline void fpmode_restore(unsigned long long mode)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned int)mode);
#elif defined(__aarch64__)
    __asm__ __volatile__("msr fpcr, %0" : : "r"(mode));
#else
    (void)mode;
#endif
}

#endif
