/* Parallel regions: when one is opened, by whom, and what is learned from it. docs/design/threads.md says why.
 *
 * The order of a call that may use threads:
 *   region_enter                       1: open a region of OpenMP; 0: run on this thread
 *     region_thread_begins             every thread, first
 *     region_thread_ends               every thread, last
 *   region_leave                       in either case
 * One region at a time is open in a process, so that only the thread in it writes the fields of `region` that are not
 * atomic. */
#ifndef CYLSTM_REGION_H
#define CYLSTM_REGION_H

#include <limits.h>
#include <stdlib.h>

#include "barrier.h"
#include "openmp.h"
#include "system.h"

/* The times are in nanoseconds. */
enum {
    RECENT_NS = 2000000,         /* the other threads are still awake so long after a call */
    IDLE_NS = 10000000,          /* a region after a rest this long says nothing about those to come */
    FORK_NS = 50000,             /* what a region may lose by being opened */
    BACKOFF_MIN_NS = 10000000,   /* of calls on one thread after regions that did not pay: doubled each time */
    BACKOFF_MAX_NS = 1000000000,
    BARRIER_FAST_NS = 100,       /* what a barrier costs on a quiet machine */
    BARRIER_RENEW_NS = 20000000, /* after which it is measured again, in a region that runs anyway */
    BARRIER_TRUST_NS = 50000000, /* for which the measurement is believed */
    BARRIERS = 4,                /* of one measurement */
    OPENERS = 2,                 /* threads that may open regions: the main thread, and one that works for it */
    RESERVE = 1 << 20            /* bytes that must be left beside the stacks of new threads */
};

struct Backoff { /* after regions that did not pay */
    long long until, length;
    int failures; /* in a row */
};

static struct {
    long long pid; /* of the process that loaded this: threads of OpenMP do not survive a fork, so a child runs alone */
    int busy; /* atomic; a call has the region: the others run on one thread */
    int openers;
    int always; /* for tests: every call that asks for threads gets a region */
    long long call_ended; /* atomic; of the last call that requested threads */
    long long began, ended;
    long long worked; /* by all threads of the last region */
    int others_asleep; /* the region before this one ended more than RECENT_NS ago */
    int informative; /* less than IDLE_NS ago: region_learn counts this one */
    int measures; /* this region measures a barrier */
    long long barrier_ns, barrier_measured; /* atomic */
    struct Backoff backoff;
} region = {.barrier_ns = BARRIER_FAST_NS, .backoff = {.length = BACKOFF_MIN_NS}};

/* For tests. Returns what was set before. */
static inline int region_always(int always)
{
    int before = region.always;
    region.always = always;
    return before;
}

/* What a barrier costs depends on where the system has put the threads: on one machine it is 0.06 or 0.29 microseconds,
 * by the second. A measurement is believed for a moment only: where it was slow, short steps stay on one thread and
 * nobody would measure again. */
static inline long long region_barrier_ns(void)
{
    if (nanoseconds() - __atomic_load_n(&region.barrier_measured, __ATOMIC_RELAXED) > BARRIER_TRUST_NS)
        return BARRIER_FAST_NS;
    return __atomic_load_n(&region.barrier_ns, __ATOMIC_RELAXED);
}

static inline void measure_barrier(const Barrier *barrier)
{
    long long least = LLONG_MAX;
    for (int k = 0; k < 3; k++) { /* the first wait is for those that start late */
        long long since = nanoseconds();
        for (int n = 0; n < BARRIERS; n++)
            barrier_wait(barrier);
        long long took = (nanoseconds() - since) / BARRIERS;
        least = took < least ? took : least;
    }
    if (barrier->rank == 0) {
        __atomic_store_n(&region.barrier_ns, least, __ATOMIC_RELAXED);
        __atomic_store_n(&region.barrier_measured, nanoseconds(), __ATOMIC_RELAXED);
    }
}

/* OpenMP keeps the threads of a region, asleep, for as long as the thread lives that opened it. So that a program of many
 * threads does not collect them, only OPENERS threads may open regions; the place of one that ends is free again. */
static THREAD_LOCAL int is_opener;

static void opener_ends(void *unused)
{
    (void)unused;
    __atomic_sub_fetch(&region.openers, 1, __ATOMIC_RELAXED);
}

/* When the module is loaded. */
static inline void region_init(void)
{
    region.pid = process_id();
    thread_ends_init(opener_ends);
}

static inline int may_open(void)
{
    if (is_opener)
        return 1;
    if (__atomic_load_n(&region.openers, __ATOMIC_RELAXED) >= OPENERS || !call_at_thread_end())
        return 0;
    __atomic_add_fetch(&region.openers, 1, __ATOMIC_RELAXED);
    return is_opener = 1;
}

