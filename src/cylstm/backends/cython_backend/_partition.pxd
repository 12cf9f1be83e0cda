# Who computes what: a call among threads, and what one thread does. docs/design/threads.md says why.
#
# A direction is cut into row_groups x unit_groups parts, one per thread: a part has the row tiles of its row group and
# the blocks of its unit group. h has to travel between the parts of one row group only, which take each step together.
# Both directions run at once where there are threads.

from ._kernels cimport Factor, Kernels, panel_bytes
from ._parallel cimport Group, Part, group_of, omp_get_num_procs
from ._pass cimport MACS_FOR_REGION, Partition, Pass, Shape, Share, ceil_div
from ._region cimport region_exchange_ns

cdef enum:
    HOISTED_ROWS = 96            # hoisted at once
    HOISTED_BELOW = 32           # rows of a step: hoisting pays below
    HOISTED_BELOW_LARGE = 65     # likewise, where the weights of a step do not fit the cache that the cores share
    LARGE_WEIGHTS = 12 << 20     # bytes: of that cache
    OWN_CACHE = 1 << 20          # bytes of packed weights that a core keeps in its own cache
    FIRST_CACHE = 32 << 10       # likewise, in the first level of it
    LARGE_PANEL = 256 << 10      # bytes: a panel is prefetched while the one before it is multiplied
    THREADS_PER_PROCESSOR = 4    # more than these only wait for each other
    # Multiply-adds of a step per nanosecond of an exchange. A core does some 45 of them, half the step is saved, and
    # the way of h costs about as much once more.
    MACS_FOR_EXCHANGE = 150


cdef inline bint is_large_panel(const Factor* factor, Py_ssize_t K) noexcept nogil:
    """Whether a panel (K, 4, VL) is so large that the first tile that needs it would wait for it."""
    return panel_bytes(factor, K) >= LARGE_PANEL


