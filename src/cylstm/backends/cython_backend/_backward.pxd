# The backward pass of one direction, as one of its threads sees it: eq. (6) to (12) of docs/equations.md.
#
# A part that has a panel of units computes its share of grad_h and at once the gradients of its gates. The gradients of
# input and weights are products over chunks of `chunk_steps` steps, counted in the order of the forward pass. Where
# forward kept the states alone, the forward pass of a segment runs again before its last chunk.

from libc.string cimport memcpy

from ._backward_pass cimport Backward, BackwardPass, Chunk, Scratch
from ._forward cimport Forward, ForwardPass, first_row, forward_group, init_forward, last_row
from ._gradients cimport chunk_gradients
from ._kernels cimport GatesBackwardTile
from ._operands cimport Operands, operands_of
from ._parallel cimport Group, halt_look, part_done, part_take, turn_begins
from ._partition cimport group_at
from ._pass cimport (
    Kept, Partition, Pass, Shape, Share, Step, behind_last, ceil_div, chunk_steps, previous_step, real, rows_of_step,
    segment_steps, steps_of_look,
)
from ._product cimport Products, run_products, tiles_of


cdef inline void backward_direction(
    BackwardPass* b,
    Group* everyone,          # of all threads of the direction
    real* scratch,            # the arrays of b.at
    const real* input,        # IN (N, I)
    const real* grad_output,  # IN (N, R), rows D R apart, or NULL
    real* grad_input,         # OUT (N, I)
) noexcept nogil:
    cdef const Pass* p = b.p
    cdef const Shape* s = p.shape
    cdef const Partition* a = p.partition
    cdef int part = b.rank if b.rank < a.row_groups * a.unit_groups else -1, turn = 0, g, n
    cdef Step step = behind_last(p), at = step
    cdef Chunk* chunk = &b.chunk
    cdef Py_ssize_t steps = chunk_steps(s.B), k
    cdef bint again = b.stored.h_segment != NULL
    cdef Group group
    for k in range(ceil_div(s.T, steps) - 1, -1, -1):
        chunk.first_step, chunk.last_step = k * steps, min((k + 1) * steps, s.T)
        chunk.rows = rows_of_steps(p, chunk.first_step, chunk.last_step)
        chunk.first = step.first + step.rows if p.reverse else step.first - chunk.rows
        if again and (chunk.last_step == s.T or chunk.last_step % segment_steps(s.B) == 0):
            for g in range(a.row_groups):
                group = group_at(a, b.turns, part, g)
                group.turn = turn
                recompute_segment(b, &group, scratch, input, &step)
            turn = group.turn  # the same for all groups
            if halt_look(p.halt, b.asks):  # others may still be in the turns of the forward pass
                return
        for g in range(a.row_groups):
            at = step
            group = group_at(a, b.turns, part, g)
            group.turn = turn
            backward_group(b, &group, scratch, grad_output, &at)
        step, turn = at, group.turn
        turn_begins(everyone)
        n = part_take(everyone)
        while n >= 0:
            if not halt_look(p.halt, False):
                chunk_gradients(b, n, scratch, input, grad_input)
            part_done(everyone, n)
            n = part_take(everyone)
        if halt_look(p.halt, b.asks):
            return


