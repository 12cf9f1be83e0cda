/* What the threads of one parallel region need: a barrier, a rule when they pay, and one mode of the processor. */
#ifndef CYLSTM_TEAM_H
#define CYLSTM_TEAM_H

#include <limits.h>
#include <stddef.h>
#include <pthread.h>
#include <time.h>
#if defined(__linux__)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A barrier of its own: OpenMP's costs tens of microseconds under OMP_WAIT_POLICY=passive. Each thread counts on a line
 * of its own how often it has arrived, and reads the counts of the others: no line has two writers, and nothing waits
 * until all that was written is out, as it does for an atomic addition. A thread spins for a moment, as long as a step
 * may be uneven, then sleeps: one that sleeps leaves its processor to the one that it waits for. */
typedef struct {
    int count;        /* barriers that this thread has arrived at */
    int sleeping;     /* threads that sleep until then */
    long long worked; /* nanoseconds in this region, without its beginning, its end and sleep at barriers */
    char apart[48];
} Arrival;

typedef struct {
    Arrival *arrivals; /* one per thread, zero in the beginning */
    int rank, threads;
} Barrier; /* as one of its threads sees it */

enum { SPINS = 2000 }; /* some 20 to 80 microseconds */

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

static __thread struct {
    int rank;
    long long slept; /* nanoseconds, at barriers */
} self;              /* in the region */

/* A thread that wakes up may be put on the processor of the one that woke it, and stays there for milliseconds if that
 * one spins. So a thread leaves a processor that a lower rank is on: it forbids itself that one, for a moment. The
 * caller, rank 0, stays where it is. */
#if defined(__linux__)
enum { PLACES = 64 };
static int places[PLACES]; /* the processor that each rank was on when it last looked */
#endif

static inline void move_apart(void)
{
#if defined(__linux__)
    int here = sched_getcpu();
    if (self.rank >= PLACES)
        return;
    __atomic_store_n(&places[self.rank], here, __ATOMIC_RELAXED);
    for (int r = 0; r < self.rank; r++)
        if (__atomic_load_n(&places[r], __ATOMIC_RELAXED) == here) {
            cpu_set_t allowed, others;
            if (sched_getaffinity(0, sizeof(allowed), &allowed))
                return;
            others = allowed;
            for (r = 0; r < self.rank; r++)
                CPU_CLR(__atomic_load_n(&places[r], __ATOMIC_RELAXED), &others);
            if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof(others), &others)) {
                __atomic_store_n(&places[self.rank], sched_getcpu(), __ATOMIC_RELAXED);
                sched_setaffinity(0, sizeof(allowed), &allowed);
            }
            return;
        }
#endif
}

static inline int is_behind(int seen, int count) { return (int)((unsigned)seen - (unsigned)count) < 0; }

static __attribute__((noinline, cold)) void sleep_until(Arrival *arrival, int count)
{
    long long since = nanoseconds();
#if defined(__linux__)
    /* The one that arrives does not wait to see whether somebody has just gone to sleep: hence the time limit. */
    const struct timespec at_most = {0, 1000000};
    __atomic_add_fetch(&arrival->sleeping, 1, __ATOMIC_SEQ_CST);
    for (int seen; is_behind(seen = __atomic_load_n(&arrival->count, __ATOMIC_ACQUIRE), count);)
        syscall(SYS_futex, &arrival->count, FUTEX_WAIT_PRIVATE, seen, &at_most, NULL, 0);
    move_apart();
    __atomic_sub_fetch(&arrival->sleeping, 1, __ATOMIC_RELAXED);
#else
    while (is_behind(__atomic_load_n(&arrival->count, __ATOMIC_ACQUIRE), count))
        sched_yield();
#endif
    self.slept += nanoseconds() - since;
}

