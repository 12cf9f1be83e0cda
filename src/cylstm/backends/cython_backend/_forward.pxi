# The forward pass of one layer. Part of _lstm.pyx.

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
    Arrival* arrivals,            # of the threads of the direction
) noexcept nogil:
    cdef GatesTile pair[2]
    cdef GatesTile* tile = &pair[0]
    cdef ProductTile product
    cdef Products ahead  # start = x Wᵀ + bias
    cdef int row_group = rank // plan.unit_groups, unit_group = rank % plan.unit_groups
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, B = s.B, I = s.I, R = s.R, P = s.P, H = s.H, stride = s.D * s.R
    cdef Py_ssize_t j0 = s.blocks * unit_group // plan.unit_groups
    cdef Py_ssize_t j1 = s.blocks * (unit_group + 1) // plan.unit_groups
    cdef Py_ssize_t groups = _ceil_div(P, W)
    cdef Py_ssize_t g0 = groups * unit_group // plan.unit_groups, g1 = groups * (unit_group + 1) // plan.unit_groups
    cdef bint near = (j1 - j0) * (R if plan.ahead else I + R) * W * <Py_ssize_t>sizeof(real) <= FIRST_CACHE
    cdef bint in_pairs = near and B == 1  # one row is 4 sums, too few to wait for each other
    cdef bint exchanged = plan.unit_groups > 1 and B == 1  # more rows leave time to wait
    cdef Py_ssize_t own_tiles = _ceil_div(plan.tiles - row_group, plan.row_groups)
    cdef Py_ssize_t step, t, b, kept, i, j, g, k, m, n, r, low, high, stop
    cdef Py_ssize_t row = s.N if reverse else 0   # first packed row of the step
    cdef Py_ssize_t b_before = 0, row_before = 0  # of the step taken before
    cdef Py_ssize_t row_after, share              # of the step taken next; of its input, what a tile fetches
    cdef Py_ssize_t ahead_step = 0, ahead_row = 0, ahead_rows  # the first step and row beyond / of the rows ahead
    cdef const real* weight_ih = <const real*>packed.weight_ih
    cdef const real* weight_hh = <const real*>packed.weight_hh
    cdef const real* weight_hr = <const real*>packed.weight_hr
    cdef const real* bias = <const real*>packed.bias
    cdef const real* h
    cdef const real* after
    cdef bint upward, large = own_tiles > 1 and _is_large(kernels, R)
    cdef Py_ssize_t segment_steps = SEGMENT * _chunk_steps(B)
    cdef Barrier barrier = Barrier(arrivals + row_group * plan.unit_groups, unit_group, plan.unit_groups)
    if row_group >= plan.row_groups:
        return

    tile.input_stride = I
    tile.start_stride = W if plan.ahead else 0
    tile.I = 0 if plan.ahead else I
    tile.h_out_stride = s.blocks * VL if P else stride
    tile.input = tile.c_prev = tile.gates = NULL
    pair[1] = pair[0]
    product.segments, product.a_segment, product.a_k, product.fetch = 1, 0, 1, NULL
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

        # to and fro: what a step has read last is still in the cache when the next step reads it first;
        # in the first level all of it is
        upward = near or (step + plan.turn) % 2 == 0
        row_after = row - batch_sizes[t - 1] if reverse and t > 0 else row + b
        for m in range(j0, j1):
            j = m if upward else j0 + j1 - 1 - m
            tile = &pair[(m - j0) % 2 if in_pairs else 0]
            tile.lanes = VL if P else min(VL, H - j * VL)
            tile.weight_ih = weight_ih + j * I * W
            tile.weight_hh = weight_hh + j * R * W
            after = NULL  # the panel of the block that follows this one
            if large and m + 1 < j1:
                after = weight_hh + (j + 1 if upward else j - 1) * R * W
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
                    tile.fetch = _share(kernels, after, R, n) if after != NULL else NULL
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
                    if B > 1 and step + 1 < s.T:  # fetch what the next step reads, and where it writes
                        if not plan.ahead:
                            share = _ceil_div(tile.rows * I, j1 - j0)
                            fetch(input + (row_after + r) * I + (m - j0) * share, share * <Py_ssize_t>sizeof(real))
                        if not P:
                            for k in range(tile.rows):
                                fetch(output + (row_after + r + k) * stride + j * VL, 1)
                    if not in_pairs or (tile == &pair[0] and m + 1 == j1):
                        kernels.gates(tile)
                    elif tile == &pair[1]:
                        kernels.gates_pair(pair)
                    r = stop

        if P:  # (5) h = W_hr h
            barrier_wait(&barrier)
            if exchanged:
                fetch(h_full, H * <Py_ssize_t>sizeof(real))
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

        barrier_wait(&barrier)
        if exchanged:  # the other threads' h comes from their caches
            fetch(output + row * stride, R * <Py_ssize_t>sizeof(real))
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


