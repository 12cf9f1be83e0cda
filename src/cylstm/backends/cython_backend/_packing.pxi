# The weights of a layer as panels, and gradients of panels as weights. Part of _lstm.pyx.

cdef void _transpose(
    const real* a,  # IN (rows, columns), rows a_stride apart
    Py_ssize_t a_stride,
    real* out,      # OUT (columns, rows), rows out_stride apart
    Py_ssize_t out_stride,
    Py_ssize_t rows, Py_ssize_t columns,
) noexcept nogil:
    if real is float:
        transpose_float(a, a_stride, out, out_stride, rows, columns)
    else:
        transpose_double(a, a_stride, out, out_stride, rows, columns)


cdef void _pack_gates(
    const real* weight,  # IN (4H, K)
    real* panels,        # OUT (blocks, K, 4, VL), zeroed before
    Py_ssize_t H, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t j, gate
    for j in range(_ceil_div(H, VL)):
        for gate in range(4):
            _transpose(weight + (gate * H + j * VL) * K, K, panels + (j * K * 4 + gate) * VL, 4 * VL,
                       min(VL, H - j * VL), K)


cdef void _unpack_gates(
    const real* panels,  # IN (blocks, K, 4, VL)
    real* weight,        # OUT (4H, K)
    Py_ssize_t H, Py_ssize_t K, Py_ssize_t VL,
    Py_ssize_t first, Py_ssize_t last,  # blocks to take
) noexcept nogil:
    cdef Py_ssize_t j, gate
    for j in range(first, last):
        for gate in range(4):
            _transpose(panels + (j * K * 4 + gate) * VL, 4 * VL, weight + (gate * H + j * VL) * K, K,
                       K, min(VL, H - j * VL))


cdef void _pack_columns(
    const real* matrix,  # IN (n, K): column c of the product is row c of this
    real* panels,        # OUT (groups of n, K, 4 VL), zeroed before
    Py_ssize_t n, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t W = 4 * VL, g
    for g in range(_ceil_div(n, W)):
        _transpose(matrix + g * W * K, K, panels + g * K * W, W, min(W, n - g * W), K)


cdef void _transpose_panels(
    const real* panels,  # IN (groups of n, K, 4 VL)
    real* transposed,    # OUT (groups of K, n, 4 VL), zeroed before
    Py_ssize_t n, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    """The panels of the transposed matrix."""
    cdef Py_ssize_t W = 4 * VL, g, h
    for g in range(_ceil_div(n, W)):
        for h in range(_ceil_div(K, W)):
            _transpose(panels + (g * K + h * W) * W, W, transposed + (h * n + g * W) * W, W,
                       min(W, K - h * W), min(W, n - g * W))


cdef struct Packed:  # one direction
    void* weight_ih     # (blocks, I, 4, VL)
    void* weight_hh     # (blocks, R, 4, VL)
    void* bias          # (blocks, 4, VL) = b_ih + b_hh
    void* weight_hr     # (groups of P, H, 4 VL), NULL without projection
    void* weight_ih_t   # (groups of I, blocks * 4 VL, 4 VL), NULL before the first backward pass
    void* weight_hh_t   # (groups of R, blocks * 4 VL, 4 VL)
    void* weight_hr_t   # (groups of H, P, 4 VL)


cdef class Layer:
    """The packed weights of one layer for one instruction set. What ``CythonBackend.prepare`` returns."""

    cdef const Kernels* kernels
    cdef Shape shape
    cdef readonly Py_ssize_t D, H, R, P, blocks, lanes  # of shape, for Python
    cdef readonly bint bias
    cdef readonly Py_ssize_t serial_below  # rows of a call from which on more than one thread may pay
    cdef Packed packed[2]
    cdef bint finite  # no weight is inf or nan: a state of zeros adds nothing

    def __cinit__(self, Py_ssize_t D, Py_ssize_t I, Py_ssize_t H, Py_ssize_t P, Py_ssize_t itemsize, isa=None):
        name = None if isa is None else isa.encode()
        self.kernels = cylstm_kernels(NULL if name is None else <const char*>name, itemsize)
        if self.kernels == NULL:
            raise ValueError(f"this processor cannot run the instruction set {isa!r}; it runs {instruction_sets()}")
        self.shape.D, self.shape.I, self.shape.H, self.shape.P = D, I, H, P
        self.shape.R = P if P else H
        self.shape.VL = self.kernels.lanes
        self.shape.blocks = _ceil_div(H, self.shape.VL)
        self.D, self.H, self.R, self.P = D, H, self.shape.R, P
        self.blocks, self.lanes = self.shape.blocks, self.shape.VL
        self.serial_below = _ceil_div(CALL_FOR_REGION, max(1, 4 * H * (I + self.shape.R) * D))
        self.finite = True

    def __dealloc__(self):
        cdef int d
        for d in range(2):
            _release(self.packed[d].weight_ih)
            _release(self.packed[d].weight_hh)
            _release(self.packed[d].bias)
            _release(self.packed[d].weight_hr)
            _release(self.packed[d].weight_ih_t)
            _release(self.packed[d].weight_hh_t)
            _release(self.packed[d].weight_hr_t)

    @property
    def isa(self):
        return self.kernels.isa.decode()


def pack(
    Layer layer not None, int d,
    const real[:, ::1] weight_ih not None,  # (4H, I)
    const real[:, ::1] weight_hh not None,  # (4H, R)
    const real[::1] bias_ih,                # (4H,) or None
    const real[::1] bias_hh,                # (4H,) or None
    const real[:, ::1] weight_hr,           # (P, H) or None
):
    """Pack the weights of direction d. Called once per direction, before the layer is used."""
    cdef Shape s = layer.shape
    cdef Packed* p = &layer.packed[d]
    cdef Py_ssize_t W = 4 * s.VL, H = s.H, unit, gate
    cdef real* bias
    cdef unsigned long long mode
    p.weight_ih = _buffer(s.blocks * s.I * W, sizeof(real))
    p.weight_hh = _buffer(s.blocks * s.R * W, sizeof(real))
    p.bias = _buffer(s.blocks * W, sizeof(real))
    if s.P:
        p.weight_hr = _buffer(_ceil_div(s.P, W) * H * W, sizeof(real))
    with nogil:
        mode = set_mode()  # the sums of the biases are rounded to nearest too, and inf * 0 traps nobody
        if s.I:
            _pack_gates(&weight_ih[0, 0], <real*>p.weight_ih, H, s.I, s.VL)
        _pack_gates(&weight_hh[0, 0], <real*>p.weight_hh, H, s.R, s.VL)
        if s.P:
            _pack_columns(&weight_hr[0, 0], <real*>p.weight_hr, s.P, H, s.VL)
        if bias_ih is not None:
            layer.bias = True
            bias = <real*>p.bias
            for gate in range(4):
                for unit in range(H):
                    bias[(unit // s.VL) * W + gate * s.VL + unit % s.VL] = (
                        bias_ih[gate * H + unit] + bias_hh[gate * H + unit])
        if not _all_finite(&weight_hh[0, 0], 4 * H * s.R):
            layer.finite = False
        restore_mode(mode)


cdef bint _all_finite(const real* a, Py_ssize_t n) noexcept nogil:
    cdef real zeros[16]  # sums of their own, which the compiler makes vectors
    cdef real total = 0
    cdef Py_ssize_t k, m
    memset(zeros, 0, sizeof(zeros))
    for k in range(n // 16):
        for m in range(16):
            zeros[m] += a[k * 16 + m] * 0  # nan once an element is inf or nan
    for k in range(n // 16 * 16, n):
        total += a[k] * 0
    for m in range(16):
        total += zeros[m]
    return total == 0


cdef int _pack_transposed(Layer layer, real zero) except -1:
    """The panels of the backward pass, made from those of the forward pass when first needed."""
    cdef Shape s = layer.shape
    cdef Packed* p
    cdef Py_ssize_t W = 4 * s.VL
    cdef void* weight_hh_t
    cdef int d
    for d in range(<int>s.D):
        p = &layer.packed[d]
        if p.weight_hh_t != NULL:
            continue
        if p.weight_ih_t == NULL:  # it is there where memory ran out afterwards
            p.weight_ih_t = _buffer(_ceil_div(s.I, W) * s.blocks * W * W, sizeof(real))
        _transpose_panels(<const real*>p.weight_ih, <real*>p.weight_ih_t, s.blocks * W, s.I, s.VL)
        if s.P:
            if p.weight_hr_t == NULL:
                p.weight_hr_t = _buffer(_ceil_div(s.H, W) * s.P * W, sizeof(real))
            _transpose_panels(<const real*>p.weight_hr, <real*>p.weight_hr_t, s.P, s.H, s.VL)
        weight_hh_t = _buffer(_ceil_div(s.R, W) * s.blocks * W * W, sizeof(real))
        _transpose_panels(<const real*>p.weight_hh, <real*>weight_hh_t, s.blocks * W, s.R, s.VL)
        p.weight_hh_t = weight_hh_t  # last: it says that all are there
    return 0
