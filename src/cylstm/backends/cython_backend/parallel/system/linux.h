/* Linux, with glibc or musl. */
#ifndef CYLSTM_SYSTEM_LINUX_H
#define CYLSTM_SYSTEM_LINUX_H

#ifndef _GNU_SOURCE
#error "_GNU_SOURCE must be defined before any header: setup.py does"
#endif

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/syscall.h>

#include "posix.h"

static inline long long thread_id(void) { return syscall(SYS_gettid); }

/* The number of this clock is the kernel's: pthread_getcpuclockid wants a pthread_t. */
static inline long long thread_time(long long thread)
{
    struct timespec t;
    if (clock_gettime((clockid_t)(~(unsigned)thread << 3 | 6), &t))
        return -1;
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static inline int is_main_thread(void) { return thread_id() == process_id(); }

static inline void sleep_on(const int *word, int seen, long long at_most)
{
    const struct timespec limit = {at_most / 1000000000, at_most % 1000000000};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, &limit, NULL, 0);
}

static inline void wake_all(const int *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

/* Of the whole machine, as far as this thread may use it beside its own. */
static inline int idle_processors(int *count)
{
    char text[64] = "";
    int running = 0, file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    cpu_set_t own;
    if (file < 0)
        return 0;
    ssize_t size = read(file, text, sizeof(text) - 1);
    close(file);
    if (size <= 0 || sscanf(text, "%*s %*s %*s %d/", &running) != 1 || running < 1)
        return 0;
    *count = (int)sysconf(_SC_NPROCESSORS_ONLN) - running;
    if (!sched_getaffinity(0, sizeof(own), &own) && CPU_COUNT(&own) > 1 && CPU_COUNT(&own) - 1 < *count)
        *count = CPU_COUNT(&own) - 1; /* one alone: this thread's place, and others may have others */
    return 1;
}

typedef cpu_set_t ProcessorSet;

static inline int this_processor(void) { return sched_getcpu(); }

static inline int allowed_processors(long long thread, ProcessorSet *set)
{
    return !sched_getaffinity((pid_t)thread, sizeof(*set), set);
}

static inline int allow_processors(long long thread, const ProcessorSet *set)
{
    return !sched_setaffinity((pid_t)thread, sizeof(*set), set);
}

static inline void remove_processor(ProcessorSet *set, int processor) { CPU_CLR(processor, set); }

static inline void keep_processor(ProcessorSet *set, int processor)
{
    int had = CPU_ISSET(processor, set);
    CPU_ZERO(set);
    if (had)
        CPU_SET(processor, set);
}

static inline int count_processors(const ProcessorSet *set) { return CPU_COUNT(set); }

#endif
