"""One layer on packed rows, forward and backward, float32 and float64, on several threads.

Every number is a sum in one fixed order (``kernels/kernels.h``), and threads share out numbers, never a sum: so the
result does not depend on the batch, the threads, or on how a sequence is cut. This module takes NumPy's arrays; what it
calls is in the ``.pxd`` files: `_call` (threads), `_partition` (who computes what), `_pass` (structs, steps),
`_forward`, `_backward`, `_product` (matrix products). docs/design/kernels.md explains them.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG, PyBUF_CONTIG_RO, PyBuffer_Release
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from ._backward_pass cimport Scratch, scratch_of
from ._call cimport BackwardArrays, Call, bytes_of_threads, last_h, run_backward, run_forward
from ._layer cimport Layer
from ._level cimport (
    MAX_STEP_THREADS, Level, begin_alone, init_level, operand_bytes, release_level, step_of_level,
)
from ._memory cimport Views, address, allocate, fits, release, release_views, required, rows_of_sizes, sized
from ._operands cimport operands_of
from ._parallel cimport CYLSTM_OPENMP, omp_get_max_threads
from ._partition cimport Partition, backward_partition, forward_partition
from ._pass cimport Shape, copy_columns, copy_units, real
from ._region cimport region_always, region_init

import numpy as np

cdef object _empty = np.empty, _ndarray = np.ndarray

region_init()


cdef struct ForwardArrays:  # of `forward`; None is NULL
    const void* input
    const void* h_0
    const void* c_0
    void* output
    void* h_n
    void* c_n


@cython.binding(False)
def forward(
    Layer layer not None,
    input not None,  # IN (N, I)
    batch_sizes,  # IN (T,) int64
    hx,           # IN h_0 (D, B, R), c_0 (D, B, H); each or None
    result,       # OUT output (N, D R), h_n (D, B, R), c_n (D, B, H)
    kept,         # OUT h_prev (D, N, R), c_prev (D, blocks, N, VL), gates (D, blocks, N, 4 VL), and
                  #     h_segment (D, segments, B, R), c_segment (D, segments, blocks, B, VL); each or None
    int threads,
):
    """Run one layer on N > 0 rows. Arrays are C-contiguous and of the layer's dtype; what is new has its shape."""
    cdef Views views  # typed memoryviews cost as much as a short call
    cdef ForwardArrays a
    cdef Shape s = layer.shape
    cdef Call call
    cdef Py_ssize_t itemsize = layer.kernels.itemsize
    views.count = 0
    memset(&call, 0, sizeof(Call))
    call.kernels, call.packed, call.shape = layer.kernels, layer.packed, &s
    h_0, c_0 = hx
    output, h_n, c_n = result
    try:
        call.batch_sizes = <const int64_t*>required(&views, batch_sizes, sizeof(int64_t), False)
        s.T = views.buffers[0].len // <Py_ssize_t>sizeof(int64_t)
        s.N, s.B = rows_of_sizes(call.batch_sizes, s.T), call.batch_sizes[0]
        a.input = sized(&views, input, itemsize, False, s.N * s.I)
        a.h_0 = sized(&views, h_0, itemsize, False, s.D * s.B * s.R)
        a.c_0 = sized(&views, c_0, itemsize, False, s.D * s.B * s.H)
        a.output = sized(&views, output, itemsize, True, s.N * s.D * s.R)
        a.h_n = required(&views, h_n, itemsize, True)
        a.c_n = required(&views, c_n, itemsize, True)
        if kept is not None:
            h_prev, c_prev, gates, h_segment, c_segment = kept
            call.kept.h_prev = address(&views, h_prev, itemsize, True)
            call.kept.c_prev = address(&views, c_prev, itemsize, True)
            call.kept.gates = address(&views, gates, itemsize, True)
            call.kept.h_segment = address(&views, h_segment, itemsize, True)
            call.kept.c_segment = address(&views, c_segment, itemsize, True)
        with nogil:
            if itemsize == 4:
                _forward(&call, &a, layer.finite, threads, <float*>a.output)
            else:
                _forward(&call, &a, layer.finite, threads, <double*>a.output)
    finally:
        release_views(&views)


