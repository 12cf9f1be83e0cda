# The forward pass of one direction, as one of its threads sees it: eq. (1) to (5) of docs/equations.md.
#
# h of the step before is read where it was written, in `output`. With few rows per step the input's part of the sums is
# hoisted: computed for many steps at once, as one matrix product, in a buffer whose size does not depend on T.

from libc.string cimport memcpy, memset

from ._kernels cimport Factor, GatesTile, ProductTile, operand_stride, panel_bytes, prefetch
from ._operands cimport Operands, convert_rows
from ._parallel cimport Group, Part, halt_look, part_done, part_take, turn_begins
from ._partition cimport group_at, share_of
from ._pass cimport (
    Kept, Partition, Pass, Shape, Share, Step, before_first, ceil_div, next_step, real, rows_of_step, segment_steps,
    steps_of_look,
)
from ._product cimport Products, init_products, prefetch_slice, run_products, tiles_of

cdef struct Forward:          # what a part of the pass needs from step to step, whichever thread computes it
    Share own
    Operands operands
    GatesTile pair[2]         # their constant fields are set once
    void (*gates)(const GatesTile*) noexcept nogil
    ProductTile projection    # h = h_full W_hrᵀ
    void* h_full              # (B, blocks VL), h before the projection; NULL without
    Products hoisted          # start = x W_ihᵀ + bias
    void* start               # (blocks, hoisted rows, 4, VL); NULL where nothing is hoisted
    Py_ssize_t hoisted_until  # the first step whose rows are not in `start`
    Py_ssize_t hoisted_first  # the first packed row in `start`


cdef struct ForwardPass:      # of one direction, as one thread sees it
    const Pass* p
    const Kept* kept          # or NULL
    Forward* parts            # (parts of a step,)
    Part* turns               # theirs
    int part                  # this thread's, or -1
    bint asks                 # it is the one that called


cdef inline void forward_direction(
    const ForwardPass* f,
    const real* input,  # IN (N, I)
    const real* h_0,    # IN (B, R), or NULL: zeros that add nothing
    real* c,            # IN/OUT (blocks, B, VL)
    real* output,       # OUT (N, R), rows D R apart
) noexcept nogil:
    """All row groups, this thread's first: those of threads that are not there have to be computed too."""
    cdef const Partition* a = f.p.partition
    cdef Group group
    cdef int n
    for n in range(a.row_groups):
        group = group_at(a, f.turns, f.part, n)
        forward_group(f, &group, input, h_0, c, output)


cdef inline void forward_group(
    const ForwardPass* f, Group* group, const real* input, const real* h_0, real* c, real* output,
) noexcept nogil:
    """The steps of one row group. A part without others in its group takes several steps in one turn."""
    cdef const Pass* p = f.p
    cdef const Kept* kept = f.kept
    cdef Forward* parts = f.parts + (group.parts - f.turns if group.parts != NULL else 0)
    cdef const Shape* s = p.shape
    cdef Step step = before_first(p), at
    cdef Py_ssize_t each = steps_of_look(p), left = each if s.T > 1 else 2, count  # a single step has no look
    cdef bint shares = group.count > 1
    cdef int n
    while step.index + 1 < s.T:
        count = 1 if shares else min(each, s.T - 1 - step.index)
        turn_begins(group)
        n = part_take(group)
        while n >= 0:
            at = step
            for _ in range(count):
                next_step(p, &at)
                if parts[n].start != NULL and at.index == parts[n].hoisted_until:
                    hoist_input(&parts[n], p, &at, input)
                if kept != NULL:
                    keep_states(kept, p, &parts[n].own, &at, h_0, c, output)
                gates_of_step(&parts[n], p, kept, &at, input, h_0, c, output)
                if s.P and not shares:
                    project_step(&parts[n], p, &at, output)
            part_done(group, n)
            n = part_take(group)
        for _ in range(count):
            next_step(p, &step)
        if s.P and shares:
            turn_begins(group)
            n = part_take(group)
            while n >= 0:
                project_step(&parts[n], p, &step, output)
                part_done(group, n)
                n = part_take(group)
        left -= count
        if left <= 0:
            if halt_look(p.halt, f.asks):
                return
            left = each
        if parts[0].own.shares_state:
            prefetch(output + step.first * s.D * s.R, s.R * <Py_ssize_t>sizeof(real))


