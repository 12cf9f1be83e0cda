/* ``make sanitize-threads``: barrier, region and halt of the compiled backend, with OpenMP replaced by pthreads, so that
 * ThreadSanitizer sees every order that it does not know of. Several callers open regions at once; in each, threads write
 * what others read in the next step, as h travels, and some regions are ended half way. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cylstm/backends/cython_backend/parallel/halt.h"
#include "../src/cylstm/backends/cython_backend/parallel/region.h"
#include "../src/cylstm/backends/cython_backend/parallel/system.h"

enum { CALLERS = 4, THREADS = 4, CALLS = 60, STEPS = 200, LOOK = 7 };

typedef struct {
    Arrival arrivals[2 * THREADS];
    Halt halt;
    int started, last;
    long h[2][THREADS]; /* written by one thread each, read by all in the step that follows */
    long steps[THREADS];
} Call;

typedef struct {
    Call *call;
    int rank;
} Member;

static int asked; /* atomic: how often Python was asked, by all callers */

static int ask(void) { return __atomic_add_fetch(&asked, 1, __ATOMIC_RELAXED) % 3 == 0; }

static void work(void *given)
{
    Member *member = given;
    Call *call = member->call;
    Barrier all = {call->arrivals, member->rank, call->started};
    Barrier group = {call->arrivals + THREADS, member->rank, call->started};
    unsigned long long mode = fpmode_set();
    if (member->rank == 0)
        call->halt.mode = mode;
    long long since = call->started > 1 ? region_thread_begins(&all) : 0;
    for (int step = 0, turn = 0; step < call->last; step++) {
        long sum = 1;
        for (int r = 0; r < call->started; r++)
            sum += call->h[step & 1][r];
        call->h[1 - (step & 1)][member->rank] = sum % 1000003;
        call->steps[member->rank] = step;
        int looks = step % LOOK == 0;
        if (looks) {
            if (member->rank == 0 && call->halt.next)
                call->halt.next = 1; /* ask now, not in 50 milliseconds */
            halt_look(&call->halt, &group, turn, member->rank == 0);
        }
        barrier_wait(&group);
        if (looks && halt_seen(&group, turn))
            break;
        turn = looks ? 1 - turn : turn;
    }
    if (call->started > 1)
        region_thread_ends(&all, since);
    fpmode_restore(mode);
}

static void run(int threads)
{
    Call *call = NULL;
    StartedThread others[THREADS];
    Member members[THREADS];
    if (posix_memalign((void **)&call, 64, sizeof(Call)))
        abort();
    memset(call, 0, sizeof(Call));
    call->halt.ask = ask;
    call->last = STEPS;
    int entered = region_enter(threads, 1);
    call->started = entered ? threads : 1;
    for (int r = 0; r < call->started; r++)
        members[r] = (Member){call, r};
    for (int r = 1; r < call->started; r++)
        if (!thread_start(&others[r], work, &members[r]))
            abort();
    work(&members[0]);
    for (int r = 1; r < call->started; r++)
        thread_join(&others[r]);
    region_leave(threads, entered);
    for (int r = 1; r < call->started; r++)
        if (call->steps[r] != call->steps[0] || call->h[0][r] != call->h[0][0] || call->h[1][r] != call->h[1][0]) {
            fprintf(stderr, "threads of a region disagree\n");
            exit(1);
        }
    free(call);
}

static void caller(void *unused)
{
    (void)unused;
    for (int n = 0; n < CALLS; n++)
        run(2 + n % (THREADS - 1));
}

int main(void)
{
    StartedThread callers[CALLERS];
    region_init();
    region_always(1);
    caller(NULL); /* the main thread alone: it is the one that asks */
    for (int n = 0; n < CALLERS; n++)
        if (!thread_start(&callers[n], caller, NULL))
            abort();
    caller(NULL);
    for (int n = 0; n < CALLERS; n++)
        thread_join(&callers[n]);
    printf("%d calls of %d callers, %d questions\n", (CALLERS + 2) * CALLS, CALLERS + 1, asked);
    return asked ? 0 : 1;
}
