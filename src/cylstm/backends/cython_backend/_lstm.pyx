# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""The LSTM on packed rows, forward and backward, float32 and float64: threads, the loop over time, packing.

Symbols and shapes are those of ``base.py``, plus::

    VL      lanes of one vector          blocks  ceil(H / VL), a block being VL hidden units
    groups  ceil(n / (4 VL)): panels of 4 VL columns of a matrix with n columns

Design
------
- The arithmetic is in ``kernels/`` (tiles of a few rows x one block). This module decides which tile runs when, on
  which thread; its parts are the ``.pxi`` files included below. Every number is a sum in one fixed order (see
  ``kernels.h``), and threads share out numbers, never a sum: so the result does not depend on the batch, the threads,
  or on how a sequence is cut.
- One parallel region per call. The threads of a direction form ``row_groups x unit_groups``: a thread owns the row
  tiles of its row group and the blocks of its unit group. h has to travel between the threads of one row group only:
  one barrier of theirs per step, none where ``unit_groups`` is 1. Both directions run at once where there are threads.
- h of the step before is read where it was written, in ``output``.
- ``ahead``: with few rows per step the input's share of the sums is computed for many steps at once, as one matrix
  product, in a buffer whose size does not depend on T.
- backward: the thread that owns a block computes its part of grad_h and at once the gradients of its gates. The
  gradients of the weights are products over chunks of ``_chunk_steps`` steps, counted in the order of the forward pass.
- Where forward kept the states alone, it kept them before the first step of each segment, which is SEGMENT chunks;
  backward then runs the forward pass of a segment again.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBUF_CONTIG_RO, PyBuffer_Release, PyObject_GetBuffer
from cython.parallel cimport parallel
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ._kernels cimport (
    LINE, Arrival, Barrier, GatesBackwardTile, GatesTile, Kernels, ProductTile, barrier_nanoseconds, barrier_wait,
    call_ends, cylstm_kernels, fetch, may_open, region_begins, region_ends, region_pays, restore_mode, set_always_pays,
    set_mode, thread_begins, thread_ends, transpose_double, transpose_float,
)
from ._openmp cimport (
    CYLSTM_OPENMP, omp_get_max_threads, omp_get_num_threads, omp_get_thread_num, omp_in_parallel,
)

cdef extern from "<unistd.h>" nogil:
    int getpid()

import numpy as np

cdef object _empty = np.empty, _ndarray = np.ndarray

ctypedef fused real:
    float
    double

# Rows whose input share is computed ahead, and below how many rows per step that pays: more where the weights of a
# step do not fit the cache that the cores share, so that those of the input are read once for several steps.
cdef Py_ssize_t AHEAD = 96
cdef Py_ssize_t AHEAD_BELOW = 32
cdef Py_ssize_t AHEAD_BELOW_LARGE = 65
cdef Py_ssize_t LARGE = 12 << 20
# Rows of one chunk of the backward pass, and chunks of one segment.
cdef Py_ssize_t CHUNK = 512
cdef Py_ssize_t SEGMENT = 2
# Multiply-adds of a call below which another thread costs more than it brings; and of a step, per nanosecond of a
# barrier: a core does some 45 of them, half the step is saved, and the exchange of h costs about a barrier more.
cdef Py_ssize_t CALL_FOR_REGION = 500_000
cdef Py_ssize_t MACS_FOR_BARRIER = 150
# Multiply-adds of a call, about a millisecond, that pays even if the other threads have to wake up.
cdef Py_ssize_t LONG_CALL = 60_000_000
# Bytes of packed weights that a core is trusted to keep in its own cache, and in the first level of it.
cdef Py_ssize_t OWN_CACHE = 1 << 20
cdef Py_ssize_t FIRST_CACHE = 32 << 10
# Bytes of a panel from which on it is fetched while the one before it is multiplied.
cdef Py_ssize_t LARGE_PANEL = 256 << 10


cdef struct Shape:
    Py_ssize_t T, B, N, I, H, R, P, D
    Py_ssize_t VL, blocks


cdef struct Plan:
    int threads            # of the region; 1: there is none
    bint directions_apart  # the first half of the threads takes direction 0, the other half direction 1
    int row_groups         # of the threads of one direction
    int unit_groups
    Py_ssize_t tiles       # tile i holds the rows i B / tiles ... (i + 1) B / tiles of a step
    Py_ssize_t macs        # multiply-adds of the call
    Py_ssize_t ahead       # rows of the buffer for the input's share; 0: computed with each step
    int turn               # 1: the first step takes the blocks from the last to the first


cdef inline Py_ssize_t _ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t _chunk_steps(Py_ssize_t B) noexcept nogil:
    return max(1, CHUNK // B)


def segments(Py_ssize_t T, Py_ssize_t B):
    """How many states forward keeps of T steps for a backward pass that computes the gates again."""
    return _ceil_div(T, SEGMENT * _chunk_steps(B)) if B else 0


cdef void* _buffer(Py_ssize_t items, Py_ssize_t itemsize) except NULL nogil:
    """Zeroed memory that starts on a cache line; the address to free stands before it."""
    cdef char* raw = <char*>calloc(items * itemsize + 128, 1)
    cdef char* start
    if raw == NULL:
        with gil:
            raise MemoryError(f"cannot allocate {items * itemsize} bytes for the LSTM's buffers")
    start = <char*>((<uintptr_t>raw + 127) & ~(<uintptr_t>63))
    (<void**>start)[-1] = raw
    return start


cdef void _release(void* buffer) noexcept nogil:
    if buffer != NULL:
        free((<void**>buffer)[-1])


def until_line(array):
    """How many elements of a contiguous array lie before the first one on a new cache line."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_CONTIG_RO)
    cdef Py_ssize_t items = (-<Py_ssize_t>view.buf & (LINE - 1)) // view.itemsize
    PyBuffer_Release(&view)
    return items


include "_packing.pxi"
include "_threads.pxi"
include "_products.pxi"
include "_forward.pxi"
include "_backward.pxi"
include "_stepper.pxi"


def instruction_sets():
    """Names of the instruction sets that this processor can run, best first."""
    return [name.decode() for name in (b"avx512", b"avx2", b"generic")
            if cylstm_kernels(<const char*>name, 4) != NULL]


def openmp():
    """Whether this module was built with OpenMP."""
    return bool(CYLSTM_OPENMP)


def max_threads():
    """The number of threads that OpenMP would give: cores, affinity, OMP_NUM_THREADS and threadpoolctl are in it."""
    return omp_get_max_threads()


line_bytes = LINE
default_threads = omp_get_max_threads()  # less later on is a limit that somebody has set since


def open_regions(bint always):
    """For tests: use the threads that the plan of a call has, whether or not they seem to pay. Returns what was set."""
    return bool(set_always_pays(always))


def activate(bint tanh, const real[::1] x not None, real[::1] out not None, isa=None):
    """out = tanh(x) or sigmoid(x) as the kernels compute it."""
    name = None if isa is None else isa.encode()
    cdef const Kernels* kernels = cylstm_kernels(NULL if name is None else <const char*>name, sizeof(real))
    if kernels == NULL:
        raise ValueError(f"this processor cannot run the instruction set {isa!r}; it runs {instruction_sets()}")
    if x.shape[0] != out.shape[0]:
        raise ValueError(f"x and out must have one length, got {x.shape[0]} and {out.shape[0]}")
    cdef unsigned long long mode = set_mode()
    if x.shape[0]:
        kernels.activate(tanh, x.shape[0], &x[0], &out[0])
    restore_mode(mode)