cdef int _forward(Call* call, const ForwardArrays* a, bint finite, int threads, real* output) except -1 nogil:
    cdef const Shape* s = call.shape
    cdef Partition partition = forward_partition(call.kernels, s, threads)
    cdef Py_ssize_t D = s.D, B = s.B, R = s.R, d
    cdef const real* h_0 = <const real*>a.h_0
    # one allocation: threads | operands | c | start | h_full | zeros
    cdef Py_ssize_t cells = s.blocks * B * s.VL, starts = s.blocks * partition.hoisted * 4 * s.VL
    cdef Py_ssize_t fulls = cells if s.P else 0
    cdef Py_ssize_t zeros = 0 if h_0 != NULL or finite else B * R
    cdef Py_ssize_t of_threads = bytes_of_threads(s, partition.threads, False) // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t operands = operands_of(call.kernels, s, &partition, NULL).bytes // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t ahead = of_threads + max(partition.threads, D) * operands
    cdef real* scratch = <real*>allocate(ahead + D * (cells + starts + fulls) + zeros + 64, sizeof(real))
    cdef real* c = scratch + ahead
    call.partition, call.threads, call.h_0_per_direction = partition, <char*>scratch, h_0 != NULL
    call.operands = <char*>(scratch + of_threads)
    call.start = c + D * cells
    call.h_full = c + D * (cells + starts) if s.P else NULL
    if zeros:
        h_0 = c + D * (cells + starts + fulls)
    if a.c_0 != NULL:
        for d in range(D):
            copy_units(c + d * cells, <real*>a.c_0 + d * B * s.H, s, True)
    run_forward(call, <const real*>a.input, h_0, c, output)
    for d in range(D):
        copy_units(c + d * cells, <real*>a.c_n + d * B * s.H, s, False)
    last_h(call, output, <real*>a.h_n)
    release(scratch)
    return -1 if call.halt.stop else 0  # a signal handler has raised


def backward(
    Layer layer not None,
    input not None,  # IN (N, I)
    batch_sizes,  # IN (T,) int64
    kept,         # IN as in `forward`
    grad_result,  # IN grad_output (N, D R), grad_h_n (D, B, R), grad_c_n (D, B, H); each or None
    gradients,    # OUT grad_input (D, N, I): to be added up, grad_h_0 (D, B, R), grad_c_0 (D, B, H),
                  #     grad_weight_ih (D, 4H, I), grad_weight_hh (D, 4H, R), grad_bias (D, 4H),
                  #     grad_weight_hr (D, P, H) or None
    int threads,
):
    """Gradients of one layer of N > 0 rows. Arrays as in `forward`; the layer's precision trains."""
    cdef Views views
    cdef BackwardArrays a
    cdef EndGradients ends
    cdef Shape s = layer.shape
    cdef Call call
    cdef Py_ssize_t itemsize = layer.kernels.itemsize
    if not layer.trains:
        raise ValueError(f"backward must have a precision that trains, got {layer.precision}")
    with cython.critical_section(layer):  # two threads may be the first
        layer.pack_transposed()
    views.count = 0
    memset(&call, 0, sizeof(Call))
    call.kernels, call.packed, call.shape = layer.kernels, layer.packed, &s
    h_prev, c_prev, gates, h_segment, c_segment = kept
    grad_output, grad_h_n, grad_c_n = grad_result
    grad_input, grad_h_0, grad_c_0, grad_weight_ih, grad_weight_hh, grad_bias, grad_weight_hr = gradients
    try:
        call.batch_sizes = <const int64_t*>required(&views, batch_sizes, sizeof(int64_t), False)
        s.T, s.B = views.buffers[0].len // <Py_ssize_t>sizeof(int64_t), call.batch_sizes[0]
        s.N = rows_of_sizes(call.batch_sizes, s.T)
        a.input = sized(&views, input, itemsize, False, s.N * s.I)
        call.kept.h_prev = <void*>address(&views, h_prev, itemsize, False)
        call.kept.c_prev = <void*>address(&views, c_prev, itemsize, False)
        call.kept.gates = <void*>address(&views, gates, itemsize, False)
        call.kept.h_segment = <void*>address(&views, h_segment, itemsize, False)
        call.kept.c_segment = <void*>address(&views, c_segment, itemsize, False)
        a.grad_output = sized(&views, grad_output, itemsize, False, s.N * s.D * s.R)
        ends.grad_h_n = sized(&views, grad_h_n, itemsize, False, s.D * s.B * s.R)
        ends.grad_c_n = sized(&views, grad_c_n, itemsize, False, s.D * s.B * s.H)
        a.grad_input = required(&views, grad_input, itemsize, True)
        ends.grad_h_0 = required(&views, grad_h_0, itemsize, True)
        ends.grad_c_0 = required(&views, grad_c_0, itemsize, True)
        a.grad_weight_ih = required(&views, grad_weight_ih, itemsize, True)
        a.grad_weight_hh = required(&views, grad_weight_hh, itemsize, True)
        a.grad_bias = required(&views, grad_bias, itemsize, True)
        ends.grad_weight_hr = address(&views, grad_weight_hr, itemsize, True)
        with nogil:
            if itemsize == 4:
                _backward(&call, &a, &ends, threads, <float*>ends.grad_h_0)
            else:
                _backward(&call, &a, &ends, threads, <double*>ends.grad_h_0)
    finally:
        release_views(&views)


