/* A call that ends before its end: Ctrl-C, or another signal whose handler raises.
 *
 * The thread that called asks Python now and then, if it is the main thread, where Python runs its signal handlers. The
 * threads that wait for each other at a barrier must leave in the same step. So one of them, the first of the barrier,
 * notes before the barrier what it has seen, and all look there behind it. Looks in turn have places of their own: the
 * first may note the next one while others still read. */
#ifndef CYLSTM_HALT_H
#define CYLSTM_HALT_H

#include <limits.h>

#include "barrier.h"
#include "fpmode.h"
#include "system.h"

enum { ASK_NS = 50000000 }; /* between two questions; calls that end before pay for a look at the clock alone */

typedef struct {
    int stop;                /* atomic; once it is set, it stays */
    int (*ask)(void);        /* runs the handlers of signals that have come; not 0: one of them has raised */
    long long next;          /* the time of the next question; 0: there was no look yet */
    unsigned long long mode; /* of floating point, of the thread that called */
} Halt;

static __attribute__((noinline, cold)) void halt_ask(Halt *halt, long long now)
{
    if (halt->next == 0 || !is_main_thread()) {
        halt->next = halt->next == 0 ? now + ASK_NS : LLONG_MAX;
        return;
    }
    fpmode_restore(halt->mode);
    int raised = halt->ask();
    fpmode_set();
    if (raised)
        __atomic_store_n(&halt->stop, 1, __ATOMIC_RELAXED);
    halt->next = nanoseconds() + ASK_NS;
}

/* A look, before the barrier: by all its threads, the `turn`-th. `asks`: this is the thread that called. */
static inline void halt_look(Halt *halt, const Barrier *barrier, int turn, int asks)
{
    if (asks && !halt->stop) {
        long long now = nanoseconds();
        if (now >= halt->next)
            halt_ask(halt, now);
    }
    if (barrier->rank == 0)
        barrier->arrivals[0].stop[turn & 1] = __atomic_load_n(&halt->stop, __ATOMIC_RELAXED);
}

/* Whether to leave, behind the barrier. */
static inline int halt_seen(const Barrier *barrier, int turn) { return barrier->arrivals[0].stop[turn & 1]; }

#endif
