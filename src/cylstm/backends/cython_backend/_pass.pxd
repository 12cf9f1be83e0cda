# One direction of one call: the structs that its threads share, and the cursor over its steps.
#
# Symbols and shapes are those of backends/base.py, plus
#
#     VL      lanes of one vector          blocks  ceil(H / VL), a block being VL hidden units
#     W       4 VL: columns of a panel     groups  ceil(n / W): panels of a matrix with n columns
#
# Arrays of state (input, h, c, output, gates, gradients) are typed, float or double; panels of weights are opaque and
# counted in bytes (kernels/kernels.h).

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from ._kernels cimport CellOptions, Kernels
from ._parallel cimport Halt

ctypedef fused real:
    float
    double

cdef enum:
    CHUNK = 512  # rows of one chunk of the backward pass
    SEGMENT = 2  # chunks of one segment: forward may keep the states before each, and backward computes the rest again
    MACS_FOR_REGION = 500_000  # multiply-adds of a call below which another thread costs more than it brings
    MACS_FOR_LOOK = 4_000_000  # of a pass between two looks whether it is to end: about 0.1 milliseconds


cdef struct Shape:
    Py_ssize_t T, B, N, I, H, R, P, D
    Py_ssize_t VL, blocks


cdef struct Packed:    # the weights of one direction
    char* weight_ih    # panels (blocks, I, 4, VL)
    char* weight_hh    # panels (blocks, R, 4, VL)
    char* weight_hr    # panels (groups of P, H, W), NULL without projection
    char* weight_ih_t  # panels (groups of I, blocks W, W), NULL before the first backward pass
    char* weight_hh_t  # panels (groups of R, blocks W, W)
    char* weight_hr_t  # panels (groups of H, P, W)
    void* bias         # (blocks, 4, VL) = b_ih + b_hh, of the state's type
    CellOptions* options  # NULL: PyTorch's LSTM
    void* weight_ch    # (blocks, 3, VL), of the state's type; NULL without peepholes


cdef struct Partition:     # of a call among threads
    int threads            # of the region; 1: there is none
    bint directions_apart  # the first half of the threads takes direction 0, the other half direction 1
    int row_groups         # of the threads of one direction
    int unit_groups
    Py_ssize_t tiles       # tile i holds the rows i B / tiles ... (i + 1) B / tiles of a step
    Py_ssize_t macs        # multiply-adds of the call
    Py_ssize_t hoisted     # rows of the buffer for the input's part of the sums; 0: computed with each step
    bint descending_first  # the first step takes the blocks from the last to the first


cdef struct Pass:
    const Kernels* kernels
    const Shape* shape
    const Partition* partition
    const Packed* packed
    const int64_t* batch_sizes  # (T,)
    bint reverse
    Halt* halt


cdef struct Share:         # what one part of a group computes, as a rule on the same thread
    int row_group, unit_group
    Py_ssize_t tiles       # row tiles: row_group + n * row_groups, n < tiles
    Py_ssize_t b0, b1      # rows of its row group, where all sequences take the step
    Py_ssize_t j0, j1      # blocks
    Py_ssize_t g0, g1      # panels of matrices with H columns
    Py_ssize_t s0, s1      # panels of matrices with R columns
    bint fits_l1           # its weights of a step stay in the first cache
    bint pair_blocks       # one row is 4 sums, too few to wait for each other: two blocks at once
    bint shares_state      # h of a step comes from other threads' caches, and there is no other row to wait with
    bint streams_weights   # panels are so large that the next one is prefetched


cdef struct Kept:          # what the forward pass of a direction keeps for the backward pass; NULL where not kept
    Py_ssize_t first, rows  # the packed rows of the next three
    void* h_prev           # (rows, R)
    void* c_prev           # (blocks, rows, VL)
    void* gates            # (blocks, rows, 4, VL), activated
    void* h_segment        # (segments, B, R) before the first step of each segment
    void* c_segment        # (segments, blocks, B, VL)