cdef struct Views:
    Py_buffer buffers[12]
    int count


cdef void* _address(Views* views, array, Py_ssize_t itemsize, bint written) except? NULL:
    """Where the elements of a C-contiguous array lie, until its view is released; NULL for None."""
    cdef Py_buffer* view = &views.buffers[views.count]
    if array is None:
        return NULL
    PyObject_GetBuffer(array, view, PyBUF_CONTIG if written else PyBUF_CONTIG_RO)
    views.count += 1
    if view.itemsize != itemsize:
        raise TypeError(f"expected elements of {itemsize} bytes, got {view.itemsize}")
    return view.buf


cdef struct ForwardArrays:  # of `forward`; None is NULL
    const void* input
    const int64_t* batch_sizes
    const void* h_0
    const void* c_0
    void* output
    void* h_n
    void* c_n
    void* h_prev
    void* c_prev
    void* gates
    void* h_segment
    void* c_segment


def forward(
    Layer layer not None,
    input,        # IN (N, I)
    batch_sizes,  # IN (T,) int64
    h_0,          # IN (D, B, R) or None
    c_0,          # IN (D, B, H) or None
    output,       # OUT (N, D R)
    h_n,          # OUT (D, B, R)
    c_n,          # OUT (D, B, H)
    h_prev,       # OUT (D, N, R) or None
    c_prev,       # OUT (D, blocks, N, VL) or None
    gates,        # OUT (D, blocks, N, 4 VL) or None
    h_segment,    # OUT (D, segments, B, R) or None
    c_segment,    # OUT (D, segments, blocks, B, VL) or None
    int threads,
):
    """Run one layer on N > 0 rows. All arrays are C-contiguous and of the layer's precision; shapes are not checked."""
    cdef Views views  # typed memoryviews cost as much as a short call
    cdef ForwardArrays a
    cdef Shape s = layer.shape
    cdef Py_ssize_t itemsize = layer.kernels.itemsize
    views.count = 0
    try:
        a.input = _address(&views, input, itemsize, False)
        a.batch_sizes = <const int64_t*>_address(&views, batch_sizes, sizeof(int64_t), False)
        s.T = views.buffers[1].len // <Py_ssize_t>sizeof(int64_t)
        s.B = a.batch_sizes[0]
        a.h_0 = _address(&views, h_0, itemsize, False)
        a.c_0 = _address(&views, c_0, itemsize, False)
        a.output = _address(&views, output, itemsize, True)
        s.N = views.buffers[views.count - 1].len // (s.D * s.R * itemsize)
        a.h_n = _address(&views, h_n, itemsize, True)
        a.c_n = _address(&views, c_n, itemsize, True)
        a.h_prev = _address(&views, h_prev, itemsize, True)
        a.c_prev = _address(&views, c_prev, itemsize, True)
        a.gates = _address(&views, gates, itemsize, True)
        a.h_segment = _address(&views, h_segment, itemsize, True)
        a.c_segment = _address(&views, c_segment, itemsize, True)
        with nogil:
            if itemsize == 4:
                _forward(layer.kernels, &s, layer.packed, layer.finite, &a, threads, <float>0)
            else:
                _forward(layer.kernels, &s, layer.packed, layer.finite, &a, threads, <double>0)
    finally:
        while views.count:
            views.count -= 1
            PyBuffer_Release(&views.buffers[views.count])


