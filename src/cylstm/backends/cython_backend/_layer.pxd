from ._kernels cimport Kernels
from ._pass cimport Packed, Shape


cdef class Layer:
    cdef const Kernels* kernels
    cdef Shape shape
    cdef Packed packed[2]
    cdef bint finite  # no weight is inf or nan: a state of zeros adds nothing
    cdef readonly Py_ssize_t D, H, R, P, blocks, lanes  # of shape, for Python
    cdef readonly bint bias
    cdef readonly Py_ssize_t serial_below

    cdef int pack_transposed(self) except -1
