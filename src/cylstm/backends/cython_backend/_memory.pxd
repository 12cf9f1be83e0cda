# Memory of the kernels, and the memory of arrays.

from cpython.buffer cimport PyBUF_CONTIG, PyBUF_CONTIG_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_Clear, PyErr_ExceptionMatches
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    int get_buffer "PyObject_GetBuffer"(object exporter, Py_buffer* view, int flags)  # an error is up to the caller


cdef inline void* allocate(Py_ssize_t items, Py_ssize_t itemsize) except NULL nogil:
    """Zeroed memory that starts on a cache line; the address to free stands before it."""
    cdef char* raw = NULL
    cdef char* start
    if 0 <= items <= (PY_SSIZE_T_MAX - 128) // itemsize:  # else the product wraps around
        raw = <char*>calloc(items * itemsize + 128, 1)
    if raw == NULL:
        with gil:
            raise MemoryError(f"cannot allocate {items} elements of {itemsize} bytes for the LSTM's buffers")
    start = <char*>((<uintptr_t>raw + 127) & ~(<uintptr_t>63))
    (<void**>start - 1)[0] = raw
    return start


cdef inline void release(void* buffer) noexcept nogil:
    if buffer != NULL:
        free((<void**>buffer - 1)[0])


cdef enum:
    MAX_VIEWS = 20


cdef struct Views:  # of arrays, for the time of a call
    Py_buffer buffers[MAX_VIEWS]
    int count


cdef inline void* address(Views* views, array, Py_ssize_t itemsize, bint written) except? NULL:
    """Where the elements of a C-contiguous array lie, until the views are released; NULL for None."""
    cdef Py_buffer* view = &views.buffers[views.count]
    if array is None:
        return NULL
    if views.count == MAX_VIEWS:
        raise RuntimeError(f"a call must have at most {MAX_VIEWS} arrays")
    PyObject_GetBuffer(array, view, PyBUF_CONTIG if written else PyBUF_CONTIG_RO)
    views.count += 1
    if view.itemsize != itemsize:
        raise TypeError(f"elements must have {itemsize} bytes, got {view.itemsize}")
    return view.buf


cdef inline void* required(Views* views, array, Py_ssize_t itemsize, bint written) except? NULL:
    """As `address`, of an array that must be there."""
    if array is None:
        raise TypeError("an array must be given, got None")
    return address(views, array, itemsize, written)


cdef inline void* sized(Views* views, array, Py_ssize_t itemsize, bint written, Py_ssize_t items) except? NULL:
    """As `address`, of so many elements: another thread may have given the array another shape meanwhile.

    What is written must be there.
    """
    cdef void* begin = required(views, array, itemsize, True) if written else address(views, array, itemsize, False)
    if array is not None and views.buffers[views.count - 1].len // itemsize != items:
        raise ValueError(f"an array of a call must have {items} elements, got one of shape {array.shape}")
    return begin


cdef inline Py_ssize_t rows_of_sizes(const int64_t* sizes, Py_ssize_t T) except -1:
    """The packed rows of T steps, whose sizes are positive and never grow."""
    cdef Py_ssize_t rows = 0, t
    for t in range(T):
        if sizes[t] < 1 or (t and sizes[t] > sizes[t - 1]) or sizes[t] > PY_SSIZE_T_MAX - rows:
            raise ValueError(f"batch_sizes must be positive and never grow, got {sizes[t]} in step {t}")
        rows += sizes[t]
    return rows


cdef inline void release_views(Views* views) noexcept:
    while views.count:
        views.count -= 1
        PyBuffer_Release(&views.buffers[views.count])


cdef inline int refused() except -1:
    """False, without the error of a buffer that was refused; any other error stays one."""
    if not (PyErr_ExceptionMatches(BufferError) or PyErr_ExceptionMatches(ValueError)):
        return -1
    PyErr_Clear()
    return False


cdef inline bint fits(Py_buffer* view, array, ndarray, dtype, int flags, Py_ssize_t B, Py_ssize_t n):
    """Whether an array is a plain, aligned, C-contiguous (B, n), or (n,) where B is 1. If so, release its view."""
    if type(array) is not ndarray or (array.dtype is not dtype and array.dtype != dtype):
        return False
    if get_buffer(array, view, flags) < 0:  # not contiguous, or not writable
        return refused()
    if (<uintptr_t>view.buf % <uintptr_t>view.itemsize == 0
            and ((view.ndim == 2 and view.shape[0] == B and view.shape[1] == n)
                 or (view.ndim == 1 and B == 1 and view.shape[0] == n))):
        return True
    PyBuffer_Release(view)
    return False
