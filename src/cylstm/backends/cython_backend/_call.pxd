# A call of one layer on its threads. Arrays hold all directions.

from cython.parallel cimport parallel
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from ._backward cimport Backward, Scratch, backward_direction, init_backward
from ._forward cimport Forward, forward_direction, init_forward
from ._kernels cimport Kernels, transpose_double, transpose_float
from ._operands cimport Operands, operands_of
from ._parallel cimport Arrival, Barrier, Halt, fpmode_restore, fpmode_set, omp_get_num_threads, omp_get_thread_num
from ._partition cimport MACS_LONG_CALL, Partition, for_started, share_of
from ._pass cimport Kept, Packed, Pass, Shape, Share, real, segment_count
from ._region cimport region_enter, region_leave, region_thread_begins, region_thread_ends

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # leaves an exception as it is, for the end of the call


cdef struct Call:
    const Kernels* kernels
    const Shape* shape
    const Partition* partition  # requested
    const Packed* packed        # (D,)
    const int64_t* batch_sizes  # (T,)
    Kept kept                   # of direction 0; the others follow
    Arrival* arrivals           # (3, threads), zero: of all threads; of a direction; of a row group
    bint h_0_per_direction      # else all directions begin with the same zeros
    void* h_full                # (D, B, blocks VL), with projection
    void* start                 # (D, blocks, hoisted rows, 4, VL), where the input is hoisted
    char* operands              # (threads,), what operands_of says; NULL where rows are taken as they lie
    Halt halt                   # of calls of more than one step


cdef inline int ask_python() noexcept with gil:
    return PyErr_CheckSignals()


cdef struct Thread:    # one of the region
    int rank, started
    unsigned long long mode
    Barrier all
    long long since
    Partition partition
    int first, last    # directions
    int team           # threads of a direction


cdef inline Thread begin_thread(Call* call, int rank, int started, Py_ssize_t most_units) noexcept nogil:
    """What every thread does first: the directions that it takes part in, and its rank among their threads."""
    cdef Thread t
    t.mode = fpmode_set()
    if rank == 0:
        call.halt.mode = t.mode
    t.started = started
    t.all = Barrier(call.arrivals, rank, started)
    t.since = region_thread_begins(&t.all) if started > 1 else 0
    t.partition = for_started(call.partition, started, most_units)
    t.team, t.rank, t.first, t.last = t.partition.threads, rank, 0, <int>call.shape.D
    if t.partition.directions_apart:
        t.team = t.partition.threads // 2
        t.first = rank // t.team
        t.last = t.first + 1
        t.rank = rank % t.team
    return t


cdef inline void end_thread(const Thread* t) noexcept nogil:
    if t.started > 1:
        region_thread_ends(&t.all, t.since)
    fpmode_restore(t.mode)


cdef inline Pass pass_of(Call* call, const Thread* t, int d) noexcept nogil:
    cdef Pass p
    p.kernels, p.shape, p.partition = call.kernels, call.shape, &t.partition
    p.packed, p.batch_sizes, p.reverse = &call.packed[d], call.batch_sizes, d == 1
    p.halt, p.asks = &call.halt, t.all.rank == 0
    return p


cdef inline Share share_in(const Call* call, const Thread* t, const Pass* p) noexcept nogil:
    cdef int threads = call.partition.threads
    cdef Arrival* own = call.arrivals + threads + t.first * t.team
    return share_of(p, t.rank, t.team, own + threads, own)


cdef inline Kept kept_of(const Call* call, int d, Py_ssize_t itemsize) noexcept nogil:
    """What is kept of direction d."""
    cdef const Shape* s = call.shape
    cdef Kept kept = call.kept
    cdef Py_ssize_t cells = s.blocks * s.VL, segments
    kept.first, kept.rows = 0, s.N
    if kept.gates != NULL:
        kept.h_prev = <char*>kept.h_prev + d * s.N * s.R * itemsize
        kept.c_prev = <char*>kept.c_prev + d * s.N * cells * itemsize
        kept.gates = <char*>kept.gates + d * s.N * 4 * cells * itemsize
    if kept.h_segment != NULL:
        segments = segment_count(s.T, s.B)
        kept.h_segment = <char*>kept.h_segment + d * segments * s.B * s.R * itemsize
        kept.c_segment = <char*>kept.c_segment + d * segments * s.B * cells * itemsize
    return kept


cdef inline void run_forward(
    Call* call,
    const real* input,  # IN (N, I)
    const real* h_0,    # IN (D, B, R) or, as the call says, (B, R); or NULL: zeros that add nothing
    real* c,            # IN/OUT (D, blocks, B, VL)
    real* output,       # OUT (N, D R)
) noexcept nogil:
    """All threads of a forward pass."""
    cdef int threads = call.partition.threads
    cdef bint entered = region_enter(threads, call.partition.macs > MACS_LONG_CALL)
    call.halt.ask = ask_python
    if entered:
        with parallel(num_threads=threads):
            forward_thread(call, omp_get_thread_num(), omp_get_num_threads(), input, h_0, c, output)
    else:
        forward_thread(call, 0, 1, input, h_0, c, output)
    region_leave(threads, entered)


