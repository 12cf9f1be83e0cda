# kernels/kernels.h and kernels/team.h for Cython. What each field means stands in kernels.h.
cdef extern from "kernels/kernels.h" nogil:
    const Py_ssize_t LINE
    ctypedef struct GatesTile:
        Py_ssize_t rows, lanes
        const void* start
        Py_ssize_t start_stride
        const void* input
        Py_ssize_t input_stride, I
        const void* weight_ih
        const void* h
        Py_ssize_t h_stride, R
        const void* weight_hh
        const void* fetch
        void* c
        void* h_out
        Py_ssize_t h_out_stride
        void* c_prev
        void* gates

    ctypedef struct GatesBackwardTile:
        Py_ssize_t rows, lanes
        const void* gates
        const void* c_prev
        const void* grad_h
        Py_ssize_t grad_h_stride
        const void* grad_output
        Py_ssize_t grad_output_stride
        void* grad_c
        void* grad_a
        Py_ssize_t next
        void* h
        Py_ssize_t h_stride

    ctypedef struct ProductTile:
        Py_ssize_t rows, columns
        const void* start
        Py_ssize_t start_stride
        const void* a
        Py_ssize_t a_row, a_k, a_segment, K, segments
        const void* panel
        const void* fetch
        void* out
        Py_ssize_t out_stride

    ctypedef struct Kernels:
        const char* isa
        Py_ssize_t itemsize, lanes, max_rows
        void (*gates)(const GatesTile*) noexcept nogil
        void (*gates_pair)(const GatesTile*) noexcept nogil
        void (*gates_backward)(const GatesBackwardTile*) noexcept nogil
        void (*product)(const ProductTile*) noexcept nogil
        void (*activate)(int, Py_ssize_t, const void*, void*) noexcept nogil

    const Kernels* cylstm_kernels(const char* isa, Py_ssize_t itemsize)

cdef extern from "kernels/team.h" nogil:
    ctypedef struct Arrival:
        pass
    ctypedef struct Barrier:
        Arrival* arrivals
        int rank, threads
    void barrier_wait(const Barrier* barrier)
    void fetch(const void* p, Py_ssize_t bytes)
    void region_begins()
    long long thread_begins(const Barrier* all)
    long long barrier_nanoseconds()
    void thread_ends(const Barrier* all, long long since)
    void region_ends(int threads)
    bint set_always_pays(bint always)
    bint region_pays(bint long_call)
    bint may_open()
    void call_ends()
    unsigned long long set_mode()
    void restore_mode(unsigned long long mode)

cdef extern from "kernels/transpose.h" nogil:
    void transpose_float(const float* a, Py_ssize_t a_stride, float* out, Py_ssize_t out_stride,
                         Py_ssize_t rows, Py_ssize_t columns)
    void transpose_double(const double* a, Py_ssize_t a_stride, double* out, Py_ssize_t out_stride,
                          Py_ssize_t rows, Py_ssize_t columns)