static inline void barrier_wait(const Barrier *b)
{
    if (b->threads < 2)
        return;
    Arrival *own = &b->arrivals[b->rank];
    int count = own->count + 1, spins = 0;
    __atomic_store_n(&own->count, count, __ATOMIC_RELEASE);
#if defined(__linux__)
    if (__atomic_load_n(&own->sleeping, __ATOMIC_RELAXED))
        syscall(SYS_futex, &own->count, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
    for (int r = 0; r < b->threads; r++) {
        Arrival *other = &b->arrivals[r];
        while (is_behind(__atomic_load_n(&other->count, __ATOMIC_ACQUIRE), count))
            if (spins++ < SPINS)
                pause_();
            else
                sleep_until(other, count);
    }
}

/* All lines at once, instead of one after the other when they are needed. */
static inline void fetch(const void *p, ptrdiff_t bytes)
{
    for (ptrdiff_t n = 0; n < bytes; n += 64)
        __builtin_prefetch((const char *)p + n);
}

/* What a barrier costs. That depends on where the system has put the threads: on one machine it is 0.06 or 0.29
 * microseconds, by the second. So it is measured at the beginning of a region now and then, and believed for a moment only:
 * where it was slow, short steps stay on one thread and nobody would measure again. Nanoseconds. */
enum { MEASURE_EVERY = 20000000, BELIEVED_FOR = 50000000, BARRIERS = 4, FAST_BARRIER = 100 };
static long long barrier_time = FAST_BARRIER, barrier_measured;
static int measuring; /* in this region */

static inline void measure_barrier(const Barrier *barrier)
{
    long long least = LLONG_MAX;
    for (int k = 0; k < 3; k++) { /* the first wait is for those that come late */
        long long since = nanoseconds();
        for (int n = 0; n < BARRIERS; n++)
            barrier_wait(barrier);
        long long took = (nanoseconds() - since) / BARRIERS;
        least = took < least ? took : least;
    }
    if (barrier->rank == 0) {
        __atomic_store_n(&barrier_time, least, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier_measured, nanoseconds(), __ATOMIC_RELAXED);
    }
}

static inline long long barrier_nanoseconds(void)
{
    if (nanoseconds() - __atomic_load_n(&barrier_measured, __ATOMIC_RELAXED) > BELIEVED_FOR)
        return FAST_BARRIER;
    return __atomic_load_n(&barrier_time, __ATOMIC_RELAXED);
}

/* Whether threads pay.
 * - Threads that rested are slow to come, up to a millisecond: a short call opens a region only where calls follow each
 *   other closely.
 * - Where other programs take the processors, those that wait lose more than all gain. That is known afterwards only:
 *   after two such regions in a row calls run on one thread for a while, longer each time it happens again. Neither a
 *   region after a long rest counts, nor one that lost no more than opening it may take.
 * One region at a time is open, so plain variables do. */
enum { BREATH = 2000000, REST = 10000000, PRICE = 50000, FIRST_PAUSE = 10000000, LONGEST_PAUSE = 1000000000 }; /* nanoseconds */
static long long call_ended, worked, region_began, region_ended, pause_until, pause_length = FIRST_PAUSE;
static int rested, judged, failed, always_pays; /* always: for tests */

static inline int region_pays(int long_call)
{
    long long now = nanoseconds();
    return always_pays || (now >= pause_until &&
                           (long_call || now - __atomic_load_n(&call_ended, __ATOMIC_RELAXED) < BREATH));
}

static inline int set_always_pays(int always)
{
    int before = always_pays;
    always_pays = always;
    return before;
}

/* OpenMP keeps the threads of a region, asleep, for as long as the thread lives that opened it. So that a program of many
 * threads does not collect them, only so many threads may open regions; the place of one that ends is free again. */
enum { OPENERS = 2 }; /* the main thread, and one that works for it */
static int openers, opener_key_made;
static pthread_key_t opener_key;
static pthread_once_t opener_once = PTHREAD_ONCE_INIT;
static __thread int is_opener;

static void opener_ends(void *unused)
{
    (void)unused;
    __atomic_sub_fetch(&openers, 1, __ATOMIC_RELAXED);
}

static void make_opener_key(void) { opener_key_made = !pthread_key_create(&opener_key, opener_ends); }

static inline int may_open(void)
{
    if (is_opener)
        return 1;
    if (__atomic_load_n(&openers, __ATOMIC_RELAXED) >= OPENERS)
        return 0;
    pthread_once(&opener_once, make_opener_key);
    if (!opener_key_made || pthread_setspecific(opener_key, &openers)) /* not NULL, so that opener_ends is called */
        return 0;
    __atomic_add_fetch(&openers, 1, __ATOMIC_RELAXED);
    return is_opener = 1;
}

static inline void call_ends(void) { __atomic_store_n(&call_ended, nanoseconds(), __ATOMIC_RELAXED); }

static inline void region_begins(void)
{
    worked = 0;
    region_began = nanoseconds();
#if defined(__linux__)
    places[0] = sched_getcpu(); /* before the others look */
#endif
    rested = region_began - region_ended > BREATH;
    judged = region_began - region_ended < REST;
    measuring = judged && region_began - barrier_measured > MEASURE_EVERY;
}

static inline long long thread_begins(const Barrier *all)
{
    self.rank = all->rank;
    self.slept = 0;
    if (rested && all->rank == 0)
        sched_yield(); /* to those that were woken and put on this processor: they move */
    else
        move_apart();
    long long since = nanoseconds();
    if (measuring)
        measure_barrier(all);
    return since;
}

/* Threads meet here before they meet at the end of OpenMP's region: there one may spin for milliseconds on the processor
 * that the other needs. One that others slept for lets them on, and looks where they are now. */
static inline void thread_ends(const Barrier *all, long long since)
{
    Arrival *own = &all->arrivals[all->rank];
    own->worked = nanoseconds() - since - self.slept;
    barrier_wait(all);
    if (all->rank == 0)
        for (int r = 0; r < all->threads; r++)
            worked += all->arrivals[r].worked;
#if defined(__linux__)
    if (__atomic_load_n(&own->sleeping, __ATOMIC_RELAXED)) {
        for (int n = 0; n < 100 && __atomic_load_n(&own->sleeping, __ATOMIC_RELAXED); n++)
            sched_yield();
        move_apart();
    }
#endif
}

static inline void region_ends(int threads)
{
    region_ended = nanoseconds();
    long long took = region_ended - region_began;
    long long lost = threads * took - worked;
    if (!judged)
        return;
    if (4 * lost <= 3 * (threads - 1) * took) {
        failed = 0;
        pause_until = 0;
        pause_length = FIRST_PAUSE;
    } else if (lost > (threads - 1) * PRICE && ++failed == 2) {
        failed = 0;
        pause_until = region_ended + pause_length;
        pause_length = pause_length * 2 < LONGEST_PAUSE ? pause_length * 2 : LONGEST_PAUSE;
    }
}

/* Denormal numbers make arithmetic tens of times slower. All threads compute in the same mode, whatever the caller's is:
 * it is returned, to be given back. */
static inline unsigned long long set_mode(void)
{
#if defined(__x86_64__)
    unsigned int mode = _mm_getcsr();
    _mm_setcsr(0x9fc0u); /* flush to zero, denormals are zero, no traps, rounding to nearest */
    return mode;
#elif defined(__aarch64__)
    unsigned long long mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(1ull << 24));
    return mode;
#else
    return 0;
#endif
}

static inline void restore_mode(unsigned long long mode)
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
