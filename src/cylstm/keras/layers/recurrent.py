"""Keras's LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...arrays.packing import pack_padded_sequence, pad_packed_sequence
from ...nn.lstm import LSTM as Module
from ..files.contents import CELL
from ..initializers import Initializer
from .activations import activation as named_activation
from .activations import of_lstm
from .arguments import checked_mask, converted, positive
from .base import BatchShape, Recurrent, Variable

_GATES = 4


class LSTM(Recurrent):
    """Keras's LSTM layer, computed by :class:`cylstm.LSTM`.

    Parameters
    ----------
    units : int
        H, the size of the state.
    activation, recurrent_activation : str
        Of the candidate and the output, and of the gates: names of Keras's.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or callable
        A name of Keras's, or ``f(shape, dtype=...)``.
    unit_forget_bias : bool
        Whether the bias of the forget gate begins at one.
    return_sequences : bool
        Whether the output of every step is returned, (B, T, H), or that of the last, (B, H).
    return_state : bool
        Whether h and c, (B, H) each, are returned too.
    go_backwards : bool
        Whether the sequence is read from its end. The output is in the order in which it was computed.
    stateful : bool
        Whether the states of the last call are those with which the next begins, until `reset_state`.
    zero_output_for_mask : bool
        Whether the output is zero at masked steps, instead of that of the step before.
    time_major : bool
        Whether input and output are (T, B, features); of Keras 2.
    **options
        As for `Layer`. Those about how Keras computes (``unroll``, ``implementation``, ``use_cudnn``) change nothing.

    Attributes
    ----------
    lstm : cylstm.LSTM
        What computes, with ``batch_first=True``; there once the layer is built.

    Examples
    --------
    >>> import cylstm.keras
    >>> cylstm.keras.LSTM(7)(cylstm.randn(2, 17, 10)).shape
    (2, 7)
    """

    _arguments = (
        "units",
        "activation",
        "recurrent_activation",
        "use_bias",
        "unit_forget_bias",
        "return_sequences",
        "return_state",
        "go_backwards",
        "stateful",
        "zero_output_for_mask",
    )
    lstm: Module
    _kinds = ("kernel", "recurrent", "bias")
    _of_training = ("dropout", "recurrent_dropout", "seed", "unroll", "implementation", "use_cudnn")
    _dimensions = (3,)

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        unit_forget_bias: bool = True,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        time_major: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            **options,
        )
        self.activation = named_activation(activation)
        self.recurrent_activation = named_activation(recurrent_activation, "recurrent_activation")
        self._activations = (
            of_lstm(self.recurrent_activation, "recurrent_activation"),
            *[of_lstm(self.activation, "activation")] * 2,
        )
        self.units = positive(units)
        self.use_bias, self.unit_forget_bias = bool(use_bias), bool(unit_forget_bias)
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.go_backwards, self.stateful = bool(go_backwards), bool(stateful)
        self.zero_output_for_mask, self.time_major = bool(zero_output_for_mask), bool(time_major)
        self.states: tuple[np.ndarray, np.ndarray] | None = None

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """kernel (I, 4H), recurrent_kernel (H, 4H) and bias (4H,)."""
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"input_shape of {self.name} must be (batch, steps, features), got {input_shape}")
        rows = _GATES * self.units
        shapes: dict[str, tuple[int, ...]] = {
            "kernel": (int(input_shape[-1]), rows),
            "recurrent_kernel": (self.units, rows),
        }
        return shapes | ({"bias": (rows,)} if self.use_bias else {})

    def _drawn(self, name: str, shape: tuple[int, ...]) -> Any:
        array = np.array(super()._drawn(name.removesuffix("_kernel"), shape))
        if name == "bias" and self.unit_forget_bias:
            array[self.units : 2 * self.units] = 1
        return array

    def _keep(self, arrays: dict[str, np.ndarray]) -> None:
        kernel, recurrent_kernel, *bias = (converted(array, self.dtype, name) for name, array in arrays.items())
        parameters = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent_kernel.T}
        if bias:
            parameters |= {"bias_ih_l0": bias[0], "bias_hh_l0": np.zeros_like(bias[0])}
        if self.built:
            self.lstm.load_state_dict(parameters)
            return
        plain = self._activations == ("sigmoid", "tanh", "tanh")
        options: dict[str, Any] = {} if plain else {"activations": self._activations}
        options |= {"bias": self.use_bias, "batch_first": True, "dtype": self.dtype}
        copies = {name: array.copy() for name, array in parameters.items()}
        self.lstm = Module._of(copies, input_size=len(kernel), hidden_size=self.units, **options)

    def _kept(self) -> dict[str, np.ndarray]:
        arrays = {"kernel": self.lstm.weight_ih_l0.T, "recurrent_kernel": self.lstm.weight_hh_l0.T}
        if self.use_bias:
            arrays["bias"] = self.lstm.bias_ih_l0  # that of weight_hh is zero
        return arrays

    @property
    def weights(self) -> list[Variable]:
        """kernel (I, 4H), recurrent_kernel (H, 4H) and bias (4H,)."""
        return [one._replace(path=f"{self.name}/lstm_cell/{one.name}") for one in super().weights]

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights by the paths of their groups in Keras's files."""
        return {CELL: list(self._kept().values())}

    def reset_state(self) -> None:
        """Let the next call begin at zero."""
        self.states = None

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a layer like this one, by their names in Keras."""
        return super().get_config() | ({"time_major": True} if self.time_major else {})

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """The same mask, where there is an output per step; a list with it, where states are returned too."""
        output = mask if self.return_sequences else None
        return [output, None, None] if self.return_state else output

    def compute_output_shape(self, input_shape: BatchShape) -> Any:
        """(B, T, H) or (B, H); with return_state a list of it and the shapes of h and c."""
        B = input_shape[1 if self.time_major else 0]
        shape = (*input_shape[:2], self.units) if self.return_sequences else (B, self.units)
        return [shape, (B, self.units), (B, self.units)] if self.return_state else shape

    def __call__(self, x: Any, initial_state: Sequence[Any] | None = None, mask: Any = None) -> Any:
        """Run the layer.

        Parameters
        ----------
        x : array (B, T, I)
            Or a list of it and the initial states.
        initial_state : sequence of two arrays, optional
            h and c, (B, H) each.
        mask : array of bool (B, T), optional
            False where a step is to be skipped: ends of ragged sequences, or holes.

        Returns
        -------
        numpy.ndarray, or a tuple of it and h and c
            See ``return_sequences`` and ``return_state``.

        Raises
        ------
        ValueError, RuntimeError
            If shapes do not fit.
        """
        return self.run(x, mask, initial_state)[0]

    def run(self, x: Any, mask: Any = None, initial_state: Sequence[Any] | None = None) -> tuple[Any, Any]:
        """The output, and the mask that goes with it."""
        x, mask, initial_state = separated(x, mask, initial_state)
        x = self._entered(x)
        mask = checked_mask(mask, x)
        following = self.compute_mask(x, mask)
        if self.time_major:
            x, mask = x.swapaxes(0, 1), None if mask is None else mask.T
        hx = self._initial(initial_state, len(x))
        if self.go_backwards:
            x, mask = x[:, ::-1], None if mask is None else mask[:, ::-1]
        output, h, c = self._computed(x, hx, mask)
        if self.stateful:
            self.states = h, c
        result = output if self.return_sequences else output[:, -1]
        if self.time_major and self.return_sequences:
            result = result.swapaxes(0, 1)
        return ((result, h, c) if self.return_state else result), following

    def _initial(self, initial_state: Sequence[Any] | None, batch: int) -> Any:
        state = initial_state
        if state is None and self.stateful and self.states is not None:
            state = self.states
            if len(state[0]) != batch:
                raise ValueError(
                    f"x must have {len(state[0])} sequences, as the states have, got {batch}: call reset_state()"
                )
        if state is None:
            return None
        if len(state) != 2:
            raise ValueError(f"initial_state must be two arrays, h and c, got {len(state)}")
        h_0, c_0 = (converted(one, self.dtype, "initial_state")[np.newaxis] for one in state)
        return h_0, c_0

    def _computed(self, x: np.ndarray, hx: Any, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if mask is None:
            output, (h, c) = self.lstm(x, hx)
            return output, h[0], c[0]
        # A masked step changes no state: what is computed is the sequence of the other steps.
        lengths = mask.sum(axis=1)
        steps = np.argsort(~mask, axis=1, kind="stable")[..., np.newaxis]
        packed = pack_padded_sequence(
            np.take_along_axis(x, steps, axis=1), np.maximum(lengths, 1), batch_first=True, enforce_sorted=False
        )
        rows, (h, c) = self.lstm(packed, hx)
        computed, _ = pad_packed_sequence(rows, batch_first=True, total_length=x.shape[1])
        h, c = h[0], c[0]
        for state, n in ((h, 0), (c, 1)):
            state[lengths == 0] = 0 if hx is None else hx[n][0][lengths == 0]
        latest = np.cumsum(mask, axis=1)[..., np.newaxis] - 1
        output = np.take_along_axis(computed, np.maximum(latest, 0), axis=1)
        hidden = ~mask[..., np.newaxis] if self.zero_output_for_mask else latest < 0
        return np.where(hidden, output.dtype.type(0), output), h, c


def separated(x: Any, mask: Any, initial_state: Any) -> tuple[Any, Any, Any]:
    """The sequence, its mask, and the initial states that may stand behind it in a list."""
    if isinstance(mask, list | tuple):
        mask = mask[0]
    if initial_state is None and isinstance(x, list | tuple) and len(x) > 1 and np.ndim(x[0]) == 3:
        x, initial_state = x[0], x[1:]
    return x, mask, initial_state
