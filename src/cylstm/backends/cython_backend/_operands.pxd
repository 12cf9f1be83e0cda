# Rows of input and h as a reduced precision multiplies them: each part converts those that it needs, in memory of its
# own, once per step.

from ._kernels cimport Factor, Kernels, operand_stride
from ._partition cimport Partition
from ._pass cimport Shape, real

cdef struct Operands:  # of one part; NULL where the products take rows of state as they lie
    char* input        # (rows of a step, or hoisted rows), rows input_row bytes apart
    char* state        # (B,), rows state_row bytes apart
    char* full         # (B,), rows full_row bytes apart: h before the projection
    float* scales      # (B,) of the rows of `state`
    Py_ssize_t input_row, state_row, full_row
    Py_ssize_t bytes   # of one part's memory


cdef inline Operands operands_of(
    const Kernels* kernels, const Shape* s, const Partition* partition,
    char* memory,  # (bytes,), or NULL to learn how many
) noexcept nogil:
    cdef Operands a
    a.input = a.state = a.full = NULL
    a.scales = NULL
    a.input_row = operand_stride(s.I) * kernels.input.operand_bytes
    a.state_row = operand_stride(s.R) * kernels.state.operand_bytes
    a.full_row = operand_stride(s.H) * kernels.input.operand_bytes if s.P else 0
    cdef Py_ssize_t state = max(s.B, partition.hoisted) * a.input_row
    cdef Py_ssize_t full = state + s.B * a.state_row
    cdef Py_ssize_t scales = full + s.B * a.full_row
    a.bytes = scales + operand_stride(s.B) * <Py_ssize_t>sizeof(float) if kernels.input.convert != NULL else 0
    if memory != NULL and a.bytes:
        a.input, a.state, a.full, a.scales = memory, memory + state, memory + full, <float*>(memory + scales)
    return a


cdef inline void convert_rows(
    const Factor* factor,
    const real* rows,  # IN (count, K), rows `stride` apart
    Py_ssize_t stride, Py_ssize_t count, Py_ssize_t K,
    char* operands,    # OUT (count,)
    float* scales,     # OUT (count,), or NULL where the factor has none
) noexcept nogil:
    cdef Py_ssize_t row = operand_stride(K) * factor.operand_bytes, r
    for r in range(count):
        factor.convert(rows + r * stride, K, operands + r * row, scales + r)
