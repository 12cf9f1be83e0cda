"""The activations of an LSTM: each a function of one number with up to two parameters, and its derivative.

The names are snake_case. Formulas are those of https://onnx.ai/onnx/operators/onnx__LSTM.html, of Keras
(https://keras.io/api/layers/activations) and of ``torch.nn.functional``; at a kink the derivative is PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .arithmetic import sigmoid

_Array = np.ndarray
#: Of a, alpha and beta.
_Value = Callable[[_Array, float, float], _Array]
#: Of a, the value y, alpha and beta.
_Derivative = Callable[[_Array, _Array, float, float], _Array]


class _Function(NamedTuple):
    """A row of the table."""

    value: _Value
    derivative: _Derivative
    parameters: int = 0  # how many of alpha and beta it takes
    defaults: tuple[float, ...] = ()  # theirs; none where they must be given
    complex: bool = False  # whether it is defined for complex numbers


class Activation(NamedTuple):
    """An activation with its parameters; those that it does not take are 0."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def value(self, a: _Array) -> _Array:
        """y = f(a), a new array."""
        with np.errstate(over="ignore", invalid="ignore"):  # where an exponential is infinite, the limit is right
            return ACTIVATIONS[self.name].value(a, self.alpha, self.beta)

    def derivative(self, a: _Array, y: _Array) -> _Array:
        """f'(a), given y = f(a) too; sigmoid and tanh need y alone."""
        with np.errstate(over="ignore", invalid="ignore"):
            return ACTIVATIONS[self.name].derivative(a, y, self.alpha, self.beta)

    @property
    def is_complex(self) -> bool:
        """Whether it is defined for complex numbers."""
        return ACTIVATIONS[self.name].complex

    @property
    def spelling(self) -> Any:
        """What callers write: the name alone where all parameters have their defaults, else with the parameters."""
        taken = ACTIVATIONS[self.name].parameters
        given = (self.alpha, self.beta)[:taken]
        return self.name if given == ACTIVATIONS[self.name].defaults else (self.name, *given)


#: f, g and h of one direction: of the gates i, f and o, of the candidate g, of the cell state on its way out.
Activations = tuple[Activation, Activation, Activation]

#: PyTorch's.
PLAIN: Activations = (Activation("sigmoid"), Activation("tanh"), Activation("tanh"))


def as_activations(value: Any, directions: int) -> tuple[Activations, ...]:
    """The activations of each direction that a caller means.

    Parameters
    ----------
    value : None or sequence
        f, g and h, for all directions; or three for each of two directions. Each is a name, or a name and its
        parameters: ``"relu"``, ``("leaky_relu", 0.2)``, ``("hard_sigmoid", 0.2, 0.5)``. None means PyTorch's.
    directions : int
        Their number D.

    Raises
    ------
    TypeError, ValueError
        If they are no such sequence, a name is unknown, or parameters do not fit.
    """
    if value is None:
        return (PLAIN,) * directions
    if isinstance(value, (str, bytes)) or not isinstance(value, (tuple, list)):
        raise TypeError(
            f"activations must be a tuple of three (f, g, h), got {value!r:.100} of type {type(value).__name__}"
        )
    if len(value) not in (3, 3 * directions):
        each = " or six (three for each direction)" * (directions == 2)
        raise ValueError(f"activations must be three (f, g, h){each}, got {len(value)}")
    f, g, h, *others = [_one(one) for one in value]
    first: Activations = (f, g, h)
    if not others:
        return (first,) * directions
    return first, (others[0], others[1], others[2])


def _one(value: Any) -> Activation:
    """One activation that a caller means."""
    name, *given = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (tuple, list)) else (0,)
    if not isinstance(name, str):
        raise TypeError(
            f"each of activations must be a name, or a tuple of a name and numbers, got {value!r:.100} of type "
            f"{type(value).__name__}"
        )
    if name not in ACTIVATIONS:
        raise ValueError(f"each of activations must be one of {', '.join(ACTIVATIONS)}, got {name!r:.100}")
    function = ACTIVATIONS[name]
    if any(isinstance(one, bool) or not isinstance(one, (int, float, np.integer, np.floating)) for one in given):
        raise TypeError(f"the parameters of the activation {name!r} must be numbers, got {given!r:.100}")
    least = function.parameters - len(function.defaults)
    if not least <= len(given) <= function.parameters or not all(map(math.isfinite, given)):
        count = str(least) if least == function.parameters else f"{least} to {function.parameters}"
        wanted = f"{count} finite numbers as parameters" if function.parameters else "no parameters"
        raise ValueError(f"the activation {name!r} must have {wanted}, got {tuple(given)!r:.100}")
    return Activation(name, *map(float, (*given, *function.defaults[len(given) :])))


# The table ----------------------------------------------------------------------------------------------------------

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _erf(a: _Array) -> _Array:
    """The error function; NumPy has none."""
    if not a.size:
        return a.copy()
    return np.frompyfunc(math.erf, 1, 1)(a).astype(a.dtype)


def _softplus(a: _Array) -> _Array:
    return np.log1p(np.exp(-np.abs(a))) + np.maximum(a, 0)


def _gelu_derivative(a: _Array) -> _Array:
    return 0.5 * (1 + _erf(a * 0.5**0.5)) + a * np.exp(-0.5 * a * a) * (2 * math.pi) ** -0.5


def _mish_derivative(a: _Array) -> _Array:
    t = np.tanh(_softplus(a))
    return t + a * (1 - t * t) * sigmoid(a)