/* OpenMP ends the process where it cannot make a thread: at a limit of processes or memory. So where it is about to make
 * some, as many are made here before, all at once, and end again. (Another program may take their places at that very
 * moment, and other code on this OpenMP may have let threads go: there is no way to know.) */
static THREAD_LOCAL int own_team = 1; /* threads that OpenMP keeps for this one, itself included */

static void wait_at_gate(void *open)
{
    while (!__atomic_load_n((int *)open, __ATOMIC_ACQUIRE))
        sleep_on(open, 0, BACKOFF_MAX_NS);
}

static int can_start(int count)
{
    StartedThread *threads = malloc(count * sizeof(StartedThread));
    void *reserve = malloc(RESERVE);
    int started = 0, open = 0;
    if (threads && reserve)
        while (started < count && thread_start(&threads[started], wait_at_gate, &open))
            started++;
    __atomic_store_n(&open, 1, __ATOMIC_RELEASE);
    wake_all(&open);
    for (int n = 0; n < started; n++)
        thread_join(&threads[n]);
    free(reserve);
    free(threads);
    return started == count;
}

static int has_team(int threads)
{
    if (threads > own_team && !can_start(threads - own_team)) {
        region.backoff.until = nanoseconds() + BACKOFF_MAX_NS;
        return 0;
    }
    own_team = threads;
    return 1;
}

/* Threads that rested are slow to start, up to a millisecond: a short call opens a region only where calls follow each
 * other closely. */
static inline int region_pays(int long_call)
{
    long long now = nanoseconds();
    if (region.always)
        return 1;
    return now >= region.backoff.until &&
           (long_call || now - __atomic_load_n(&region.call_ended, __ATOMIC_RELAXED) < RECENT_NS);
}

static inline int region_enter(int threads, int long_call)
{
    if (threads < 2 || omp_in_parallel() || __atomic_exchange_n(&region.busy, 1, __ATOMIC_ACQUIRE))
        return 0;
    if (region.pid != process_id() || !region_pays(long_call) || !may_open() || !has_team(threads)) {
        __atomic_store_n(&region.busy, 0, __ATOMIC_RELEASE);
        return 0;
    }
    region.worked = 0;
    region.began = nanoseconds();
    region_rank = 0;
    note_place(); /* before the others look */
    region.others_asleep = region.began - region.ended > RECENT_NS;
    region.informative = region.began - region.ended < IDLE_NS;
    region.measures = region.informative && region.began - region.barrier_measured > BARRIER_RENEW_NS;
    return 1;
}

static inline long long region_thread_begins(const Barrier *all)
{
    region_rank = all->rank;
    slept_ns = 0;
    if (region.others_asleep && all->rank == 0)
        yield_processor(); /* to those that were woken and put on this processor: they move */
    else
        move_apart();
    long long since = nanoseconds();
    if (region.measures)
        measure_barrier(all);
    return since;
}

/* Threads wait for each other here before OpenMP's own barrier, where one may spin for milliseconds on the processor that
 * another needs. A thread that others slept for lets them run, and looks where they are now. */
static inline void region_thread_ends(const Barrier *all, long long since)
{
    Arrival *own = &all->arrivals[all->rank];
    own->worked = nanoseconds() - since - slept_ns;
    barrier_wait(all);
    if (all->rank == 0)
        for (int r = 0; r < all->threads; r++)
            region.worked += all->arrivals[r].worked;
    if (__atomic_load_n(&own->sleeping, __ATOMIC_RELAXED)) {
        for (int n = 0; n < 100 && __atomic_load_n(&own->sleeping, __ATOMIC_RELAXED); n++)
            yield_processor();
        move_apart();
    }
}

/* Where other programs take the processors, threads that wait lose more than all gain, and that is known afterwards only.
 * After two such regions in a row calls run on one thread for a while, longer each time it happens again. */
static inline void region_learn(int threads)
{
    region.ended = nanoseconds();
    long long took = region.ended - region.began;
    long long lost = threads * took - region.worked;
    struct Backoff *backoff = &region.backoff;
    if (!region.informative)
        return;
    if (4 * lost <= 3 * (threads - 1) * took) {
        *backoff = (struct Backoff){.length = BACKOFF_MIN_NS};
    } else if (lost > (threads - 1) * FORK_NS && ++backoff->failures == 2) {
        backoff->failures = 0;
        backoff->until = region.ended + backoff->length;
        backoff->length = backoff->length * 2 < BACKOFF_MAX_NS ? backoff->length * 2 : BACKOFF_MAX_NS;
    }
}

static inline void region_leave(int threads, int entered)
{
    if (entered) {
        region_learn(threads);
        __atomic_store_n(&region.busy, 0, __ATOMIC_RELEASE);
    }
    if (threads > 1)
        __atomic_store_n(&region.call_ended, nanoseconds(), __ATOMIC_RELAXED);
}

#endif
