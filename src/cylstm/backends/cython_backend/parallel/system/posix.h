/* What Linux and macOS share. */
#ifndef CYLSTM_SYSTEM_POSIX_H
#define CYLSTM_SYSTEM_POSIX_H

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

static inline long long nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static inline long long process_id(void) { return getpid(); }

static inline void yield_processor(void) { sched_yield(); }

typedef struct {
    pthread_t id;
    ThreadBody *body;
    void *given;
} StartedThread;

static void *run_started(void *started)
{
    StartedThread *thread = started;
    thread->body(thread->given);
    return NULL;
}

/* `thread` stays where it is until thread_join. */
static inline int thread_start(StartedThread *thread, ThreadBody *body, void *given)
{
    thread->body = body;
    thread->given = given;
    return !pthread_create(&thread->id, NULL, run_started, thread);
}

static inline void thread_join(StartedThread *thread) { pthread_join(thread->id, NULL); }

static pthread_key_t thread_ends_key;
static int thread_ends_made;

/* Once, before there are threads. */
static inline void thread_ends_init(ThreadBody *call)
{
    thread_ends_made = !pthread_key_create(&thread_ends_key, call);
}

static inline int call_at_thread_end(void)
{
    return thread_ends_made &&
           !pthread_setspecific(thread_ends_key, &thread_ends_key); /* of NULL it would not be told */
}

#endif
