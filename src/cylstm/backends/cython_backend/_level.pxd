# One layer of a stepper: it has one direction, and takes one time step per call.

from libc.stdint cimport int64_t
from libc.string cimport memset

from ._call cimport Call, begin_call, begin_forward, bytes_of_threads, forward_thread, run_forward
from ._kernels cimport Kernels
from ._memory cimport allocate, release
from ._operands cimport operands_of
from ._partition cimport Partition, forward_partition
from ._pass cimport Packed, Shape, real

cdef enum:
    MAX_STEP_THREADS = 64


cdef struct Level:
    Call call         # of a step; it has begun, once for all, where one thread takes all steps
    Shape shape       # T = 1, N = B
    void* h[2]        # (B, R) before and after the step, in turn
    void* c           # (blocks, B, VL)


cdef inline int init_level(
    Level* level,              # OUT, zero before
    const Kernels* kernels, const Packed* packed, const Shape* shape,
    const int64_t* batch_size,  # (1,)
) except -1:
    cdef Py_ssize_t B = batch_size[0], padded = B * shape.blocks * shape.VL, k
    level.shape = shape[0]
    level.shape.T, level.shape.N, level.shape.B = 1, B, B
    level.call.kernels, level.call.packed, level.call.shape = kernels, packed, &level.shape
    level.call.batch_sizes = batch_size
    for k in range(2):
        level.h[k] = allocate(B * shape.R, kernels.itemsize)
    level.c = allocate(padded, kernels.itemsize)
    if shape.P:
        level.call.h_full = allocate(padded, kernels.itemsize)
    return 0


cdef inline void release_level(Level* level) noexcept nogil:
    release(level.h[0])
    release(level.h[1])
    release(level.c)
    release(level.call.h_full)


cdef inline Py_ssize_t operand_bytes(const Level* level) noexcept nogil:
    """Of one part, on any number of threads."""
    cdef Partition partition = forward_partition(level.call.kernels, &level.shape, 1)
    return operands_of(level.call.kernels, &level.shape, &partition, NULL).bytes


cdef inline void begin_alone(Level* level) noexcept nogil:
    """For all steps: one thread takes them."""
    level.call.partition = forward_partition(level.call.kernels, &level.shape, 1)
    begin_call(&level.call)
    begin_forward(&level.call)


cdef inline real* step_of_level(
    Level* level,
    int threads,        # 0: `begin_alone` has been called
    int now,            # h[now] is the state
    const real* input,  # IN (B, I)
) noexcept nogil:
    """h after the step (B, R)."""
    cdef Call* call = &level.call
    cdef const real* h = <const real*>level.h[now]
    cdef real* h_after = <real*>level.h[1 - now]
    if threads == 0:
        call.partition.descending_first = now
        forward_thread(call, 0, 1, input, h, <real*>level.c, h_after)
        return h_after
    call.partition = forward_partition(call.kernels, &level.shape, min(threads, MAX_STEP_THREADS))
    call.partition.descending_first = now
    memset(call.threads, 0, bytes_of_threads(&level.shape, call.partition.threads, False))
    run_forward(call, input, h, <real*>level.c, h_after)
    return h_after
