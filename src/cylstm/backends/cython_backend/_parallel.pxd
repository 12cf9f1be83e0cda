# parallel/ for Cython, without its regions. What each function does stands in the headers.
cdef extern from "parallel/openmp.h" nogil:
    const bint CYLSTM_OPENMP
    int omp_get_thread_num()
    int omp_get_num_threads()
    int omp_get_max_threads()
    int omp_get_num_procs()

cdef extern from "parallel/barrier.h" nogil:
    ctypedef struct Arrival:
        pass
    ctypedef struct Barrier:
        Arrival* arrivals
        int rank, threads
    void barrier_wait(const Barrier* barrier)

cdef extern from "parallel/halt.h" nogil:
    ctypedef struct Halt:
        int stop
        int (*ask)() noexcept nogil
        unsigned long long mode
    void halt_look(Halt* halt, const Barrier* barrier, int turn, int asks)
    bint halt_seen(const Barrier* barrier, int turn)

cdef extern from "parallel/fpmode.h" nogil:
    unsigned long long fpmode_set()
    void fpmode_restore(unsigned long long mode)