cdef inline void forward_thread(
    Call* call, int rank, int started, const real* input, const real* h_0, real* c, real* output
) noexcept nogil:
    """One thread: its direction or both, one after the other."""
    cdef const Shape* s = call.shape
    cdef Thread t = begin_thread(call, rank, started, s.blocks)
    cdef Py_ssize_t cells = s.blocks * s.B * s.VL
    cdef bint keeps = call.kept.gates != NULL or call.kept.h_segment != NULL
    cdef Pass p
    cdef Share own
    cdef Kept kept
    cdef Forward f
    cdef Operands operands = operands_of(call.kernels, s, call.partition, NULL)
    cdef void* h_full
    cdef void* start
    cdef int d
    if operands.bytes:
        operands = operands_of(call.kernels, s, call.partition, call.operands + rank * operands.bytes)
    for d in range(t.first, t.last):
        p = pass_of(call, &t, d)
        own = share_in(call, &t, &p)
        kept = kept_of(call, d, sizeof(real))
        h_full = NULL if call.h_full == NULL else <real*>call.h_full + d * cells
        start = NULL
        if t.partition.hoisted:
            start = <real*>call.start + d * s.blocks * t.partition.hoisted * 4 * s.VL
        f = init_forward(&p, &kept if keeps else NULL, h_full, start, &operands)
        forward_direction(&p, &own, input, h_0 + d * s.B * s.R if call.h_0_per_direction else h_0, c + d * cells,
                          output + d * s.R, &f)
        if t.team == 1 and call.halt.stop:
            break
    end_thread(&t)


cdef inline void last_h(
    const Call* call,
    const real* output,  # IN (N, D R)
    real* h_n,           # OUT (D, B, R)
) noexcept nogil:
    """Direction 0 ends with each sequence's own last step, direction 1 with step 0."""
    cdef const Shape* s = call.shape
    cdef Py_ssize_t R = s.R, row = s.N, t, b
    for t in range(s.T - 1, -1, -1):
        row -= call.batch_sizes[t]
        for b in range(call.batch_sizes[t + 1] if t + 1 < s.T else 0, call.batch_sizes[t]):
            memcpy(h_n + b * R, output + (row + b) * s.D * R, R * sizeof(real))
    if s.D == 2:
        for b in range(s.B):
            memcpy(h_n + (s.B + b) * R, output + b * s.D * R + R, R * sizeof(real))


cdef struct BackwardArrays:  # of all directions; void for the state's type
    const void* input        # IN (N, I)
    const void* grad_output  # IN (N, D R), or NULL
    void* grad_input         # OUT (D, N, I): to be added up
    void* grad_weight_ih     # OUT (D, 4H, I)
    void* grad_weight_hh     # OUT (D, 4H, R)
    void* grad_bias          # OUT (D, 4H)


cdef inline void run_backward(
    Call* call, const BackwardArrays* a, const Scratch* at,
    real* scratch,  # (D, at.total)
) noexcept nogil:
    """All threads of a backward pass."""
    cdef int threads = call.partition.threads
    cdef bint entered = region_enter(threads, call.partition.macs > MACS_LONG_CALL)
    call.halt.ask = ask_python
    if entered:
        with parallel(num_threads=threads):
            backward_thread(call, omp_get_thread_num(), omp_get_num_threads(), a, at, scratch)
    else:
        backward_thread(call, 0, 1, a, at, scratch)
    region_leave(threads, entered)


cdef inline void backward_thread(
    Call* call, int rank, int started, const BackwardArrays* a, const Scratch* at, real* scratch
) noexcept nogil:
    """One thread: its direction or both, one after the other."""
    cdef const Shape* s = call.shape
    cdef Thread t = begin_thread(call, rank, started, 1)
    cdef const real* grad_output = NULL
    cdef Py_ssize_t j0, j1
    cdef Pass p
    cdef Share own
    cdef Kept kept
    cdef Backward b
    cdef real* arrays
    cdef int d
    for d in range(t.first, t.last):
        p = pass_of(call, &t, d)
        own = share_in(call, &t, &p)
        kept = kept_of(call, d, sizeof(real))
        b = init_backward(&p, at, &kept)
        arrays = scratch + d * at.total
        if a.grad_output != NULL:
            grad_output = <const real*>a.grad_output + d * s.R
        backward_direction(&p, &own, &b, arrays, <const real*>a.input, grad_output, <real*>a.grad_input + d * s.N * s.I)
        if t.team == 1 and call.halt.stop:
            break
        j0, j1 = s.blocks * t.rank // t.team, s.blocks * (t.rank + 1) // t.team
        if s.I:
            unpack_gates(arrays + at.grad_weight_ih, <real*>a.grad_weight_ih + d * 4 * s.H * s.I, s, s.I, j0, j1)
        unpack_gates(arrays + at.grad_weight_hh, <real*>a.grad_weight_hh + d * 4 * s.H * s.R, s, s.R, j0, j1)
        unpack_gates(arrays + at.grad_bias, <real*>a.grad_bias + d * 4 * s.H, s, 1, j0, j1)
    end_thread(&t)


cdef inline void unpack_gates(
    const real* panels,  # IN (blocks, K, 4, VL)
    real* weight,        # OUT (4H, K)
    const Shape* s, Py_ssize_t K,
    Py_ssize_t first, Py_ssize_t last,  # blocks to take
) noexcept nogil:
    cdef Py_ssize_t VL = s.VL, j, gate
    cdef const real* part
    cdef real* out
    for j in range(first, last):
        for gate in range(4):
            part = panels + (j * K * 4 + gate) * VL
            out = weight + (gate * s.H + j * VL) * K
            if real is float:
                transpose_float(part, 4 * VL, out, K, K, min(VL, s.H - j * VL))
            else:
                transpose_double(part, 4 * VL, out, K, K, min(VL, s.H - j * VL))
