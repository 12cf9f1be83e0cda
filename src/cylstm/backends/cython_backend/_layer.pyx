"""The weights of a layer, packed for the kernels of one instruction set and one precision; and which kernels there are.

`Layer` is what ``CythonBackend.prepare`` returns; `pack` fills one direction of it.
"""

from cpython.buffer cimport PyBUF_CONTIG_RO, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcpy, memset

from ._kernels cimport (
    LINE, CellOptions, Factor, Kernels, PackTask, cylstm_kernels, cylstm_kernels_line, cylstm_kernels_run_here,
    panel_bytes,
)
from ._memory cimport Views, allocate, release, release_views, sized
from ._parallel cimport fpmode_restore, fpmode_set
from ._partition cimport macs_of_row
from ._pass cimport MACS_FOR_REGION, Packed, Shape, ceil_div, real, segment_count


def kernel_table():
    """Lines of kernels.def for this architecture: (instruction set, precision, whether it runs here), best first."""
    cdef const Kernels* kernels
    lines = []
    while (kernels := cylstm_kernels_line(len(lines))) != NULL:
        lines.append((kernels.isa.decode(), kernels.precision.decode(), bool(cylstm_kernels_run_here(kernels))))
    return lines


def instruction_sets(precision="float32"):
    """Names of the instruction sets that this processor can run and that have the precision, best first."""
    return [isa for isa, has, runs_here in kernel_table() if runs_here and has == precision]


cdef const Kernels* _kernels(isa, precision) except NULL:
    cdef bytes isa_bytes = isa.encode(), precision_bytes = precision.encode()
    cdef const Kernels* kernels = cylstm_kernels(isa_bytes, precision_bytes)
    if kernels == NULL:
        here = ", ".join(f"{isa} {precision}" for isa, precision, runs_here in kernel_table() if runs_here)
        raise ValueError(f"isa and precision must be kernels that this processor runs ({here}), got {isa} {precision}")
    return kernels


cdef class Layer:
    """The packed weights of one layer.

    Parameters
    ----------
    D, I, H, P : int
        Directions, input size, hidden size, projection size or 0.
    precision, isa : str
        Of a line in ``kernels/kernels.def``.

    Attributes
    ----------
    serial_below : int
        Rows of a call from which on more than one thread may pay.
    """

    def __cinit__(self, Py_ssize_t D, Py_ssize_t I, Py_ssize_t H, Py_ssize_t P, precision, isa):
        self.kernels = _kernels(isa, precision)
        self.shape.D, self.shape.I, self.shape.H, self.shape.P = D, I, H, P
        self.shape.R = P if P else H
        self.shape.VL = self.kernels.lanes
        self.shape.blocks = ceil_div(H, self.shape.VL)
        self.D, self.H, self.R, self.P = D, H, self.shape.R, P
        self.blocks, self.lanes = self.shape.blocks, self.shape.VL
        self.serial_below = ceil_div(MACS_FOR_REGION, max(1, macs_of_row(self.kernels, H, I, self.shape.R) * D))
        self.finite = True

    def __dealloc__(self):
        cdef int d
        for d in range(2):
            release(self.packed[d].weight_ih)
            release(self.packed[d].weight_hh)
            release(self.packed[d].weight_hr)
            release(self.packed[d].weight_ih_t)
            release(self.packed[d].weight_hh_t)
            release(self.packed[d].weight_hr_t)
            release(self.packed[d].bias)
            release(self.packed[d].options)
            release(self.packed[d].weight_ch)

    @property
    def isa(self):
        return self.kernels.isa.decode()

    @property
    def precision(self):
        return self.kernels.precision.decode()

    @property
    def whole(self):
        """Whether the precision multiplies whole numbers in the recurrent product."""
        return self.kernels.state.tail_bytes != 0

    @property
    def trains(self):
        """Whether there is a backward pass: in this precision, and without options."""
        return self.kernels.gates_backward != NULL and self.packed[0].options == NULL

    cdef int pack_transposed(self) except -1:
        """The panels of the backward pass, made from those of the forward pass when first needed."""
        cdef Shape s = self.shape
        cdef Packed* p
        cdef Py_ssize_t W = 4 * s.VL, row = self.kernels.input.group_bytes
        cdef char* weight_hh_t
        cdef int d
        for d in range(<int>s.D):
            p = &self.packed[d]
            if p.weight_hh_t != NULL:
                continue
            if p.weight_ih_t == NULL:  # it is there where memory ran out afterwards
                p.weight_ih_t = <char*>allocate(ceil_div(s.I, W) * s.blocks * W, row)
            self.kernels.transpose(p.weight_ih, p.weight_ih_t, s.blocks * W, s.I)
            if s.P:
                if p.weight_hr_t == NULL:
                    p.weight_hr_t = <char*>allocate(ceil_div(s.H, W) * s.P, row)
                self.kernels.transpose(p.weight_hr, p.weight_hr_t, s.P, s.H)
            weight_hh_t = <char*>allocate(ceil_div(s.R, W) * s.blocks * W, row)
            self.kernels.transpose(p.weight_hh, weight_hh_t, s.blocks * W, s.R)
            p.weight_hh_t = weight_hh_t  # last: it says that all are there
        return 0


