/* What the threads of the compiled module need of the operating system: the only place, with kernels/processor.h, where a
 * system is asked or named. One file of system/ per system gives all of this.
 *
 *   THREAD_LOCAL                      a variable of each thread
 *   nanoseconds()                     a clock that never goes back
 *   process_id(), thread_id()
 *   is_main_thread()                  1 where the system does not tell
 *   yield_processor()                 to another thread that could run here
 *   spin_once()                       a moment, for a loop that waits
 *   sleep_on(word, seen, at_most)     sleeps while *word is `seen`, so many nanoseconds at most; may return early
 *   wake_all(word)                    those that sleep on it
 *   thread_time(thread)               nanoseconds that a thread has run, by its id; -1 where the system does not tell
 *   this_processor()                  where this thread runs; -1 where the system does not tell
 *   idle_processors(count)            that no thread of any program wants; negative: so many threads wait for one.
 *                                     0 where the system does not tell
 *   ProcessorSet, allowed_processors, allow_processors
 *                                     where a thread may run, by its thread_id
 *   remove_processor, keep_processor, count_processors
 *                                     of a set: without one, that one alone, how many there are
 *   StartedThread, thread_start, thread_join
 *   thread_ends_init(call), call_at_thread_end()
 *                                     a function to be called at the end of each thread that asks for it
 *
 * Functions that return int say 1 for success, 0 for failure, unless their line says otherwise. Atomic operations are the
 * compiler's own, __atomic_*. */
#ifndef CYLSTM_SYSTEM_H
#define CYLSTM_SYSTEM_H

#define THREAD_LOCAL _Thread_local

typedef void ThreadBody(void *);

#if defined(__linux__)
#include "system/linux.h"
#elif defined(__APPLE__)
#include "system/macos.h"
#elif defined(_WIN32)
#include "system/windows.h"
#else
#error "cylstm knows threads of Linux, macOS and Windows: another system needs a file in parallel/system/"
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

static inline void spin_once(void)
{
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
