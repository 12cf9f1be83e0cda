# A call of one layer on its threads. Arrays hold all directions.

from cython.parallel cimport parallel
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from ._backward cimport backward_direction
from ._backward_pass cimport Backward, BackwardPass, Scratch, init_backward
from ._forward cimport Forward, ForwardPass, forward_direction, init_forward
from ._kernels cimport LINE, Kernels, transpose_double, transpose_float
from ._operands cimport Operands, operands_of
from ._parallel cimport (
    Group, Halt, Part, fpmode_restore, fpmode_set, group_of, omp_get_num_threads, omp_get_thread_num, part_done,
    part_take, turn_begins,
)
from ._partition cimport Partition, alone, team_of
from ._pass cimport Kept, Packed, Pass, Shape, ceil_div, real, segment_count
from ._region cimport region_enter, region_leave, region_thread_begins, region_thread_ends

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # leaves an exception as it is, for the end of the call


cdef struct Call:
    const Kernels* kernels
    const Shape* shape
    Partition partition         # requested, then that of the threads that there are
    const Packed* packed        # (D,)
    const int64_t* batch_sizes  # (T,)
    Kept kept                   # of direction 0; the others follow
    bint h_0_per_direction      # else all directions begin with the same zeros
    void* h_full                # (D, B, blocks VL), with projection
    void* start                 # (D, blocks, hoisted rows, 4, VL), where the input is hoisted
    char* operands              # (threads,), what operands_of says; NULL where rows are taken as they lie
    char* threads               # what `bytes_of_threads` says, zero when the call begins
    Halt halt                   # of calls of more than one step
    # in `threads`:
    Part* turns                 # (threads,), of the steps
    Part* all_turns             # (threads,), of what all threads of a direction share
    Part* ends                  # (threads + 2,)
    Forward* forward            # (threads,): the parts of direction 0, then those of direction 1
    Backward* backward          # likewise
    Pass passes[2]              # of the directions


cdef inline int ask_python() noexcept with gil:
    return PyErr_CheckSignals()


cdef inline Py_ssize_t bytes_of_threads(const Shape* s, int threads, bint backward) noexcept nogil:
    """Memory of the parts of a call, one per direction and thread: whole cache lines."""
    cdef Py_ssize_t of_part = <Py_ssize_t>sizeof(Forward) + (<Py_ssize_t>sizeof(Backward) if backward else 0)
    return ceil_div(turns_of(s, threads) * <Py_ssize_t>sizeof(Part) + max(threads, s.D) * of_part, LINE) * LINE


cdef inline Py_ssize_t turns_of(const Shape* s, int threads) noexcept nogil:
    """How many there are, with those at the end of a region. A thread alone has none."""
    return 3 * max(threads, s.D) + 2 if threads > 1 else 0


cdef inline bint begin_call(Call* call) noexcept nogil:
    """Whether there is a region. The directions, and the memory of their parts."""
    cdef Partition* a = &call.partition
    cdef Py_ssize_t parts = max(a.threads, call.shape.D)
    cdef bint entered = region_enter(a.threads, a.macs)
    cdef Pass* p
    cdef int d
    call.turns = <Part*>call.threads
    call.all_turns, call.ends = call.turns + parts, call.turns + 2 * parts
    call.forward = <Forward*>(call.turns + turns_of(call.shape, a.threads))
    call.backward = <Backward*>(call.forward + parts)
    call.halt.ask = ask_python
    if not entered:
        call.partition = alone(a)
    for d in range(<int>call.shape.D):
        p = &call.passes[d]
        p.kernels, p.shape, p.partition = call.kernels, call.shape, a
        p.packed, p.batch_sizes, p.reverse = &call.packed[d], call.batch_sizes, d == 1
        p.halt = &call.halt
    return entered


cdef struct Thread:    # one of the region
    int rank, started
    unsigned long long mode
    int team           # threads of a direction
    int direction      # its own, where directions are apart


cdef inline Thread begin_thread(Call* call, int rank, int started) noexcept nogil:
    """What every thread does first."""
    cdef Thread t
    t.mode = fpmode_set()
    if rank == 0:
        call.halt.mode = t.mode
    t.rank, t.started, t.team = rank, started, team_of(&call.partition)
    t.direction = rank // t.team if call.partition.directions_apart else 0
    if started > 1:
        region_thread_begins(call.ends, rank, started)
    return t


cdef inline void end_thread(Call* call, const Thread* t) noexcept nogil:
    if t.started > 1:
        region_thread_ends(call.ends, t.rank, t.started)
    fpmode_restore(t.mode)


cdef inline int rank_in(const Call* call, const Thread* t, int d) noexcept nogil:
    """A thread's rank among those of a direction, -1 where it belongs to the other one."""
    if not call.partition.directions_apart:
        return t.rank
    return t.rank - t.direction * t.team if d == t.direction else -1


cdef inline Part* in_region(const Call* call, Part* parts) noexcept nogil:
    return parts if call.partition.threads > 1 else NULL


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
    cdef bint entered = begin_call(call)
    begin_forward(call)
    if entered:
        with parallel(num_threads=threads):
            forward_thread(call, omp_get_thread_num(), omp_get_num_threads(), input, h_0, c, output)
    else:
        forward_thread(call, 0, 1, input, h_0, c, output)
    region_leave(threads, entered)


