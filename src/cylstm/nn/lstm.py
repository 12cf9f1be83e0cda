"""The LSTM: arguments, layers × directions, dispatch to a backend. No arithmetic but dropout and concatenation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..arrays.arguments import DTYPES, as_array, check_lstm_arguments, check_place
from ..arrays.layout import Layout, layout_of
from ..backends.base import Backend, DirectionParameters, Keep, LayerGradients, LayerParameters
from ..random import dropout_mask, uniform
from .dispatch import ComputedModule, Plan
from .gradients import Gradients, check_gradient
from .stream import Stream

State = tuple[np.ndarray, np.ndarray]


class _Kept(NamedTuple):
    """What the forward pass keeps of a layer for the backward pass."""

    workspace: Any
    mask: np.ndarray | None  # (N, D * R), of the dropout on the layer's input


class LSTM(ComputedModule):
    """A multi-layer long short-term memory network with the arguments, shapes, names and numbers of ``torch.nn.LSTM``.

    Parameters
    ----------
    input_size : int
        Number of features I of an input row.
    hidden_size : int
        Number of features H of the state.
    num_layers : int
        Number of stacked layers L.
    bias : bool
        Whether there are bias_ih and bias_hh.
    batch_first : bool
        Whether 3-D input and output are (B, T, features) instead of (T, B, features). States are not concerned.
    dropout : float
        Probability of a zero in the output of each layer but the last, in training mode.
    bidirectional : bool
        Whether a second direction reads each sequence from its end; D is 2 then.
    proj_size : int
        Size P of the projected output; 0 for none. R = P or H is the size of output and h.
    device : None, str or torch.device
        Where it is computed: the CPU, or ``"cuda"``, ``"cuda:1"``. The parameters are NumPy arrays in any case.
    dtype : dtype, optional
        float16, bfloat16 (with ml_dtypes), float32 (default), float64, complex64 or complex128: NumPy or PyTorch dtype,
        name or type.
    backend : str or Backend, optional
        The backend; None for the selection in force at each call, see `cylstm.set_backend`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As ``torch.nn.LSTM`` does for the same arguments.

    Examples
    --------
    >>> import cylstm
    >>> lstm = cylstm.LSTM(input_size=10, hidden_size=20)
    >>> output, (h_n, c_n) = lstm(cylstm.randn(7, 2, 10))
    >>> output.shape, h_n.shape, c_n.shape
    ((7, 2, 20), (1, 2, 20), (1, 2, 20))
    """

    _fixed: ClassVar[frozenset[str]] = frozenset(
        {"input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size", "backend"}
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        backend: str | Backend | None = None,
    ) -> None:
        check_lstm_arguments(
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            proj_size=proj_size,
        )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.backend = backend
        self._directions = 2 if bidirectional else 1
        self._all_weights = [
            [field + suffix for field in self._fields()]
            for layer in range(num_layers)
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: self._directions]
        ]
        device, dtype = self._checked_choice(device, dtype)
        super().__init__(device=device, dtype=dtype)

    def _fields(self) -> list[str]:
        """The parameters of one direction of one layer, in PyTorch's order."""
        fields = ["weight_ih", "weight_hh"]
        if self.bias:
            fields += ["bias_ih", "bias_hh"]
        if self.proj_size > 0:
            fields += ["weight_hr"]
        return fields

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        H, R = int(self.hidden_size), int(self.proj_size or self.hidden_size)
        I = int(self.input_size) if name.endswith(("_l0", "_l0_reverse")) else R * self._directions
        shapes = {"weight_ih": (4 * H, I), "weight_hh": (4 * H, R), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
        return {**shapes, "weight_hr": (R, H)}[name.partition("_l")[0]]

    def _initial_parameters(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        bound = 1.0 / self.hidden_size**0.5
        names = [name for names in self._all_weights for name in names]
        return {name: uniform(self._shape(name), -bound, bound, dtype) for name in names}

    def extra_repr(self) -> str:
        """What stands between the parentheses of the ``repr``."""
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}
        for name, default in {"proj_size": 0, **defaults}.items():
            value = getattr(self, name)
            if value != default or (isinstance(default, bool) and value is not default):
                text += f", {name}={value}"
        return text

    @property
    def all_weights(self) -> list[list[np.ndarray]]:
        """The parameters, one list per layer and direction."""
        return [[self._store[name] for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Do nothing: there for code written for PyTorch."""

    # The forward pass -----------------------------------------------------------------------------------------------

    def __call__(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[Any, State]:
        """Run the LSTM over whole sequences. Nothing is kept.

        Parameters
        ----------
        input : array or PackedSequence
            (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched; of the module's dtype. Anything with
            ``__array__`` or ``__dlpack__`` on the CPU is taken.
        hx : tuple of two arrays, optional
            h_0 (L * D, B, R) and c_0 (L * D, B, H), without B for unbatched input. Zeros by default.

        Returns
        -------
        output : numpy.ndarray or PackedSequence
            (T, B, D * R), or as the input lies.
        (h_n, c_n) : tuple of numpy.ndarray
            In the shapes of h_0 and c_0.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As ``torch.nn.LSTM`` does for the same mistake.
        """
        plan = self._plan(self._store.snapshot, training=False)
        layout, rows, h_0, c_0 = self._enter(input, hx, plan.dtype, plan.cuda)
        output, h_n, c_n, _ = self._run(plan, layout.batch_sizes, rows, h_0, c_0, "nothing")
        return layout.from_rows(output), (layout.from_state(h_n), layout.from_state(c_n))

    forward = __call__

    def vjp(
        self, input: Any, hx: tuple[Any, Any] | None = None, *, recompute: bool = False
    ) -> tuple[Any, State, Callable[..., Gradients]]:
        """Run the LSTM and return, beside the result, the function that pulls gradients back through this run.

        Parameters
        ----------
        input, hx
            As for a call.
        recompute : bool
            Keep h and c alone and compute the gates again in the backward pass: less memory, the same bits.

        Returns
        -------
        output, (h_n, c_n)
            As for a call.
        pullback : callable
            ``pullback(grad_output=None, grad_hx=None)`` takes the gradients of output and of (h_n, c_n), in their
            shapes, None for zeros, and returns `Gradients`: ``input``, ``hx`` and ``parameters`` by name. It may be
            called more than once. All that it needs lives in it alone: none of it is shared with arrays that the
            caller can write to.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As a call does. The pullback raises RuntimeError where the parameters have been changed since.
        """
        snapshot = self._store.snapshot
        plan = self._plan(snapshot, training=True)
        layout, rows, h_0, c_0 = self._enter(input, hx, plan.dtype, plan.cuda)
        rows, h_0, c_0 = rows.copy(), _copied(h_0), _copied(c_0)
        on_gpu = not isinstance(rows, np.ndarray)
        keep: Keep = "states" if recompute else "gates"
        output, h_n, c_n, kept = self._run(plan, layout.batch_sizes.copy(), rows, h_0, c_0, keep)

        def pullback(grad_output: Any = None, grad_hx: tuple[Any, Any] | None = None) -> Gradients:
            self._store.refuse_after_change(snapshot)
            grad_rows, grad_h, grad_c = self._enter_gradients(layout, grad_output, grad_hx, plan.dtype, on_gpu)
            return self._backward(plan, layout, kept, grad_rows, grad_h, grad_c)

        return layout.from_rows(output), (layout.from_state(h_n), layout.from_state(c_n)), pullback

    def stream(self, batch_size: int = 1) -> Stream:
        """One time step at a time, with all buffers made beforehand; see `Stream`."""
        return Stream(self, batch_size)

    # What the passes are made of ------------------------------------------------------------------------------------

    def _layers(self, arrays: dict[str, np.ndarray]) -> list[LayerParameters]:
        directions = [
            DirectionParameters(**{name.partition("_l")[0]: arrays[name] for name in names})
            for names in self._all_weights
        ]
        D = self._directions
        return [tuple(directions[i : i + D]) for i in range(0, len(directions), D)]

    def _enter(
        self, input: Any, hx: Any, dtype: np.dtype, cuda: bool = False
    ) -> tuple[Layout, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The checked input as rows, and the checked states (L * D, B, ...)."""
        layout, array = layout_of(input, self.batch_first, cuda)
        if array.dtype != dtype:
            array = as_array(array, "input", cuda)  # in native byte order
        if array.dtype != dtype:
            other = f", or the module by module.to({array.dtype.name!r})" if array.dtype.name in DTYPES else ""
            raise layout.dtype_error(
                f"input dtype ({array.dtype}) does not match weight dtype ({dtype}): convert the input by "
                f"input.astype({dtype.name!r}){other}"
            )
        if array.ndim != layout.ndim:
            raise RuntimeError(f"input.data must be 2-D (N, input_size), got {array.ndim}-D of shape {array.shape}")
        if array.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.shape[-1] must be equal to input_size: expected {self.input_size}, got {array.shape[-1]}"
            )
        if hx is None:
            return layout, layout.to_rows(array), None, None
        h_0, c_0 = self._checked_states(hx, layout, dtype, cuda)
        if cuda:
            on_gpu = not isinstance(array, np.ndarray)
            check_place(h_0, "h_0", on_gpu)
            check_place(c_0, "c_0", on_gpu)
        return layout, layout.to_rows(array), layout.to_state(h_0), layout.to_state(c_0)

    def _checked_states(self, hx: Any, layout: Layout, dtype: np.dtype, cuda: bool = False) -> State:
        if not isinstance(hx, (tuple, list)):
            raise TypeError(f"hx must be a tuple of two arrays (h_0, c_0), got {type(hx).__name__}")
        if len(hx) != 2:  # PyTorch leaks an IndexError for too few, where it looks at them
            error = ValueError if len(hx) < 2 else RuntimeError
            raise error(f"hx must be a tuple of two arrays (h_0, c_0), got {len(hx)} of them")
        h_0, c_0 = as_array(hx[0], "h_0", cuda), as_array(hx[1], "c_0", cuda)
        h_shape, c_shape = self._state_shapes(layout)
        if h_0.shape == h_shape and c_0.shape == c_shape and h_0.dtype == dtype and c_0.dtype == dtype:
            return h_0, c_0
        fits = h_0.ndim == layout.state_ndim == c_0.ndim
        raise (RuntimeError if fits else layout.dimension_error)(
            f"{layout.words} needs h_0 of shape {h_shape}, c_0 of shape {c_shape} and both of dtype {dtype}, "
            f"got shapes {h_0.shape} and {c_0.shape}, dtypes {h_0.dtype} and {c_0.dtype}"
        )

    def _state_shapes(self, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of h and c in the caller's form."""
        LD, H, R = self.num_layers * self._directions, self.hidden_size, self.proj_size or self.hidden_size
        return layout.state_shape(LD, R), layout.state_shape(LD, H)

    def _run(
        self,
        plan: Plan,
        batch_sizes: np.ndarray,
        rows: np.ndarray,
        h_0: np.ndarray | None,
        c_0: np.ndarray | None,
        keep: Keep,
        masks: Sequence[np.ndarray] = (),
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[_Kept]]:
        """All layers on packed rows: output rows, h_n, c_n, and what was kept of each layer.

        `masks` are those of the dropout on the inputs of the layers from the second on, where the caller has drawn
        them; they are drawn here otherwise.
        """
        D = self._directions
        dropping = self.dropout > 0 and self.training
        h_n, c_n, kept = [], [], []
        for layer, prepared in enumerate(plan.layers):
            mask = None
            if layer > 0 and (masks or dropping):
                mask = masks[layer - 1] if masks else dropout_mask(rows.shape, self.dropout, plan.dtype)
                mask = np.asarray(mask, like=rows)
                rows = rows * mask
            result = plan.backend.forward(
                prepared,
                input=rows,
                batch_sizes=batch_sizes,
                h_0=None if h_0 is None else h_0[layer * D : (layer + 1) * D],
                c_0=None if c_0 is None else c_0[layer * D : (layer + 1) * D],
                keep=keep,
            )
            rows = result.output
            h_n.append(result.h_n)
            c_n.append(result.c_n)
            if keep != "nothing":
                kept.append(_Kept(result.workspace, mask))
        return rows, _joined(h_n), _joined(c_n), kept

    def _enter_gradients(
        self, layout: Layout, grad_output: Any, grad_hx: Any, dtype: np.dtype, on_gpu: bool = False
    ) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """The checked gradients of the output, as rows, and of h_n and c_n, (L * D, B, ...)."""
        if grad_output is not None:
            shape = layout.shape(self._directions * (self.proj_size or self.hidden_size))
            array = check_gradient(layout.unwrap(grad_output, "grad_output", on_gpu), "grad_output", shape, dtype)
            check_place(array, "grad_output", on_gpu)
            grad_output = layout.to_rows(array)
        if grad_hx is None:
            grad_hx = (None, None)
        if not isinstance(grad_hx, (tuple, list)) or len(grad_hx) != 2:
            raise TypeError(
                "grad_hx must be a tuple of two, the gradients of h_n and c_n (None for zeros), got "
                f"{len(grad_hx) if isinstance(grad_hx, (tuple, list)) else type(grad_hx).__name__}"
            )
        states = []
        for grad, name, shape in zip(grad_hx, ("grad_h_n", "grad_c_n"), self._state_shapes(layout), strict=True):
            if grad is not None:
                grad = check_gradient(as_array(grad, name, on_gpu), name, shape, dtype)
                check_place(grad, name, on_gpu)
                grad = layout.to_state(grad)
            states.append(grad)
        return grad_output, states[0], states[1]

    def _backward(
        self,
        plan: Plan,
        layout: Layout,
        kept: list[_Kept],
        grad_rows: np.ndarray | None,
        grad_h_n: np.ndarray | None,
        grad_c_n: np.ndarray | None,
    ) -> Gradients:
        """All layers, last first."""
        results: list[LayerGradients] = []
        for layer in reversed(range(len(kept))):
            first, last = layer * self._directions, (layer + 1) * self._directions
            grads = plan.backend.backward(
                plan.layers[layer],
                kept[layer].workspace,
                grad_output=grad_rows,
                grad_h_n=None if grad_h_n is None else grad_h_n[first:last],
                grad_c_n=None if grad_c_n is None else grad_c_n[first:last],
            )
            mask = kept[layer].mask
            grad_rows = grads.input if mask is None else grads.input * mask
            results.insert(0, grads)
        directions = [direction for grads in results for direction in grads.parameters]
        parameters = {
            name: getattr(direction, name.partition("_l")[0])
            for names, direction in zip(self._all_weights, directions, strict=True)
            for name in names
        }
        h_0, c_0 = _joined([grads.h_0 for grads in results]), _joined([grads.c_0 for grads in results])
        return Gradients(
            layout.from_rows(results[0].input), (layout.from_state(h_0), layout.from_state(c_0)), parameters
        )


def _copied(states: np.ndarray | None) -> np.ndarray | None:
    return None if states is None else states.copy()


def _joined(states: list[np.ndarray]) -> np.ndarray:
    """The states of all layers, (L * D, B, ...)."""
    return states[0] if len(states) == 1 else np.concatenate(states)
