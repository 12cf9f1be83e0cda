/* A call that ends before its end: Ctrl-C, or another signal whose handler raises.
 *
 * The thread that called asks Python now and then, if it is the main thread, where Python runs its signal handlers. All
 * threads look between two parts whether they are to end: each finishes the part that it has, so nobody waits for one
 * that has left. */
#ifndef CYLSTM_HALT_H
#define CYLSTM_HALT_H

#include <limits.h>

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

/* Whether to end. `asks`: this is the thread that called. */
static inline int halt_look(Halt *halt, int asks)
{
    if (asks && !halt->stop) {
        long long now = nanoseconds();
        if (now >= halt->next)
            halt_ask(halt, now);
    }
    return __atomic_load_n(&halt->stop, __ATOMIC_RELAXED);
}

#endif