cdef inline Py_ssize_t macs_of_row(const Kernels* kernels, Py_ssize_t H, Py_ssize_t I, Py_ssize_t R) noexcept nogil:
    """Multiply-adds of a row in one direction, those of faster precisions counted as what they cost."""
    return 4 * H * (I // kernels.input.speed + R // kernels.state.speed)


cdef inline Partition _one_thread(const Kernels* kernels, const Shape* s) noexcept nogil:
    cdef Partition a
    a.threads = a.row_groups = a.unit_groups = 1
    a.directions_apart = False
    a.tiles = a.hoisted = 0
    a.macs = macs_of_row(kernels, s.H, s.I, s.R) * s.N * s.D
    a.descending_first = False
    return a


cdef inline Partition forward_partition(const Kernels* kernels, const Shape* s, int threads) noexcept nogil:
    """For at most `threads` threads. By the shape, and by what an exchange costs."""
    cdef Partition a = _one_thread(kernels, s)
    cdef Py_ssize_t macs_step = macs_of_row(kernels, s.H, 0, s.R) * s.B
    cdef Py_ssize_t weights = s.blocks * (panel_bytes(&kernels.input, s.I) + panel_bytes(&kernels.state, s.R))
    cdef Py_ssize_t worthwhile
    cdef int team
    threads = useful_threads(threads)
    if s.B < (HOISTED_BELOW_LARGE if weights > LARGE_WEIGHTS else HOISTED_BELOW) and s.N > s.B:
        a.hoisted = min(s.N, HOISTED_ROWS if s.B < HOISTED_BELOW else 4 * s.B)
    if a.macs < MACS_FOR_REGION:
        threads = 1
    worthwhile = MACS_FOR_EXCHANGE * region_exchange_ns() if threads > 1 else 0
    team = threads
    if s.D == 2 and threads > 1:
        a.directions_apart = True
        team = threads // 2
    if s.B >= 6 * team and (weights <= OWN_CACHE or macs_step < worthwhile):
        a.row_groups = team
        if team > 1:
            a.hoisted = 0
    elif macs_step >= worthwhile or s.T == 1:
        a.unit_groups = <int>min(team, s.blocks)
    a.threads = a.row_groups * a.unit_groups * (2 if a.directions_apart else 1)
    a.tiles = a.row_groups * ceil_div(s.B, a.row_groups * kernels.max_rows)
    return a


cdef inline int useful_threads(int threads) noexcept nogil:
    """As many of the threads as the processors can bring forward: the price of a turn grows with their square."""
    if threads <= 8:
        return threads
    return min(threads, max(8, THREADS_PER_PROCESSOR * omp_get_num_procs()))


cdef inline Partition backward_partition(const Kernels* kernels, const Shape* s, int threads) noexcept nogil:
    cdef Partition a = _one_thread(kernels, s)
    cdef Py_ssize_t macs_step = 4 * s.H * s.R * s.B
    cdef int team
    threads = useful_threads(threads)
    if a.macs < MACS_FOR_REGION:
        threads = 1
    team = threads
    if s.D == 2 and threads > 1:
        a.directions_apart = True
        team = threads // 2
    if s.B >= 6 * team:
        a.row_groups = team
    elif macs_step >= MACS_FOR_EXCHANGE * region_exchange_ns():
        a.unit_groups = <int>min(team, ceil_div(s.blocks, 4))
    a.macs *= 2
    a.threads = team * (2 if a.directions_apart else 1)  # more than there are parts of a step share in the products
    # for what is computed again
    a.tiles = a.row_groups * ceil_div(s.B, a.row_groups * kernels.max_rows)
    if s.B < HOISTED_BELOW and a.row_groups == 1:
        a.hoisted = HOISTED_ROWS
    return a


cdef inline Partition alone(const Partition* requested) noexcept nogil:
    """The partition where one thread does all: with the buffers of the requested one."""
    cdef Partition a = requested[0]
    a.threads = a.row_groups = a.unit_groups = 1
    a.directions_apart = False
    return a


cdef inline int team_of(const Partition* a) noexcept nogil:
    """Threads of one direction."""
    return a.threads // 2 if a.directions_apart else a.threads


cdef inline Share share_of(const Pass* p, int part) noexcept nogil:
    """Of the part of a direction with this index: part = row_group * unit_groups + unit_group."""
    cdef Share own
    cdef const Shape* s = p.shape
    cdef const Partition* a = p.partition
    cdef Py_ssize_t W = 4 * s.VL, u = part % a.unit_groups, units = a.unit_groups, per_unit
    own.row_group, own.unit_group = part // a.unit_groups, <int>u
    own.tiles = ceil_div(a.tiles - own.row_group, a.row_groups)
    own.b0 = s.B * own.row_group // a.row_groups
    own.b1 = s.B * (own.row_group + 1) // a.row_groups
    own.j0, own.j1 = s.blocks * u // units, s.blocks * (u + 1) // units
    own.g0, own.g1 = ceil_div(s.H, W) * u // units, ceil_div(s.H, W) * (u + 1) // units
    own.s0, own.s1 = ceil_div(s.R, W) * u // units, ceil_div(s.R, W) * (u + 1) // units
    per_unit = panel_bytes(&p.kernels.state, s.R) + (0 if a.hoisted else panel_bytes(&p.kernels.input, s.I))
    own.fits_l1 = (own.j1 - own.j0) * per_unit <= FIRST_CACHE
    own.pair_blocks = own.fits_l1 and s.B == 1 and p.packed.options == NULL
    own.shares_state = a.unit_groups > 1 and s.B == 1
    own.streams_weights = own.tiles > 1 and is_large_panel(&p.kernels.state, s.R)
    return own


cdef inline Group group_at(const Partition* a, Part* parts, int part, int n) noexcept nogil:
    """The n-th row group of a direction that a thread visits, its own first. `part` is its part, -1 for a guest."""
    cdef int own = part // a.unit_groups if part >= 0 else 0, g = (own + n) % a.row_groups
    return group_of(parts + g * a.unit_groups, a.unit_groups, part % a.unit_groups if part >= 0 and n == 0 else -1)
