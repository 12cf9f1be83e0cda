/* Windows, from version 8 on. The module is linked with synchronization.lib. */
#ifndef CYLSTM_SYSTEM_WINDOWS_H
#define CYLSTM_SYSTEM_WINDOWS_H

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

static inline long long nanoseconds(void)
{
    static long long per_second; /* the same in every thread */
    LARGE_INTEGER now, frequency;
    long long ticks = __atomic_load_n(&per_second, __ATOMIC_RELAXED);
    if (!ticks) {
        QueryPerformanceFrequency(&frequency);
        ticks = frequency.QuadPart;
        __atomic_store_n(&per_second, ticks, __ATOMIC_RELAXED);
    }
    QueryPerformanceCounter(&now);
    return now.QuadPart / ticks * 1000000000 + now.QuadPart % ticks * 1000000000 / ticks;
}

static inline long long process_id(void) { return GetCurrentProcessId(); }
static inline long long thread_id(void) { return GetCurrentThreadId(); }

static inline long long thread_time(long long thread) { return (void)thread, -1; }

static inline int idle_processors(int *count) { return (void)count, 0; }

static inline int is_main_thread(void) { return 1; } /* Windows has no such thread: Python knows which is its own */

static inline void yield_processor(void) { SwitchToThread(); }

static inline void sleep_on(const int *word, int seen, long long at_most)
{
    WaitOnAddress((volatile void *)word, &seen, sizeof(seen), (DWORD)((at_most + 999999) / 1000000));
}

static inline void wake_all(const int *word) { WakeByAddressAll((void *)word); }

/* Processors are numbered in groups of 64, and the set of a thread lies in one group. */
typedef GROUP_AFFINITY ProcessorSet;

static inline int this_processor(void)
{
    PROCESSOR_NUMBER at;
    GetCurrentProcessorNumberEx(&at);
    return at.Group * 64 + at.Number;
}

static inline HANDLE thread_of(long long thread)
{
    return OpenThread(THREAD_QUERY_INFORMATION | THREAD_SET_INFORMATION, FALSE, (DWORD)thread);
}

static inline int allowed_processors(long long thread, ProcessorSet *set)
{
    HANDLE handle = thread_of(thread);
    int known = handle != NULL && GetThreadGroupAffinity(handle, set) != 0;
    if (handle != NULL)
        CloseHandle(handle);
    return known;
}

static inline int allow_processors(long long thread, const ProcessorSet *set)
{
    HANDLE handle = thread_of(thread);
    int allowed = handle != NULL && SetThreadGroupAffinity(handle, set, NULL) != 0;
    if (handle != NULL)
        CloseHandle(handle);
    return allowed;
}

static inline void remove_processor(ProcessorSet *set, int processor)
{
    if (processor >= 0 && processor / 64 == set->Group)
        set->Mask &= ~((KAFFINITY)1 << processor % 64);
}

static inline void keep_processor(ProcessorSet *set, int processor)
{
    set->Mask &= processor >= 0 && processor / 64 == set->Group ? (KAFFINITY)1 << processor % 64 : 0;
}

static inline int count_processors(const ProcessorSet *set) { return __builtin_popcountll(set->Mask); }

typedef struct {
    HANDLE handle;
    ThreadBody *body;
    void *given;
} StartedThread;

static DWORD WINAPI run_started(LPVOID started)
{
    StartedThread *thread = started;
    thread->body(thread->given);
    return 0;
}

/* `thread` stays where it is until thread_join. */
static inline int thread_start(StartedThread *thread, ThreadBody *body, void *given)
{
    thread->body = body;
    thread->given = given;
    thread->handle = CreateThread(NULL, 0, run_started, thread, 0, NULL);
    return thread->handle != NULL;
}

static inline void thread_join(StartedThread *thread)
{
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
}

static DWORD thread_ends_key = FLS_OUT_OF_INDEXES;

/* Once, before there are threads. */
static inline void thread_ends_init(ThreadBody *call)
{
    thread_ends_key = FlsAlloc((PFLS_CALLBACK_FUNCTION)call); /* on 64 bits there is one calling convention */
}

static inline int call_at_thread_end(void)
{
    return thread_ends_key != FLS_OUT_OF_INDEXES && FlsSetValue(thread_ends_key, &thread_ends_key);
}

#endif
