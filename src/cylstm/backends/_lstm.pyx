# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""The LSTM on packed rows, forward and backward, float32 and float64: threads, the loop over time, packing.

Symbols and shapes are those of ``base.py``, plus::

    VL      lanes of one vector          blocks  ceil(H / VL), a block being VL hidden units
    groups  ceil(n / (4 VL)): panels of 4 VL columns of a matrix with n columns

Design
------
- The arithmetic is in ``kernels/`` (tiles of a few rows x one block). This file decides which tile runs when, on which
  thread. Every number is a sum in one fixed order (see ``kernels.h``), and threads share out numbers, never a sum: so
  the result does not depend on the batch, the threads, or on how a sequence is cut.
- One parallel region per call. The threads of a direction form ``row_groups x unit_groups``: a thread owns the row
  tiles of its row group and the blocks of its unit group. h has to travel between the threads of one row group only:
  one barrier of theirs per step, none where ``unit_groups`` is 1. Both directions run at once where there are threads.
- h of the step before is read where it was written, in ``output``.
- ``ahead``: with few rows per step the input's share of the sums is computed for many steps at once, as one matrix
  product, in a buffer whose size does not depend on T.
- backward: the thread that owns a block computes its part of grad_h and at once the gradients of its gates. The
  gradients of the weights are products over chunks of ``_chunk_steps`` steps, counted in the order of the forward pass.
- Where forward kept the states alone, it kept them before the first step of each segment, which is SEGMENT chunks;
  backward then runs the forward pass of a segment again.