cdef int _forward(
    const Kernels* kernels, const Shape* s, const Packed* packed, bint finite, const ForwardArrays* a, int threads,
    real zero,  # tells the precision
) except -1 nogil:
    cdef Plan plan = _plan(s, threads, kernels.max_rows, sizeof(real))
    cdef bint entered
    cdef Py_ssize_t VL = s.VL, D = s.D, B = s.B, R = s.R, H = s.H, d, b, j, t, row
    cdef const real* h_0 = <const real*>a.h_0
    cdef const real* c_0 = <const real*>a.c_0
    cdef const real* output = <const real*>a.output
    cdef real* h_n = <real*>a.h_n
    cdef real* c_n = <real*>a.c_n
    # one allocation: arrivals | c | start | h_full | zeros
    cdef Py_ssize_t cells = s.blocks * B * VL, starts = s.blocks * plan.ahead * 4 * VL
    cdef Py_ssize_t fulls = cells if s.P else 0
    cdef Py_ssize_t zeros = 0 if h_0 != NULL or finite else B * R
    cdef Py_ssize_t arrivals = 2 * plan.threads * <Py_ssize_t>(sizeof(Arrival) // sizeof(real))
    cdef real* scratch = <real*>_buffer(arrivals + D * (cells + starts + fulls) + zeros + 64, sizeof(real))
    cdef real* c = scratch + arrivals
    cdef real* start = c + D * cells if plan.ahead else NULL
    cdef real* h_full = c + D * (cells + starts) if s.P else NULL
    if zeros:
        h_0 = c + D * (cells + starts + fulls)

    if c_0 != NULL:
        for d in range(D):
            for j in range(s.blocks):
                for b in range(B):
                    memcpy(c + d * cells + (j * B + b) * VL, c_0 + (d * B + b) * H + j * VL,
                           min(VL, H - j * VL) * sizeof(real))

    entered = _enter_region(&plan)
    if entered:
        with parallel(num_threads=plan.threads):
            _forward_thread(kernels, s, &plan, omp_get_thread_num(), omp_get_num_threads(), packed, a, h_0,
                            a.h_0 != NULL, c, h_full, start, <Arrival*>scratch)
    else:
        _forward_thread(kernels, s, &plan, 0, 1, packed, a, h_0, a.h_0 != NULL, c, h_full, start, <Arrival*>scratch)
    _leave_region(&plan, entered)

    for d in range(D):
        for j in range(s.blocks):
            for b in range(B):
                memcpy(c_n + (d * B + b) * H + j * VL, c + d * cells + (j * B + b) * VL,
                       min(VL, H - j * VL) * sizeof(real))
    # h_n: direction 0 ends with each sequence's own last step, direction 1 with step 0
    row = s.N
    for t in range(s.T - 1, -1, -1):
        row -= a.batch_sizes[t]
        for b in range(a.batch_sizes[t + 1] if t + 1 < s.T else 0, a.batch_sizes[t]):
            memcpy(h_n + b * R, output + (row + b) * D * R, R * sizeof(real))
    if D == 2:
        for b in range(B):
            memcpy(h_n + (B + b) * R, output + b * D * R + R, R * sizeof(real))
    _release(scratch)
    return 0


cdef void _forward_thread(
    const Kernels* kernels, const Shape* s, const Plan* asked, int rank, int came, const Packed* packed,
    const ForwardArrays* a, const real* h_0, bint h_0_given, real* c, real* h_full, real* start,
    Arrival* arrivals,  # of all threads, twice
) noexcept nogil:
    """One thread of the region: its direction or both, one after the other. Arrays hold all directions."""
    cdef Plan plan = asked[0]
    cdef int team, d, first = 0, last = <int>s.D
    cdef Py_ssize_t count = _ceil_div(s.T, SEGMENT * _chunk_steps(s.B))
    cdef unsigned long long mode = set_mode()
    cdef Barrier all = Barrier(arrivals, rank, came)
    cdef long long since = thread_begins(&all) if came > 1 else 0
    if came != asked.threads:
        plan = _smaller_plan(asked, s, came)
    team = plan.row_groups * plan.unit_groups
    if plan.directions_apart:
        first = rank // team
        last = first + 1
        rank = rank % team
    for d in range(first, last):
        _forward_direction(
            kernels, s, &plan, rank, d == 1, <const real*>a.input, a.batch_sizes, &packed[d],
            h_0 + d * s.B * s.R if h_0_given else h_0,
            c + d * s.blocks * s.B * s.VL, <real*>a.output + d * s.R,
            NULL if h_full == NULL else h_full + d * s.B * s.blocks * s.VL,
            NULL if start == NULL else start + d * s.blocks * plan.ahead * 4 * s.VL,
            NULL if a.h_prev == NULL else <real*>a.h_prev + d * s.N * s.R,
            NULL if a.c_prev == NULL else <real*>a.c_prev + d * s.blocks * s.N * s.VL,
            NULL if a.gates == NULL else <real*>a.gates + d * s.blocks * s.N * 4 * s.VL,
            NULL if a.h_segment == NULL else <real*>a.h_segment + d * count * s.B * s.R,
            NULL if a.c_segment == NULL else <real*>a.c_segment + d * count * s.blocks * s.B * s.VL,
            arrivals + asked.threads + first * team)
    if came > 1:
        thread_ends(&all, since)
    restore_mode(mode)
