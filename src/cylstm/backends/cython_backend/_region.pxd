# parallel/region.h for Cython. One module alone may use it, _lstm: its state is that of the process.

from ._parallel cimport Barrier

cdef extern from "parallel/region.h" nogil:
    void region_init()
    bint region_always(bint always)
    long long region_barrier_ns()
    bint region_enter(int threads, bint long_call)
    long long region_thread_begins(const Barrier* all)
    void region_thread_ends(const Barrier* all, long long since)
    void region_leave(int threads, bint entered)
