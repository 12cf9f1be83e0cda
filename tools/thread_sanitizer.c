/* ``make sanitize-threads``: parts, regions and halts of the compiled backend, with OpenMP replaced by pthreads, so that
 * ThreadSanitizer sees every order that it does not know of. Several callers open regions at once; in each, parts write
 * what others read in the next turn, as h travels, in two groups that all threads visit; some threads come late or rest
 * half way, so that others take their parts; some calls are ended. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/cylstm/backends/cython_backend/parallel/halt.h"
#include "../src/cylstm/backends/cython_backend/parallel/region.h"
#include "../src/cylstm/backends/cython_backend/parallel/system.h"

enum { CALLERS = 4, THREADS = 4, GROUPS = 2, CALLS = 60, STEPS = 200, LOOK = 7 };

typedef struct {
    Part turns[GROUPS][THREADS], ends[THREADS + 2];
    Halt halt;
    int started, last, number;
    long h[GROUPS][2][THREADS]; /* written by one part each, read by all in the turn that follows */
} Call;

typedef struct {
    Call *call;
    int rank;
} Member;

static int asked; /* atomic: how often Python was asked, by all callers */

static int ask(void) { return __atomic_add_fetch(&asked, 1, __ATOMIC_RELAXED) % 3 == 0; }

static void compute(Call *call, int group, int step, int part)
{
    long sum = 1;
    for (int r = 0; r < call->started; r++)
        sum += call->h[group][step & 1][r];
    call->h[group][1 - (step & 1)][part] = sum % 1000003;
}

static void steps_of(Call *call, int rank, int g, int own)
{
    Group group = group_of(call->turns[g], call->started, own);
    for (int step = 0; step < call->last; step++) {
        int part;
        turn_begins(&group);
        while ((part = part_take(&group)) >= 0) {
            compute(call, g, step, part);
            if (rank && (step + 2 * rank + call->number) % 70 == 0)
                sleep_on(&call->number, call->number, 200000); /* loses its processor in the middle of a part */
            part_done(&group, part);
        }
        if (rank && (step + rank + call->number) % 50 == 0)
            sleep_on(&call->number, call->number, 200000); /* away for a moment */
        if (step % LOOK == 0) {
            if (rank == 0 && call->halt.next)
                call->halt.next = 1; /* ask now, not in 50 milliseconds */
            if (halt_look(&call->halt, rank == 0))
                return;
        }
    }
}

static void work(void *given)
{
    Member *member = given;
    Call *call = member->call;
    int rank = member->rank;
    unsigned long long mode = fpmode_set();
    if (rank == 0)
        call->halt.mode = mode;
    if (call->started > 1)
        region_thread_begins(call->ends, rank, call->started);
    for (int n = 0; n < GROUPS; n++)
        steps_of(call, rank, (rank + n) % GROUPS, n == 0 ? rank : -1);
    if (call->started > 1)
        region_thread_ends(call->ends, rank, call->started);
    fpmode_restore(mode);
}

static void check(const Call *call)
{
    long expected[2][THREADS] = {{0}};
    for (int step = 0; step < call->last; step++) {
        long sum = 1;
        for (int r = 0; r < call->started; r++)
            sum += expected[step & 1][r];
        for (int r = 0; r < call->started; r++)
            expected[1 - (step & 1)][r] = sum % 1000003;
    }
    for (int g = 0; g < GROUPS; g++)
        if (!call->halt.stop && memcmp(call->h[g], expected, sizeof(expected))) {
            fprintf(stderr, "the parts of group %d are not those of one thread\n", g);
            exit(1);
        }
}

static void run(int threads, int number)
{
    Call *call = NULL;
    StartedThread others[THREADS];
    Member members[THREADS];
    if (posix_memalign((void **)&call, 64, sizeof(Call)))
        abort();
    memset(call, 0, sizeof(Call));
    call->halt.ask = ask;
    call->last = STEPS;
    call->number = number;
    int entered = region_enter(threads, LLONG_MAX);
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
    check(call);
    free(call);
}

static void caller(void *unused)
{
    (void)unused;
    for (int n = 0; n < CALLS; n++)
        run(2 + n % (THREADS - 1), n);
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
