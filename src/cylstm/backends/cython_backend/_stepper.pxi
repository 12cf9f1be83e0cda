# One time step at a time, all buffers made beforehand. Part of _lstm.pyx.

cdef struct Step:  # of one layer
    const Kernels* kernels
    const Packed* packed
    Shape shape       # T = 1, N = B
    void* h[2]        # (B, R) before and after the step, in turn
    void* c           # (blocks, B, VL)
    void* h_full      # (B, blocks VL), NULL without projection


cdef class Stepper:
    """A stack of layers of one direction that takes one time step per call. Allocates no more than the output."""

    cdef tuple layers  # keeps the packed weights alive
    cdef Step* steps
    cdef Py_ssize_t B, I, R, count, itemsize
    cdef object dtype
    cdef tuple shapes  # of the output, without B and with it
    cdef int64_t batch_size
    cdef int now       # h[now] is the state
    cdef readonly bint serial  # no layer has work for a second thread

    def __cinit__(self, tuple layers not None, Py_ssize_t batch_size):
        cdef Layer layer
        cdef Step* step
        cdef Py_ssize_t n, k, padded, itemsize
        self.layers, self.count, self.B, self.batch_size = layers, len(layers), batch_size, batch_size
        self.steps = <Step*>_buffer(self.count, sizeof(Step))
        self.serial = True
        for n in range(self.count):
            layer = layers[n]
            step = &self.steps[n]
            self.itemsize = itemsize = layer.kernels.itemsize
            step.kernels, step.packed, step.shape = layer.kernels, layer.packed, layer.shape
            step.shape.T, step.shape.N, step.shape.B = 1, batch_size, batch_size
            padded = batch_size * layer.shape.blocks * layer.shape.VL
            for k in range(2):
                step.h[k] = _buffer(batch_size * layer.shape.R, itemsize)
            step.c = _buffer(padded, itemsize)
            if layer.shape.P:
                step.h_full = _buffer(padded, itemsize)
            if layer.serial_below <= batch_size:
                self.serial = False
        self.I, self.R = (<Layer>layers[0]).shape.I, step.shape.R
        self.dtype = np.dtype("float32" if self.itemsize == 4 else "float64")
        self.shapes = ((self.R,), (batch_size, self.R))

    def __dealloc__(self):
        cdef Py_ssize_t n
        if self.steps != NULL:
            for n in range(self.count):
                _release(self.steps[n].h[0])
                _release(self.steps[n].h[1])
                _release(self.steps[n].c)
                _release(self.steps[n].h_full)
            _release(self.steps)

    def step(self, x_t, out, int threads):
        """One step: the output, or None where the arrays are not as follows, and nothing has happened then.

        x_t : (B, I); out : (B, R), writable, or None for a new array. With B = 1, both (I,) and (R,). Plain
        numpy.ndarray, aligned, C-contiguous, of the layers' dtype.
        """
        cdef Py_buffer x_view, out_view
        if not _fits(&x_view, x_t, self.dtype, PyBUF_CONTIG_RO, self.B, self.I):
            return None
        try:
            if out is None:
                out = _empty(self.shapes[x_view.ndim - 1], self.dtype)
            if not _fits(&out_view, out, self.dtype, PyBUF_CONTIG, self.B, self.R):
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
        if self.itemsize == 4:
            _copy_states[float](self, h, c, False)
        else:
            _copy_states[double](self, h, c, False)

    def set_state(self, h not None, c not None):
        """Take the state from h (L, B, R) and c (L, B, H)."""
        if self.itemsize == 4:
            _copy_states[float](self, h, c, True)
        else:
            _copy_states[double](self, h, c, True)


cdef bint _fits(Py_buffer* view, array, dtype, int flags, Py_ssize_t B, Py_ssize_t n):
    """Whether an array is an aligned, C-contiguous (B, n), or (n,) where B is 1. If so, its view is to be released."""
    if type(array) is not _ndarray or (array.dtype is not dtype and array.dtype != dtype):
        return False
    try:
        PyObject_GetBuffer(array, view, flags)
    except (BufferError, ValueError):  # not contiguous, or not writable
        return False
    if (<uintptr_t>view.buf % <uintptr_t>view.itemsize == 0
            and ((view.ndim == 2 and view.shape[0] == B and view.shape[1] == n)
                 or (view.ndim == 1 and B == 1 and view.shape[0] == n))):
        return True
    PyBuffer_Release(view)
    return False


cdef void _take_step(Stepper stepper, const real* x_t, real* out, int threads) noexcept nogil:
    cdef Step* step = NULL
    cdef Plan plan
    cdef bint entered
    cdef Py_ssize_t n
    cdef int before = stepper.now, after = 1 - stepper.now
    cdef const real* h
    cdef ForwardArrays a
    cdef Arrival arrivals[128]
    memset(&a, 0, sizeof(a))
    a.input, a.batch_sizes = x_t, &stepper.batch_size
    for n in range(stepper.count):
        step = &stepper.steps[n]
        a.output = step.h[after]
        h = <const real*>step.h[before]
        plan = _plan(&step.shape, min(threads, 64), step.kernels.max_rows, sizeof(real))
        plan.turn = before
        entered = _enter_region(&plan)
        if entered:
            memset(arrivals, 0, 2 * plan.threads * sizeof(Arrival))
            with parallel(num_threads=plan.threads):
                _forward_thread(step.kernels, &step.shape, &plan, omp_get_thread_num(), omp_get_num_threads(),
                                step.packed, &a, h, True, <real*>step.c, <real*>step.h_full, <real*>NULL, arrivals)
        else:
            _forward_thread(step.kernels, &step.shape, &plan, 0, 1,
                            step.packed, &a, h, True, <real*>step.c, <real*>step.h_full, <real*>NULL, arrivals)
        _leave_region(&plan, entered)
        a.input = a.output
    memcpy(out, a.output, stepper.B * step.shape.R * sizeof(real))
    stepper.now = after


cdef int _copy_states(Stepper stepper, real[:, :, ::1] h, real[:, :, ::1] c, bint take) except -1:
    cdef Py_ssize_t n, b, j, k, VL
    cdef Step* step
    cdef real* own
    for n in range(stepper.count):
        step = &stepper.steps[n]
        VL = step.shape.VL
        own = <real*>step.h[stepper.now]
        for b in range(stepper.B):
            for k in range(step.shape.R):
                if take:
                    own[b * step.shape.R + k] = h[n, b, k]
                else:
                    h[n, b, k] = own[b * step.shape.R + k]
        own = <real*>step.c
        for b in range(stepper.B):
            for k in range(step.shape.H):
                j = (k // VL * stepper.B + b) * VL + k % VL
                if take:
                    own[j] = c[n, b, k]
                else:
                    c[n, b, k] = own[j]
    return 0
