"""One step of one layer: the LSTM whose loop over time the caller writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..arrays.arguments import as_array, check_place, check_size
from ..arrays.homes import at_home
from ..arrays.layout import contiguous
from ..backends.base import Backend, DirectionParameters, LayerParameters
from ..random import uniform
from .dispatch import Choice, ComputedModule
from .frozen import as_parameters
from .gradients import Gradients, check_gradient, check_pair
from .options import NAMES, checked_options
from .stack import State


class LSTMCell(ComputedModule):
    """A long short-term memory cell with the arguments, shapes, names and numbers of ``torch.nn.LSTMCell``.

    It takes the same step as `LSTM`, on the same backends; for many steps, `LSTM` and its ``stream`` are faster.

    Parameters
    ----------
    input_size : int
        Number of features I of an input row.
    hidden_size : int
        Number of features H of the state.
    bias : bool
        Whether there are bias_ih and bias_hh.
    device : None, str or torch.device
        Where it is computed: the CPU, or ``"cuda"``, ``"cuda:1"``. The parameters are NumPy arrays in any case.
    dtype : dtype, optional
        float16, bfloat16 (with ml_dtypes), float32 (default), float64, complex64 or complex128: NumPy or PyTorch dtype,
        name or type.
    backend : str or Backend, optional
        The backend; None for the selection in force at each call, see `cylstm.set_backend`.
    precision : {"float32", "bfloat16", "int8"}, optional
        How float32 parameters are prepared and computed, see the attribute; None for ``CYLSTM_PRECISION``, else
        ``"float32"``.
    peephole : bool
        Whether the gates i and f see c before the step and o sees c after it, through ``weight_ch`` (3H,).
    clip : float, optional
        The limit of the sums that go into the activations of the gates, as in ONNX.
    activations : tuple, optional
        (f, g, h): of the gates i, f, o; of the candidate g; of c on its way to the output. Each is a name of
        `cylstm.arrays.activations.ACTIVATIONS`, or a name and its parameters: ``("leaky_relu", 0.2)``. None is
        PyTorch's ("sigmoid", "tanh", "tanh").
    input_forget : bool
        Whether the gates are coupled: f = 1 - i. The rows of f in the parameters are not read then.
    cell_clip : float, optional
        The limit of c after each step, as in TensorFlow's and ELMo's LSTMs.

    Raises
    ------
    TypeError, RuntimeError
        As ``torch.nn.LSTMCell`` does for the same arguments; RuntimeError also for a size of 0, which PyTorch takes.

    Examples
    --------
    >>> import cylstm
    >>> cell = cylstm.LSTMCell(10, 20)
    >>> h_1, c_1 = cell(cylstm.randn(2, 10))
    >>> h_1.shape, c_1.shape
    ((2, 20), (2, 20))
    """

    _fixed: ClassVar[frozenset[str]] = frozenset({"input_size", "hidden_size", "bias", "bias_ih", "bias_hh", *NAMES})

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str | Backend | None = None,
        precision: str | None = None,
        peephole: bool = False,
        clip: float | None = None,
        activations: Any = None,
        input_forget: bool = False,
        cell_clip: float | None = None,
    ) -> None:
        self.input_size = check_size(input_size, "input_size", least=1)
        self.hidden_size = check_size(hidden_size, "hidden_size", least=1)
        self.bias = bias
        self.backend = backend
        self._options = checked_options(
            directions=1,
            projection=False,
            peephole=peephole,
            clip=clip,
            activations=activations,
            input_forget=input_forget,
            cell_clip=cell_clip,
        )
        if not bias:
            self.bias_ih = self.bias_hh = None
        device, dtype = self._checked_place(device, dtype, precision)
        super().__init__(device=device, dtype=dtype, precision=precision)

    def _initial_parameters(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        H, bound = self.hidden_size, 1.0 / self.hidden_size**0.5
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (4 * H, self.input_size), "weight_hh": (4 * H, H)}
        if self.bias:
            shapes |= {"bias_ih": (4 * H,), "bias_hh": (4 * H,)}
        if self._options.peephole:
            shapes["weight_ch"] = (3 * H,)
        return {name: uniform(shape, -bound, bound, dtype) for name, shape in shapes.items()}

    def extra_repr(self) -> str:
        """What stands between the parentheses of the ``repr``."""
        bias = f", bias={self.bias}" if self.bias is not True else ""
        return f"{self.input_size}, {self.hidden_size}{bias}{self._repr_of_options()}"

    @at_home
    def __call__(self, input: Any, hx: tuple[Any, Any] | None = None) -> State:
        """Take one step. Nothing is kept.

        Parameters
        ----------
        input : array (B, I), or (I,) unbatched
            Of the module's dtype. Anything with ``__array__`` or ``__dlpack__`` on the CPU is taken.
        hx : tuple of two arrays, optional
            h_0 and c_0, each (B, H), or (H,) unbatched. Zeros by default.

        Returns
        -------
        h_1, c_1 : numpy.ndarray
            In the shapes of h_0 and c_0.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As ``torch.nn.LSTMCell`` does for the same mistake.
        """
        choice = self._choice(self._store.snapshot, training=False)
        shape, x, h_0, c_0 = self._enter(input, hx, choice)
        batch_sizes = np.array([len(x)])
        result = choice.backend.forward(choice.layers[0], input=x, batch_sizes=batch_sizes, h_0=h_0, c_0=c_0)
        return result.h_n.reshape(shape), result.c_n.reshape(shape)

    forward = __call__

    @at_home
    def vjp(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[State, Callable[..., Gradients]]:
        """Take one step and return, beside the state, the function that pulls gradients back through it.

        Parameters
        ----------
        input, hx
            As for a call.

        Returns
        -------
        (h_1, c_1)
            As a call returns them.
        pullback : callable
            ``pullback(grad_hx)`` takes the gradients of (h_1, c_1), None for zeros, and returns `Gradients`:
            ``input``, ``hx`` and ``parameters`` by name. It may be called more than once.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As a call does. The pullback raises RuntimeError where the parameters have been changed since.
        """
        snapshot = self._store.snapshot
        choice = self._choice(snapshot, training=True)
        shape, x, h_0, c_0 = self._enter(input, hx, choice)
        x, on_gpu = x.copy(), not isinstance(x, np.ndarray)
        h_0, c_0 = (None if state is None else state.copy() for state in (h_0, c_0))
        result = choice.backend.forward(
            choice.layers[0], input=x, batch_sizes=np.array([len(x)]), h_0=h_0, c_0=c_0, keep="gates"
        )

        names = ("grad_h_1", "grad_c_1")

        def pullback(grad_hx: tuple[Any, Any]) -> Gradients:
            self._store.refuse_after_change(snapshot)
            check_pair(grad_hx, names)
            given = {name: as_array(g, name, on_gpu) for name, g in zip(names, grad_hx, strict=True) if g is not None}
            for name, grad in given.items():
                check_place(check_gradient(grad, name, shape, choice.dtype), name, on_gpu)
            grad_h, grad_c = (_as_state(given.get(name)) for name in names)
            grads = choice.backend.backward(
                choice.layers[0], result.workspace, grad_output=None, grad_h_n=grad_h, grad_c_n=grad_c
            )
            parameters = {name: getattr(grads.parameters[0], name) for name in snapshot.kept}
            hx = (grads.h_0.reshape(shape), grads.c_0.reshape(shape))
            return Gradients(grads.input.reshape(*shape[:-1], self.input_size), hx, parameters)

        return (result.h_n.reshape(shape).copy(), result.c_n.reshape(shape).copy()), pullback

    def _layers(self, arrays: dict[str, np.ndarray]) -> list[LayerParameters]:
        return [(DirectionParameters(**as_parameters(arrays)),)]

    def _enter(
        self, input: Any, hx: Any, choice: Choice
    ) -> tuple[tuple[int, ...], np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The shape of the caller's states, and checked: the rows (B, I), h_0 and c_0 (1, B, H) or None."""
        x = as_array(input, "input", choice.cuda)
        if x.ndim not in (1, 2):
            raise ValueError(
                f"input must be 1-D (input_size,) or 2-D (B, input_size), got {x.ndim}-D of shape {x.shape}"
            )
        if x.shape[-1] != self.input_size:
            raise RuntimeError(f"input.shape[-1] must be input_size = {self.input_size}, got {x.shape[-1]}")
        states = {"input": x}
        shape = (*x.shape[:-1], self.hidden_size)
        if hx is not None:
            if not isinstance(hx, (tuple, list)):
                raise TypeError(f"hx must be a tuple of two arrays (h_0, c_0), got {type(hx).__name__}")
            if len(hx) != 2:
                raise RuntimeError(f"hx must be a tuple of two arrays (h_0, c_0), got {len(hx)} of them")
            for name, value in zip(("h_0", "c_0"), hx, strict=True):
                states[name] = as_array(value, name, choice.cuda)
                if states[name].shape != shape:
                    raise RuntimeError(f"{name} must have shape {shape}, got {states[name].shape}")
        for name, array in states.items():
            if array.dtype != choice.dtype:
                raise RuntimeError(
                    f"{name} must have the module's dtype {choice.dtype}, got {array.dtype}: use .astype"
                )
            if choice.cuda:
                check_place(array, name, not isinstance(x, np.ndarray))
        rows = contiguous(x.reshape(-1, self.input_size))
        return shape, rows, _as_state(states.get("h_0")), _as_state(states.get("c_0"))


def _as_state(state: np.ndarray | None) -> np.ndarray | None:
    """A state (B, H) or (H,) as backends take it, (1, B, H)."""
    return None if state is None else contiguous(state.reshape(1, -1, state.shape[-1]))