cdef inline void begin_forward(Call* call) noexcept nogil:
    """The parts of all directions."""
    cdef const Shape* s = call.shape
    cdef const Partition* a = &call.partition
    cdef Py_ssize_t cells = s.blocks * s.B * s.VL, starts = s.blocks * a.hoisted * 4 * s.VL
    cdef Py_ssize_t item = call.kernels.itemsize
    cdef Operands operands = operands_of(call.kernels, s, a, NULL)
    cdef void* h_full
    cdef void* start
    cdef int d, n, team = team_of(a)
    for d in range(<int>s.D):
        h_full = NULL if call.h_full == NULL else <char*>call.h_full + d * cells * item
        start = <char*>call.start + d * starts * item if a.hoisted else NULL
        for n in range(team):
            if operands.bytes:
                operands = operands_of(call.kernels, s, a, call.operands + (d * team + n) * operands.bytes)
            init_forward(&call.forward[d * team + n], &call.passes[d], n, h_full, start, &operands)


cdef inline void forward_thread(
    Call* call, int rank, int started, const real* input, const real* h_0, real* c, real* output
) noexcept nogil:
    """One thread: its own direction first."""
    cdef const Shape* s = call.shape
    cdef Thread t = begin_thread(call, rank, started)
    cdef Py_ssize_t cells = s.blocks * s.B * s.VL
    cdef bint keeps = call.kept.gates != NULL or call.kept.h_segment != NULL
    cdef Kept kept
    cdef ForwardPass f
    cdef int d, n
    f.kept, f.asks = &kept if keeps else NULL, rank == 0
    for n in range(<int>s.D):
        d = (t.direction + n) % <int>s.D
        kept = kept_of(call, d, sizeof(real))
        f.p, f.parts, f.part = &call.passes[d], call.forward + d * t.team, rank_in(call, &t, d)
        f.turns = in_region(call, call.turns + d * t.team)
        forward_direction(&f, input, h_0 + d * s.B * s.R if call.h_0_per_direction else h_0, c + d * cells,
                          output + d * s.R)
    end_thread(call, &t)


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
    cdef int threads = call.partition.threads, d, n, team
    cdef bint entered = begin_call(call)
    team = team_of(&call.partition)
    for d in range(<int>call.shape.D):
        for n in range(team):
            call.backward[d * team + n] = init_backward(&call.passes[d], at, n)
    if entered:
        with parallel(num_threads=threads):
            backward_thread(call, omp_get_thread_num(), omp_get_num_threads(), a, at, scratch)
    else:
        backward_thread(call, 0, 1, a, at, scratch)
    region_leave(threads, entered)


cdef inline void backward_thread(
    Call* call, int rank, int started, const BackwardArrays* a, const Scratch* at, real* scratch
) noexcept nogil:
    """One thread: its own direction first."""
    cdef const Shape* s = call.shape
    cdef Thread t = begin_thread(call, rank, started)
    cdef const real* grad_output = NULL
    cdef BackwardPass b
    cdef Group everyone
    cdef int d, n, part
    b.team, b.asks, b.at = t.team, rank == 0, at[0]
    for n in range(<int>s.D):
        d = (t.direction + n) % <int>s.D
        b.p, b.rank = &call.passes[d], rank_in(call, &t, d)
        b.stored = b.kept = kept_of(call, d, sizeof(real))
        b.parts, b.again = call.backward + d * t.team, call.forward + d * t.team
        b.turns, b.all_turns = in_region(call, call.turns + d * t.team), in_region(call, call.all_turns + d * t.team)
        if a.grad_output != NULL:
            grad_output = <const real*>a.grad_output + d * s.R
        everyone = group_of(b.all_turns, b.team, b.rank)
        backward_direction(&b, &everyone, scratch + d * at.total, <const real*>a.input, grad_output,
                           <real*>a.grad_input + d * s.N * s.I)
        turn_begins(&everyone)
        part = part_take(&everyone)
        while part >= 0:
            unpack_part(call, a, at, scratch, d, part)
            part_done(&everyone, part)
            part = part_take(&everyone)
    end_thread(call, &t)


cdef inline void unpack_part(
    const Call* call, const BackwardArrays* a, const Scratch* at,
    const real* scratch,   # (D, at.total)
    int d, int part,
) noexcept nogil:
    """The gradients of one direction's weights as the caller has them, the part of its threads with this index."""
    cdef const Shape* s = call.shape
    cdef int team = team_of(&call.partition)
    cdef Py_ssize_t j0 = s.blocks * part // team, j1 = s.blocks * (part + 1) // team
    cdef const real* arrays = scratch + d * at.total
    if s.I:
        unpack_gates(arrays + at.grad_weight_ih, <real*>a.grad_weight_ih + d * 4 * s.H * s.I, s, s.I, j0, j1)
    unpack_gates(arrays + at.grad_weight_hh, <real*>a.grad_weight_hh + d * 4 * s.H * s.R, s, s.R, j0, j1)
    unpack_gates(arrays + at.grad_bias, <real*>a.grad_bias + d * 4 * s.H, s, 1, j0, j1)


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
