/* Parallel regions: when one is opened, and by whom. docs/design/threads.md says why.
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

#include "openmp.h"
#include "parts.h"
#include "system.h"

/* The times are in nanoseconds. */
enum {
    RECENT_NS = 2000000,          /* the other threads are still awake so long after a call */
    REFUSED_NS = 1000000000,      /* so long calls that are short beside a refusal try no region after one */
    REFUSAL_SHARE = 20,           /* a call is at least so many times as long as the refusal that it may meet */
    EXCHANGE_FAST_NS = 100,       /* what an exchange costs on a quiet machine */
    EXCHANGE_RENEW_NS = 20000000, /* after which it is measured again, in a region that runs anyway */
    EXCHANGE_TRUST_NS = 50000000, /* for which the measurement is believed */
    EXCHANGES = 4,                /* of one measurement, of which there are three */
    OPENERS = 2,                  /* threads that may open regions: the main thread, and one that works for it */
    RESERVE = 1 << 20             /* bytes that must be left beside the stacks of new threads */
};

/* The length of a call in multiply-adds. */
enum {
    MACS_PER_NS = 45,             /* of one thread */
    MACS_WORTH_WAKING = 20000000, /* some 0.4 ms: pays even if the other threads have to wake up */
    MACS_WORTH_A_LOSS = 150000000 /* some milliseconds: pays even if a thread loses its processor now and then */
};

static struct {
    long long pid; /* of the process that loaded this: threads of OpenMP do not survive a fork, so a child runs alone */
    int processors; /* that this process may use */
    int callers; /* atomic; calls that have asked for threads and not ended */
    int busy; /* atomic; one of them has the region: the others run on one thread */
    int openers;
    int always; /* for tests: every call that asks for threads gets a region */
    int crowded; /* the caller had to sleep until another thread was done, which had lost its processor */
    long long refused, refusal_ns; /* when the system has refused threads, and how long it took to learn that */
    long long call_ended; /* atomic; of the last call that asked for threads */
    long long began, ended;
    int others_asleep; /* the region before this one ended more than RECENT_NS ago */
    int measures; /* this region measures an exchange */
    long long tried; /* when one did so last */
    long long exchange_ns, exchange_measured; /* atomic */
} region = {.exchange_ns = EXCHANGE_FAST_NS, .refused = -REFUSED_NS};

/* For tests. Returns what was set before. */
static inline int region_always(int always)
{
    int before = region.always;
    region.always = always;
    return before;
}

/* What it costs that two threads hear of each other depends on where the system has put them: on one machine 0.06 or 0.29
 * microseconds, by the second. A measurement is believed for a moment only: where it was slow, short steps stay on one
 * thread and nobody would measure again. */
static inline long long region_exchange_ns(void)
{
    if (nanoseconds() - __atomic_load_n(&region.exchange_measured, __ATOMIC_RELAXED) > EXCHANGE_TRUST_NS)
        return EXCHANGE_FAST_NS;
    return __atomic_load_n(&region.exchange_ns, __ATOMIC_RELAXED);
}

