"""The options beyond PyTorch's LSTM that the kernels compute, as the kernels take them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from ...arrays.activations import Activation
from ..base import LayerOptions

_SIGMOID, _TANH, _RAMP = range(3)  # OF_SIGMOID ... of kernels.h

#: Activation of kernels.h.
_Packed = dict[str, float]


def _of(kind: int, alpha: float = 0, beta: float = 0, low: float = 0, high: float = 0) -> _Packed:
    return {"kind": kind, "alpha": alpha, "beta": beta, "low": low, "high": high}


def _tanh(alpha: float, beta: float) -> _Packed:
    return _of(_TANH, alpha, beta)


def _ramp(alpha: float, beta: float, low: float = -inf, high: float = inf) -> _Packed:
    return _of(_RAMP, alpha, beta, low, high)


_ACTIVATIONS: dict[str, Callable[[float, float], _Packed]] = {
    "sigmoid": lambda alpha, beta: _of(_SIGMOID),
    "tanh": lambda alpha, beta: _tanh(1, 1),
    "scaled_tanh": _tanh,
    "linear": lambda alpha, beta: _ramp(1, 0),
    "affine": _ramp,
    "relu": lambda alpha, beta: _ramp(1, 0, 0),
    "relu6": lambda alpha, beta: _ramp(1, 0, 0, 6),
    "hard_sigmoid": lambda alpha, beta: _ramp(alpha, beta, 0, 1),
    "hard_tanh": lambda alpha, beta: _ramp(1, 0, -1, 1),
}

#: All options but the activations that are not above.
COMPUTED = (frozenset(LayerOptions._fields) - {"activations"}) | frozenset(_ACTIVATIONS)


def packed_activations(options: LayerOptions, d: int) -> tuple[_Packed, ...]:
    """f, g and h of direction d."""
    return tuple(_packed(one) for one in options.activations[d % len(options.activations)])


def packed_limits(options: LayerOptions) -> tuple[float, float, float]:
    """clip, cell_clip and proj_clip."""
    clip, cell_clip, proj_clip = (
        inf if limit is None else limit for limit in (options.clip, options.cell_clip, options.proj_clip)
    )
    return clip, cell_clip, proj_clip


def _packed(activation: Activation) -> _Packed:
    return _ACTIVATIONS[activation.name](activation.alpha, activation.beta)