cdef inline void init_forward(
    Forward* f,  # OUT, zero before
    const Pass* p, int part, void* h_full, void* start, const Operands* operands,
) noexcept nogil:
    cdef const Shape* s = p.shape
    cdef Py_ssize_t W = 4 * s.VL, hoisted = p.partition.hoisted
    cdef bint converts = operands.input != NULL
    cdef GatesTile* tile = &f.pair[0]
    f.own = share_of(p, part)
    f.h_full, f.start, f.hoisted_until, f.hoisted_first = h_full, start, 0, 0
    f.operands = operands[0]
    tile.input_stride = operand_stride(s.I) if converts else s.I
    tile.start_stride = W if hoisted else 0
    tile.I = 0 if hoisted else s.I
    tile.h_out_stride = s.blocks * s.VL if s.P else s.D * s.R
    tile.options = p.packed.options
    f.gates = p.kernels.gates if p.packed.options == NULL else p.kernels.gates_with_options
    f.pair[1] = f.pair[0]
    f.projection.segments, f.projection.a_k = 1, 1
    f.projection.K, f.projection.out_stride = s.H, s.D * s.R
    f.projection.a_row = operand_stride(s.H) if converts else s.blocks * s.VL
    if hoisted:
        init_products(&f.hoisted, 1, s.I, tile.input_stride, 0, W)
        f.hoisted.columns = s.blocks * W
        f.hoisted.panels, f.hoisted.panel_step = p.packed.weight_ih, panel_bytes(&p.kernels.input, s.I)
        f.hoisted.start, f.hoisted.start_step = p.packed.bias, W
        f.hoisted.out, f.hoisted.out_step = start, hoisted * W


cdef inline void hoist_input(
    Forward* f, const Pass* p, const Step* step, const real* input
) noexcept nogil:
    """The sums of as many steps as the buffer holds, so far as they depend on the input."""
    cdef Py_ssize_t rows = 0, more, tiles
    while f.hoisted_until < p.shape.T:
        more = rows_of_step(p, f.hoisted_until)
        if rows + more > p.partition.hoisted:
            break
        rows += more
        f.hoisted_until += 1
    f.hoisted_first = step.first + step.rows - rows if p.reverse else step.first
    f.hoisted.rows = rows
    f.hoisted.a = input + f.hoisted_first * p.shape.I
    if f.operands.input != NULL:
        convert_rows(&p.kernels.input, <const real*>f.hoisted.a, p.shape.I, rows, p.shape.I,
                     f.operands.input, NULL)
        f.hoisted.a = f.operands.input
    tiles = tiles_of(p.kernels, &f.hoisted)
    run_products(p.kernels, &f.hoisted, f.own.j0 * tiles, f.own.j1 * tiles)


cdef inline Py_ssize_t first_row(const Pass* p, const Share* own, Py_ssize_t n) noexcept nogil:
    """The first row of the n-th row tile of a part."""
    return (own.row_group + n * p.partition.row_groups) * p.shape.B // p.partition.tiles


cdef inline Py_ssize_t last_row(const Pass* p, const Share* own, Py_ssize_t n) noexcept nogil:
    """The row behind it, where all sequences take the step."""
    return (own.row_group + n * p.partition.row_groups + 1) * p.shape.B // p.partition.tiles


cdef inline void keep_states(
    const Kept* kept, const Pass* p, const Share* own, const Step* step,
    const real* h_0, const real* c, const real* output,
) noexcept nogil:
    """Keep h before the step, or h and c where a segment begins. The parts of a row group share the rows."""
    cdef const Shape* s = p.shape
    cdef Py_ssize_t B = s.B, R = s.R, VL = s.VL, n, r, j, low, high
    cdef Py_ssize_t segment = step.index // segment_steps(B)
    cdef bint begins = kept.h_segment != NULL and step.index % segment_steps(B) == 0
    cdef const real* h_before = output + step.before * s.D * R
    for n in range(own.tiles):
        low, high = first_row(p, own, n), last_row(p, own, n)
        for r in range(low, high):
            if r % p.partition.unit_groups != own.unit_group:
                continue
            if kept.h_prev != NULL and r < step.rows:
                copy_state(<real*>kept.h_prev + (step.first + r) * R, r, step, h_before + r * s.D * R, h_0, R)
            if begins:
                copy_state(<real*>kept.h_segment + (segment * B + r) * R, r, step, h_before + r * s.D * R, h_0, R)
        if begins:
            for j in range(own.j0, own.j1):
                memcpy(<real*>kept.c_segment + ((segment * s.blocks + j) * B + low) * VL, c + (j * B + low) * VL,
                       (high - low) * VL * sizeof(real))


