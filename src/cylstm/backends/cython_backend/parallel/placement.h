/* Where the threads of a region run.
 *
 * Linux may put a thread that wakes up on the processor of the thread that woke it. If that thread works or spins, both
 * stay there for milliseconds. So a thread leaves a processor that a lower rank is on: it forbids itself that one, for a
 * moment. The caller, rank 0, stays where it is.
 *
 * A thread in the middle of a part may lose its processor to another program. The caller, who needs that part, then
 * calls the thread to its own processor and sleeps until the part is done. Who of the two runs first then sends the
 * thread back. */
#ifndef CYLSTM_PLACEMENT_H
#define CYLSTM_PLACEMENT_H

#include "system.h"

enum { ASIDE_SPINS = 100 };
enum { PLACES = 64 }; /* ranks beyond stay where the system puts them */
enum { NOT_CALLED, CALLED, GOES_BACK, MOVES_BACK };

static struct {
    long long thread; /* its id; 0: there is none */
    int processor;    /* that it was on when it last looked */
    int moving;       /* a lock: somebody changes where it may run */
    int called;       /* to the caller's processor */
    ProcessorSet allowed; /* where it could run before it was called */
    char apart[64];
} places[PLACES]; /* by rank; all but `allowed` atomic */

static THREAD_LOCAL int own_rank; /* in the region that this thread is in */

static inline int processor_of(int rank)
{
    return rank < PLACES ? __atomic_load_n(&places[rank].processor, __ATOMIC_RELAXED) : -1;
}

static inline void note_place(void)
{
    if (own_rank < PLACES)
        __atomic_store_n(&places[own_rank].processor, this_processor(), __ATOMIC_RELAXED);
}

static inline long long own_thread(void)
{
    static THREAD_LOCAL long long id;
    return id ? id : (id = thread_id());
}

static inline void place_begins(int rank)
{
    own_rank = rank;
    if (rank >= PLACES)
        return;
    __atomic_store_n(&places[rank].thread, own_thread(), __ATOMIC_RELAXED);
    note_place();
}

/* The threads of other ranks than 0 are others than before: an id may be another thread's now. */
static inline void forget_places(void)
{
    for (int r = 1; r < PLACES; r++)
        __atomic_store_n(&places[r].thread, 0, __ATOMIC_RELAXED);
}

static inline int start_moving(int rank) { return !__atomic_exchange_n(&places[rank].moving, 1, __ATOMIC_ACQUIRE); }
static inline void end_moving(int rank) { __atomic_store_n(&places[rank].moving, 0, __ATOMIC_RELEASE); }

/* The thread of a rank is put on one of `others` and may then run on all of `allowed`, those of before. */
static inline void move(long long thread, const ProcessorSet *others, const ProcessorSet *allowed)
{
    if (count_processors(others) && allow_processors(thread, others))
        allow_processors(thread, allowed);
}

static inline int shares_processor(int rank)
{
    for (int r = 0; r < rank; r++)
        if (processor_of(r) == processor_of(rank))
            return 1;
    return 0;
}

static __attribute__((noinline)) void move_apart(void)
{
    int rank = own_rank;
    ProcessorSet allowed, others;
    if (rank >= PLACES)
        return;
    note_place();
    if (!shares_processor(rank) || !start_moving(rank))
        return;
    long long thread = __atomic_load_n(&places[rank].thread, __ATOMIC_RELAXED);
    if (allowed_processors(thread, &allowed)) {
        others = allowed;
        for (int r = 0; r < rank; r++)
            remove_processor(&others, processor_of(r));
        move(thread, &others, &allowed);
        note_place();
    }
    end_moving(rank);
}

static inline void send_back(long long thread, const ProcessorSet *allowed)
{
    ProcessorSet others = *allowed;
    remove_processor(&others, this_processor());
    move(thread, count_processors(&others) ? &others : allowed, allowed);
}

/* The thread of a rank, which was woken, may wait for this processor, behind this thread: it is put on another. */
static inline void send_away(int rank)
{
    long long thread = rank < PLACES ? __atomic_load_n(&places[rank].thread, __ATOMIC_RELAXED) : 0;
    ProcessorSet allowed;
    if (!thread || !start_moving(rank))
        return;
    if (allowed_processors(thread, &allowed))
        send_back(thread, &allowed);
    end_moving(rank);
}

/* Nanoseconds that the thread of a rank has run; -1 where that is not known. */
static inline long long time_of(int rank)
{
    long long thread = rank < PLACES ? __atomic_load_n(&places[rank].thread, __ATOMIC_RELAXED) : 0;
    return thread ? thread_time(thread) : -1;
}

/* Whether a thread that was put aside does not run. A clock of the system that stands still tells. */
static inline int is_aside(int rank)
{
    long long before = time_of(rank);
    if (before < 0)
        return 1;
    for (int n = 0; n < ASIDE_SPINS; n++)
        spin_once();
    return time_of(rank) == before;
}

/* The thread of a rank is put on this processor: it runs once this one sleeps. Its id, for `called_ends`, which must
 * follow; 0: it was not called. */
static inline long long call_here(int rank)
{
    int here = this_processor();
    if (here < 0 || rank >= PLACES || processor_of(rank) == here || time_of(rank) < 0 || !start_moving(rank))
        return 0; /* where the system does not tell whether a thread works, it is not called */
    long long thread = __atomic_load_n(&places[rank].thread, __ATOMIC_RELAXED);
    ProcessorSet only;
    int idle = __atomic_load_n(&places[rank].called, __ATOMIC_ACQUIRE) == NOT_CALLED; /* else it is on its way back */
    if (thread && idle && allowed_processors(thread, &places[rank].allowed)) {
        only = places[rank].allowed;
        keep_processor(&only, here);
        if (count_processors(&only)) {
            /* first the word, for the other thread may run at once, and this one long after */
            __atomic_store_n(&places[rank].called, CALLED, __ATOMIC_RELEASE);
            allow_processors(thread, &only);
            return thread;
        }
    }
    end_moving(rank);
    return 0;
}

static inline int take_called(int rank, int then)
{
    int expected = CALLED;
    return __atomic_compare_exchange_n(&places[rank].called, &expected, then, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* The caller does not wait for the thread any more. That one may have gone back even before it was put here. */
static inline void called_ends(int rank, long long thread)
{
    if (take_called(rank, NOT_CALLED))
        send_back(thread, &places[rank].allowed);
    else
        allow_processors(thread, &places[rank].allowed);
    while (__atomic_load_n(&places[rank].called, __ATOMIC_ACQUIRE) == GOES_BACK)
        yield_processor();
    __atomic_store_n(&places[rank].processor, -1, __ATOMIC_RELAXED);
    end_moving(rank);
}

/* A thread goes back by itself, when it has done what it was called for. */
static __attribute__((noinline, cold)) void go_back(void)
{
    if (!take_called(own_rank, GOES_BACK))
        return;
    ProcessorSet allowed = places[own_rank].allowed;
    long long thread = __atomic_load_n(&places[own_rank].thread, __ATOMIC_RELAXED);
    __atomic_store_n(&places[own_rank].called, MOVES_BACK, __ATOMIC_RELEASE); /* `allowed` was read */
    send_back(thread, &allowed);
    __atomic_store_n(&places[own_rank].called, NOT_CALLED, __ATOMIC_RELEASE);
    note_place();
}

static inline int is_called(void)
{
    return own_rank < PLACES && __atomic_load_n(&places[own_rank].called, __ATOMIC_RELAXED) == CALLED;
}

#endif