cdef inline Py_ssize_t rows_of_steps(const Pass* p, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Py_ssize_t rows = 0, index
    for index in range(first, last):
        rows += rows_of_step(p, index)
    return rows


cdef inline int first_part(const BackwardPass* b, const Group* group) noexcept nogil:
    """The index of a group's first part in the direction."""
    return <int>(group.parts - b.turns) if group.parts != NULL else 0


cdef inline void recompute_segment(
    BackwardPass* b, Group* group, real* scratch, const real* input,
    const Step* behind,  # the cursor behind the segment's last step
) noexcept nogil:
    """Eq. (1) to (5) of a segment, from the state kept before its first step."""
    cdef const Pass* p = b.p
    cdef const Shape* s = p.shape
    cdef const Scratch* at = &b.at
    cdef Shape shape = s[0]
    cdef Pass again = p[0]
    cdef Operands none = operands_of(p.kernels, s, p.partition, NULL)
    cdef ForwardPass f
    cdef Forward* part
    cdef Py_ssize_t k = (behind.index - 1) // segment_steps(s.B), j, m, low, high
    cdef int first = first_part(b, group), n
    shape.D, shape.T = 1, behind.index - k * segment_steps(s.B)
    shape.N = rows_of_steps(p, behind.index - shape.T, behind.index)
    b.kept.h_segment = b.kept.c_segment = NULL
    b.kept.first, b.kept.rows = behind.first + behind.rows if p.reverse else behind.first - shape.N, shape.N
    b.kept.h_prev, b.kept.c_prev, b.kept.gates = scratch + at.h_prev, scratch + at.c_prev, scratch + at.gates
    again.shape = &shape
    again.batch_sizes = p.batch_sizes + (s.T - behind.index if p.reverse else behind.index - shape.T)
    turn_begins(group)
    n = part_take(group)
    while n >= 0:
        part = b.again + first + n
        init_forward(part, &again, first + n, scratch + at.h_full,
                     scratch + at.start if p.partition.hoisted else NULL, &none)
        for m in range(part.own.tiles):
            low, high = first_row(p, &part.own, m), last_row(p, &part.own, m)
            for j in range(part.own.j0, part.own.j1):
                memcpy(scratch + at.c + (j * s.B + low) * s.VL,
                       <real*>b.stored.c_segment + ((k * s.blocks + j) * s.B + low) * s.VL,
                       (high - low) * s.VL * sizeof(real))
        part_done(group, n)
        n = part_take(group)
    f.p, f.kept, f.parts, f.turns, f.asks = &again, &b.kept, b.again, b.turns, b.asks
    forward_group(&f, group, input + b.kept.first * s.I, <real*>b.stored.h_segment + k * s.B * s.R, scratch + at.c,
                  scratch + at.output)


cdef inline void backward_group(
    BackwardPass* b, Group* group, real* scratch,
    const real* grad_output,  # IN (N, R), rows D R apart, or NULL
    Step* step,               # IN/OUT from behind the chunk's last step to its first
) noexcept nogil:
    """Eq. (6) to (11) of a chunk in one row group, so far as they go from step to step.

    A turn ends where other parts need what this one has computed: a step's sums (11) are in the turn that the next
    step, in this order, begins with.
    """
    cdef const Pass* p = b.p
    cdef const Shape* s = p.shape
    cdef Backward* parts = b.parts + first_part(b, group)
    cdef Py_ssize_t each = steps_of_look(p), left = each
    cdef bint first = True, more = True
    cdef Step at
    cdef int n
    while more:
        more = step.index > b.chunk.first_step
        at = step[0]
        if more:
            previous_step(p, &at)
        turn_begins(group)
        n = part_take(group)
        while n >= 0:
            if not first:
                grad_state_of_step(b, &parts[n], scratch, step)
            if more and s.P:
                grad_projected_of_step(b, &parts[n], scratch, grad_output, &at)
            elif more:
                gates_backward_of_step(b, &parts[n], scratch, grad_output, &at)
            part_done(group, n)
            n = part_take(group)
        if more and s.P:
            turn_begins(group)
            n = part_take(group)
            while n >= 0:
                gates_backward_of_step(b, &parts[n], scratch, grad_output, &at)
                part_done(group, n)
                n = part_take(group)
        step[0], first = at, False
        left -= 1
        if left == 0:
            if halt_look(p.halt, b.asks):
                return
            left = each


cdef struct Rows:            # of a part in a step: a row keeps its part while the batch shrinks or grows
    Py_ssize_t low, high     # sequences
    Py_ssize_t packed        # the packed row of the first
    Py_ssize_t in_chunk      # the same, counted from the chunk's first


cdef inline Rows rows_at(const BackwardPass* b, const Share* own, const Step* step) noexcept nogil:
    cdef Rows rows
    rows.low, rows.high = min(own.b0, step.rows), min(own.b1, step.rows)
    rows.packed = step.first + rows.low
    rows.in_chunk = rows.packed - b.chunk.first
    return rows


cdef inline void grad_projected_of_step(
    const BackwardPass* b, Backward* part, real* scratch, const real* grad_output, const Step* step,
) noexcept nogil:
    """Eq. (6), with projection."""
    cdef const Shape* s = b.p.shape
    cdef const Scratch* at = &b.at
    cdef Rows rows = rows_at(b, &part.own, step)
    cdef Py_ssize_t W = 4 * s.VL, k, g
    for k in range(rows.high - rows.low):
        for g in range(part.own.s0, part.own.s1):
            add_row(scratch + at.grad_projected + (rows.in_chunk + k) * at.P_stride + g * W,
                    scratch + at.grad_state + (g * s.B + rows.low + k) * W,
                    grad_output + (rows.packed + k) * s.D * s.R + g * W if grad_output != NULL else NULL,
                    W, min(W, s.P - g * W))


cdef inline void gates_backward_of_step(
    const BackwardPass* b, Backward* part, real* scratch, const real* grad_output, const Step* step,
) noexcept nogil:
    """Eq. (7) of h before the projection, then (8) to (10)."""
    cdef const Pass* p = b.p
    cdef const Scratch* at = &b.at
    cdef Rows rows = rows_at(b, &part.own, step)
    cdef Products* products = &part.through_projection
    cdef Py_ssize_t tiles
    if rows.low >= rows.high:
        return
    if p.shape.P:
        products.rows = rows.high - rows.low
        products.a = scratch + at.grad_projected + rows.in_chunk * at.P_stride
        products.out = scratch + at.grad_h + rows.low * 4 * p.shape.VL
        tiles = tiles_of(p.kernels, products)
        run_products(p.kernels, products, part.own.g0 * tiles, part.own.g1 * tiles)
    gates_backward_of_rows(b, &part.own, scratch, grad_output, &rows)


cdef inline void grad_state_of_step(
    const BackwardPass* b, Backward* part, real* scratch, const Step* step,
) noexcept nogil:
    """Eq. (11): grad_h of the step before."""
    cdef const Pass* p = b.p
    cdef const Scratch* at = &b.at
    cdef Rows rows = rows_at(b, &part.own, step)
    cdef Products* products = &part.through_state
    cdef Py_ssize_t W = 4 * p.shape.VL, tiles
    if rows.low >= rows.high:
        return
    products.rows = rows.high - rows.low
    products.a = scratch + at.grad_a + rows.in_chunk * W
    products.out = scratch + at.grad_state + rows.low * W
    tiles = tiles_of(p.kernels, products)
    run_products(p.kernels, products, part.own.s0 * tiles, part.own.s1 * tiles)


cdef inline void add_row(
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


cdef inline void gates_backward_of_rows(
    const BackwardPass* b, const Share* own, real* scratch, const real* grad_output, const Rows* rows,
) noexcept nogil:
    """Eq. (8) to (10), of the blocks in the part's panels."""
    cdef const Pass* p = b.p
    cdef const Shape* s = p.shape
    cdef const Scratch* at = &b.at
    cdef const Kept* kept = &b.kept
    cdef GatesBackwardTile tile
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, B = s.B, chunk_rows = at.chunk_rows, j
    tile.rows = rows.high - rows.low
    tile.prefetch_rows = kept.rows  # the same rows of the next block
    tile.grad_h_stride, tile.grad_output_stride, tile.h_stride = W, s.D * s.R, W
    tile.grad_output = tile.h = NULL
    for j in range(4 * own.g0, min(4 * own.g1, s.blocks)):
        tile.lanes = min(VL, s.H - j * VL)
        tile.gates = <real*>kept.gates + (j * kept.rows + rows.packed - kept.first) * W
        tile.c_prev = <real*>kept.c_prev + (j * kept.rows + rows.packed - kept.first) * VL
        tile.grad_h = scratch + at.grad_h + (j // 4 * B + rows.low) * W + j % 4 * VL
        if s.P:
            tile.h = scratch + at.h + (j // 4 * chunk_rows + rows.in_chunk) * W + j % 4 * VL
        elif grad_output != NULL:
            tile.grad_output = grad_output + rows.packed * s.D * s.R + j * VL
        tile.grad_c = scratch + at.grad_c + (j * B + rows.low) * VL
        tile.grad_a = scratch + at.grad_a + (j * chunk_rows + rows.in_chunk) * W
        p.kernels.gates_backward(&tile)
