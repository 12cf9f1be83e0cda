/* A barrier for the threads of one parallel region. OpenMP's own costs tens of microseconds under
 * OMP_WAIT_POLICY=passive.
 *
 * Each thread counts on a line of its own how often it has arrived, and reads the counts of the others. No line has two
 * writers. An atomic addition would wait for all earlier stores first; a plain store does not. A thread spins for a moment,
 * as long as a step may be uneven, then sleeps: a sleeping thread leaves its processor to the one that it waits for. */
#ifndef CYLSTM_BARRIER_H
#define CYLSTM_BARRIER_H

#include "placement.h"
#include "system.h"

typedef struct {
    int count;        /* barriers that this thread has arrived at */
    int sleeping;     /* threads that sleep until then */
    long long worked; /* nanoseconds in this region, without its beginning, its end and sleep at barriers */
    int stop[2];      /* of the first thread: what halt.h notes */
    char apart[40];   /* to the end of the cache line */
} Arrival;

typedef struct {
    Arrival *arrivals; /* one per thread, zero in the beginning */
    int rank, threads;
} Barrier; /* as one of its threads sees it */

enum {
    SPINS = 2000,      /* some 20 to 80 microseconds */
    SLEEP_NS = 1000000 /* the thread that arrives does not wait to see whether somebody has just gone to sleep */
};

static THREAD_LOCAL long long slept_ns; /* of this thread at barriers, in this region */

/* Counts may wrap around. */
static inline int is_behind(int seen, int count) { return (int)((unsigned)seen - (unsigned)count) < 0; }

static __attribute__((noinline, cold)) void sleep_until(Arrival *arrival, int count)
{
    long long since = nanoseconds();
    __atomic_add_fetch(&arrival->sleeping, 1, __ATOMIC_SEQ_CST);
    for (int seen; is_behind(seen = __atomic_load_n(&arrival->count, __ATOMIC_ACQUIRE), count);)
        sleep_on(&arrival->count, seen, SLEEP_NS);
    move_apart();
    __atomic_sub_fetch(&arrival->sleeping, 1, __ATOMIC_RELAXED);
    slept_ns += nanoseconds() - since;
}

static inline void barrier_wait(const Barrier *b)
{
    if (b->threads < 2)
        return;
    Arrival *own = &b->arrivals[b->rank];
    int count = own->count + 1, spins = 0;
    __atomic_store_n(&own->count, count, __ATOMIC_RELEASE);
    if (__atomic_load_n(&own->sleeping, __ATOMIC_RELAXED))
        wake_all(&own->count);
    for (int r = 0; r < b->threads; r++) {
        Arrival *other = &b->arrivals[r];
        while (is_behind(__atomic_load_n(&other->count, __ATOMIC_ACQUIRE), count))
            if (spins++ < SPINS)
                spin_once();
            else
                sleep_until(other, count);
    }
}

#endif