cdef inline void copy_state(
    real* out, Py_ssize_t r, const Step* step, const real* h_before, const real* h_0, Py_ssize_t R,
) noexcept nogil:
    """out (R,) = the state that row r brings to a step: of the step before, of h_0, or zeros."""
    if r < step.carried:
        memcpy(out, h_before, R * sizeof(real))
    elif h_0 != NULL:
        memcpy(out, h_0 + r * R, R * sizeof(real))
    else:
        memset(out, 0, R * sizeof(real))


cdef inline void convert_step(
    Forward* f, const Pass* p, const Step* step,
    const real* input, const real* h_0, const real* output,
) noexcept nogil:
    """The operands of the part's rows: h before the step, and the input where it is not hoisted."""
    cdef const Shape* s = p.shape
    cdef const Share* own = &f.own
    cdef const Operands* to = &f.operands
    cdef const Factor* state = &p.kernels.state
    cdef Py_ssize_t I = s.I, R = s.R, stride = s.D * s.R, n, low, high, carried
    for n in range(own.tiles):
        low, high = first_row(p, own, n), min(last_row(p, own, n), step.rows)
        carried = max(low, min(high, step.carried))
        convert_rows(state, output + (step.before + low) * stride, stride, carried - low, R,
                     to.state + low * to.state_row, to.scales + low)
        if h_0 != NULL:
            convert_rows(state, h_0 + carried * R, R, high - carried, R,
                         to.state + carried * to.state_row, to.scales + carried)
        if f.start == NULL:
            convert_rows(&p.kernels.input, input + (step.first + low) * I, I, high - low, I,
                         to.input + low * to.input_row, NULL)