cdef struct EndGradients:      # what the thread that called copies into the scratch and out of it
    const void* grad_h_n       # IN (D, B, R), or NULL
    const void* grad_c_n       # IN (D, B, H), or NULL
    void* grad_h_0             # OUT (D, B, R)
    void* grad_c_0             # OUT (D, B, H)
    void* grad_weight_hr       # OUT (D, P, H), or NULL


cdef int _backward(
    Call* call, const BackwardArrays* a, const EndGradients* ends, int threads, real* grad_h_0
) except -1 nogil:
    cdef const Shape* s = call.shape
    cdef Partition partition = backward_partition(call.kernels, s, threads)
    cdef Scratch at = scratch_of(s, &partition, call.kept.gates == NULL)
    cdef Py_ssize_t of_threads = bytes_of_threads(s, partition.threads, True) // <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t BR = s.B * s.R, d
    cdef real* memory = <real*>allocate(of_threads + s.D * at.total, sizeof(real))
    cdef real* scratch = memory + of_threads
    cdef real* own
    call.partition, call.threads = partition, <char*>memory
    for d in range(s.D):
        own = scratch + d * at.total
        if ends.grad_h_n != NULL:
            copy_columns(own + at.grad_state, <real*>ends.grad_h_n + d * BR, s.VL, s.B, s.R, True)
        if ends.grad_c_n != NULL:
            copy_units(own + at.grad_c, <real*>ends.grad_c_n + d * s.B * s.H, s, True)
    run_backward(call, a, &at, scratch)
    for d in range(s.D):
        own = scratch + d * at.total
        copy_columns(own + at.grad_state, grad_h_0 + d * BR, s.VL, s.B, s.R, False)
        copy_units(own + at.grad_c, <real*>ends.grad_c_0 + d * s.B * s.H, s, False)
        if s.P:
            copy_columns(own + at.grad_weight_hr, <real*>ends.grad_weight_hr + d * s.P * s.H, s.VL, s.P, s.H, False)
    release(memory)
    return -1 if call.halt.stop else 0


# One time step at a time ---------------------------------------------------------------------------------------------

