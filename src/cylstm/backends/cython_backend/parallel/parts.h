/* Work in turns, each in parts, by the threads that are there.
 *
 * A group takes its turns one after another: a turn may use what the turn before has computed. Its parts do not depend on
 * each other. Each has a thread that computes it as a rule, so that its weights stay in that thread's cache, but any
 * thread may: one that has waited for a moment takes a part that nobody has begun. So nobody waits for a thread that is
 * not there, be it that it has not woken up yet or that another program has its processor, and it takes part again as
 * soon as it comes back. What is computed does not depend on who computes it.
 *
 *     turn_begins(&group);
 *     while ((part = part_take(&group)) >= 0) {
 *         ... compute ...
 *         part_done(&group, part);
 *     }                                     all parts of the turn are done, and seen by this thread
 */
#ifndef CYLSTM_PARTS_H
#define CYLSTM_PARTS_H

#include "placement.h"
#include "system.h"

typedef struct {
    int done;       /* the last turn in which it is done */
    int sleeping;   /* threads that sleep until the next */
    char apart[56]; /* to the end of the cache line: the others read this one all the time, and seldom the next */
    int taken;      /* the last turn in which a thread has taken it */
    int by;         /* the rank of that thread */
    char apart_too[56];
} Part; /* of all threads, zero in the beginning */

typedef struct {
    Part *parts; /* NULL: one part, and this thread is alone */
    int count;
    int own;    /* the part that this thread takes first; -1: it is a guest of the group */
    int turn;   /* 1 for the first */
    int helped; /* the last turn in which it took a part that is not its own */
} Group; /* as one of its threads sees it */

enum {
    PATIENCE = 100,     /* spins, one to four microseconds: so long a thread may be late for its part */
    SPINS = 2000,       /* some 20 to 80 microseconds, then the thread sleeps */
    SPINS_APART =
        30000, /* of a thread that has a processor for itself: if it slept, it would be the last to get it back */
    LOOK_AROUND = 256,  /* spins between two looks where it is */
    PAUSE = 32,         /* spins of a guest between two looks: it is not to be felt */
    SLEEP_NS = 1000000  /* who is done does not wait to see whether somebody has just gone to sleep */
};

static inline Group group_of(Part *parts, int count, int own)
{
    return (Group){.parts = parts, .count = count, .own = own, .helped = -1};
}

/* Turns may wrap around. */
static inline int is_behind(int turn, int other) { return (int)((unsigned)turn - (unsigned)other) < 0; }

static inline int take(Part *part, int turn)
{
    int before = (int)((unsigned)turn - 1);
    if (__atomic_load_n(&part->taken, __ATOMIC_RELAXED) != before ||
        !__atomic_compare_exchange_n(&part->taken, &before, turn, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return 0;
    __atomic_store_n(&part->by, own_rank, __ATOMIC_RELEASE);
    return 1;
}

static inline int is_done(const Part *part, int turn)
{
    return !is_behind(__atomic_load_n(&part->done, __ATOMIC_ACQUIRE), turn);
}

static int part_was_late; /* in this region, for the caller, who alone asks */

/* Somebody computes this part. If it is the caller that needs it, and the other thread has lost its processor, it gets
 * this one. */
static __attribute__((noinline, cold)) void sleep_until_done(Part *part, int turn)
{
    long long called = 0;
    int by = 0;
    __atomic_add_fetch(&part->sleeping, 1, __ATOMIC_SEQ_CST);
    for (int seen; is_behind(seen = __atomic_load_n(&part->done, __ATOMIC_ACQUIRE), turn);) {
        if (!called && own_rank == 0) {
            by = __atomic_load_n(&part->by, __ATOMIC_ACQUIRE);
            if (by && !is_aside(by))
                break; /* it works: back to spinning */
            if (!by || time_of(by) >= 0) /* else it may have worked: the system does not tell */
                part_was_late = 1;
            called = by ? call_here(by) : 0;
        }
        sleep_on(&part->done, seen, SLEEP_NS);
    }
    __atomic_sub_fetch(&part->sleeping, 1, __ATOMIC_RELAXED);
    if (called)
        called_ends(by, called);
    move_apart();
}

/* How long this thread spins. */
static inline int spins_here(int spins, int limit)
{
    if (spins % LOOK_AROUND != LOOK_AROUND - 1)
        return limit;
    note_place();
    if (own_rank == 0)
        return limit;
    return shares_processor(own_rank) ? SPINS : SPINS_APART;
}

static inline void pause_of(const Group *group)
{
    for (int n = group->own < 0 ? PAUSE : 1; n > 0; n--)
        spin_once();
}

static inline void turn_begins(Group *group) { group->turn = (int)((unsigned)group->turn + 1); }

/* The thread that a part belongs to may be away because this one has its processor: so this one leaves it first. */
static inline int help(Group *group, int first)
{
    if (own_rank)
        move_apart();
    for (int r = first; r < group->count; r++)
        if (take(&group->parts[r], group->turn)) {
            group->helped = group->turn;
            return r;
        }
    return -1;
}

static inline int wait_for_parts(Group *group)
{
    int turn = group->turn, first = 0, limit = SPINS, part;
    int patience = group->helped == turn || group->helped == (int)((unsigned)turn - 1) ? 0 : PATIENCE;
    for (int spins = 0;; spins++) {
        while (first < group->count && is_done(&group->parts[first], turn))
            first++;
        if (first == group->count)
            return -1;
        if (spins == patience && (part = help(group, first)) >= 0)
            return part;
        limit = spins_here(spins, limit);
        if (spins < limit)
            pause_of(group);
        else
            sleep_until_done(&group->parts[first], turn);
    }
}

/* A part of this turn that nobody has taken, for this thread; -1: all are done. */
static inline int part_take(Group *group)
{
    if (group->parts == NULL) {
        int first = group->helped != group->turn;
        group->helped = group->turn;
        return first - 1;
    }
    if (group->own >= 0 && take(&group->parts[group->own], group->turn))
        return group->own;
    return wait_for_parts(group);
}

static inline void part_done(const Group *group, int part)
{
    if (group->parts == NULL)
        return;
    Part *own = &group->parts[part];
    __atomic_store_n(&own->done, group->turn, __ATOMIC_RELEASE);
    if (__atomic_load_n(&own->sleeping, __ATOMIC_RELAXED))
        wake_all(&own->done);
    if (is_called())
        go_back();
}

#endif
