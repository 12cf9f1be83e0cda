# parallel/ for Cython, without its regions. What each function does stands in the headers.
cdef extern from "parallel/openmp.h" nogil:
    const bint CYLSTM_OPENMP
    int omp_get_thread_num()
    int omp_get_num_threads()
    int omp_get_max_threads()
    int omp_get_num_procs()

cdef extern from "parallel/parts.h" nogil:
    ctypedef struct Part:
        pass
    ctypedef struct Group:
        Part* parts
        int count, turn
    Group group_of(Part* parts, int count, int own)
    void turn_begins(Group* group)
    int part_take(Group* group)
    void part_done(const Group* group, int part)

cdef extern from "parallel/halt.h" nogil:
    ctypedef struct Halt:
        int stop
        int (*ask)() noexcept nogil
        unsigned long long mode
    bint halt_look(Halt* halt, bint asks)

cdef extern from "parallel/fpmode.h" nogil:
    unsigned long long fpmode_set()
    void fpmode_restore(unsigned long long mode)