def _elu(a: _Array, alpha: float) -> _Array:
    return np.where(a > 0, a, alpha * np.expm1(np.minimum(a, 0)))


def _elu_derivative(a: _Array, alpha: float) -> _Array:
    return np.where(a > 0, 1, alpha * np.exp(np.minimum(a, 0)))


def _inside(a: _Array, low: float, high: float) -> _Array:
    """1 between the bounds, 0 elsewhere, in the dtype of a."""
    return ((a > low) & (a < high)).astype(a.dtype)


def _step(a: _Array, at: float = 0.0) -> _Array:
    return (a > at).astype(a.dtype)


def _hard_silu_derivative(a: _Array) -> _Array:
    return np.where(a <= -3, 0, np.where(a < 3, a / 3 + 0.5, 1)).astype(a.dtype)


ACTIVATIONS: dict[str, _Function] = {
    "sigmoid": _Function(lambda a, p, q: sigmoid(a), lambda a, y, p, q: y * (1 - y), complex=True),
    "tanh": _Function(lambda a, p, q: np.tanh(a), lambda a, y, p, q: 1 - y * y, complex=True),
    "linear": _Function(lambda a, p, q: a.copy(), lambda a, y, p, q: np.ones_like(a), complex=True),
    "affine": _Function(lambda a, p, q: p * a + q, lambda a, y, p, q: np.full_like(a, p), 2, complex=True),
    "scaled_tanh": _Function(
        lambda a, p, q: p * np.tanh(q * a), lambda a, y, p, q: p * q * (1 - np.tanh(q * a) ** 2), 2, complex=True
    ),
    "relu": _Function(lambda a, p, q: np.maximum(a, 0), lambda a, y, p, q: _step(a)),
    "leaky_relu": _Function(
        lambda a, p, q: np.where(a > 0, a, p * a), lambda a, y, p, q: np.where(a > 0, 1, p).astype(a.dtype), 1, (0.01,)
    ),
    "thresholded_relu": _Function(
        lambda a, p, q: np.where((a > p) | np.isnan(a), a, 0), lambda a, y, p, q: _step(a, p), 1, (1.0,)
    ),
    "relu6": _Function(lambda a, p, q: np.clip(a, 0, 6), lambda a, y, p, q: _inside(a, 0, 6)),
    "hard_sigmoid": _Function(
        lambda a, p, q: np.clip(p * a + q, 0, 1), lambda a, y, p, q: p * _inside(p * a + q, 0, 1), 2, (0.2, 0.5)
    ),
    "hard_tanh": _Function(lambda a, p, q: np.clip(a, -1, 1), lambda a, y, p, q: _inside(a, -1, 1)),
    "elu": _Function(lambda a, p, q: _elu(a, p), lambda a, y, p, q: _elu_derivative(a, p).astype(a.dtype), 1, (1.0,)),
    "celu": _Function(
        lambda a, p, q: np.where(a > 0, a, p * np.expm1(np.minimum(a, 0) / p)),
        lambda a, y, p, q: np.where(a > 0, 1, np.exp(np.minimum(a, 0) / p)).astype(a.dtype),
        1,
        (1.0,),
    ),
    "selu": _Function(
        lambda a, p, q: _SELU_SCALE * _elu(a, _SELU_ALPHA),
        lambda a, y, p, q: (_SELU_SCALE * _elu_derivative(a, _SELU_ALPHA)).astype(a.dtype),
    ),
    "softsign": _Function(lambda a, p, q: a / (1 + np.abs(a)), lambda a, y, p, q: (1 + np.abs(a)) ** -2),
    "softplus": _Function(lambda a, p, q: _softplus(a), lambda a, y, p, q: sigmoid(a)),
    "exponential": _Function(lambda a, p, q: np.exp(a), lambda a, y, p, q: y),
    "silu": _Function(lambda a, p, q: a * sigmoid(a), lambda a, y, p, q: sigmoid(a) * (1 + a * (1 - sigmoid(a)))),
    "hard_silu": _Function(lambda a, p, q: a * np.clip(a / 6 + 0.5, 0, 1), lambda a, y, p, q: _hard_silu_derivative(a)),
    "gelu": _Function(lambda a, p, q: 0.5 * a * (1 + _erf(a * 0.5**0.5)), lambda a, y, p, q: _gelu_derivative(a)),
    "mish": _Function(lambda a, p, q: a * np.tanh(_softplus(a)), lambda a, y, p, q: _mish_derivative(a)),
    "log_sigmoid": _Function(lambda a, p, q: -_softplus(-a), lambda a, y, p, q: sigmoid(-a)),
    "tanh_shrink": _Function(lambda a, p, q: a - np.tanh(a), lambda a, y, p, q: np.tanh(a) ** 2),
    "hard_shrink": _Function(
        lambda a, p, q: np.where((np.abs(a) > p) | np.isnan(a), a, 0), lambda a, y, p, q: _step(np.abs(a), p), 1, (0.5,)
    ),
    "soft_shrink": _Function(lambda a, p, q: a - np.clip(a, -p, p), lambda a, y, p, q: _step(np.abs(a), p), 1, (0.5,)),
    "squareplus": _Function(
        lambda a, p, q: 0.5 * (a + np.sqrt(a * a + p)), lambda a, y, p, q: 0.5 * (1 + a / np.sqrt(a * a + p)), 1, (4.0,)
    ),
    "sparse_plus": _Function(
        lambda a, p, q: np.where(a < 1, (np.maximum(a, -1) + 1) ** 2 / 4, a),
        lambda a, y, p, q: np.clip((a + 1) / 2, 0, 1),
    ),
}
