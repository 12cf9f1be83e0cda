"""A linear layer, for what stands behind an LSTM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..arrays.arguments import as_array, check_place, check_size
from ..arrays.arithmetic import silent, widened
from ..arrays.homes import at_home
from ..arrays.quantization import Bfloat16Product, prepared_for_bfloat16, product, quantized
from ..backends.precision import DEFAULT
from ..random import uniform
from .frozen import refuse_gradients
from .gradients import Gradients, check_gradient
from .module import Module
from .parameters import Snapshot


class Linear(Module):
    """``input @ weight.T + bias``, with the arguments, shapes, names and initial weights of ``torch.nn.Linear``.

    Computed by NumPy, or where its input lies by CuPy; float16 and bfloat16 in float32, rounded at the end.

    Parameters
    ----------
    in_features : int
    out_features : int
    bias : bool
        Whether there is a bias. The attribute ``bias`` is the array, or None.
    device : None, str or torch.device
        The CPU, where the parameters are. A copy of them goes to the GPU that an input lies on, once per version.
    dtype : dtype, optional
        float16, bfloat16 (with ml_dtypes), float32 (default), float64, complex64 or complex128: NumPy or PyTorch dtype,
        name or type.
    precision : {"float32", "bfloat16", "int8"}, optional
        Of float32 parameters. ``"bfloat16"``: weight and input are rounded to bfloat16, sums are float32. ``"int8"``:
        the weight is rounded to int8, with a scale for each row, and the input to bfloat16. None for
        ``CYLSTM_PRECISION``, else ``"float32"``. On the CPU, and for inference only.

    Raises
    ------
    TypeError, RuntimeError
        As ``torch.nn.Linear`` does for the same arguments.

    Examples
    --------
    >>> import cylstm
    >>> cylstm.Linear(20, 3)(cylstm.randn(7, 2, 20)).shape
    (7, 2, 3)
    """

    _fixed: ClassVar[frozenset[str]] = frozenset({"in_features", "out_features", "bias"})

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        precision: str | None = None,
    ) -> None:
        self.in_features = check_size(in_features, "in_features", least=0)
        self.out_features = check_size(out_features, "out_features", least=0)
        self._has_bias = bool(bias)
        if not bias:
            self.bias = None
        super().__init__(device=device, dtype=dtype, precision=precision)

    def _initial_parameters(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        I, O = self.in_features, self.out_features
        # torch.nn.init.kaiming_uniform_(weight, a=sqrt(5)), in its own order of roundings
        gain = math.sqrt(2.0 / (1 + math.sqrt(5) ** 2))
        bound = math.sqrt(3.0) * (gain / math.sqrt(I)) if I > 0 else 0.0
        parameters = {"weight": uniform((O, I), -bound, bound, dtype)}
        if self._has_bias:
            bound = 1 / math.sqrt(I) if I > 0 else 0  # an int: its negative is no -0.0
            parameters["bias"] = uniform((O,), -bound, bound, dtype)
        return parameters

    def extra_repr(self) -> str:
        """What stands between the parentheses of the ``repr``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self._has_bias}"

    @at_home
    def __call__(self, input: Any) -> np.ndarray:
        """Apply the layer to the last dimension.

        Parameters
        ----------
        input : array (..., in_features)
            Of the module's dtype. Anything with ``__array__`` or ``__dlpack__`` is taken.

        Returns
        -------
        numpy.ndarray (..., out_features)
            CuPy's where the input lies on a GPU.

        Raises
        ------
        TypeError
            If ``input`` is no array.
        RuntimeError
            If its last dimension is not ``in_features``, or its dtype not the module's.
        """
        x, snapshot = self._checked(input), self._store.snapshot
        if (precision := self.precision) != DEFAULT:
            return self._run(_rounded(snapshot, x, precision), x)
        return self._run(snapshot.arrays if type(x) is np.ndarray else snapshot.beside(x, "input"), x)

    forward = __call__

    @at_home
    def vjp(self, input: Any) -> tuple[np.ndarray, Callable[..., Gradients]]:
        """Apply the layer and return, beside the output, the function that pulls gradients back through it.

        Parameters
        ----------
        input
            As for a call.

        Returns
        -------
        output : numpy.ndarray (..., out_features)
        pullback : callable
            ``pullback(grad_output)`` takes the gradient of the output and returns `Gradients`: ``input`` and
            ``parameters`` by name (``hx`` is None). It may be called more than once.

        Raises
        ------
        TypeError, RuntimeError
            As a call does. The pullback raises RuntimeError where the parameters have been changed since.
        """
        snapshot = self._store.snapshot
        refuse_gradients(snapshot.kept, self.precision)
        x = self._checked(input).copy()
        on_gpu = not isinstance(x, np.ndarray)
        arrays = snapshot.beside(x, "input") if on_gpu else snapshot.arrays

        @silent
        def pullback(grad_output: Any) -> Gradients:
            self._store.refuse_after_change(snapshot)
            shape = (*x.shape[:-1], self.out_features)
            grad = check_gradient(as_array(grad_output, "grad_output", on_gpu), "grad_output", shape, x.dtype)
            check_place(grad, "grad_output", on_gpu)
            grad, weight, rows = widened(grad), widened(arrays["weight"]), widened(x).reshape(-1, self.in_features)
            grad_rows = grad.reshape(-1, self.out_features)
            grads = {"weight": grad_rows.T @ rows.conj(), "bias": grad_rows.sum(axis=0)}
            parameters = {name: grads[name].astype(x.dtype, copy=False) for name in arrays}
            return Gradients((grad @ weight.conj()).astype(x.dtype, copy=False), None, parameters)

        return self._run(arrays, x), pullback

    def _checked(self, input: Any) -> np.ndarray:
        self._store.refuse_inside_unlocked()
        x = as_array(input, "input", cuda=True)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise RuntimeError(f"input must have shape (*, in_features = {self.in_features}), got {x.shape}")
        if x.dtype != self.dtype:
            raise RuntimeError(f"input must have the module's dtype {self.dtype}, got {x.dtype}: use .astype")
        return x

    @staticmethod
    @silent
    def _run(arrays: dict[str, Any], x: np.ndarray) -> np.ndarray:
        weight = arrays["weight"]
        output = product(widened(x), weight if isinstance(weight, Bfloat16Product) else widened(weight))
        if "bias" in arrays:
            output += widened(arrays["bias"])
        return output.astype(x.dtype, copy=False)


def _rounded(snapshot: Snapshot, x: Any, precision: str) -> dict[str, Any]:
    """The parameters as the precision has them, rounded once per version."""
    if not isinstance(x, np.ndarray):
        raise RuntimeError(f"input must lie on the CPU in precision {precision!r}, got one on a GPU: use input.get()")

    def rounded() -> dict[str, Any]:
        weight = snapshot.arrays["weight"]
        return {
            **snapshot.arrays,
            "weight": prepared_for_bfloat16(quantized(weight) if precision == "int8" else weight),
        }

    return snapshot.derive(precision, rounded)
