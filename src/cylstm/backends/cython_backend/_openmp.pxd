# The only file that names OpenMP. Without it the same code runs on one thread.
cdef extern from "_openmp.h" nogil:
    const bint CYLSTM_OPENMP
    int omp_get_thread_num()
    int omp_get_num_threads()
    int omp_get_max_threads()
    bint omp_in_parallel()
