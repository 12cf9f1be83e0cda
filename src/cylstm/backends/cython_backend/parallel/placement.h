/* Threads of a region on processors of their own.
 *
 * Linux may put a thread that wakes up on the processor of the thread that woke it. If that thread spins, both stay
 * there for milliseconds. So a thread leaves a processor that a lower rank is on: it forbids itself that one, for a moment. The
 * caller, rank 0, stays where it is. Without this, ten single steps of H = 256 after a rest took 8.4 ms instead of 0.5
 * on virtual machines with two processors. */
#ifndef CYLSTM_PLACEMENT_H
#define CYLSTM_PLACEMENT_H

#include "system.h"

static THREAD_LOCAL int region_rank; /* of this thread */

enum { PLACES = 64 };
static int places[PLACES]; /* the processor that each rank was on when it last looked */

static inline void note_place(void)
{
    if (region_rank < PLACES)
        __atomic_store_n(&places[region_rank], this_processor(), __ATOMIC_RELAXED);
}

static inline void move_apart(void)
{
    ProcessorSet allowed, others;
    if (region_rank >= PLACES)
        return;
    note_place();
    int here = __atomic_load_n(&places[region_rank], __ATOMIC_RELAXED), shared = 0;
    for (int r = 0; r < region_rank; r++)
        shared |= __atomic_load_n(&places[r], __ATOMIC_RELAXED) == here;
    if (!shared || !allowed_processors(&allowed))
        return;
    others = allowed;
    for (int r = 0; r < region_rank; r++)
        remove_processor(&others, __atomic_load_n(&places[r], __ATOMIC_RELAXED));
    if (any_processor(&others) && allow_processors(&others)) {
        note_place();
        allow_processors(&allowed);
    }
}

#endif