cdef class Stepper:
    """A stack of layers of one direction that takes one time step per call. Allocates no more than the output."""

    cdef tuple layers  # keeps the packed weights alive
    cdef Level* levels
    cdef char* operands  # of each part, for the layer that wants most
    cdef char* threads   # memory of the parts of all calls, or of one call after another
    cdef Py_ssize_t B, I, R, count, itemsize
    cdef object dtype
    cdef tuple of_output  # what makes a new one, (shape, dtype): without B and with it
    cdef int64_t batch_size
    cdef int now       # h[now] is the state
    cdef readonly bint serial  # no layer has work for a second thread

    def __cinit__(self, tuple layers not None, Py_ssize_t batch_size):
        cdef Layer layer
        cdef Level* level = NULL
        cdef Py_ssize_t n, operands = 0, of_threads
        cdef int most
        if not layers:
            raise ValueError("layers must be one or more, got none")
        self.layers, self.count, self.B, self.batch_size = layers, len(layers), batch_size, batch_size
        self.levels = <Level*>allocate(self.count, sizeof(Level))
        self.serial = True
        for n in range(self.count):
            layer, level = layers[n], &self.levels[n]
            init_level(level, layer.kernels, layer.packed, &layer.shape, &self.batch_size)
            operands = max(operands, operand_bytes(level))
            if layer.serial_below <= batch_size:
                self.serial = False
        most = 1 if self.serial else MAX_STEP_THREADS
        of_threads = bytes_of_threads(&level.shape, most, False)
        if operands:
            self.operands = <char*>allocate(most, operands)
        self.threads = <char*>allocate(self.count if self.serial else 1, of_threads)
        for n in range(self.count):
            level = &self.levels[n]
            level.call.operands, level.call.threads = self.operands, self.threads
            if self.serial:
                level.call.threads += n * of_threads
                begin_alone(level)
        self.I, self.R, self.itemsize = (<Layer>layers[0]).shape.I, level.shape.R, level.call.kernels.itemsize
        self.dtype = np.dtype("float32" if self.itemsize == 4 else "float64")
        self.of_output = ((self.R,), self.dtype), ((batch_size, self.R), self.dtype)

    def __dealloc__(self):
        cdef Py_ssize_t n
        if self.levels != NULL:
            for n in range(self.count):
                release_level(&self.levels[n])
            release(self.levels)
        release(self.operands)
        release(self.threads)

    @cython.binding(False)
    def step(self, x_t, out, int threads):
        """One step: the output, or None where the arrays are not as follows, and nothing has happened then.

        x_t : (B, I); out : (B, R), writable, or None for a new array. With B = 1, both (I,) and (R,). Plain
        numpy.ndarray, aligned, C-contiguous, of the layers' dtype.
        """
        cdef Py_buffer x_view, out_view
        if not fits(&x_view, x_t, _ndarray, self.dtype, PyBUF_CONTIG_RO, self.B, self.I):
            return None
        try:
            if out is None:
                out = _empty(*<tuple>self.of_output[x_view.ndim - 1])
            if not fits(&out_view, out, _ndarray, self.dtype, PyBUF_CONTIG, self.B, self.R):
                return None
            if out_view.ndim == x_view.ndim:
                with nogil:
                    if self.itemsize == 4:
                        _take_step(self, <const float*>x_view.buf, <float*>out_view.buf, threads)
                    else:
                        _take_step(self, <const double*>x_view.buf, <double*>out_view.buf, threads)
            else:
                out = None
            PyBuffer_Release(&out_view)
            return out
        finally:
            PyBuffer_Release(&x_view)

    def get_state(self, h not None, c not None):
        """Write the state to h (L, B, R) and c (L, B, H)."""
        _copy_states(self, h, c, False)

    def set_state(self, h not None, c not None):
        """Take the state from h (L, B, R) and c (L, B, H)."""
        _copy_states(self, h, c, True)


cdef void _take_step(
    Stepper stepper,
    const real* x_t,  # IN (B, I)
    real* out,        # OUT (B, R)
    int threads,
) noexcept nogil:
    cdef Py_ssize_t n
    cdef const real* input = x_t
    for n in range(stepper.count):
        input = step_of_level(&stepper.levels[n], 0 if stepper.serial else max(threads, 1), stepper.now, input)
    memcpy(out, input, stepper.B * stepper.R * sizeof(real))
    stepper.now = 1 - stepper.now


cdef int _copy_states(Stepper stepper, h, c, bint to_stepper) except -1:
    cdef Views views
    cdef char* h_state
    cdef char* c_state
    cdef Level* level
    cdef Py_ssize_t n, h_bytes, c_bytes
    views.count = 0
    try:
        h_state = <char*>required(&views, h, stepper.itemsize, not to_stepper)
        c_state = <char*>required(&views, c, stepper.itemsize, not to_stepper)
        for n in range(stepper.count):
            level = &stepper.levels[n]
            h_bytes = stepper.B * level.shape.R * stepper.itemsize
            c_bytes = stepper.B * level.shape.H * stepper.itemsize
            if views.buffers[0].len != stepper.count * h_bytes or views.buffers[1].len != stepper.count * c_bytes:
                raise ValueError(f"h and c must have {stepper.count} layers of {stepper.B} rows")
            if to_stepper:
                memcpy(level.h[stepper.now], h_state + n * h_bytes, h_bytes)
            else:
                memcpy(h_state + n * h_bytes, level.h[stepper.now], h_bytes)
            if stepper.itemsize == 4:
                copy_units(<float*>level.c, <float*>(c_state + n * c_bytes), &level.shape, to_stepper)
            else:
                copy_units(<double*>level.c, <double*>(c_state + n * c_bytes), &level.shape, to_stepper)
    finally:
        release_views(&views)
    return 0


# Facts ---------------------------------------------------------------------------------------------------------------

def openmp():
    """Whether this module was built with OpenMP."""
    return bool(CYLSTM_OPENMP)


def max_threads():
    """The number of threads that OpenMP would give: cores, affinity, OMP_NUM_THREADS and threadpoolctl are in it."""
    return omp_get_max_threads()


def open_regions(bint always):
    """For tests: use the threads that a call requests, whether or not they seem to pay. Returns what was set."""
    return bool(region_always(always))


default_threads = omp_get_max_threads()  # less later on is a limit that somebody has set since
