/* What the threads of one parallel region need of the processor: a barrier, and denormals off. */
#ifndef CYLSTM_TEAM_H
#define CYLSTM_TEAM_H

#include <limits.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A barrier of its own: OpenMP's costs tens of microseconds under OMP_WAIT_POLICY=passive. It spins for a moment, as
 * long as a step may be uneven, then sleeps: a thread that slept leaves its processor to the one that it waits for. */
typedef struct {
    int arrived;
    char apart[60]; /* the waiting ones read phase: not on the line that the arriving ones write */
    int phase;
    int sleeping;
    char apart_too[56];
} Barrier;

enum { SPINS = 2000 }; /* some 20 to 80 microseconds */

static long long worked; /* nanoseconds that the threads of regions were at work, waiting at barriers not counted */

static inline long long nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static inline void pause_(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline void barrier_wait(Barrier *b, int threads)
{
    if (threads < 2)
        return;
    int phase = __atomic_load_n(&b->phase, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&b->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->phase, phase + 1, __ATOMIC_SEQ_CST);
#if defined(__linux__)
        if (__atomic_load_n(&b->sleeping, __ATOMIC_SEQ_CST))
            syscall(SYS_futex, &b->phase, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
        return;
    }
    for (int spins = 0; spins < SPINS; spins++) {
        if (__atomic_load_n(&b->phase, __ATOMIC_ACQUIRE) != phase)
            return;
        pause_();
    }
    long long since = nanoseconds();
#if defined(__linux__)
    __atomic_add_fetch(&b->sleeping, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&b->phase, __ATOMIC_SEQ_CST) == phase) /* the kernel looks once more before it sleeps */
        syscall(SYS_futex, &b->phase, FUTEX_WAIT_PRIVATE, phase, NULL, NULL, 0);
    __atomic_sub_fetch(&b->sleeping, 1, __ATOMIC_SEQ_CST);
#else
    while (__atomic_load_n(&b->phase, __ATOMIC_ACQUIRE) == phase)
        sched_yield();
#endif
    __atomic_sub_fetch(&worked, nanoseconds() - since, __ATOMIC_RELAXED);
}

/* Whether threads pay is known afterwards only: where other programs take the processors, or the threads slept and are
 * slow to wake, those that wait lose more than all gain. One region at a time is open, so plain variables do. */
static int alone_for; /* calls that shall run on one thread */
static long long region_since;

static inline void region_begins(void)
{
    __atomic_store_n(&worked, 0, __ATOMIC_RELAXED);
    region_since = nanoseconds();
}

static inline long long thread_begins(void) { return nanoseconds(); }

static inline void thread_ends(long long since)
{
    __atomic_add_fetch(&worked, nanoseconds() - since, __ATOMIC_RELAXED);
}

static inline void region_ends(int threads)
{
    long long took = nanoseconds() - region_since;
    long long lost = threads * took - __atomic_load_n(&worked, __ATOMIC_RELAXED);
    if (4 * lost > 3 * (threads - 1) * took)
        alone_for = 16;
}

static inline int region_pays(void)
{
    if (alone_for == 0)
        return 1;
    alone_for--;
    return 0;
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
