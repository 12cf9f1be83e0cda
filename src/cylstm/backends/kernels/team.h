/* What the threads of one parallel region need of the processor: a barrier, and denormals off. */
#ifndef CYLSTM_TEAM_H
#define CYLSTM_TEAM_H

#include <sched.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A barrier of its own: OpenMP's costs tens of microseconds under OMP_WAIT_POLICY=passive. It spins for a moment, then
 * yields, so that more threads than processors make progress too. */
typedef struct {
    int arrived;
    char apart[60]; /* the waiting ones read phase: not on the line that the arriving ones write */
    int phase;
    char apart_too[60];
} Barrier;

static inline void barrier_wait(Barrier *b, int threads)
{
    if (threads < 2)
        return;
    int phase = __atomic_load_n(&b->phase, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&b->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&b->phase, __ATOMIC_ACQUIRE) == phase; spins++) {
        if (spins < 2000) {
#if defined(__x86_64__)
            _mm_pause();
#elif defined(__aarch64__)
            __asm__ __volatile__("yield");
#endif
        } else
            sched_yield();
    }
}

/* Denormal numbers make arithmetic tens of times slower. Returns the caller's mode, to be given back. */
static inline unsigned long long flush_denormals(void)
{
#if defined(__x86_64__)
    unsigned int mode = _mm_getcsr();
    _mm_setcsr((mode | 0x8040u) | 0x1f80u); /* flush to zero, denormals are zero, no floating-point traps */
    return mode;
#elif defined(__aarch64__)
    unsigned long long mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(mode | (1ull << 24)));
    return mode;
#else
    return 0;
#endif
}

static inline void restore_denormals(unsigned long long mode)
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
