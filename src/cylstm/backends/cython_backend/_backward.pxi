# The backward pass of one layer. Part of _lstm.pyx.

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
    plan.ahead = plan.turn = 0
    if macs_call < CALL_FOR_REGION:
        threads = 1
    team = threads
    if s.D == 2 and threads > 1:
        plan.directions_apart = True
        team = threads // 2
    if s.B >= 6 * team:
        plan.row_groups = team
    elif macs_step >= MACS_FOR_BARRIER * barrier_nanoseconds():
        plan.unit_groups = <int>min(team, _ceil_div(s.blocks, 4))
    plan.macs = 2 * macs_call
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
    Arrival* arrivals_all,          # of the threads of the direction, at barriers of all of them
    Arrival* arrivals,              # likewise, at those of a row group
) noexcept nogil:
    cdef GatesBackwardTile tile
    cdef Shape segment = s[0]
    cdef Products through_state, through_projection, products
    cdef int row_group = rank // plan.unit_groups, unit_group = rank % plan.unit_groups
    cdef bint steps_here = row_group < plan.row_groups, first_chunk = True
    cdef Barrier everyone = Barrier(arrivals_all, rank, team)
    cdef Barrier barrier = Barrier(arrivals + row_group * plan.unit_groups, unit_group, plan.unit_groups)
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
            barrier_wait(&everyone)
            _forward_direction(
                kernels, &segment, plan, rank, reverse, input + kept_row * I, batch_sizes + t, packed,
                h_segment + k * B * R, <real*>again.c, <real*>again.output, <real*>again.h_full, <real*>again.start,
                <real*>again.h_prev, <real*>again.c_prev, <real*>again.gates, <real*>NULL, <real*>NULL, arrivals)
            barrier_wait(&everyone)

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
                if P:  # (6), then (7): of h before the projection
                    for k in range(low, high):
                        for g in range(s0, s1):
                            _add_row(grad_projected + (r + k - low) * P_stride + g * W, grad_state + (g * B + k) * W,
                                     grad_output + (row + k) * s.D * R + g * W if grad_output != NULL else NULL,
                                     W, min(W, P - g * W))
            if P and steps_here:
                barrier_wait(&barrier)
                if low < high:
                    through_projection.rows = high - low
                    through_projection.a = grad_projected + r * P_stride
                    through_projection.out = grad_h + low * W
                    count = _tiles(kernels, &through_projection)
                    _run_products(kernels, &through_projection, g0 * count, g1 * count, <real>0)
            if steps_here and low < high:
                tile.rows = high - low
                tile.next = kept_rows  # the same rows of the next block
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
                barrier_wait(&barrier)
                if low < high:  # (11)
                    through_state.rows = high - low
                    through_state.a = grad_a + r * W
                    through_state.out = grad_state + low * W
                    count = _tiles(kernels, &through_state)
                    _run_products(kernels, &through_state, s0 * count, s1 * count, <real>0)
            if reverse:
                row += b
        barrier_wait(&everyone)

        # (11) grad_input = grad_a W_ih
        _products_of(&products, blocks, W, W, chunk_rows * W, I)
        products.rows, products.columns = rows, I
        products.panels, products.panel_step = packed.weight_ih_t, blocks * W * W
        products.a, products.out, products.out_step = grad_a, grad_input + chunk_row * I, W
        count = _ceil_div(I, W) * _tiles(kernels, &products)
        _run_products(kernels, &products, count * rank // team, count * (rank + 1) // team, <real>0)
        # (12) grad_W_ih += grad_aᵀ x, transposed: as (I, 4 VL) for each block
        _weight_products(kernels, &products, input + chunk_row * I, 1, I, I, rows, grad_a, chunk_rows,
                         grad_weight_ih, blocks, first_chunk, rank, team)
        # (12) grad_W_hh += grad_aᵀ h_prev
        _weight_products(kernels, &products, h_prev + (chunk_row - kept_row) * R, 1, R, R, rows, grad_a, chunk_rows,
                         grad_weight_hh, blocks, first_chunk, rank, team)
        # (12) grad_b += grad_aᵀ 1
        _weight_products(kernels, &products, <const real*>&ONE[sizeof(real) == 8], 0, 0, 1, rows, grad_a, chunk_rows,
                         grad_bias, blocks, first_chunk, rank, team)
        if P:  # (12) grad_W_hr += grad_projectedᵀ h
            _weight_products(kernels, &products, <const real*>grad_projected, 1, P_stride, P, rows, h, chunk_rows,
                             grad_weight_hr, groups, first_chunk, rank, team)
        first_chunk = False
        barrier_wait(&everyone)


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
    real* grad_weight_ih, real* grad_weight_hh, real* grad_bias,
    const Scratch* layout, real* scratch,
    Arrival* arrivals,  # of all threads, three times
) noexcept nogil:
    """One thread of the region: its direction or both, one after the other. Arrays hold all directions."""
    cdef Plan plan = asked[0]
    cdef int team = asked.threads, d, first = 0, last = <int>s.D
    cdef Py_ssize_t count = _ceil_div(s.T, SEGMENT * _chunk_steps(s.B)), j0, j1
    cdef Again again
    cdef real* own
    cdef unsigned long long mode = set_mode()
    cdef Barrier all = Barrier(arrivals, rank, came)
    cdef long long since = thread_begins(&all) if came > 1 else 0
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
            layout.chunk_rows, arrivals + asked.threads + first * team, arrivals + 2 * asked.threads + first * team)
        j0, j1 = s.blocks * rank // team, s.blocks * (rank + 1) // team
        if s.I:
            _unpack_gates(<const real*>own + layout.grad_weight_ih, grad_weight_ih + d * 4 * s.H * s.I,
                          s.H, s.I, s.VL, j0, j1)
        _unpack_gates(<const real*>own + layout.grad_weight_hh, grad_weight_hh + d * 4 * s.H * s.R,
                      s.H, s.R, s.VL, j0, j1)
        _unpack_gates(<const real*>own + layout.grad_bias, grad_bias + d * 4 * s.H, s.H, 1, s.VL, j0, j1)
    if came > 1:
        thread_ends(&all, since)
    restore_mode(mode)


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
    cdef bint entered
    cdef Scratch layout
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, d, b, g, j, k, some
    cdef Py_ssize_t arrival_items
    cdef real* scratch
    cdef real* own
    cdef Arrival* arrivals
    with cython.critical_section(layer):  # two threads may be the first
        _pack_transposed(layer, <real>0)
    s.T, s.N, s.B = batch_sizes.shape[0], input.shape[0], batch_sizes[0]
    plan = _backward_plan(&s, threads, kernels.max_rows)
    layout = _scratch(&s, &plan, gates is None)
    arrival_items = 3 * plan.threads * <Py_ssize_t>(sizeof(Arrival) // sizeof(real))
    arrivals = <Arrival*>_buffer(arrival_items + s.D * layout.total, sizeof(real))
    scratch = <real*>arrivals + arrival_items

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

        entered = _enter_region(&plan)
        if entered:
            with parallel(num_threads=plan.threads):
                _backward_thread(kernels, &s, &plan, omp_get_thread_num(), omp_get_num_threads(),
                                 &input[0, 0] if s.I else NULL, &batch_sizes[0], layer.packed,
                                 NULL if h_prev is None else &h_prev[0, 0, 0],
                                 NULL if c_prev is None else &c_prev[0, 0, 0, 0],
                                 NULL if gates is None else &gates[0, 0, 0, 0],
                                 NULL if h_segment is None else &h_segment[0, 0, 0, 0],
                                 NULL if c_segment is None else &c_segment[0, 0, 0, 0, 0],
                                 NULL if grad_output is None else &grad_output[0, 0],
                                 &grad_input[0, 0, 0] if s.I else NULL,
                                 &grad_weight_ih[0, 0, 0] if s.I else NULL, &grad_weight_hh[0, 0, 0], &grad_bias[0, 0],
                                 &layout, scratch, arrivals)
        else:
            _backward_thread(kernels, &s, &plan, 0, 1,
                             &input[0, 0] if s.I else NULL, &batch_sizes[0], layer.packed,
                             NULL if h_prev is None else &h_prev[0, 0, 0],
                             NULL if c_prev is None else &c_prev[0, 0, 0, 0],
                             NULL if gates is None else &gates[0, 0, 0, 0],
                             NULL if h_segment is None else &h_segment[0, 0, 0, 0],
                             NULL if c_segment is None else &c_segment[0, 0, 0, 0, 0],
                             NULL if grad_output is None else &grad_output[0, 0],
                             &grad_input[0, 0, 0] if s.I else NULL,
                             &grad_weight_ih[0, 0, 0] if s.I else NULL, &grad_weight_hh[0, 0, 0], &grad_bias[0, 0],
                             &layout, scratch, arrivals)
        _leave_region(&plan, entered)

        for d in range(s.D):
            own = scratch + d * layout.total
            for b in range(s.B):
                for g in range(_ceil_div(s.R, W)):
                    memcpy(&grad_h_0[d, b, g * W], own + layout.grad_state + (g * s.B + b) * W,
                           min(W, s.R - g * W) * sizeof(real))
                for j in range(s.blocks):
                    memcpy(&grad_c_0[d, b, j * VL], own + layout.grad_c + (j * s.B + b) * VL,
                           min(VL, s.H - j * VL) * sizeof(real))
            for k in range(s.P):
                for g in range(_ceil_div(s.H, W)):
                    memcpy(&grad_weight_hr[d, k, g * W], own + layout.grad_weight_hr + (g * s.P + k) * W,
                           min(W, s.H - g * W) * sizeof(real))
        _release(arrivals)


backward_float32 = backward["float"]
backward_float64 = backward["double"]
