# The backward pass of one direction, on one of its threads: eq. (6) to (12) of docs/equations.md.
#
# A thread that owns a panel of units computes its part of grad_h and at once the gradients of its gates. The gradients
# of input and weights are products over chunks of `chunk_steps` steps, counted in the order of the forward pass. Where
# forward kept the states alone, the forward pass of a segment runs again before its last chunk.

from libc.string cimport memcpy

from ._forward cimport Forward, forward_direction, init_forward
from ._operands cimport Operands, operands_of
from ._kernels cimport GatesBackwardTile
from ._parallel cimport barrier_wait, halt_look, halt_seen
from ._pass cimport (
    Kept, Partition, Pass, Shape, Share, Step, behind_last, ceil_div, chunk_steps, previous_step, real, rows_of_step,
    segment_steps,
)
from ._product cimport Products, init_products, run_products, tiles_of

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


cdef struct Backward:        # what a thread needs from step to step
    Scratch at
    Products through_state       # grad_state = grad_a W_hh
    Products through_projection  # grad_h = grad_projected W_hr
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


cdef inline Backward init_backward(const Pass* p, const Scratch* at, const Kept* kept) noexcept nogil:
    cdef Backward b
    cdef const Shape* s = p.shape
    cdef Py_ssize_t W = 4 * s.VL, row = p.kernels.input.group_bytes
    b.at, b.stored, b.kept = at[0], kept[0], kept[0]
    init_products(&b.through_state, s.blocks, W, W, at.chunk_rows * W, W)
    b.through_state.panels, b.through_state.panel_step = p.packed.weight_hh_t, s.blocks * W * row
    b.through_state.columns, b.through_state.out_step = ceil_div(s.R, W) * W, s.B * W
    init_products(&b.through_projection, 1, s.P, at.P_stride, 0, W)
    b.through_projection.panels, b.through_projection.panel_step = p.packed.weight_hr_t, s.P * row
    b.through_projection.columns, b.through_projection.out_step = ceil_div(s.H, W) * W, s.B * W
    return b


cdef inline void backward_direction(
    const Pass* p,
    const Share* own,
    Backward* b,
    real* scratch,            # the arrays of b.at
    const real* input,        # IN (N, I)
    const real* grad_output,  # IN (N, R), rows D R apart, or NULL
    real* grad_input,         # OUT (N, I)
) noexcept nogil:
    cdef const Shape* s = p.shape
    cdef Step step = behind_last(p)
    cdef Chunk* chunk = &b.chunk
    cdef Py_ssize_t steps = chunk_steps(s.B), n
    cdef bint recomputes = b.stored.h_segment != NULL
    for n in range(ceil_div(s.T, steps) - 1, -1, -1):
        chunk.first_step, chunk.last_step = n * steps, min((n + 1) * steps, s.T)
        chunk.rows = rows_of_steps(p, chunk.first_step, chunk.last_step)
        chunk.first = step.first + step.rows if p.reverse else step.first - chunk.rows
        if recomputes and (chunk.last_step == s.T or chunk.last_step % segment_steps(s.B) == 0):
            recompute_segment(p, own, b, scratch, input, &step)
        while step.index > chunk.first_step:
            previous_step(p, &step)
            if own.steps:
                gates_backward_of_step(p, own, b, scratch, grad_output, &step)
        barrier_wait(&own.everyone)
        chunk_gradients(p, own, b, scratch, input, grad_input)
        halt_look(p.halt, &own.everyone, 0, p.asks)
        barrier_wait(&own.everyone)
        if halt_seen(&own.everyone, 0):
            return


