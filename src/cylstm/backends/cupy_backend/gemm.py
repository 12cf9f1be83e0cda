"""Arguments of cuBLAS's ``gemmEx`` for matrices as NumPy lays them out."""

from __future__ import annotations

from typing import Any, NamedTuple

#: cudaDataType_t and cublasComputeType_t, of the sums of products of each dtype.
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_TYPES = {"float32": 68, "float64": 70, "float16": 68, "bfloat16": 68}
COMPUTE_32F_FAST_TF32 = 77


class Operand(NamedTuple):
    """A matrix as cuBLAS reads it: by columns."""

    transposed: bool
    leading: int  # elements from one of its columns to the next


class Gemm(NamedTuple):
    """A product of column-major matrices: C (m, n) = op(A) (m, k) op(B) (k, n)."""

    a: Operand
    b: Operand
    m: int
    n: int
    k: int
    leading: int  # of C


def gemm_of(a: Any, b: Any, out: Any) -> Gemm:
    """The product ``out = a @ b`` of row-major matrices, which is outᵀ = bᵀ aᵀ of column-major ones.

    The first operand of the result is b, the second a.
    """
    (m, k), (k_of_b, n) = a.shape, b.shape
    if k != k_of_b or out.shape != (m, n):
        raise ValueError(f"shapes must be (m, k), (k, n) and (m, n), got {a.shape}, {b.shape} and {out.shape}")
    if out.strides[1] != out.itemsize and n > 1:
        raise ValueError(f"the elements of a row of out must lie side by side, got strides {out.strides}")
    return Gemm(_operand(b), _operand(a), n, m, k, _leading(out, 0))


def _operand(matrix: Any) -> Operand:
    """A row-major matrix, or one that is the transpose of such a one, as the transpose of a column-major one."""
    rows, columns = matrix.shape
    if columns <= 1 or matrix.strides[1] == matrix.itemsize:
        return Operand(False, _leading(matrix, 0))
    if rows <= 1 or matrix.strides[0] == matrix.itemsize:
        return Operand(True, _leading(matrix, 1))
    raise ValueError(f"rows or columns must lie side by side, got strides {matrix.strides}")


def _leading(matrix: Any, axis: int) -> int:
    """Elements from one index of an axis to the next; at least what cuBLAS asks for, where there is but one."""
    if matrix.shape[axis] <= 1:
        return max(1, int(matrix.shape[1 - axis]))
    return int(matrix.strides[axis] // matrix.itemsize)