def pack(
    Layer layer not None, int d,
    const real[:, ::1] weight_ih not None,  # (4H, I)
    const float[::1] scale_ih,              # (4H,) of its rows, or None: 1
    const real[:, ::1] weight_hh,           # (4H, R), or None where the precision wants whole numbers: `pack_whole`
    const real[::1] bias_ih,                # (4H,) or None
    const real[::1] bias_hh,                # (4H,) or None
    const real[:, ::1] weight_hr,           # (P, H) or None
):
    """Pack the weights of direction d. Called once per direction, before the layer is used."""
    cdef Shape s = layer.shape
    cdef Packed* p = &layer.packed[d]
    cdef const Kernels* kernels = layer.kernels
    cdef const float* scales = NULL
    cdef Py_ssize_t W = 4 * s.VL, H = s.H, unit, gate
    cdef real* padded
    cdef unsigned long long mode
    if (not 0 <= d < s.D or (bias_ih is None) != (bias_hh is None) or (weight_hr is None) != (s.P == 0)
            or (weight_hh is None) != layer.whole):
        raise ValueError(f"direction {d} must be one of {s.D}, with both biases or none, weight_hr where P > 0, and "
                         f"weight_hh but for a precision of whole numbers")
    if sizeof(real) != kernels.itemsize:
        raise TypeError(f"weights must have {kernels.itemsize} bytes each for {layer.precision}, got {sizeof(real)}")
    if scale_ih is not None:
        scales = &scale_ih[0]
    p.weight_ih = <char*>allocate(s.blocks, panel_bytes(&kernels.input, s.I))
    p.bias = allocate(s.blocks * W, sizeof(real))
    if s.P:
        p.weight_hr = <char*>allocate(ceil_div(s.P, W), panel_bytes(&kernels.input, H))
    if weight_hh is not None:
        p.weight_hh = <char*>allocate(s.blocks, panel_bytes(&kernels.state, s.R))
    with nogil:
        mode = fpmode_set()  # the sums of the biases are rounded to nearest too, and inf * 0 traps nobody
        if s.I:
            _pack_gates(layer, &kernels.input, <const char*>&weight_ih[0, 0], sizeof(real), scales, p.weight_ih, s.I)
        if s.P:
            _pack_columns(kernels, &weight_hr[0, 0], p.weight_hr, s.P, H)
        if bias_ih is not None:
            layer.bias = True
            padded = <real*>p.bias
            for gate in range(4):
                for unit in range(H):
                    padded[(unit // s.VL) * W + gate * s.VL + unit % s.VL] = (
                        bias_ih[gate * H + unit] + bias_hh[gate * H + unit])
        if weight_hh is not None:
            _pack_gates(layer, &kernels.state, <const char*>&weight_hh[0, 0], sizeof(real), NULL, p.weight_hh, s.R)
            if not _all_finite(&weight_hh[0, 0], 4 * H * s.R, <real>kernels.headroom):
                layer.finite = False
        fpmode_restore(mode)


def pack_whole(
    Layer layer not None, int d,
    const signed char[:, ::1] values not None,  # (4H, R)
    const float[::1] scale not None,            # (4H,) of its rows
):
    """Pack weight_hh = scale * values of direction d, for a precision that multiplies whole numbers."""
    cdef Shape s = layer.shape
    cdef Packed* p = &layer.packed[d]
    if not 0 <= d < s.D or not layer.whole:
        raise ValueError(f"direction {d} must be one of {s.D} of a precision of whole numbers, got {layer.precision}")
    p.weight_hh = <char*>allocate(s.blocks, panel_bytes(&layer.kernels.state, s.R))
    with nogil:
        _pack_gates(layer, &layer.kernels.state, <const char*>&values[0, 0], 1, &scale[0], p.weight_hh, s.R)
        if not _all_finite(&scale[0], 4 * s.H, 1):
            layer.finite = False


def pack_options(
    Layer layer not None, int d,
    activations,  # f, g, h: each a dict of what Activation has in kernels.h
    limits,       # clip, cell_clip, proj_clip; inf limits nothing
    bint input_forget,
    weight_ch,    # (3H,), or None without peepholes
):
    """What direction d computes beyond PyTorch's LSTM. Called once per direction, before the layer is used."""
    cdef Shape s = layer.shape
    cdef Packed* p = &layer.packed[d]
    cdef Py_ssize_t itemsize = layer.kernels.itemsize, gate, j
    cdef const char* weights
    cdef Views views
    cdef CellOptions options
    if not 0 <= d < s.D or p.options != NULL:
        raise ValueError(f"direction {d} must be one of {s.D} without options so far")
    memset(&options, 0, sizeof(CellOptions))
    options.f, options.g, options.h = activations
    options.clip, options.cell_clip, options.proj_clip = limits
    options.input_forget = input_forget
    views.count = 0
    try:
        weights = <const char*>sized(&views, weight_ch, itemsize, False, 3 * s.H)
        if weights != NULL:
            p.weight_ch = allocate(s.blocks * 3 * s.VL, itemsize)
            for gate in range(3):
                for j in range(s.blocks):
                    memcpy(<char*>p.weight_ch + (j * 3 + gate) * s.VL * itemsize,
                           weights + (gate * s.H + j * s.VL) * itemsize, min(s.VL, s.H - j * s.VL) * itemsize)
    finally:
        release_views(&views)
    p.options = <CellOptions*>allocate(1, sizeof(CellOptions))
    p.options[0] = options


cdef void _pack_gates(
    Layer layer, const Factor* factor,
    const char* weight,   # IN (4H, K)
    Py_ssize_t itemsize,  # of it
    const float* scales,  # IN (4H,) of its rows, or NULL
    char* panels,         # OUT (blocks, K, 4, VL) weights, zeroed before
    Py_ssize_t K,
) noexcept nogil:
    """Part v of panel j has the units of block j and gate v."""
    cdef Py_ssize_t H = layer.shape.H, VL = layer.shape.VL, j, gate, row
    cdef PackTask task
    memset(&task, 0, sizeof(PackTask))
    task.stride = task.K = K
    for j in range(layer.shape.blocks):
        for gate in range(4):
            row = gate * H + j * VL
            task.matrix[gate] = weight + row * K * itemsize
            if scales != NULL:
                task.scale[gate] = scales + row
            task.lanes[gate] = min(VL, H - j * VL)
        task.panel = panels + j * panel_bytes(factor, K)
        factor.pack(&task)


cdef void _pack_columns(
    const Kernels* kernels,
    const real* matrix,  # IN (n, K): column c of the product is row c of this
    char* panels,        # OUT (groups of n, K, W) weights, zeroed before
    Py_ssize_t n, Py_ssize_t K,
) noexcept nogil:
    """Part v of panel g has the rows from (4 g + v) VL on."""
    cdef Py_ssize_t VL = kernels.lanes, g, v, first
    cdef PackTask task
    memset(&task, 0, sizeof(PackTask))
    task.stride = task.K = K
    for g in range(ceil_div(n, 4 * VL)):
        for v in range(4):
            first = min(n, (4 * g + v) * VL)
            task.matrix[v] = matrix + first * K
            task.lanes[v] = min(VL, n - first)
        task.panel = panels + g * panel_bytes(&kernels.input, K)
        kernels.input.pack(&task)


cdef bint _all_finite(const real* a, Py_ssize_t n, real headroom) noexcept nogil:
    """Whether no element is nan or inf, nor becomes it when it is packed."""
    cdef real zeros[16]  # sums of their own, which the compiler makes vectors
    cdef real total = 0
    cdef Py_ssize_t k, m
    memset(zeros, 0, sizeof(zeros))
    for k in range(n // 16):
        for m in range(16):
            zeros[m] += a[k * 16 + m] * headroom * 0  # nan once an element is inf or nan
    for k in range(n // 16 * 16, n):
        total += a[k] * headroom * 0
    for m in range(16):
        total += zeros[m]
    return total == 0


def segments(Py_ssize_t T, Py_ssize_t B):
    """How many states forward keeps of T steps for a backward pass that computes the gates again."""
    return segment_count(T, B) if B else 0


def until_line(array):
    """How many elements of a contiguous array lie before the first one on a new cache line."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_CONTIG_RO)
    cdef Py_ssize_t items = (-<Py_ssize_t>view.buf & (LINE - 1)) // view.itemsize
    PyBuffer_Release(&view)
    return items


def activate(bint tanh, const real[::1] x not None, real[::1] out not None, isa=None):
    """out = tanh(x) or sigmoid(x) as the kernels compute it, for tests."""
    cdef const Kernels* kernels = _kernels(isa or instruction_sets()[0], "float32" if sizeof(real) == 4 else "float64")
    if x.shape[0] != out.shape[0]:
        raise ValueError(f"x and out must have one length, got {x.shape[0]} and {out.shape[0]}")
    cdef unsigned long long mode = fpmode_set()
    if x.shape[0]:
        kernels.activate(tanh, x.shape[0], &x[0], &out[0])
    fpmode_restore(mode)


line_bytes = LINE