cdef struct Step:          # a cursor over the steps of a pass, in the order in which it takes them
    Py_ssize_t index       # 0 ... T - 1
    Py_ssize_t first       # packed row
    Py_ssize_t rows        # sequences that take the step
    Py_ssize_t before      # first packed row of the step before
    Py_ssize_t carried     # rows that go on from there; the others begin with h_0
    Py_ssize_t after       # first packed row of the step that follows


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t chunk_steps(Py_ssize_t B) noexcept nogil:
    return max(1, CHUNK // B)


cdef inline Py_ssize_t segment_steps(Py_ssize_t B) noexcept nogil:
    return SEGMENT * chunk_steps(B)


cdef inline Py_ssize_t segment_count(Py_ssize_t T, Py_ssize_t B) noexcept nogil:
    return ceil_div(T, segment_steps(B))


cdef inline Py_ssize_t steps_of_look(const Pass* p) noexcept nogil:
    """Steps of a forward pass from one look, whether it is to end, to the next."""
    cdef const Shape* s = p.shape
    return 1 + MACS_FOR_LOOK // (4 * s.H * (s.I + s.R) * s.B)


cdef inline Py_ssize_t rows_of_step(const Pass* p, Py_ssize_t index) noexcept nogil:
    return p.batch_sizes[p.shape.T - 1 - index if p.reverse else index]


cdef inline Step before_first(const Pass* p) noexcept nogil:
    """The cursor from which `next_step` leads to step 0."""
    cdef Step step
    memset(&step, 0, sizeof(Step))
    step.index = -1
    step.first = p.shape.N if p.reverse else 0
    return step


cdef inline void next_step(const Pass* p, Step* step) noexcept nogil:
    cdef Py_ssize_t rows_before = step.rows
    step.index += 1
    step.rows = rows_of_step(p, step.index)
    step.before = step.first
    step.carried = min(step.rows, rows_before)
    if p.reverse:
        step.first -= step.rows
        step.after = step.first - (rows_of_step(p, step.index + 1) if step.index + 1 < p.shape.T else -step.rows)
    else:
        step.first += rows_before
        step.after = step.first + step.rows


cdef inline Step behind_last(const Pass* p) noexcept nogil:
    """The cursor from which `previous_step` leads to step T - 1. `before`, `carried` and `after` are not kept."""
    cdef Step step
    memset(&step, 0, sizeof(Step))
    step.index = p.shape.T
    step.first = 0 if p.reverse else p.shape.N
    return step


cdef inline void previous_step(const Pass* p, Step* step) noexcept nogil:
    cdef Py_ssize_t rows_behind = step.rows
    step.index -= 1
    step.rows = rows_of_step(p, step.index)
    if p.reverse:
        step.first += rows_behind
    else:
        step.first -= step.rows


cdef inline void copy_units(
    real* blocks,     # (blocks, B, VL)
    real* states,     # (B, H)
    const Shape* s,
    bint to_blocks,   # else from them
) noexcept nogil:
    """Copy a cell state between the kernels' layout and the caller's."""
    cdef Py_ssize_t VL = s.VL, j, b, size
    for j in range(s.blocks):
        size = min(VL, s.H - j * VL) * sizeof(real)
        for b in range(s.B):
            if to_blocks:
                memcpy(blocks + (j * s.B + b) * VL, states + b * s.H + j * VL, size)
            else:
                memcpy(states + b * s.H + j * VL, blocks + (j * s.B + b) * VL, size)


cdef inline void copy_columns(
    real* panels,     # (groups of n, rows, W)
    real* matrix,     # (rows, n)
    Py_ssize_t VL, Py_ssize_t rows, Py_ssize_t n,
    bint to_panels,   # else from them
) noexcept nogil:
    cdef Py_ssize_t W = 4 * VL, g, r, size
    for r in range(rows):
        for g in range(ceil_div(n, W)):
            size = min(W, n - g * W) * sizeof(real)
            if to_panels:
                memcpy(panels + (g * rows + r) * W, matrix + r * n + g * W, size)
            else:
                memcpy(matrix + r * n + g * W, panels + (g * rows + r) * W, size)