cdef inline Py_ssize_t rows_of_steps(const Pass* p, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef Py_ssize_t rows = 0, index
    for index in range(first, last):
        rows += rows_of_step(p, index)
    return rows


cdef inline void recompute_segment(
    const Pass* p, const Share* own, Backward* b, real* scratch, const real* input,
    const Step* behind,  # the cursor behind the segment's last step
) noexcept nogil:
    """Eq. (1) to (5) of a segment, from the state kept before its first step."""
    cdef const Shape* s = p.shape
    cdef const Scratch* at = &b.at
    cdef Shape shape = s[0]
    cdef Pass again = p[0]
    cdef Forward f
    cdef Py_ssize_t k = (behind.index - 1) // segment_steps(s.B), j
    shape.D, shape.T = 1, behind.index - k * segment_steps(s.B)
    shape.N = rows_of_steps(p, behind.index - shape.T, behind.index)
    b.kept.h_segment = b.kept.c_segment = NULL
    b.kept.first, b.kept.rows = behind.first + behind.rows if p.reverse else behind.first - shape.N, shape.N
    b.kept.h_prev, b.kept.c_prev, b.kept.gates = scratch + at.h_prev, scratch + at.c_prev, scratch + at.gates
    again.shape = &shape
    again.batch_sizes = p.batch_sizes + (s.T - behind.index if p.reverse else behind.index - shape.T)
    if own.steps:
        for j in range(s.blocks):
            if j % p.partition.unit_groups == own.unit_group:
                memcpy(scratch + at.c + (j * s.B + own.b0) * s.VL,
                       <real*>b.stored.c_segment + ((k * s.blocks + j) * s.B + own.b0) * s.VL,
                       (own.b1 - own.b0) * s.VL * sizeof(real))
    barrier_wait(&own.everyone)
    cdef Operands none = operands_of(p.kernels, s, p.partition, NULL)
    f = init_forward(&again, &b.kept, scratch + at.h_full, scratch + at.start if p.partition.hoisted else NULL, &none)
    forward_direction(&again, own, input + b.kept.first * s.I, <real*>b.stored.h_segment + k * s.B * s.R,
                      scratch + at.c, scratch + at.output, &f)
    barrier_wait(&own.everyone)


cdef inline void gates_backward_of_step(
    const Pass* p, const Share* own, Backward* b, real* scratch,
    const real* grad_output,  # IN (N, R), rows D R apart, or NULL
    const Step* step,
) noexcept nogil:
    """Eq. (6) to (11), so far as they go from step to step."""
    cdef const Shape* s = p.shape
    cdef const Scratch* at = &b.at
    cdef Py_ssize_t W = 4 * s.VL, k, g, tiles
    # a row keeps its thread while the batch shrinks or grows
    cdef Py_ssize_t low = min(own.b0, step.rows), high = min(own.b1, step.rows)
    cdef Py_ssize_t chunk_row = step.first + low - b.chunk.first
    cdef bint some = low < high
    if s.P:
        for k in range(low, high):  # (6), then (7): of h before the projection
            for g in range(own.s0, own.s1):
                add_row(scratch + at.grad_projected + (chunk_row + k - low) * at.P_stride + g * W,
                        scratch + at.grad_state + (g * s.B + k) * W,
                        grad_output + (step.first + k) * s.D * s.R + g * W if grad_output != NULL else NULL,
                        W, min(W, s.P - g * W))
        barrier_wait(&own.group)
        if some:
            b.through_projection.rows = high - low
            b.through_projection.a = scratch + at.grad_projected + chunk_row * at.P_stride
            b.through_projection.out = scratch + at.grad_h + low * W
            tiles = tiles_of(p.kernels, &b.through_projection)
            run_products(p.kernels, &b.through_projection, own.g0 * tiles, own.g1 * tiles)
    if some:
        gates_backward_of_rows(p, own, b, scratch, grad_output, step.first + low, low, high)
    barrier_wait(&own.group)
    if some:  # (11)
        b.through_state.rows = high - low
        b.through_state.a = scratch + at.grad_a + chunk_row * W
        b.through_state.out = scratch + at.grad_state + low * W
        tiles = tiles_of(p.kernels, &b.through_state)
        run_products(p.kernels, &b.through_state, own.s0 * tiles, own.s1 * tiles)


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
    const Pass* p, const Share* own, Backward* b, real* scratch, const real* grad_output,
    Py_ssize_t row,                   # the first packed row
    Py_ssize_t low, Py_ssize_t high,  # rows of the step
) noexcept nogil:
    """Eq. (8) to (10), of the blocks in the thread's panels."""
    cdef const Shape* s = p.shape
    cdef const Scratch* at = &b.at
    cdef const Kept* kept = &b.kept
    cdef GatesBackwardTile tile
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, B = s.B, rows = at.chunk_rows, chunk_row = row - b.chunk.first, j
    tile.rows = high - low
    tile.prefetch_rows = kept.rows  # the same rows of the next block
    tile.grad_h_stride, tile.grad_output_stride, tile.h_stride = W, s.D * s.R, W
    tile.grad_output = tile.h = NULL
    for j in range(4 * own.g0, min(4 * own.g1, s.blocks)):
        tile.lanes = min(VL, s.H - j * VL)
        tile.gates = <real*>kept.gates + (j * kept.rows + row - kept.first) * W
        tile.c_prev = <real*>kept.c_prev + (j * kept.rows + row - kept.first) * VL
        tile.grad_h = scratch + at.grad_h + (j // 4 * B + low) * W + j % 4 * VL
        if s.P:
            tile.h = scratch + at.h + (j // 4 * rows + chunk_row) * W + j % 4 * VL
        elif grad_output != NULL:
            tile.grad_output = grad_output + row * s.D * s.R + j * VL
        tile.grad_c = scratch + at.grad_c + (j * B + low) * VL
        tile.grad_a = scratch + at.grad_a + (j * rows + chunk_row) * W
        p.kernels.gates_backward(&tile)


cdef inline void chunk_gradients(
    const Pass* p, const Share* own, Backward* b, real* scratch, const real* input, real* grad_input,
) noexcept nogil:
    """What a chunk adds to the gradients of input and weights: products that all threads of the direction share."""
    cdef const Shape* s = p.shape
    cdef const Scratch* at = &b.at
    cdef Chunk* chunk = &b.chunk
    cdef Py_ssize_t W = 4 * s.VL, I = s.I, R = s.R, tiles
    cdef bint first_chunk = chunk.last_step == s.T
    cdef real one = 1
    cdef Products products
    # (11) grad_input = grad_a W_ih
    init_products(&products, s.blocks, W, W, at.chunk_rows * W, I)
    products.rows, products.columns = chunk.rows, I
    products.panels, products.panel_step = p.packed.weight_ih_t, s.blocks * W * p.kernels.input.group_bytes
    products.a, products.out, products.out_step = scratch + at.grad_a, grad_input + chunk.first * I, W
    tiles = ceil_div(I, W) * tiles_of(p.kernels, &products)
    run_products(p.kernels, &products, tiles * own.rank // own.team, tiles * (own.rank + 1) // own.team)
    # (12) grad_W_ih += grad_aᵀ x, transposed: as (I, 4 VL) for each block
    init_products(&products, 1, chunk.rows, 1, 0, W)
    products.panels, products.panel_step = scratch + at.grad_a, at.chunk_rows * W * <Py_ssize_t>sizeof(real)
    products.columns = s.blocks * W
    products.a, products.rows, products.tile.a_k = input + chunk.first * I, I, I
    add_products(p, own, &products, scratch + at.grad_weight_ih, first_chunk)
    # (12) grad_W_hh += grad_aᵀ h_prev
    products.a = <real*>b.kept.h_prev + (chunk.first - b.kept.first) * R
    products.rows, products.tile.a_k = R, R
    add_products(p, own, &products, scratch + at.grad_weight_hh, first_chunk)
    # (12) grad_b += grad_aᵀ 1
    products.a, products.rows, products.tile.a_row, products.tile.a_k = &one, 1, 0, 0
    add_products(p, own, &products, scratch + at.grad_bias, first_chunk)
    if s.P:  # (12) grad_W_hr += grad_projectedᵀ h
        products.panels, products.columns = scratch + at.h, ceil_div(s.H, W) * W
        products.a, products.rows = scratch + at.grad_projected, s.P
        products.tile.a_row, products.tile.a_k = 1, at.P_stride
        add_products(p, own, &products, scratch + at.grad_weight_hr, first_chunk)


cdef inline void add_products(
    const Pass* p, const Share* own,
    Products* products,  # a (rows, K) @ panels (count, K, W), all but out and start
    real* out,           # IN/OUT (count, rows, W)
    bint first_chunk,    # nothing is in `out` yet
) noexcept nogil:
    """out[g] += a panels[g]. The sums run over the chunks in order, whoever computes them."""
    cdef Py_ssize_t W = 4 * p.shape.VL, tiles
    products.out, products.out_step = out, products.rows * W
    products.start, products.start_step, products.tile.start_stride = NULL, 0, 0
    if not first_chunk:
        products.start, products.start_step, products.tile.start_stride = out, products.rows * W, W
    tiles = products.columns // W * tiles_of(p.kernels, products)
    run_products(p.kernels, products, tiles * own.rank // own.team, tiles * (own.rank + 1) // own.team)