"""

cimport cython
from cython.parallel cimport parallel
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from ._kernels cimport (
    Barrier, GatesBackwardTile, GatesTile, Kernels, ProductTile,
    barrier_wait, cylstm_kernels, flush_denormals, restore_denormals,
)
from ._openmp cimport (
    CYLSTM_OPENMP, omp_get_max_threads, omp_get_num_threads, omp_get_thread_num, omp_in_parallel,
)

cdef extern from "<unistd.h>" nogil:
    int getpid()

ctypedef fused real:
    float
    double

# Rows whose input share is computed ahead, and below how many rows per step that pays.
cdef Py_ssize_t AHEAD = 96
cdef Py_ssize_t AHEAD_BELOW = 32
# Rows of one chunk of the backward pass, and chunks of one segment.
cdef Py_ssize_t CHUNK = 128
cdef Py_ssize_t SEGMENT = 8
# Multiply-adds of a step, and of a call, below which another thread costs more than it brings.
cdef Py_ssize_t STEP_FOR_BARRIER = 40_000
cdef Py_ssize_t CALL_FOR_REGION = 500_000
# Bytes of packed weights that a core is trusted to keep in its own cache.
cdef Py_ssize_t OWN_CACHE = 1 << 20


cdef struct Shape:
    Py_ssize_t T, B, N, I, H, R, P, D
    Py_ssize_t VL, blocks


cdef struct Plan:
    int threads            # of the region; 1: there is none
    bint directions_apart  # the first half of the threads takes direction 0, the other half direction 1
    int row_groups         # of the threads of one direction
    int unit_groups
    Py_ssize_t tiles       # tile i holds the rows i B / tiles ... (i + 1) B / tiles of a step
    Py_ssize_t ahead       # rows of the buffer for the input's share; 0: computed with each step


cdef inline Py_ssize_t _ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t _chunk_steps(Py_ssize_t B) noexcept nogil:
    return max(1, CHUNK // B)


def segments(Py_ssize_t T, Py_ssize_t B):
    """How many states forward keeps of T steps for a backward pass that computes the gates again."""
    return _ceil_div(T, SEGMENT * _chunk_steps(B)) if B else 0


cdef void* _buffer(Py_ssize_t items, Py_ssize_t itemsize) except NULL nogil:
    """Zeroed memory that starts on a cache line; the address to free stands before it."""
    cdef char* raw = <char*>calloc(items * itemsize + 128, 1)
    cdef char* start
    if raw == NULL:
        with gil:
            raise MemoryError(f"cannot allocate {items * itemsize} bytes for the LSTM's buffers")
    start = <char*>((<uintptr_t>raw + 127) & ~(<uintptr_t>63))
    (<void**>start)[-1] = raw
    return start


cdef void _release(void* buffer) noexcept nogil:
    if buffer != NULL:
        free((<void**>buffer)[-1])


# ---------------------------------------------------------------------------------------------------------- packing

cdef void _pack_gates(
    const real* weight,  # IN (4H, K)
    real* panels,        # OUT (blocks, K, 4, VL), zeroed before
    Py_ssize_t H, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t j, k, gate, lane, lanes
    cdef const real* row
    cdef real* panel
    for j in range(_ceil_div(H, VL)):
        panel = panels + j * K * 4 * VL
        lanes = min(VL, H - j * VL)
        for gate in range(4):
            for lane in range(lanes):
                row = weight + (gate * H + j * VL + lane) * K
                for k in range(K):
                    panel[(k * 4 + gate) * VL + lane] = row[k]


cdef void _unpack_gates(
    const real* panels,  # IN (blocks, K, 4, VL)
    real* weight,        # OUT (4H, K)
    Py_ssize_t H, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t j, k, gate, lane, lanes
    cdef const real* panel
    cdef real* row
    for j in range(_ceil_div(H, VL)):
        panel = panels + j * K * 4 * VL
        lanes = min(VL, H - j * VL)
        for gate in range(4):
            for lane in range(lanes):
                row = weight + (gate * H + j * VL + lane) * K
                for k in range(K):
                    row[k] = panel[(k * 4 + gate) * VL + lane]


cdef void _transpose_gates(
    const real* panels,    # IN (blocks, K, 4, VL)
    real* transposed,      # OUT (groups of K, blocks * 4 VL, 4 VL), zeroed before
    Py_ssize_t blocks, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    """For products of grad_a, which runs over the packed gates, with a weight."""
    cdef Py_ssize_t W = 4 * VL, j, k, column
    for j in range(blocks):
        for k in range(K):
            for column in range(W):
                transposed[((k // W) * blocks * W + j * W + column) * W + k % W] = panels[(j * K + k) * W + column]


cdef void _pack_columns(
    const real* matrix,  # IN (n, K): column c of the product is row c of this
    real* panels,        # OUT (groups of n, K, 4 VL), zeroed before
    Py_ssize_t n, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t W = 4 * VL, c, k
    for c in range(n):
        for k in range(K):
            panels[((c // W) * K + k) * W + c % W] = matrix[c * K + k]


cdef void _transpose_columns(
    const real* panels,  # IN (groups of n, K, 4 VL)
    real* transposed,    # OUT (groups of K, n, 4 VL), zeroed before
    Py_ssize_t n, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t W = 4 * VL, c, k
    for c in range(n):
        for k in range(K):
            transposed[((k // W) * n + c) * W + k % W] = panels[((c // W) * K + k) * W + c % W]


cdef struct Packed:  # one direction
    void* weight_ih     # (blocks, I, 4, VL)
    void* weight_hh     # (blocks, R, 4, VL)
    void* bias          # (blocks, 4, VL) = b_ih + b_hh
    void* weight_hr     # (groups of P, H, 4 VL), NULL without projection
    void* weight_ih_t   # (groups of I, blocks * 4 VL, 4 VL), NULL before the first backward pass
    void* weight_hh_t   # (groups of R, blocks * 4 VL, 4 VL)
    void* weight_hr_t   # (groups of H, P, 4 VL)


cdef class Layer:
    """The packed weights of one layer for one instruction set. What ``CythonBackend.prepare`` returns."""

    cdef const Kernels* kernels
    cdef Shape shape
    cdef readonly Py_ssize_t D, H, R, P, blocks, lanes  # of shape, for Python
    cdef readonly bint bias
    cdef readonly Py_ssize_t serial_below  # rows of a call from which on more than one thread may pay
    cdef Packed packed[2]
    cdef bint finite  # no weight is inf or nan: a state of zeros adds nothing

    def __cinit__(self, Py_ssize_t D, Py_ssize_t I, Py_ssize_t H, Py_ssize_t P, Py_ssize_t itemsize, isa=None):
        name = None if isa is None else isa.encode()
        self.kernels = cylstm_kernels(NULL if name is None else <const char*>name, itemsize)
        if self.kernels == NULL:
            raise ValueError(f"this processor cannot run the instruction set {isa!r}; it runs {instruction_sets()}")
        self.shape.D, self.shape.I, self.shape.H, self.shape.P = D, I, H, P
        self.shape.R = P if P else H
        self.shape.VL = self.kernels.lanes
        self.shape.blocks = _ceil_div(H, self.shape.VL)
        self.D, self.H, self.R, self.P = D, H, self.shape.R, P
        self.blocks, self.lanes = self.shape.blocks, self.shape.VL
        self.serial_below = _ceil_div(CALL_FOR_REGION, max(1, 4 * H * (I + self.shape.R) * D))
        self.finite = True

    def __dealloc__(self):
        cdef int d
        for d in range(2):
            _release(self.packed[d].weight_ih)
            _release(self.packed[d].weight_hh)
            _release(self.packed[d].bias)
            _release(self.packed[d].weight_hr)
            _release(self.packed[d].weight_ih_t)
            _release(self.packed[d].weight_hh_t)
            _release(self.packed[d].weight_hr_t)

    @property
    def isa(self):
        return self.kernels.isa.decode()


def pack(
    Layer layer not None, int d,
    const real[:, ::1] weight_ih not None,  # (4H, I)
    const real[:, ::1] weight_hh not None,  # (4H, R)
    const real[::1] bias_ih,                # (4H,) or None
    const real[::1] bias_hh,                # (4H,) or None
    const real[:, ::1] weight_hr,           # (P, H) or None
):
    """Pack the weights of direction d. Called once per direction, before the layer is used."""
    cdef Shape s = layer.shape
    cdef Packed* p = &layer.packed[d]
    cdef Py_ssize_t W = 4 * s.VL, H = s.H, unit, gate
    cdef real* bias
    p.weight_ih = _buffer(s.blocks * s.I * W, sizeof(real))
    p.weight_hh = _buffer(s.blocks * s.R * W, sizeof(real))
    p.bias = _buffer(s.blocks * W, sizeof(real))
    if s.P:
        p.weight_hr = _buffer(_ceil_div(s.P, W) * H * W, sizeof(real))
    with nogil:
        if s.I:
            _pack_gates(&weight_ih[0, 0], <real*>p.weight_ih, H, s.I, s.VL)
        _pack_gates(&weight_hh[0, 0], <real*>p.weight_hh, H, s.R, s.VL)
        if s.P:
            _pack_columns(&weight_hr[0, 0], <real*>p.weight_hr, s.P, H, s.VL)
        if bias_ih is not None:
            layer.bias = True
            bias = <real*>p.bias
            for gate in range(4):
                for unit in range(H):
                    bias[(unit // s.VL) * W + gate * s.VL + unit % s.VL] = (
                        bias_ih[gate * H + unit] + bias_hh[gate * H + unit])
        if not _all_finite(&weight_hh[0, 0], 4 * H * s.R):
            layer.finite = False


cdef bint _all_finite(const real* a, Py_ssize_t n) noexcept nogil:
    cdef real zero = 0
    cdef Py_ssize_t k
    for k in range(n):
        zero += a[k] * 0  # nan once an element is inf or nan
    return zero == 0


cdef int _pack_transposed(Layer layer, real zero) except -1:
    """The panels of the backward pass, made from those of the forward pass when first needed."""
    cdef Shape s = layer.shape
    cdef Packed* p
    cdef Py_ssize_t W = 4 * s.VL
    cdef int d
    for d in range(<int>s.D):
        p = &layer.packed[d]
        if p.weight_hh_t != NULL:
            continue
        p.weight_ih_t = _buffer(_ceil_div(s.I, W) * s.blocks * W * W, sizeof(real))
        _transpose_gates(<const real*>p.weight_ih, <real*>p.weight_ih_t, s.blocks, s.I, s.VL)
        if s.P:
            p.weight_hr_t = _buffer(_ceil_div(s.H, W) * s.P * W, sizeof(real))
            _transpose_columns(<const real*>p.weight_hr, <real*>p.weight_hr_t, s.P, s.H, s.VL)
        p.weight_hh_t = _buffer(_ceil_div(s.R, W) * s.blocks * W * W, sizeof(real))
        _transpose_gates(<const real*>p.weight_hh, <real*>p.weight_hh_t, s.blocks, s.R, s.VL)
    return 0


# ---------------------------------------------------------------------------------------------------------- threads

cdef int region_pid = 0   # the process in which a parallel region has run; its threads do not survive a fork
cdef int region_busy = 0  # a call from another thread has the region: this one runs alone

cdef extern from *:
    """
    static inline int take(int *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static inline void give(int *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    """
    bint take(int* flag) nogil
    void give(int* flag) nogil


cdef Plan _plan(const Shape* s, int threads, Py_ssize_t max_rows, Py_ssize_t itemsize) noexcept nogil:
    """Who computes what, for at most `threads` threads. A function of the shape alone."""
    cdef Plan plan
    cdef Py_ssize_t macs_step = 4 * s.H * s.R * s.B, macs_call = 4 * s.H * (s.I + s.R) * s.N * s.D
    cdef Py_ssize_t weights = 4 * s.H * (s.I + s.R) * itemsize
    cdef int team
    plan.directions_apart = False
    plan.row_groups = plan.unit_groups = 1
    plan.ahead = AHEAD if s.B < AHEAD_BELOW and s.N > s.B else 0
    if plan.ahead:
        plan.ahead = max(s.B, min(AHEAD, s.N))
    if macs_call < CALL_FOR_REGION:
        threads = 1
    team = threads
    if s.D == 2 and threads > 1:
        plan.directions_apart = True
        team = threads // 2
    if s.B >= 6 * team and (weights <= OWN_CACHE or macs_step < STEP_FOR_BARRIER):
        plan.row_groups = team
        if team > 1:
            plan.ahead = 0
    elif macs_step >= STEP_FOR_BARRIER or s.T == 1:
        plan.unit_groups = <int>min(team, s.blocks)
    plan.threads = plan.row_groups * plan.unit_groups * (2 if plan.directions_apart else 1)
    plan.tiles = plan.row_groups * _ceil_div(s.B, plan.row_groups * max_rows)
    return plan


cdef Plan _smaller_plan(const Plan* plan, const Shape* s, int threads) noexcept nogil:
    """The plan where fewer threads came than were asked for: with the buffers that were made for `plan`."""
    cdef Plan smaller = plan[0]
    smaller.directions_apart = False
    smaller.row_groups = 1
    smaller.unit_groups = <int>min(threads, s.blocks)
    smaller.threads = threads
    return smaller


cdef bint _enter_region(const Plan* plan) noexcept nogil:
    """Whether a parallel region may be opened now; if so, `give(&region_busy)` follows it."""
    global region_pid
    if plan.threads < 2 or omp_in_parallel() or not take(&region_busy):
        return False
    if region_pid != 0 and region_pid != getpid():
        give(&region_busy)
        return False
    region_pid = getpid()
    return True


# --------------------------------------------------------------------------------------------------------- products

# out[g] (rows, 4 VL) = start[g] + a (rows, K) @ panels[g] (K, 4 VL), for several g, cut into tiles
cdef struct Products:
    ProductTile tile             # rows, columns, and the pointers in it are set for each tile
    Py_ssize_t rows
    Py_ssize_t columns           # of all panels together
    Py_ssize_t panel_step, start_step, out_step  # from one g to the next
    const void* panels
    const void* start            # or NULL
    const void* a
    void* out


cdef Py_ssize_t _tiles(const Kernels* kernels, const Products* p) noexcept nogil:
    """Tiles of one panel."""
    return _ceil_div(p.rows, kernels.max_rows)


cdef void _run_products(
    const Kernels* kernels,
    Products* p,
    Py_ssize_t first, Py_ssize_t last,  # tiles to compute, counted through all panels: panel = index // _tiles
    real zero,                          # of the type of the arrays
) noexcept nogil:
    cdef Py_ssize_t tiles = _tiles(kernels, p), W = 4 * kernels.lanes, index, g, low
    cdef ProductTile* tile = &p.tile
    for index in range(first, last):
        g = index // tiles
        low = (index % tiles) * p.rows // tiles
        tile.rows = (index % tiles + 1) * p.rows // tiles - low
        tile.columns = min(W, p.columns - g * W)
        tile.panel = <const real*>p.panels + g * p.panel_step
        tile.start = NULL
        if p.start != NULL:
            tile.start = <const real*>p.start + g * p.start_step + low * tile.start_stride
        tile.a = <const real*>p.a + low * tile.a_row
        tile.out = <real*>p.out + g * p.out_step + low * tile.out_stride
        kernels.product(tile)


# ---------------------------------------------------------------------------------------------------------- forward

cdef void _forward_direction(
    const Kernels* kernels,
    const Shape* s,
    const Plan* plan,
    int rank,                     # of this thread among those of the direction
    bint reverse,
    const real* input,            # IN (N, I)
    const int64_t* batch_sizes,   # IN (T,)
    const Packed* packed,         # IN panels
    const real* h_0,              # IN (B, R), or NULL: zeros that add nothing
    real* c,                      # IN/OUT (blocks, B, VL)
    real* output,                 # OUT (N, R), rows D R apart
    real* h_full,                 # OUT (B, blocks VL), h before the projection; NULL without
    real* start,                  # OUT (blocks, ahead, 4, VL), the input's share of the sums; NULL if ahead = 0
    real* h_prev,                 # OUT (N, R) kept for backward, or NULL
    real* c_prev,                 # OUT (blocks, N, VL) kept for backward, or NULL
    real* gates,                  # OUT (blocks, N, 4, VL) kept for backward, or NULL
    real* h_segment,              # OUT (segments, B, R) before the first step of each, or NULL
    real* c_segment,              # OUT (segments, blocks, B, VL), likewise
    Barrier* barriers,            # one per row group
) noexcept nogil:
    cdef GatesTile tile
    cdef ProductTile product
    cdef Products ahead  # start = x Wᵀ + bias
    cdef int row_group = rank // plan.unit_groups, unit_group = rank % plan.unit_groups
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, B = s.B, I = s.I, R = s.R, P = s.P, H = s.H, stride = s.D * s.R
    cdef Py_ssize_t j0 = s.blocks * unit_group // plan.unit_groups
    cdef Py_ssize_t j1 = s.blocks * (unit_group + 1) // plan.unit_groups
    cdef Py_ssize_t groups = _ceil_div(P, W)
    cdef Py_ssize_t g0 = groups * unit_group // plan.unit_groups, g1 = groups * (unit_group + 1) // plan.unit_groups
    cdef Py_ssize_t own_tiles = _ceil_div(plan.tiles - row_group, plan.row_groups)
    cdef Py_ssize_t step, t, b, kept, i, j, g, n, r, low, high, stop
    cdef Py_ssize_t row = s.N if reverse else 0   # first packed row of the step
    cdef Py_ssize_t b_before = 0, row_before = 0  # of the step taken before
    cdef Py_ssize_t ahead_step = 0, ahead_row = 0, ahead_rows  # the first step and row beyond / of the rows ahead
    cdef const real* weight_ih = <const real*>packed.weight_ih
    cdef const real* weight_hh = <const real*>packed.weight_hh
    cdef const real* weight_hr = <const real*>packed.weight_hr
    cdef const real* bias = <const real*>packed.bias
    cdef const real* h
    cdef Py_ssize_t segment_steps = SEGMENT * _chunk_steps(B)
    cdef Barrier* barrier = barriers + row_group
    if row_group >= plan.row_groups:
        return

    tile.input_stride = I
    tile.start_stride = W if plan.ahead else 0
    tile.I = 0 if plan.ahead else I
    tile.h_out_stride = s.blocks * VL if P else stride
    tile.c_prev = NULL
    tile.gates = NULL
    product.segments, product.a_segment, product.a_k = 1, 0, 1
    if plan.ahead:
        ahead.tile = product
        ahead.tile.a_row, ahead.tile.K, ahead.tile.start_stride, ahead.tile.out_stride = I, I, 0, W
        ahead.columns = s.blocks * W
        ahead.panels, ahead.panel_step = weight_ih, I * W
        ahead.start, ahead.start_step = bias, W
        ahead.out, ahead.out_step = start, plan.ahead * W

    for step in range(s.T):
        t = s.T - 1 - step if reverse else step
        b = batch_sizes[t]
        if reverse:
            row -= b
        kept = min(b, b_before)  # rows that go on from the step before; the others begin with h_0

        if plan.ahead and step == ahead_step:
            ahead_rows = 0
            while ahead_step < s.T:
                stop = batch_sizes[s.T - 1 - ahead_step if reverse else ahead_step]
                if ahead_rows + stop > plan.ahead:
                    break
                ahead_rows += stop
                ahead_step += 1
            ahead_row = row + b - ahead_rows if reverse else row
            ahead.rows = ahead_rows
            ahead.a = input + ahead_row * I
            _run_products(kernels, &ahead, j0 * _tiles(kernels, &ahead), j1 * _tiles(kernels, &ahead), <real>0)

        if h_prev != NULL:
            for n in range(own_tiles):
                i = row_group + n * plan.row_groups
                for r in range(i * B // plan.tiles, min((i + 1) * B // plan.tiles, b)):
                    if r % plan.unit_groups == unit_group:
                        _copy_state(h_prev + (row + r) * R, r, kept, output + (row_before + r) * stride, h_0, R)
        if h_segment != NULL and step % segment_steps == 0:
            for n in range(own_tiles):
                i = row_group + n * plan.row_groups
                low, high = i * B // plan.tiles, (i + 1) * B // plan.tiles
                for r in range(low, high):
                    if r % plan.unit_groups == unit_group:
                        _copy_state(h_segment + (step // segment_steps * B + r) * R, r, kept,
                                    output + (row_before + r) * stride, h_0, R)
                for j in range(j0, j1):
                    memcpy(c_segment + ((step // segment_steps * s.blocks + j) * B + low) * VL,
                           c + (j * B + low) * VL, (high - low) * VL * sizeof(real))

        for j in range(j0, j1):
            tile.lanes = VL if P else min(VL, H - j * VL)
            tile.weight_ih = weight_ih + j * I * W
            tile.weight_hh = weight_hh + j * R * W
            for n in range(own_tiles):
                i = row_group + n * plan.row_groups
                r, high = i * B // plan.tiles, min((i + 1) * B // plan.tiles, b)
                while r < high:
                    if r < kept:
                        stop = min(high, kept)
                        tile.h, tile.h_stride, tile.R = output + (row_before + r) * stride, stride, R
                    else:
                        stop = high
                        tile.h, tile.h_stride, tile.R = h_0 + r * R, R, R if h_0 != NULL else 0
                    tile.rows = stop - r
                    if plan.ahead:
                        tile.start = start + (j * plan.ahead + row - ahead_row + r) * W
                    else:
                        tile.start = bias + j * W
                        tile.input = input + (row + r) * I
                    tile.c = c + (j * B + r) * VL
                    tile.h_out = (h_full + r * s.blocks * VL if P else output + (row + r) * stride) + j * VL
                    if c_prev != NULL:
                        tile.c_prev = c_prev + (j * s.N + row + r) * VL
                    if gates != NULL:
                        tile.gates = gates + (j * s.N + row + r) * W
                    kernels.gates(&tile)
                    r = stop

        if P:  # (5) h = W_hr h
            barrier_wait(barrier, plan.unit_groups)
            product.start, product.start_stride = NULL, 0
            product.a_row, product.K, product.out_stride = s.blocks * VL, H, stride
            for g in range(g0, g1):
                product.panel = weight_hr + g * H * W
                product.columns = min(W, P - g * W)
                for n in range(own_tiles):
                    i = row_group + n * plan.row_groups
                    low, high = i * B // plan.tiles, min((i + 1) * B // plan.tiles, b)
                    if low < high:
                        product.rows = high - low
                        product.a = h_full + low * s.blocks * VL
                        product.out = output + (row + low) * stride + g * W
                        kernels.product(&product)

        barrier_wait(barrier, plan.unit_groups)
        row_before, b_before = row, b
        if not reverse:
            row += b


cdef void _copy_state(
    real* out, Py_ssize_t r, Py_ssize_t kept, const real* h_before, const real* h_0, Py_ssize_t R,
) noexcept nogil:
    """out (R,) = the state that row r brings to a step: of the step before, of h_0, or zeros."""
    if r < kept:
        memcpy(out, h_before, R * sizeof(real))
    elif h_0 != NULL:
        memcpy(out, h_0 + r * R, R * sizeof(real))
    else:
        memset(out, 0, R * sizeof(real))


def forward(
    Layer layer not None,
    const real[:, ::1] input not None,            # IN (N, I)
    const int64_t[::1] batch_sizes not None,      # IN (T,)
    const real[:, :, ::1] h_0,                    # IN (D, B, R) or None
    const real[:, :, ::1] c_0,                    # IN (D, B, H) or None
    real[:, ::1] output not None,                 # OUT (N, D R)
    real[:, :, ::1] h_n not None,                 # OUT (D, B, R)
    real[:, :, ::1] c_n not None,                 # OUT (D, B, H)
    real[:, :, ::1] h_prev,                       # OUT (D, N, R) or None
    real[:, :, :, ::1] c_prev,                    # OUT (D, blocks, N, VL) or None
    real[:, :, :, ::1] gates,                     # OUT (D, blocks, N, 4 VL) or None
    real[:, :, :, ::1] h_segment,                 # OUT (D, segments, B, R) or None
    real[:, :, :, :, ::1] c_segment,              # OUT (D, segments, blocks, B, VL) or None
    int threads,
):
    """Run one layer on N > 0 rows. The caller has checked every shape."""
    cdef const Kernels* kernels = layer.kernels
    cdef Shape s = layer.shape
    cdef Plan plan, smaller
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, d, b, j, t, row, cells, starts
    cdef real* scratch
    cdef real* c
    cdef real* start = NULL
    cdef real* h_full = NULL
    cdef real* zeros = NULL
    cdef Barrier* barriers
    cdef int came, rank
    cdef unsigned long long mode
    s.T, s.N, s.B = batch_sizes.shape[0], input.shape[0], batch_sizes[0]
    plan = _plan(&s, threads, kernels.max_rows, sizeof(real))

    # one allocation: c | start | h_full | zeros | barriers
    cells = s.blocks * s.B * VL
    starts = s.blocks * plan.ahead * W
    cdef Py_ssize_t fulls = s.blocks * VL * s.B if s.P else 0
    cdef Py_ssize_t zero_items = 0 if h_0 is not None or layer.finite else s.B * s.R
    cdef Py_ssize_t barrier_items = s.D * plan.threads * <Py_ssize_t>(sizeof(Barrier) // sizeof(real))
    cdef Py_ssize_t directions = s.D
    scratch = <real*>_buffer(
        directions * (cells + starts + fulls) + zero_items + barrier_items + 64, sizeof(real))
    c = scratch + barrier_items
    if plan.ahead:
        start = c + directions * cells
    if s.P:
        h_full = c + directions * (cells + starts)
    if zero_items:
        zeros = c + directions * (cells + starts + fulls)
    barriers = <Barrier*>scratch

    with nogil:
        if c_0 is not None:
            for d in range(s.D):
                for j in range(s.blocks):
                    for b in range(s.B):
                        memcpy(c + d * cells + (j * s.B + b) * VL, &c_0[d, b, j * VL],
                               min(VL, s.H - j * VL) * sizeof(real))

        if _enter_region(&plan):
            with parallel(num_threads=plan.threads):
                _forward_thread(kernels, &s, &plan, omp_get_thread_num(), omp_get_num_threads(),
                                &input[0, 0] if s.I else NULL, &batch_sizes[0], layer.packed,
                                zeros if h_0 is None else &h_0[0, 0, 0], h_0 is not None,
                                c, &output[0, 0], h_full, start,
                                NULL if h_prev is None else &h_prev[0, 0, 0],
                                NULL if c_prev is None else &c_prev[0, 0, 0, 0],
                                NULL if gates is None else &gates[0, 0, 0, 0],
                                NULL if h_segment is None else &h_segment[0, 0, 0, 0],
                                NULL if c_segment is None else &c_segment[0, 0, 0, 0, 0], barriers)
            give(&region_busy)
        else:
            _forward_thread(kernels, &s, &plan, 0, 1,
                            &input[0, 0] if s.I else NULL, &batch_sizes[0], layer.packed,
                            zeros if h_0 is None else &h_0[0, 0, 0], h_0 is not None,
                            c, &output[0, 0], h_full, start,
                            NULL if h_prev is None else &h_prev[0, 0, 0],
                            NULL if c_prev is None else &c_prev[0, 0, 0, 0],
                            NULL if gates is None else &gates[0, 0, 0, 0],
                            NULL if h_segment is None else &h_segment[0, 0, 0, 0],
                            NULL if c_segment is None else &c_segment[0, 0, 0, 0, 0], barriers)

        for d in range(s.D):
            for j in range(s.blocks):
                for b in range(s.B):
                    memcpy(&c_n[d, b, j * VL], c + d * cells + (j * s.B + b) * VL,
                           min(VL, s.H - j * VL) * sizeof(real))
        # h_n: direction 0 ends with each sequence's own last step, direction 1 with step 0
        row = s.N
        for t in range(s.T - 1, -1, -1):
            row -= batch_sizes[t]
            for b in range(batch_sizes[t + 1] if t + 1 < s.T else 0, batch_sizes[t]):
                memcpy(&h_n[0, b, 0], &output[row + b, 0], s.R * sizeof(real))
        if s.D == 2:
            for b in range(s.B):
                memcpy(&h_n[1, b, 0], &output[b, s.R], s.R * sizeof(real))
        _release(scratch)


cdef void _forward_thread(
    const Kernels* kernels, const Shape* s, const Plan* asked, int rank, int came,
    const real* input, const int64_t* batch_sizes, const Packed* packed, const real* h_0, bint h_0_given,
    real* c, real* output, real* h_full, real* start, real* h_prev, real* c_prev, real* gates,
    real* h_segment, real* c_segment, Barrier* barriers,
) noexcept nogil:
    """One thread of the region: its direction or both, one after the other. Arrays hold all directions."""
    cdef Plan plan = asked[0]
    cdef int team, d, first = 0, last = <int>s.D
    cdef Py_ssize_t count = _ceil_div(s.T, SEGMENT * _chunk_steps(s.B))
    cdef unsigned long long mode = flush_denormals()
    if came != asked.threads:
        plan = _smaller_plan(asked, s, came)
    team = plan.row_groups * plan.unit_groups
    if plan.directions_apart:
        first = rank // team
        last = first + 1
        rank = rank % team
    for d in range(first, last):
        _forward_direction(
            kernels, s, &plan, rank, d == 1, input, batch_sizes, &packed[d],
            h_0 + d * s.B * s.R if h_0_given else h_0,
            c + d * s.blocks * s.B * s.VL, output + d * s.R,
            NULL if h_full == NULL else h_full + d * s.B * s.blocks * s.VL,
            NULL if start == NULL else start + d * s.blocks * plan.ahead * 4 * s.VL,
            NULL if h_prev == NULL else h_prev + d * s.N * s.R,
            NULL if c_prev == NULL else c_prev + d * s.blocks * s.N * s.VL,
            NULL if gates == NULL else gates + d * s.blocks * s.N * 4 * s.VL,
            NULL if h_segment == NULL else h_segment + d * count * s.B * s.R,
            NULL if c_segment == NULL else c_segment + d * count * s.blocks * s.B * s.VL,
            barriers + d * plan.row_groups)
    restore_denormals(mode)


forward_float32 = forward["float"]
forward_float64 = forward["double"]


# --------------------------------------------------------------------------------------------------------- backward

cdef struct Again:  # the arrays of _forward_direction, of one segment
    void* h_prev
    void* c_prev
    void* gates
    void* c
    void* output
    void* h_full
    void* start


cdef Plan _backward_plan(const Shape* s, int threads, Py_ssize_t max_rows) noexcept nogil:
    cdef Plan plan
    cdef Py_ssize_t macs_step = 4 * s.H * s.R * s.B, macs_call = 4 * s.H * (s.I + s.R) * s.N * s.D
    cdef int team
    plan.directions_apart = False
    plan.row_groups = plan.unit_groups = 1
    plan.ahead = 0
    if macs_call < CALL_FOR_REGION:
        threads = 1
    team = threads
    if s.D == 2 and threads > 1:
        plan.directions_apart = True
        team = threads // 2
    if s.B >= 6 * team:
        plan.row_groups = team
    elif macs_step >= STEP_FOR_BARRIER:
        plan.unit_groups = <int>min(team, _ceil_div(s.blocks, 4))
    plan.threads = team * (2 if plan.directions_apart else 1)  # those without a row or unit share in the products
    # for what is computed again
    plan.tiles = plan.row_groups * _ceil_div(s.B, plan.row_groups * max_rows)
    if s.B < AHEAD_BELOW and plan.row_groups == 1:
        plan.ahead = AHEAD
    return plan


cdef void _backward_direction(
    const Kernels* kernels,
    const Shape* s,
    const Plan* plan,
    int rank, int team,             # this thread, of the threads of the direction
    bint reverse,
    const real* input,              # IN (N, I)
    const int64_t* batch_sizes,     # IN (T,)
    const Packed* packed,           # IN panels
    const real* h_prev,             # IN (N, R), or NULL: computed again, as the next two
    const real* c_prev,             # IN (blocks, N, VL)
    const real* gates,              # IN (blocks, N, 4, VL)
    const real* h_segment,          # IN (segments, B, R), or NULL: nothing is computed again
    const real* c_segment,          # IN (segments, blocks, B, VL)
    const real* grad_output,        # IN (N, R), rows D R apart, or NULL
    real* grad_state,               # IN/OUT (groups of R, B, 4 VL): of h_n -> of h_0
    real* grad_c,                   # IN/OUT (blocks, B, VL): of c_n -> of c_0
    real* grad_input,               # OUT (N, I)
    real* grad_weight_ih,           # OUT (blocks, I, 4, VL)
    real* grad_weight_hh,           # OUT (blocks, R, 4, VL)
    real* grad_bias,                # OUT (blocks, 4, VL)
    real* grad_weight_hr,           # OUT (groups of H, P, 4 VL), or NULL
    real* grad_a,                   # scratch (blocks, rows of a chunk, 4, VL)
    Again* again,                   # scratch of what is computed again
    real* grad_projected,           # scratch (rows of a chunk, P rounded up to 4 VL), with projection
    real* grad_h,                   # scratch (groups of H, B, 4 VL), with projection; else grad_state itself
    real* h,                        # scratch (groups of H, rows of a chunk, 4 VL), with projection
    Py_ssize_t chunk_rows,          # that the scratch holds
    Barrier* barriers,              # one per row group, then one for all threads of the direction
) noexcept nogil:
    cdef GatesBackwardTile tile
    cdef Shape segment = s[0]
    cdef Products through_state, through_projection, products
    cdef int row_group = rank // plan.unit_groups, unit_group = rank % plan.unit_groups
    cdef bint steps_here = row_group < plan.row_groups, first_chunk = True
    cdef Barrier* barrier = barriers + (row_group if steps_here else 0)
    cdef Barrier* everyone = barriers + plan.row_groups
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, B = s.B, I = s.I, R = s.R, P = s.P, blocks = s.blocks, N = s.N
    cdef Py_ssize_t groups = _ceil_div(s.H, W), state_groups = _ceil_div(R, W), P_stride = _ceil_div(P, W) * W
    cdef Py_ssize_t g0 = groups * unit_group // plan.unit_groups, g1 = groups * (unit_group + 1) // plan.unit_groups
    cdef Py_ssize_t s0 = state_groups * unit_group // plan.unit_groups
    cdef Py_ssize_t s1 = state_groups * (unit_group + 1) // plan.unit_groups
    cdef Py_ssize_t chunk_steps = _chunk_steps(B), segment_steps = SEGMENT * chunk_steps
    cdef Py_ssize_t n, first_step, last_step, step, t, b, row = 0 if reverse else N, rows, chunk_row
    cdef Py_ssize_t kept_row = 0, kept_rows = N  # the packed rows that h_prev, c_prev and gates hold
    cdef Py_ssize_t g, j, r, k, low, high, count

    _products_of(&through_state, blocks, W, W, chunk_rows * W, W)
    through_state.panels, through_state.panel_step = packed.weight_hh_t, blocks * W * W
    through_state.columns, through_state.out_step = state_groups * W, B * W
    if P:
        _products_of(&through_projection, 1, P, P_stride, 0, W)
        through_projection.panels, through_projection.panel_step = packed.weight_hr_t, P * W
        through_projection.columns, through_projection.out_step = groups * W, B * W

    for n in range(_ceil_div(s.T, chunk_steps)):
        # Against the order of the forward pass, in which this chunk has the steps first_step ... last_step - 1.
        last_step = (_ceil_div(s.T, chunk_steps) - n) * chunk_steps
        first_step, last_step = last_step - chunk_steps, min(last_step, s.T)
        rows = 0
        for step in range(first_step, last_step):
            rows += batch_sizes[s.T - 1 - step if reverse else step]
        chunk_row = row if reverse else row - rows

        if h_segment != NULL and (n == 0 or last_step % segment_steps == 0):
            # Eq. (1) to (5) of the segment whose last chunk this is, from the state kept before its first step
            k = (last_step - 1) // segment_steps
            segment.D, segment.T, segment.N = 1, last_step - k * segment_steps, 0
            t = s.T - last_step if reverse else k * segment_steps  # first step as packed
            for step in range(t, t + segment.T):
                segment.N += batch_sizes[step]
            kept_row, kept_rows = row if reverse else row - segment.N, segment.N
            h_prev, c_prev, gates = <const real*>again.h_prev, <const real*>again.c_prev, <const real*>again.gates
            if steps_here:
                for j in range(blocks):
                    if j % plan.unit_groups == unit_group:
                        memcpy(<real*>again.c + (j * B + B * row_group // plan.row_groups) * VL,
                               c_segment + ((k * blocks + j) * B + B * row_group // plan.row_groups) * VL,
                               (B * (row_group + 1) // plan.row_groups - B * row_group // plan.row_groups)
                               * VL * sizeof(real))
            barrier_wait(everyone, team)
            _forward_direction(
                kernels, &segment, plan, rank, reverse, input + kept_row * I, batch_sizes + t, packed,
                h_segment + k * B * R, <real*>again.c, <real*>again.output, <real*>again.h_full, <real*>again.start,
                <real*>again.h_prev, <real*>again.c_prev, <real*>again.gates, <real*>NULL, <real*>NULL, barriers)
            barrier_wait(everyone, team)

        for step in range(last_step - 1, first_step - 1, -1):
            t = s.T - 1 - step if reverse else step
            b = batch_sizes[t]
            if not reverse:
                row -= b
            # a row keeps its thread while the batch shrinks or grows
            low = min(B * row_group // plan.row_groups, b)
            high = min(B * (row_group + 1) // plan.row_groups, b)
            r = row - chunk_row + low  # in the chunk
            if steps_here and low < high:
                if P:  # of h before the projection; (10)
                    for k in range(low, high):
                        for g in range(s0, s1):
                            _add_row(grad_projected + (r + k - low) * P_stride + g * W, grad_state + (g * B + k) * W,
                                     grad_output + (row + k) * s.D * R + g * W if grad_output != NULL else NULL,
                                     W, min(W, P - g * W))
            if P and steps_here:
                barrier_wait(barrier, plan.unit_groups)
                if low < high:
                    through_projection.rows = high - low
                    through_projection.a = grad_projected + r * P_stride
                    through_projection.out = grad_h + low * W
                    count = _tiles(kernels, &through_projection)
                    _run_products(kernels, &through_projection, g0 * count, g1 * count, <real>0)
            if steps_here and low < high:
                tile.rows = high - low
                tile.grad_h_stride, tile.grad_output_stride, tile.h_stride = W, s.D * R, W
                tile.grad_output = tile.h = NULL
                for j in range(4 * g0, min(4 * g1, blocks)):
                    tile.lanes = min(VL, s.H - j * VL)
                    tile.gates = gates + (j * kept_rows + row - kept_row + low) * W
                    tile.c_prev = c_prev + (j * kept_rows + row - kept_row + low) * VL
                    tile.grad_h = grad_h + (j // 4 * B + low) * W + j % 4 * VL
                    if grad_output != NULL and not P:
                        tile.grad_output = grad_output + (row + low) * s.D * R + j * VL
                    if P:
                        tile.h = h + (j // 4 * chunk_rows + r) * W + j % 4 * VL
                    tile.grad_c = grad_c + (j * B + low) * VL
                    tile.grad_a = grad_a + (j * chunk_rows + r) * W
                    kernels.gates_backward(&tile)
            if steps_here:
                barrier_wait(barrier, plan.unit_groups)
                if low < high:  # (9)
                    through_state.rows = high - low
                    through_state.a = grad_a + r * W
                    through_state.out = grad_state + low * W
                    count = _tiles(kernels, &through_state)
                    _run_products(kernels, &through_state, s0 * count, s1 * count, <real>0)
            if reverse:
                row += b
        barrier_wait(everyone, team)

        # grad_input = grad_a W_ih
        _products_of(&products, blocks, W, W, chunk_rows * W, I)
        products.rows, products.columns = rows, I
        products.panels, products.panel_step = packed.weight_ih_t, blocks * W * W
        products.a, products.out, products.out_step = grad_a, grad_input + chunk_row * I, W
        count = _ceil_div(I, W) * _tiles(kernels, &products)
        _run_products(kernels, &products, count * rank // team, count * (rank + 1) // team, <real>0)
        # grad_W_ih += grad_aᵀ x, transposed: as (I, 4 VL) for each block
        _weight_products(kernels, &products, input + chunk_row * I, 1, I, I, rows, grad_a, chunk_rows,
                         grad_weight_ih, blocks, first_chunk, rank, team)
        # grad_W_hh += grad_aᵀ h_prev
        _weight_products(kernels, &products, h_prev + (chunk_row - kept_row) * R, 1, R, R, rows, grad_a, chunk_rows,
                         grad_weight_hh, blocks, first_chunk, rank, team)
        # grad_b += grad_aᵀ 1
        _weight_products(kernels, &products, <const real*>&ONE[sizeof(real) == 8], 0, 0, 1, rows, grad_a, chunk_rows,
                         grad_bias, blocks, first_chunk, rank, team)
        if P:  # grad_W_hr += grad_projectedᵀ h
            _weight_products(kernels, &products, <const real*>grad_projected, 1, P_stride, P, rows, h, chunk_rows,
                             grad_weight_hr, groups, first_chunk, rank, team)
        first_chunk = False
        barrier_wait(everyone, team)


cdef double[2] ONE
(<float*>&ONE[0])[0] = 1.0
ONE[1] = 1.0


cdef void _add_row(
    real* out,              # OUT (W,)
    const real* a,          # IN (W,)
    const real* b,          # IN (some,), or NULL
    Py_ssize_t W, Py_ssize_t some,
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(W):
        out[k] = a[k]
    if b != NULL:
        for k in range(some):
            out[k] += b[k]


cdef void _products_of(
    Products* p, Py_ssize_t segments, Py_ssize_t K, Py_ssize_t a_row, Py_ssize_t a_segment, Py_ssize_t out_stride,
) noexcept nogil:
    """Products of rows of a that lie a_row apart, their K numbers side by side; no start."""
    p.start, p.start_step = NULL, 0
    p.tile.start_stride = 0
    p.tile.segments, p.tile.K, p.tile.a_row, p.tile.a_k, p.tile.a_segment = segments, K, a_row, 1, a_segment
    p.tile.out_stride = out_stride


cdef void _weight_products(
    const Kernels* kernels,
    Products* p,
    const real* x, Py_ssize_t x_row, Py_ssize_t x_k,  # IN element (r, k) at x[r * x_row + k * x_k]
    Py_ssize_t rows,                                  # of the result: elements of x per packed row
    Py_ssize_t K,                                     # packed rows
    const real* panels, Py_ssize_t chunk_rows,        # IN (count, chunk_rows, 4 VL)
    real* out,                                        # IN/OUT (count, rows, 4 VL)
    Py_ssize_t count, bint first_chunk, int rank, int team,
) noexcept nogil:
    """out[g] += x panels[g]. The sums run over the chunks in order, whoever computes them."""
    cdef Py_ssize_t W = 4 * kernels.lanes, tiles
    _products_of(p, 1, K, x_row, 0, W)
    p.tile.a_k = x_k
    p.rows, p.columns = rows, count * W
    p.panels, p.panel_step = panels, chunk_rows * W
    p.a, p.out, p.out_step = x, out, rows * W
    if not first_chunk:
        p.start, p.start_step, p.tile.start_stride = out, rows * W, W
    tiles = count * _tiles(kernels, p)
    _run_products(kernels, p, tiles * rank // team, tiles * (rank + 1) // team, <real>0)


cdef void _backward_thread(
    const Kernels* kernels, const Shape* s, const Plan* asked, int rank, int came,
    const real* input, const int64_t* batch_sizes, const Packed* packed, const real* h_prev, const real* c_prev,
    const real* gates, const real* h_segment, const real* c_segment, const real* grad_output, real* grad_input,
    const Scratch* layout, real* scratch, Barrier* barriers,
) noexcept nogil:
    """One thread of the region: its direction or both, one after the other. Arrays hold all directions."""
    cdef Plan plan = asked[0]
    cdef int team = asked.threads, d, first = 0, last = <int>s.D
    cdef Py_ssize_t count = _ceil_div(s.T, SEGMENT * _chunk_steps(s.B))
    cdef Again again
    cdef real* own
    cdef unsigned long long mode = flush_denormals()
    if came != asked.threads:
        plan.directions_apart = False
        plan.row_groups = plan.unit_groups = 1
        team = came
    if plan.directions_apart:
        team = asked.threads // 2
        first = rank // team
        last = first + 1
        rank = rank % team
    for d in range(first, last):
        own = scratch + d * layout.total
        again.h_prev, again.c_prev, again.gates = own + layout.h_prev, own + layout.c_prev, own + layout.gates
        again.c, again.output, again.h_full = own + layout.c, own + layout.output, own + layout.h_full
        again.start = own + layout.start
        _backward_direction(
            kernels, s, &plan, rank, team, d == 1, input, batch_sizes, &packed[d],
            NULL if h_prev == NULL else h_prev + d * s.N * s.R,
            NULL if c_prev == NULL else c_prev + d * s.blocks * s.N * s.VL,
            NULL if gates == NULL else gates + d * s.blocks * s.N * 4 * s.VL,
            NULL if h_segment == NULL else h_segment + d * count * s.B * s.R,
            NULL if c_segment == NULL else c_segment + d * count * s.blocks * s.B * s.VL,
            NULL if grad_output == NULL else grad_output + d * s.R,
            own + layout.grad_state, own + layout.grad_c, grad_input + d * s.N * s.I,
            own + layout.grad_weight_ih, own + layout.grad_weight_hh, own + layout.grad_bias,
            own + layout.grad_weight_hr, own + layout.grad_a, &again,
            own + layout.grad_projected, own + (layout.grad_h if s.P else layout.grad_state), own + layout.h,
            layout.chunk_rows, barriers + d * (asked.threads + 1))
    restore_denormals(mode)


cdef struct Scratch:  # where the arrays of one direction begin in its part of the scratch, in items
    Py_ssize_t grad_state, grad_c, grad_weight_ih, grad_weight_hh, grad_bias, grad_weight_hr
    Py_ssize_t grad_a, grad_projected, grad_h, h
    Py_ssize_t h_prev, c_prev, gates, c, output, h_full, start  # of a segment computed again
    Py_ssize_t total, chunk_rows


cdef Scratch _scratch(const Shape* s, const Plan* plan, bint recompute) noexcept nogil:
    cdef Scratch a
    cdef Py_ssize_t W = 4 * s.VL, groups = _ceil_div(s.H, W), P_groups = _ceil_div(s.P, W), padded = s.blocks * s.VL
    cdef Py_ssize_t rows = min(s.N, s.B * _chunk_steps(s.B)), segment = 0, again = 0
    if recompute:
        segment, again = min(s.N, SEGMENT * s.B * _chunk_steps(s.B)), 1
    a.chunk_rows = rows
    a.grad_state = 0
    a.grad_c = a.grad_state + _ceil_div(s.R, W) * s.B * W
    a.grad_weight_ih = a.grad_c + s.B * padded
    a.grad_weight_hh = a.grad_weight_ih + s.blocks * s.I * W
    a.grad_bias = a.grad_weight_hh + s.blocks * s.R * W
    a.grad_weight_hr = a.grad_bias + s.blocks * W
    a.grad_a = a.grad_weight_hr + groups * s.P * W
    a.grad_projected = a.grad_a + s.blocks * rows * W
    a.grad_h = a.grad_projected + rows * P_groups * W
    a.h = a.grad_h + (groups * s.B * W if s.P else 0)
    a.c_prev = a.h + (groups * rows * W if s.P else 0)
    a.gates = a.c_prev + segment * padded
    a.c = a.gates + segment * 4 * padded
    a.h_full = a.c + again * s.B * padded
    a.start = a.h_full + (again * s.B * padded if s.P else 0)
    a.h_prev = a.start + again * plan.ahead * 4 * padded
    a.output = a.h_prev + segment * s.R
    a.total = _ceil_div(a.output + segment * s.R, 16) * 16  # each direction begins on a cache line
    return a


def backward(
    Layer layer not None,
    const real[:, ::1] input not None,            # IN (N, I)
    const int64_t[::1] batch_sizes not None,      # IN (T,)
    const real[:, :, ::1] h_prev,                 # IN (D, N, R), or None as the next two: computed again
    const real[:, :, :, ::1] c_prev,              # IN (D, blocks, N, VL)
    const real[:, :, :, ::1] gates,               # IN (D, blocks, N, 4 VL)
    const real[:, :, :, ::1] h_segment,           # IN (D, segments, B, R) or None
    const real[:, :, :, :, ::1] c_segment,        # IN (D, segments, blocks, B, VL) or None
    const real[:, ::1] grad_output,               # IN (N, D R) or None
    const real[:, :, ::1] grad_h_n,               # IN (D, B, R) or None
    const real[:, :, ::1] grad_c_n,               # IN (D, B, H) or None
    real[:, :, ::1] grad_input not None,          # OUT (D, N, I): to be added up
    real[:, :, ::1] grad_h_0 not None,            # OUT (D, B, R)
    real[:, :, ::1] grad_c_0 not None,            # OUT (D, B, H)
    real[:, :, ::1] grad_weight_ih not None,      # OUT (D, 4H, I)
    real[:, :, ::1] grad_weight_hh not None,      # OUT (D, 4H, R)
    real[:, ::1] grad_bias not None,              # OUT (D, 4H)
    real[:, :, ::1] grad_weight_hr,               # OUT (D, P, H) or None
    int threads,
):
    """Gradients of one layer of N > 0 rows. The caller has checked every shape."""
    cdef const Kernels* kernels = layer.kernels
    cdef Shape s = layer.shape
    cdef Plan plan
    cdef Scratch layout
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, d, b, g, j, k, some
    cdef Py_ssize_t barrier_items
    cdef real* scratch
    cdef real* own
    cdef Barrier* barriers
    with cython.critical_section(layer):  # two threads may be the first
        _pack_transposed(layer, <real>0)
    s.T, s.N, s.B = batch_sizes.shape[0], input.shape[0], batch_sizes[0]
    plan = _backward_plan(&s, threads, kernels.max_rows)
    layout = _scratch(&s, &plan, gates is None)
    barrier_items = s.D * (plan.threads + 1) * <Py_ssize_t>(sizeof(Barrier) // sizeof(real))
    barriers = <Barrier*>_buffer(barrier_items + s.D * layout.total, sizeof(real))
    scratch = <real*>barriers + barrier_items

    with nogil:
        for d in range(s.D):
            own = scratch + d * layout.total
            for b in range(s.B):
                if grad_h_n is not None:
                    for g in range(_ceil_div(s.R, W)):
                        memcpy(own + layout.grad_state + (g * s.B + b) * W, &grad_h_n[d, b, g * W],
                               min(W, s.R - g * W) * sizeof(real))
                if grad_c_n is not None:
                    for j in range(s.blocks):
                        memcpy(own + layout.grad_c + (j * s.B + b) * VL, &grad_c_n[d, b, j * VL],
                               min(VL, s.H - j * VL) * sizeof(real))

        if _enter_region(&plan):
            with parallel(num_threads=plan.threads):
                _backward_thread(kernels, &s, &plan, omp_get_thread_num(), omp_get_num_threads(),
                                 &input[0, 0] if s.I else NULL, &batch_sizes[0], layer.packed,
                                 NULL if h_prev is None else &h_prev[0, 0, 0],
                                 NULL if c_prev is None else &c_prev[0, 0, 0, 0],
                                 NULL if gates is None else &gates[0, 0, 0, 0],
                                 NULL if h_segment is None else &h_segment[0, 0, 0, 0],
                                 NULL if c_segment is None else &c_segment[0, 0, 0, 0, 0],
                                 NULL if grad_output is None else &grad_output[0, 0],
                                 &grad_input[0, 0, 0] if s.I else NULL, &layout, scratch, barriers)
            give(&region_busy)
        else:
            _backward_thread(kernels, &s, &plan, 0, 1,
                             &input[0, 0] if s.I else NULL, &batch_sizes[0], layer.packed,
                             NULL if h_prev is None else &h_prev[0, 0, 0],
                             NULL if c_prev is None else &c_prev[0, 0, 0, 0],
                             NULL if gates is None else &gates[0, 0, 0, 0],
                             NULL if h_segment is None else &h_segment[0, 0, 0, 0],
                             NULL if c_segment is None else &c_segment[0, 0, 0, 0, 0],
                             NULL if grad_output is None else &grad_output[0, 0],
                             &grad_input[0, 0, 0] if s.I else NULL, &layout, scratch, barriers)

        for d in range(s.D):
            own = scratch + d * layout.total
            for b in range(s.B):
                for g in range(_ceil_div(s.R, W)):
                    memcpy(&grad_h_0[d, b, g * W], own + layout.grad_state + (g * s.B + b) * W,
                           min(W, s.R - g * W) * sizeof(real))
                for j in range(s.blocks):
                    memcpy(&grad_c_0[d, b, j * VL], own + layout.grad_c + (j * s.B + b) * VL,
                           min(VL, s.H - j * VL) * sizeof(real))
            if s.I:
                _unpack_gates(<const real*>own + layout.grad_weight_ih, &grad_weight_ih[d, 0, 0], s.H, s.I, VL)
            _unpack_gates(<const real*>own + layout.grad_weight_hh, &grad_weight_hh[d, 0, 0], s.H, s.R, VL)
            _unpack_gates(<const real*>own + layout.grad_bias, &grad_bias[d, 0], s.H, 1, VL)
            for k in range(s.P):
                for g in range(_ceil_div(s.H, W)):
                    memcpy(&grad_weight_hr[d, k, g * W], own + layout.grad_weight_hr + (g * s.P + k) * W,
                           min(W, s.H - g * W) * sizeof(real))
        _release(barriers)


backward_float32 = backward["float"]
backward_float64 = backward["double"]


# ---------------------------------------------------------------------------------------------- facts and test hooks

def instruction_sets():
    """Names of the instruction sets that this processor can run, best first."""
    return [name.decode() for name in (b"avx512", b"avx2", b"generic")
            if cylstm_kernels(<const char*>name, 4) != NULL]


def openmp():
    """Whether this module was built with OpenMP."""
    return bool(CYLSTM_OPENMP)


def max_threads():
    """The number of threads that OpenMP would give: cores, affinity, OMP_NUM_THREADS and threadpoolctl are in it."""
    return omp_get_max_threads()


default_threads = omp_get_max_threads()  # less later on is a limit that somebody has set since


def activate(bint tanh, const real[::1] x not None, real[::1] out not None, isa=None):
    """out = tanh(x) or sigmoid(x) as the kernels compute it."""
    name = None if isa is None else isa.encode()
    cdef const Kernels* kernels = cylstm_kernels(NULL if name is None else <const char*>name, sizeof(real))
    if kernels == NULL:
        raise ValueError(f"this processor cannot run the instruction set {isa!r}; it runs {instruction_sets()}")
    if x.shape[0] != out.shape[0]:
        raise ValueError(f"x and out must have one length, got {x.shape[0]} and {out.shape[0]}")
    cdef unsigned long long mode = flush_denormals()
    if x.shape[0]:
        kernels.activate(tanh, x.shape[0], &x[0], &out[0])
    restore_denormals(mode)
