# parallel/region.h for Cython. One module alone may use it, _lstm: its state is that of the process.

from ._parallel cimport Part

cdef extern from "parallel/region.h" nogil:
    void region_init()
    bint region_always(bint always)
    long long region_exchange_ns()
    bint region_enter(int threads, long long macs)
    void region_thread_begins(Part* ends, int rank, int started)
    void region_thread_ends(Part* ends, int rank, int started)
    void region_leave(int threads, bint entered)
