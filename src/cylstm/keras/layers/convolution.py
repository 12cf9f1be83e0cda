"""Keras's Conv1D, and the windows that it shares with pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...arrays.arithmetic import widened
from ...words import quoted
from ..initializers import Initializer
from .activations import activation as named_activation
from .activations import apply
from .arguments import positive
from .base import CHANNELS_LAST, BatchShape, Layer, features


def one_size(value: Any, name: str) -> int:
    """An int, which Keras also writes as a list of one."""
    return positive(value[0] if isinstance(value, Sequence) and len(value) == 1 else value, name)


def window_count(steps: int | None, extent: int, stride: int, padding: str) -> int | None:
    """How many windows of this extent there are."""
    if steps is None:
        return None
    return -(-steps // stride) if padding != "valid" else max(0, (steps - extent) // stride + 1)


def padded(x: np.ndarray, extent: int, stride: int, padding: str, value: float) -> np.ndarray:
    """The steps (B, T, I) with those that "same" and "causal" put around them."""
    if padding == "valid":
        return x
    T = x.shape[1]
    total = max((-(-T // stride) - 1) * stride + extent - T, 0)
    before = extent - 1 if padding == "causal" else total // 2
    around = (before, 0 if padding == "causal" else total - before)
    return np.pad(x, ((0, 0), around, (0, 0)), constant_values=value)


def check_padding(padding: Any, known: Sequence[str]) -> str:
    """The padding in lower case."""
    name = padding.lower() if isinstance(padding, str) else padding
    if name not in known:
        raise ValueError(f"padding must be among {', '.join(known)}, got {quoted(padding)}")
    return name


class Conv1D(Layer):
    """Keras's Conv1D over the steps of (B, T, features).

    Parameters
    ----------
    filters : int
        The features of the output.
    kernel_size, strides, dilation_rate : int
    padding : {"valid", "same", "causal"}
    groups : int
        Into how many parts the features are divided, each with filters of its own.
    activation : str, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str or callable
    **options
        As for `Layer`.
    """

    _arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "dilation_rate",
        "groups",
        "activation",
        "use_bias",
    )
    _kinds = ("kernel", "bias")
    _nothing = CHANNELS_LAST
    _dimensions = (3,)
    supports_masking = False

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        *,
        dilation_rate: Any = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        **options: Any,
    ) -> None:
        super().__init__(kernel_initializer=kernel_initializer, bias_initializer=bias_initializer, **options)
        self.filters, self.groups = positive(filters, "filters"), positive(groups, "groups")
        self.kernel_size, self.strides = one_size(kernel_size, "kernel_size"), one_size(strides, "strides")
        self.dilation_rate = one_size(dilation_rate, "dilation_rate")
        self.padding = check_padding(padding, ("valid", "same", "causal"))
        self.use_bias = bool(use_bias)
        self.activation = named_activation(activation)
        if self.filters % self.groups:
            raise ValueError(f"filters must be a multiple of groups = {self.groups}, got {self.filters}")

    @property
    def _extent(self) -> int:
        return (self.kernel_size - 1) * self.dilation_rate + 1

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """kernel (kernel_size, features / groups, filters) and bias (filters,)."""
        I = features(self, input_shape)
        if I % self.groups:
            raise ValueError(f"features must be a multiple of groups = {self.groups} of {self.name}, got {I}")
        shapes: dict[str, tuple[int, ...]] = {"kernel": (self.kernel_size, I // self.groups, self.filters)}
        return shapes | ({"bias": (self.filters,)} if self.use_bias else {})

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, windows, filters)."""
        B, T, _ = input_shape
        return B, window_count(T, self._extent, self.strides, self.padding), self.filters

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The sum over the steps of the kernel, (B, T, features) → (B, windows, filters)."""
        B, T, _ = x.shape
        N = window_count(T, self._extent, self.strides, self.padding)
        assert N is not None
        kernel, rows = widened(self._own["kernel"]), widened(padded(x, self._extent, self.strides, self.padding, 0))
        output = np.zeros((B, N, self.filters), kernel.dtype)
        inputs, outputs = kernel.shape[1], self.filters // self.groups
        for k in range(self.kernel_size):
            begin = k * self.dilation_rate
            steps = rows[:, begin : begin + (N - 1) * self.strides + 1 : self.strides] if N else rows[:, :0]
            for group in range(self.groups):
                to = slice(group * outputs, (group + 1) * outputs)
                output[..., to] += steps[..., group * inputs : (group + 1) * inputs] @ kernel[k, :, to]
        if self.use_bias:
            output += widened(self._own["bias"])
        return apply(self.activation, output.astype(x.dtype, copy=False))
