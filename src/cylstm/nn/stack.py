"""The layers of an LSTM, one on the other: sizes, names, shapes, checks, and both passes on packed rows.

A stack has no parameters. It is what `LSTM`, `Stream` and the operators of PyTorch have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..arrays.arguments import DTYPES, as_array, check_place
from ..arrays.arithmetic import silent
from ..arrays.layout import Layout, layout_of
from ..backends.base import DirectionParameters, Keep, LayerGradients, LayerParameters
from .dispatch import Choice
from .gradients import Gradients, check_gradient, check_pair

State = tuple[np.ndarray, np.ndarray]


class LayerKept(NamedTuple):
    """What the forward pass keeps of a layer for the backward pass."""

    workspace: Any
    mask: np.ndarray | None  # (N, D * R), of the dropout on the layer's input


class Stack:
    """Sizes and options of layers × directions, as `cylstm.LSTM` has checked them.

    Attributes
    ----------
    directions : int
        Their number D, 1 or 2.
    output_size : int
        The size R of output and h of one direction.
    names : list of list of str
        The parameters of each direction of each layer, in PyTorch's order.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        bidirectional: bool,
        proj_size: int,
        peephole: bool = False,
    ) -> None:
        self.input_size = int(input_size)
        self.hidden_size = int(hidden_size)
        self.num_layers = int(num_layers)
        self.directions = 2 if bidirectional else 1
        self.output_size = int(proj_size or hidden_size)
        biases = ["bias_ih", "bias_hh"] if bias else []
        projection = ["weight_hr"] if proj_size > 0 else []
        peepholes = ["weight_ch"] if peephole else []
        fields = ["weight_ih", "weight_hh", *biases, *projection, *peepholes]
        self.names = [
            [field + suffix for field in fields]
            for layer in range(self.num_layers)
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: self.directions]
        ]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by its name, in PyTorch's order."""
        return {name: self.shape(name) for names in self.names for name in names}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        H, R = self.hidden_size, self.output_size
        I = self.input_size if name.endswith(("_l0", "_l0_reverse")) else R * self.directions
        shapes = {"weight_ih": (4 * H, I), "weight_hh": (4 * H, R), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
        return {**shapes, "weight_hr": (R, H), "weight_ch": (3 * H,)}[_field(name)]

    def layers(self, arrays: Mapping[str, np.ndarray]) -> list[LayerParameters]:
        """The parameters, layer by layer, as backends take them."""
        directions = [DirectionParameters(**{_field(name): arrays[name] for name in names}) for names in self.names]
        D = self.directions
        return [tuple(directions[i : i + D]) for i in range(0, len(directions), D)]

    def state_shapes(self, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of h and c in the caller's form."""
        LD = self.num_layers * self.directions
        return layout.state_shape(LD, self.output_size), layout.state_shape(LD, self.hidden_size)

    # What callers hand in -------------------------------------------------------------------------------------------

    def enter(
        self, input: Any, hx: Any, batch_first: bool, dtype: np.dtype, cuda: bool = False
    ) -> tuple[Layout, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """The checked input as rows, and the checked states (L * D, B, ...)."""
        layout, array = layout_of(input, batch_first, cuda)
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
        h_0, c_0 = self.check_states(hx, layout, dtype, cuda)
        if cuda:
            on_gpu = not isinstance(array, np.ndarray)
            check_place(h_0, "h_0", on_gpu)
            check_place(c_0, "c_0", on_gpu)
        return layout, layout.to_rows(array), layout.to_state(h_0), layout.to_state(c_0)

    def check_states(self, hx: Any, layout: Layout, dtype: np.dtype, cuda: bool = False) -> State:
        """h_0 and c_0 as arrays of the shapes and the dtype that they must have."""
        if not isinstance(hx, (tuple, list)):
            raise TypeError(f"hx must be a tuple of two arrays (h_0, c_0), got {type(hx).__name__}")
        if len(hx) != 2:  # PyTorch leaks an IndexError for too few, where it looks at them
            error = ValueError if len(hx) < 2 else RuntimeError
            raise error(f"hx must be a tuple of two arrays (h_0, c_0), got {len(hx)} of them")
        h_0, c_0 = as_array(hx[0], "h_0", cuda), as_array(hx[1], "c_0", cuda)
        h_shape, c_shape = self.state_shapes(layout)
        if h_0.shape == h_shape and c_0.shape == c_shape and h_0.dtype == dtype and c_0.dtype == dtype:
            return h_0, c_0
        fits = h_0.ndim == layout.state_ndim == c_0.ndim
        raise (RuntimeError if fits else layout.dimension_error)(
            f"hx must be h_0 of shape {h_shape} and c_0 of shape {c_shape} of dtype {dtype} for {layout.words}, "
            f"got shapes {h_0.shape} and {c_0.shape}, dtypes {h_0.dtype} and {c_0.dtype}"
        )

    def enter_gradients(
        self, layout: Layout, grad_output: Any, grad_hx: Any, dtype: np.dtype, on_gpu: bool = False
    ) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """The checked gradients of the output, as rows, and of h_n and c_n, (L * D, B, ...)."""
        if grad_output is not None:
            shape = layout.shape(self.directions * self.output_size)
            array = check_gradient(layout.unwrap(grad_output, "grad_output", on_gpu), "grad_output", shape, dtype)
            check_place(array, "grad_output", on_gpu)
            grad_output = layout.to_rows(array)
        if grad_hx is None:
            grad_hx = (None, None)
        names = ("grad_h_n", "grad_c_n")
        check_pair(grad_hx, names)
        states = []
        for grad, name, shape in zip(grad_hx, names, self.state_shapes(layout), strict=True):
            if grad is not None:
                grad = check_gradient(as_array(grad, name, on_gpu), name, shape, dtype)
                check_place(grad, name, on_gpu)
                grad = layout.to_state(grad)
            states.append(grad)
        return grad_output, states[0], states[1]

    # The passes -----------------------------------------------------------------------------------------------------

    def forward(
        self,
        choice: Choice,
        batch_sizes: np.ndarray,
        rows: np.ndarray,
        h_0: np.ndarray | None,
        c_0: np.ndarray | None,
        keep: Keep,
        masks: Iterable[np.ndarray] = (),
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[LayerKept]]:
        """All layers on packed rows: output rows, h_n, c_n, and what was kept of each layer.

        `masks` are those of the dropout on the inputs of the layers from the second on, or none at all. Each is taken
        when its layer is reached.
        """
        D = self.directions
        remaining = iter(masks)
        h_n, c_n, kept = [], [], []
        for layer, prepared in enumerate(choice.layers):
            mask = None
            if layer > 0 and (mask := next(remaining, None)) is not None:
                mask = np.asarray(mask, like=rows)
                rows = _masked(rows, mask)
            result = choice.backend.forward(
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
                kept.append(LayerKept(result.workspace, mask))
        return rows, _joined(h_n), _joined(c_n), kept

    def backward(
        self,
        choice: Choice,
        layout: Layout,
        kept: list[LayerKept],
        grad_rows: np.ndarray | None,
        grad_h_n: np.ndarray | None,
        grad_c_n: np.ndarray | None,
    ) -> Gradients:
        """All layers, last first."""
        results: list[LayerGradients] = []
        for layer in reversed(range(len(kept))):
            first, last = layer * self.directions, (layer + 1) * self.directions
            grads = choice.backend.backward(
                choice.layers[layer],
                kept[layer].workspace,
                grad_output=grad_rows,
                grad_h_n=None if grad_h_n is None else grad_h_n[first:last],
                grad_c_n=None if grad_c_n is None else grad_c_n[first:last],
            )
            mask = kept[layer].mask
            grad_rows = grads.input if mask is None else _masked(grads.input, mask)
            results.insert(0, grads)
        directions = [direction for grads in results for direction in grads.parameters]
        parameters = {
            name: getattr(direction, _field(name))
            for names, direction in zip(self.names, directions, strict=True)
            for name in names
        }
        h_0, c_0 = _joined([grads.h_0 for grads in results]), _joined([grads.c_0 for grads in results])
        return Gradients(
            layout.from_rows(results[0].input), (layout.from_state(h_0), layout.from_state(c_0)), parameters
        )


@silent
def _masked(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return rows * mask


def _field(name: str) -> str:
    """``weight_ih`` of ``weight_ih_l0_reverse``."""
    return name.partition("_l")[0]


def _joined(states: list[np.ndarray]) -> np.ndarray:
    """The states of all layers, (L * D, B, ...)."""
    return states[0] if len(states) == 1 else np.concatenate(states)