/* Between the first two threads of a region. There is no measurement where the other one does not come. */
static inline void measure_exchange(Part *pings, int rank)
{
    long long least = LLONG_MAX;
    int turn = 0, spins = 0;
    if (rank > 1)
        return;
    for (int k = 0; k < 3; k++) { /* the first wait is for the one that starts late */
        long long since = nanoseconds();
        for (int n = 0; n < EXCHANGES; n++) {
            __atomic_store_n(&pings[rank].done, ++turn, __ATOMIC_RELEASE);
            while (!is_done(&pings[1 - rank], turn)) {
                if (spins++ == SPINS)
                    return;
                spin_once();
            }
        }
        long long took = (nanoseconds() - since) / EXCHANGES;
        least = took < least ? took : least;
    }
    if (rank == 0) {
        __atomic_store_n(&region.exchange_ns, least, __ATOMIC_RELAXED);
        __atomic_store_n(&region.exchange_measured, nanoseconds(), __ATOMIC_RELAXED);
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
    region.processors = omp_get_num_procs();
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
        sleep_on(open, 0, REFUSED_NS);
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
    long long began = nanoseconds();
    if (threads > own_team && !can_start(threads - own_team)) {
        region.refused = nanoseconds();
        region.refusal_ns = region.refused - began;
        return 0;
    }
    if (threads != own_team || __atomic_load_n(&places[0].thread, __ATOMIC_RELAXED) != own_thread())
        forget_places();
    own_team = threads;
    return 1;
}

/* All processors but one may have been taken from this program since the module was loaded. Where OpenMP gives each
 * thread a place, or another thread of the team may run elsewhere, the caller's set does not tell. */
static inline int has_one_processor(int threads)
{
    int known = __atomic_load_n(&places[0].thread, __ATOMIC_RELAXED) == own_thread(); /* the places are of its team */
    int ranks = !known ? 0 : threads < own_team ? threads : own_team;
    ProcessorSet own, other;
    if (omp_get_proc_bind() != omp_proc_bind_false || !allowed_processors(own_thread(), &own) ||
        count_processors(&own) != 1)
        return 0;
    for (int r = 1; r < ranks && r < PLACES; r++) {
        long long thread = __atomic_load_n(&places[r].thread, __ATOMIC_RELAXED);
        if (!thread || !allowed_processors(thread, &other))
            continue;
        remove_processor(&other, this_processor());
        if (count_processors(&other))
            return 0;
    }
    return 1;
}

/* Own threads that spin after their last call count as running, and are there. */
static inline int idle_with_own(int *idle, int threads)
{
    long long before[PLACES];
    int ranks = threads < PLACES ? threads : PLACES;
    for (int r = 1; r < ranks; r++)
        before[r] = time_of(r);
    if (!idle_processors(idle))
        return 0;
    for (int r = 1; r < ranks; r++)
        *idle += before[r] >= 0 && time_of(r) != before[r];
    return 1;
}

/* Where a thread has lost its processor, others want it, and the next may lose it too: each time a short call would wait
 * longer than it takes alone. So short calls are alone until there are processors again, for half of the threads. */
static inline int is_crowded(int threads)
{
    int others = (threads < region.processors ? threads : region.processors) - 1, idle;
    if (!region.crowded)
        return 0;
    if (has_one_processor(threads))
        return 1;
    if (!idle_with_own(&idle, threads)) {
        region.crowded = 0; /* the next one tries */
        return 1;
    }
    return region.crowded = 2 * idle < others;
}

/* Where there are as many calls as processors, each runs on one. Threads that rested are slow to start, up to a
 * millisecond: a short call opens a region only where calls follow each other closely. */
static inline int region_pays(int threads, long long macs)
{
    long long now = nanoseconds();
    if (region.always)
        return 1;
    if (__atomic_load_n(&region.callers, __ATOMIC_RELAXED) >= region.processors)
        return 0;
    if (now - region.refused < REFUSED_NS && macs < MACS_PER_NS * REFUSAL_SHARE * region.refusal_ns)
        return 0;
    if (macs <= MACS_WORTH_WAKING) {
        if (now - __atomic_load_n(&region.call_ended, __ATOMIC_RELAXED) >= RECENT_NS)
            return 0;
    } else if (has_one_processor(threads)) /* the question takes half a microsecond on Linux */
        return 0;
    return macs > MACS_WORTH_A_LOSS || !is_crowded(threads);
}

/* `macs`: multiply-adds of the call. */
static inline int region_enter(int threads, long long macs)
{
    if (threads < 2)
        return 0;
    __atomic_add_fetch(&region.callers, 1, __ATOMIC_RELAXED);
    if (omp_in_parallel() || __atomic_exchange_n(&region.busy, 1, __ATOMIC_ACQUIRE))
        return 0;
    if (region.pid != process_id() || !region_pays(threads, macs) || !may_open() || !has_team(threads)) {
        __atomic_store_n(&region.busy, 0, __ATOMIC_RELEASE);
        return 0;
    }
    part_was_late = 0;
    region.began = nanoseconds();
    region.others_asleep = region.began - region.ended > RECENT_NS;
    region.measures = !region.others_asleep && region.began - region.tried > EXCHANGE_RENEW_NS;
    if (region.measures)
        region.tried = region.began;
    place_begins(0); /* before the others look */
    return 1;
}

/* `ends`: two parts more than there are threads. */
static inline void region_thread_begins(Part *ends, int rank, int started)
{
    if (rank)
        place_begins(rank);
    if (rank)
        move_apart();
    else if (region.others_asleep)
        for (int r = 1; r < started; r++)
            send_away(r);
    if (region.measures)
        measure_exchange(ends + started, rank);
}

/* The caller waits for the others here, and not in OpenMP, where one may spin for milliseconds on the processor that
 * another needs. */
static inline void region_thread_ends(Part *ends, int rank, int started)
{
    if (rank) {
        Group own = {.parts = ends, .turn = 1};
        move_apart();
        part_done(&own, rank);
        return;
    }
    for (int r = 1; r < started; r++) {
        for (int spins = 0; spins < SPINS && !is_done(&ends[r], 1); spins++)
            spin_once();
        if (!is_done(&ends[r], 1)) {
            __atomic_store_n(&ends[r].by, r, __ATOMIC_RELEASE);
            while (!is_done(&ends[r], 1))
                sleep_until_done(&ends[r], 1);
        }
    }
}

static inline void region_leave(int threads, int entered)
{
    if (threads < 2)
        return;
    long long now = nanoseconds();
    if (entered) {
        region.crowded = part_was_late;
        region.ended = now;
        __atomic_store_n(&region.busy, 0, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&region.call_ended, now, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&region.callers, 1, __ATOMIC_RELAXED);
}

#endif
