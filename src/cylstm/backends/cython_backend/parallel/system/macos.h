/* macOS. It places threads itself and takes no wishes. Its own sleep on an address is public only from version 14.4 on. */
#ifndef CYLSTM_SYSTEM_MACOS_H
#define CYLSTM_SYSTEM_MACOS_H

#include <stdint.h>

#include "posix.h"

static inline long long thread_id(void)
{
    uint64_t id = 0;
    pthread_threadid_np(NULL, &id);
    return (long long)id;
}

static inline long long thread_time(long long thread) { return (void)thread, -1; }

static inline int idle_processors(int *count) { return (void)count, 0; }

static inline int is_main_thread(void) { return pthread_main_np(); }

/* Those that sleep on a word wait for the condition of its place here. Words that share a place wake each other: early
 * returns are allowed. */
enum { SLEEPERS = 16 };
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    char apart[16];
} sleepers[SLEEPERS] = {[0 ... SLEEPERS - 1] = {.mutex = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER}};

static inline int sleepers_of(const int *word) { return (int)((uintptr_t)word / 64 % SLEEPERS); }

static inline void sleep_on(const int *word, int seen, long long at_most)
{
    const struct timespec limit = {at_most / 1000000000, at_most % 1000000000};
    int n = sleepers_of(word);
    pthread_mutex_lock(&sleepers[n].mutex);
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen)
        pthread_cond_timedwait_relative_np(&sleepers[n].woken, &sleepers[n].mutex, &limit);
    pthread_mutex_unlock(&sleepers[n].mutex);
}

static inline void wake_all(const int *word)
{
    int n = sleepers_of(word);
    pthread_mutex_lock(&sleepers[n].mutex); /* behind a sleeper that has just looked at the word */
    pthread_cond_broadcast(&sleepers[n].woken);
    pthread_mutex_unlock(&sleepers[n].mutex);
}

typedef int ProcessorSet;

static inline int this_processor(void) { return -1; }
static inline int allowed_processors(long long thread, ProcessorSet *set) { return (void)thread, *set = 0; }
static inline int allow_processors(long long thread, const ProcessorSet *set) { return (void)thread, *set; }
static inline void remove_processor(ProcessorSet *set, int processor) { (void)set, (void)processor; }
static inline void keep_processor(ProcessorSet *set, int processor) { (void)set, (void)processor; }
static inline int count_processors(const ProcessorSet *set) { return *set; }

#endif
