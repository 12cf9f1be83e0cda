# kernels/ for Cython. What each field means stands in kernels.h.
cdef extern from "kernels/kernels.h" nogil:
    const Py_ssize_t LINE
    ctypedef struct PackTask:
        const void* matrix[4]
        const float* scale[4]
        Py_ssize_t lanes[4]
        Py_ssize_t stride, K
        void* panel

    ctypedef struct Factor:
        Py_ssize_t group, group_bytes, tail_bytes, operand_bytes, speed
        void (*pack)(const PackTask*) noexcept nogil
        void (*convert)(const void* row, Py_ssize_t K, void* operand, float* scale) noexcept nogil

    ctypedef struct Activation:
        int kind
        double alpha, beta, low, high

    ctypedef struct CellOptions:
        Activation f, g, h
        double clip, cell_clip, proj_clip
        int input_forget

    ctypedef struct GatesTile:
        Py_ssize_t rows, lanes
        const void* start
        Py_ssize_t start_stride
        const void* input
        Py_ssize_t input_stride, I
        const void* weight_ih
        const void* h
        const float* h_scale
        Py_ssize_t h_stride, R
        const void* weight_hh
        const void* prefetch
        void* c
        void* h_out
        Py_ssize_t h_out_stride
        void* c_prev
        void* gates
        const CellOptions* options
        const void* weight_ch

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
        Py_ssize_t prefetch_rows
        void* h
        Py_ssize_t h_stride

    ctypedef struct ProductTile:
        Py_ssize_t rows, columns
        const void* start
        Py_ssize_t start_stride
        const void* a
        Py_ssize_t a_row, a_k, a_segment, K, segments
        const void* panel
        const void* prefetch
        void* out
        Py_ssize_t out_stride

    ctypedef struct Kernels:
        const char* isa
        const char* precision
        Py_ssize_t itemsize, lanes, max_rows
        double headroom
        Factor input, state
        void (*gates)(const GatesTile*) noexcept nogil
        void (*gates_pair)(const GatesTile*) noexcept nogil
        void (*gates_with_options)(const GatesTile*) noexcept nogil
        void (*product)(const ProductTile*) noexcept nogil
        void (*gates_backward)(const GatesBackwardTile*) noexcept nogil
        void (*transpose)(const void* panels, void* transposed, Py_ssize_t n, Py_ssize_t K) noexcept nogil
        void (*activate)(int, Py_ssize_t, const void*, void*) noexcept nogil

    const Kernels* cylstm_kernels_line(Py_ssize_t index)
    bint cylstm_kernels_run_here(const Kernels* kernels)
    const Kernels* cylstm_kernels(const char* isa, const char* precision)

cdef extern from "kernels/prefetch.h" nogil:
    void prefetch(const void* p, Py_ssize_t bytes)

cdef extern from "kernels/transpose.h" nogil:
    void transpose_float(const float* a, Py_ssize_t a_stride, float* out, Py_ssize_t out_stride,
                         Py_ssize_t rows, Py_ssize_t columns)
    void transpose_double(const double* a, Py_ssize_t a_stride, double* out, Py_ssize_t out_stride,
                          Py_ssize_t rows, Py_ssize_t columns)


cdef inline Py_ssize_t panel_bytes(const Factor* factor, Py_ssize_t K) noexcept nogil:
    """The size of a panel (K, 4, VL)."""
    return (K + factor.group - 1) // factor.group * factor.group_bytes + factor.tail_bytes


cdef inline Py_ssize_t operand_stride(Py_ssize_t K) noexcept nogil:
    """Numbers from one converted row (K,) to the next: whole cache lines, whole groups, whole vectors."""
    return (K + 63) // 64 * 64
