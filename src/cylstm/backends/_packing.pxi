# The weights of a layer as panels, and gradients of panels as weights. Part of _lstm.pyx.

cdef void _pack_gates(
    const real* weight,  # IN (4H, K)
    real* panels,        # OUT (blocks, K, 4, VL), zeroed before
    Py_ssize_t H, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t j, k, gate, lane, lanes
    cdef const real* row
    cdef real* panel
    for j in range(_ceil_div(H, VL)):
        panel = panels + j * K * 4 * VL
        lanes = min(VL, H - j * VL)
        for gate in range(4):
            for lane in range(lanes):
                row = weight + (gate * H + j * VL + lane) * K
                for k in range(K):
                    panel[(k * 4 + gate) * VL + lane] = row[k]


cdef void _unpack_gates(
    const real* panels,  # IN (blocks, K, 4, VL)
    real* weight,        # OUT (4H, K)
    Py_ssize_t H, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t j, k, gate, lane, lanes
    cdef const real* panel
    cdef real* row
    for j in range(_ceil_div(H, VL)):
        panel = panels + j * K * 4 * VL
        lanes = min(VL, H - j * VL)
        for gate in range(4):
            for lane in range(lanes):
                row = weight + (gate * H + j * VL + lane) * K
                for k in range(K):
                    row[k] = panel[(k * 4 + gate) * VL + lane]


cdef void _transpose_gates(
    const real* panels,    # IN (blocks, K, 4, VL)
    real* transposed,      # OUT (groups of K, blocks * 4 VL, 4 VL), zeroed before
    Py_ssize_t blocks, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    """For products of grad_a, which runs over the packed gates, with a weight."""
    cdef Py_ssize_t W = 4 * VL, j, k, column
    for j in range(blocks):
        for k in range(K):
            for column in range(W):
                transposed[((k // W) * blocks * W + j * W + column) * W + k % W] = panels[(j * K + k) * W + column]


cdef void _pack_columns(
    const real* matrix,  # IN (n, K): column c of the product is row c of this
    real* panels,        # OUT (groups of n, K, 4 VL), zeroed before
    Py_ssize_t n, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t W = 4 * VL, c, k
    for c in range(n):
        for k in range(K):
            panels[((c // W) * K + k) * W + c % W] = matrix[c * K + k]


cdef void _transpose_columns(
    const real* panels,  # IN (groups of n, K, 4 VL)
    real* transposed,    # OUT (groups of K, n, 4 VL), zeroed before
    Py_ssize_t n, Py_ssize_t K, Py_ssize_t VL,
) noexcept nogil:
    cdef Py_ssize_t W = 4 * VL, c, k
    for c in range(n):
        for k in range(K):
            transposed[((k // W) * n + c) * W + k % W] = panels[((c // W) * K + k) * W + c % W]


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
    p.weight_ih = _buffer(s.blocks * s.I * W, sizeof(real))
    p.weight_hh = _buffer(s.blocks * s.R * W, sizeof(real))
    p.bias = _buffer(s.blocks * W, sizeof(real))
    if s.P:
        p.weight_hr = _buffer(_ceil_div(s.P, W) * H * W, sizeof(real))
    with nogil:
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


cdef bint _all_finite(const real* a, Py_ssize_t n) noexcept nogil:
    cdef real zero = 0
    cdef Py_ssize_t k
    for k in range(n):
        zero += a[k] * 0  # nan once an element is inf or nan
    return zero == 0


cdef int _pack_transposed(Layer layer, real zero) except -1:
    """The panels of the backward pass, made from those of the forward pass when first needed."""
    cdef Shape s = layer.shape
    cdef Packed* p
    cdef Py_ssize_t W = 4 * s.VL
    cdef int d
    for d in range(<int>s.D):
        p = &layer.packed[d]
        if p.weight_hh_t != NULL:
            continue
        p.weight_ih_t = _buffer(_ceil_div(s.I, W) * s.blocks * W * W, sizeof(real))
        _transpose_gates(<const real*>p.weight_ih, <real*>p.weight_ih_t, s.blocks, s.I, s.VL)
        if s.P:
            p.weight_hr_t = _buffer(_ceil_div(s.H, W) * s.P * W, sizeof(real))
            _transpose_columns(<const real*>p.weight_hr, <real*>p.weight_hr_t, s.P, s.H, s.VL)
        p.weight_hh_t = _buffer(_ceil_div(s.R, W) * s.blocks * W * W, sizeof(real))
        _transpose_gates(<const real*>p.weight_hh, <real*>p.weight_hh_t, s.blocks, s.R, s.VL)
    return 0
