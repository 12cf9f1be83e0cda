# Who computes what, and when there is a parallel region. Part of _lstm.pyx.

# The process that loaded this module. Threads of OpenMP do not survive a fork, and whether somebody has started some
# before it cannot be known (PyTorch may share the library): a forked child runs alone.
cdef int region_pid = getpid()
cdef int region_busy = 0  # a call from another thread has the region: this one runs alone

cdef extern from *:
    """
    static inline int take(int *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static inline void give(int *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    """
    bint take(int* flag) nogil
    void give(int* flag) nogil


cdef Plan _plan(const Shape* s, int threads, Py_ssize_t max_rows, Py_ssize_t itemsize) noexcept nogil:
    """Who computes what, for at most `threads` threads. By the shape, and by what a barrier costs."""
    cdef Plan plan
    cdef Py_ssize_t macs_step = 4 * s.H * s.R * s.B, macs_call = 4 * s.H * (s.I + s.R) * s.N * s.D
    cdef Py_ssize_t weights = 4 * s.H * (s.I + s.R) * itemsize
    cdef Py_ssize_t worthwhile
    cdef int team
    plan.directions_apart = False
    plan.row_groups = plan.unit_groups = 1
    plan.ahead = plan.turn = 0
    if s.B < (AHEAD_BELOW_LARGE if weights > LARGE else AHEAD_BELOW) and s.N > s.B:
        plan.ahead = min(s.N, AHEAD if s.B < AHEAD_BELOW else 4 * s.B)
    if macs_call < CALL_FOR_REGION:
        threads = 1
    worthwhile = MACS_FOR_BARRIER * barrier_nanoseconds() if threads > 1 else 0
    team = threads
    if s.D == 2 and threads > 1:
        plan.directions_apart = True
        team = threads // 2
    if s.B >= 6 * team and (weights <= OWN_CACHE or macs_step < worthwhile):
        plan.row_groups = team
        if team > 1:
            plan.ahead = 0
    elif macs_step >= worthwhile or s.T == 1:
        plan.unit_groups = <int>min(team, s.blocks)
    plan.macs = macs_call
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
    """Whether this call shall open a parallel region. `_leave_region` ends the call in either case."""
    if plan.threads < 2 or omp_in_parallel() or not take(&region_busy):
        return False
    if region_pid != getpid() or not region_pays(plan.macs > LONG_CALL) or not may_open():
        give(&region_busy)
        return False
    region_begins()
    return True


cdef void _leave_region(const Plan* plan, bint entered) noexcept nogil:
    if entered:
        region_ends(plan.threads)
        give(&region_busy)
    if plan.threads > 1:
        call_ends()