cdef inline void gates_of_step(
    Forward* f, const Pass* p, const Kept* kept, const Step* step,
    const real* input, const real* h_0, real* c, real* output,
) noexcept nogil:
    """Eq. (1) to (4) of the part's blocks and rows.

    Steps take the blocks in alternating order: what a step has read last is still in the cache when the next step reads
    it first. Where all of it is in the first cache, the order is the same.
    """
    cdef const Shape* s = p.shape
    cdef const Share* own = &f.own
    cdef Py_ssize_t VL = s.VL, W = 4 * s.VL, B = s.B, I = s.I, R = s.R, stride = s.D * s.R, count = own.j1 - own.j0
    cdef Py_ssize_t panel_ih = panel_bytes(&p.kernels.input, I), panel_hh = panel_bytes(&p.kernels.state, R)
    cdef bint ascending = own.fits_l1 or (step.index + p.partition.descending_first) % 2 == 0
    cdef bint prefetches = B > 1 and step.index + 1 < s.T
    cdef Py_ssize_t m, j, n, r, k, high, stop, slice
    cdef const char* next_panel
    cdef GatesTile* tile
    cdef const Operands* operands = &f.operands
    if operands.input != NULL:
        convert_step(f, p, step, input, h_0, output)
    for m in range(count):
        j = own.j0 + m if ascending else own.j1 - 1 - m
        tile = &f.pair[m % 2 if own.pair_blocks else 0]
        tile.lanes = VL if s.P else min(VL, s.H - j * VL)
        tile.weight_ih = p.packed.weight_ih + j * panel_ih
        tile.weight_hh = p.packed.weight_hh + j * panel_hh
        if p.packed.weight_ch != NULL:
            tile.weight_ch = <real*>p.packed.weight_ch + j * 3 * VL
        next_panel = NULL
        if own.streams_weights and m + 1 < count:
            next_panel = p.packed.weight_hh + (j + 1 if ascending else j - 1) * panel_hh
        for n in range(own.tiles):
            r, high = first_row(p, own, n), min(last_row(p, own, n), step.rows)
            while r < high:  # rows that are carried on, then those that begin
                if r < step.carried:
                    stop = min(high, step.carried)
                    tile.h, tile.h_stride, tile.R = output + (step.before + r) * stride, stride, R
                else:
                    stop = high
                    tile.h, tile.h_stride, tile.R = h_0 + r * R, R, R if h_0 != NULL else 0
                if operands.input != NULL:
                    tile.h, tile.h_stride = operands.state + r * operands.state_row, operand_stride(R)
                    tile.h_scale = operands.scales + r
                tile.rows = stop - r
                tile.prefetch = NULL
                if next_panel != NULL:
                    tile.prefetch = prefetch_slice(&p.kernels.state, next_panel, R, n)
                if f.start != NULL:
                    tile.start = <real*>f.start + (j * p.partition.hoisted + step.first - f.hoisted_first + r) * W
                else:
                    tile.start = <real*>p.packed.bias + j * W
                    tile.input = input + (step.first + r) * I
                    if operands.input != NULL:
                        tile.input = operands.input + r * operands.input_row
                tile.c = c + (j * B + r) * VL
                if s.P:
                    tile.h_out = <real*>f.h_full + (r * s.blocks + j) * VL
                else:
                    tile.h_out = output + (step.first + r) * stride + j * VL
                if kept != NULL and kept.gates != NULL:
                    tile.c_prev = <real*>kept.c_prev + (j * kept.rows + step.first + r) * VL
                    tile.gates = <real*>kept.gates + (j * kept.rows + step.first + r) * W
                if prefetches:  # what the next step reads, and where it writes
                    if f.start == NULL:
                        slice = ceil_div(tile.rows * I, count)
                        prefetch(input + (step.after + r) * I + m * slice, slice * <Py_ssize_t>sizeof(real))
                    if not s.P:
                        for k in range(tile.rows):
                            prefetch(output + (step.after + r + k) * stride + j * VL, 1)
                if not own.pair_blocks or (tile == &f.pair[0] and m + 1 == count):
                    f.gates(tile)
                elif tile == &f.pair[1]:
                    p.kernels.gates_pair(f.pair)
                r = stop


cdef inline void project_step(
    Forward* f, const Pass* p, const Step* step,
    real* output,  # OUT (N, R), rows D R apart
) noexcept nogil:
    """Eq. (5): h = W_hr h, of the part's columns and rows."""
    cdef const Shape* s = p.shape
    cdef const Share* own = &f.own
    cdef ProductTile* tile = &f.projection
    cdef const Operands* operands = &f.operands
    cdef Py_ssize_t W = 4 * s.VL, row = s.blocks * s.VL, g, n, low, high
    if own.shares_state:
        prefetch(f.h_full, s.H * <Py_ssize_t>sizeof(real))
    if operands.input != NULL:
        for n in range(own.tiles):
            low, high = first_row(p, own, n), min(last_row(p, own, n), step.rows)
            convert_rows(&p.kernels.input, <real*>f.h_full + low * row, row, high - low, s.H,
                         operands.full + low * operands.full_row, NULL)
    for g in range(own.s0, own.s1):
        tile.panel = p.packed.weight_hr + g * panel_bytes(&p.kernels.input, s.H)
        tile.columns = min(W, s.P - g * W)
        for n in range(own.tiles):
            low, high = first_row(p, own, n), min(last_row(p, own, n), step.rows)
            if low < high:
                tile.rows = high - low
                tile.a = <real*>f.h_full + low * row
                if operands.input != NULL:
                    tile.a = operands.full + low * operands.full_row
                tile.out = output + (step.first + low) * s.D * s.R + g * W
                p.kernels.product(tile)
                if p.packed.options != NULL:
                    limit_rows(<real*>tile.out, tile, <real>p.packed.options.proj_clip)


cdef inline void limit_rows(real* rows, const ProductTile* tile, real limit) noexcept nogil:
    """Each number of the tile's rows to -limit ... limit; a NaN stays."""
    cdef Py_ssize_t r, k
    cdef real* row
    for r in range(tile.rows):
        row = rows + r * tile.out_stride
        for k in range(tile.columns):
            if row[k] > limit:
                row[k] = limit
            elif row[k] < -limit:
                row[k] = -limit
