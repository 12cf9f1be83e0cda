# The structs of a backward pass, and where its arrays lie in the scratch.

from ._forward cimport Forward
from ._parallel cimport Part
from ._partition cimport share_of
from ._pass cimport Kept, Partition, Pass, Shape, Share, ceil_div, chunk_steps, segment_steps
from ._product cimport Products, init_products

cdef struct Scratch:         # where the arrays of one direction begin in its part of the scratch, in elements
    Py_ssize_t grad_state      # IN/OUT (groups of R, B, W): of h_n -> of h_0
    Py_ssize_t grad_c          # IN/OUT (blocks, B, VL): of c_n -> of c_0
    Py_ssize_t grad_weight_ih  # OUT (blocks, I, 4, VL)
    Py_ssize_t grad_weight_hh  # OUT (blocks, R, 4, VL)
    Py_ssize_t grad_bias       # OUT (blocks, 4, VL)
    Py_ssize_t grad_weight_hr  # OUT (groups of H, P, W)
    Py_ssize_t grad_a          # (blocks, chunk_rows, 4, VL)
    Py_ssize_t grad_projected  # (chunk_rows, P_stride), with projection
    Py_ssize_t grad_h          # (groups of H, B, W), with projection; else grad_state itself
    Py_ssize_t h               # (groups of H, chunk_rows, W), with projection
    Py_ssize_t h_prev, c_prev, gates, c, output, h_full, start  # of a segment computed again, as in forward
    Py_ssize_t total
    Py_ssize_t chunk_rows
    Py_ssize_t P_stride        # P rounded up to W


cdef struct Chunk:           # of steps, in the order of the forward pass
    Py_ssize_t first_step, last_step
    Py_ssize_t first, rows   # packed rows


cdef struct Backward:        # what a part of the pass needs from step to step, whichever thread computes it
    Share own
    Products through_state       # grad_state = grad_a W_hh
    Products through_projection  # grad_h = grad_projected W_hr


cdef struct BackwardPass:    # of one direction, as one thread sees it
    const Pass* p
    Backward* parts              # (parts of a step,)
    Forward* again               # theirs, of a segment computed again; NULL where nothing is
    Part* turns                  # theirs
    Part* all_turns              # (team,): of what all threads of the direction share
    int team
    int rank                     # this thread, in the direction; -1: it belongs to the other one
    bint asks                    # it is the one that called
    Scratch at
    Kept stored                  # what the forward pass kept
    Kept kept                    # gates and states: `stored`, or those of the segment computed again
    Chunk chunk                  # at work


cdef inline Scratch scratch_of(const Shape* s, const Partition* partition, bint recompute) noexcept nogil:
    cdef Scratch a
    cdef Py_ssize_t W = 4 * s.VL, groups = ceil_div(s.H, W), padded = s.blocks * s.VL
    cdef Py_ssize_t rows = min(s.N, s.B * chunk_steps(s.B)), segment = 0, again = 0
    if recompute:
        segment, again = min(s.N, s.B * segment_steps(s.B)), 1
    a.chunk_rows, a.P_stride = rows, ceil_div(s.P, W) * W
    a.grad_state = 0
    a.grad_c = a.grad_state + ceil_div(s.R, W) * s.B * W
    a.grad_weight_ih = a.grad_c + s.B * padded
    a.grad_weight_hh = a.grad_weight_ih + s.blocks * s.I * W
    a.grad_bias = a.grad_weight_hh + s.blocks * s.R * W
    a.grad_weight_hr = a.grad_bias + s.blocks * W
    a.grad_a = a.grad_weight_hr + groups * s.P * W
    a.grad_projected = a.grad_a + s.blocks * rows * W
    a.grad_h = a.grad_projected + rows * a.P_stride if s.P else a.grad_state
    a.h = a.grad_projected + rows * a.P_stride + (groups * s.B * W if s.P else 0)
    a.c_prev = a.h + (groups * rows * W if s.P else 0)
    a.gates = a.c_prev + segment * padded
    a.c = a.gates + segment * 4 * padded
    a.h_full = a.c + again * s.B * padded
    a.start = a.h_full + (again * s.B * padded if s.P else 0)
    a.h_prev = a.start + again * partition.hoisted * 4 * padded
    a.output = a.h_prev + segment * s.R
    a.total = ceil_div(a.output + segment * s.R, 16) * 16  # each direction begins on a cache line
    return a


cdef inline Backward init_backward(const Pass* p, const Scratch* at, int part) noexcept nogil:
    cdef Backward b
    cdef const Shape* s = p.shape
    cdef Py_ssize_t W = 4 * s.VL, row = p.kernels.input.group_bytes
    b.own = share_of(p, part)
    init_products(&b.through_state, s.blocks, W, W, at.chunk_rows * W, W)
    b.through_state.panels, b.through_state.panel_step = p.packed.weight_hh_t, s.blocks * W * row
    b.through_state.columns, b.through_state.out_step = ceil_div(s.R, W) * W, s.B * W
    init_products(&b.through_projection, 1, s.P, at.P_stride, 0, W)
    b.through_projection.panels, b.through_projection.panel_step = p.packed.weight_hr_t, s.P * row
    b.through_projection.columns, b.through_projection.out_step = ceil_div(s.H, W) * W, s.B * W
    return b
