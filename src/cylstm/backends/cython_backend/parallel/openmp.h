/* OpenMP, or one thread where the compiler has none. The only file that names it. */
#ifndef CYLSTM_OPENMP_H
#define CYLSTM_OPENMP_H

#ifdef _OPENMP
#include <omp.h>
#define CYLSTM_OPENMP 1
#else
#define CYLSTM_OPENMP 0
static inline int omp_get_thread_num(void) { return 0; }
static inline int omp_get_num_threads(void) { return 1; }
static inline int omp_get_max_threads(void) { return 1; }
static inline int omp_get_num_procs(void) { return 1; }
static inline int omp_in_parallel(void) { return 0; }
enum { omp_proc_bind_false };
static inline int omp_get_proc_bind(void) { return omp_proc_bind_false; }
#endif

#endif
