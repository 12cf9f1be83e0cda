"""What feeds ``initial_h``, ``initial_c`` and ``sequence_lens`` of a node: nothing of it is dropped.

A state is one of these:

- None: not there, or zeros; of sequence_lens, the length of X for each sequence.
- an array: a constant of the model.
- `Derived`: what the model computes from its constants and the sizes of X, such as a learned state for each sequence.
- a str: the name of an input of the model that reaches the node as it is. The caller gives it.
- `Computed`: what the model computes from something else. The caller gives it, and must know that.
- a tuple of such, one per layer of stacked nodes.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np

from ..words import quoted
from .graph import Scope
from .operators import Unknown
from .tensors import Budget

WHAT = ("sequence_lens", "initial_h", "initial_c")
#: Operators that hand on the elements that they get.
_HANDING_ON = {"Identity", "Cast", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Slice", "Split", "Gather"}
#: T and B of the X with which it is tried what depends on sizes alone.
_PROBES = ((3, 2), (5, 4))
_FILLS = (0.25, -1.5)


class Refused(Exception):
    """What a node asks for and cylstm does not compute."""


class Computed(NamedTuple):
    """A value that the model computes from something else than constants and sizes."""

    name: str
    by: str  # the operator


class Derived:
    """A value that the model computes from its constants and from the sizes of X.

    Parameters
    ----------
    scope : Scope
    name : str
        Of the value.
    X : str
        Of the input of the node, or of the first of stacked nodes.
    """

    def __init__(self, scope: Scope, name: str, X: str) -> None:
        self._scope, self._name = scope, name
        self._root, self._axes, self._rows = _root(scope, X)

    def probe_shape(self, T: int, B: int, sizes: Sizes) -> tuple[int, ...]:
        """An X of so many steps and sequences, or of as many as the model declares."""
        shape = [B, T, sizes.input_size] if sizes.layout else [T, B, sizes.input_size]
        owner, name = self._scope.owner(self._root)
        for axis, declared in zip(self._axes, owner.declared.get(name, ()), strict=False):
            shape[axis] = shape[axis] if declared is None or axis == 2 else declared
        return tuple(shape)

    def __repr__(self) -> str:
        return f"Derived({self._name!r})"

    def __call__(self, shape: tuple[int, ...], trials: Budget | None = None) -> np.ndarray:
        """The value for an X of this shape, within a budget of its own or a given one.

        Raises
        ------
        Unknown
            If it depends on more than sizes.
        """
        shape = tuple(shape[axis] for axis in self._axes)
        shape = shape[:-1] if self._rows else shape
        trials, results = Budget.of_trials() if trials is None else trials, []
        for fill in _FILLS:  # the elements of X are unlike: what is the same does not depend on them
            X = np.broadcast_to(np.array(fill, np.int64 if self._rows else np.float32), shape)
            results.append(self._scope.probe({self._root: X}, trials).value(self._name))
        trials.take(sum(result.nbytes for result in results), self._name)  # one that is broadcast has no memory
        if not np.array_equal(results[0], results[1], equal_nan=results[0].dtype.kind == "f"):
            raise Unknown(f"{quoted(self._name)} depends on the elements of X")
        return results[0]


def _root(scope: Scope, X: str) -> tuple[str, tuple[int, ...], bool]:
    """Where X comes from by transpositions alone: the name, its axes among those of X, and whether X are rows of it.

    Rows of a table (Gather, an embedding) are taken by an array of one axis less.
    """
    axes: tuple[int, ...] = (0, 1, 2)
    for _ in range(16):
        owner, node = scope.producer(X)
        if owner is not scope or node is None:
            break
        if node.op_type == "Transpose":
            perm = owner.attributes_of(node).get("perm", [2, 1, 0])
            if sorted(perm) != [0, 1, 2]:
                break
            axes = tuple(axes[perm.index(axis)] for axis in (0, 1, 2))
        elif node.op_type == "Gather" and axes[2] == 2 and owner.attributes_of(node).get("axis", 0) == 0:
            with contextlib.suppress(Unknown):
                if scope.value(node.input[0]).ndim == 2:
                    return node.input[1], axes, True
            break
        elif node.op_type not in ("Identity", "Dropout"):
            break
        X = node.input[0]
    return X, axes, False


class Sizes(NamedTuple):
    """Of a node, to check its states."""

    X: str
    directions: int
    hidden_size: int
    input_size: int
    layout: int


def state_of(scope: Scope, what: str, name: str, sizes: Sizes) -> Any:
    """What feeds a state, if not a tuple.

    Raises
    ------
    Refused
        If it has a shape that it cannot have.
    """
    zero = what != "sequence_lens" and scope.is_zero(name)
    with contextlib.suppress(Unknown):
        array = scope.value(name)
        _check(what, array, sizes)
        return None if zero else array
    with contextlib.suppress(ValueError):  # unknown, or the model is made for other sizes
        derived, whole = Derived(scope, name, sizes.X), what == "sequence_lens"
        for T, B in _PROBES:
            shape = derived.probe_shape(T, B, sizes)
            array = derived(shape, scope.trials)
            _check(what, array, sizes)
            steps, batch = shape[sizes.layout], shape[1 - sizes.layout]
            whole = whole and array.shape == (batch,) and bool((array == steps).all())
        return None if zero or whole else derived
    if zero:
        return None
    if not _handed_on(scope, name):
        return Computed(name, _maker(scope, name))
    # Of an input that X comes from too, the caller gives no state of its own.
    same = _handed_on(scope, sizes.X) and input_of(scope, name) == input_of(scope, sizes.X)
    return Computed(name, "the input of the LSTM") if same else name


def _check(what: str, array: np.ndarray, sizes: Sizes) -> None:
    """The shape of a state; its batch is free here."""
    if what == "sequence_lens":
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise Refused(f"has sequence_lens of shape {array.shape} and dtype {array.dtype}, not integers (B,)")
        return
    D, H = sizes.directions, sizes.hidden_size
    axis = 1 if sizes.layout else 0
    if array.ndim != 3 or (array.shape[axis], array.shape[2]) != (D, H):
        wanted = f"(B, {D}, {H})" if sizes.layout else f"({D}, B, {H})"
        raise Refused(f"has {what} of shape {array.shape}, which must be {wanted}")


def _handed_on(scope: Scope, name: str) -> bool:
    """Whether it is an input of the graph, or elements of one."""
    for _ in range(64):
        owner, node = scope.producer(name)
        if node is None:
            return True
        if node.op_type not in _HANDING_ON:
            return False
        scope, name = owner, node.input[0]
    return False


def _maker(scope: Scope, name: str) -> str:
    """The operator that computes a value, beyond those that hand it on."""
    for _ in range(64):
        owner, node = scope.producer(name)
        if node is None or node.op_type not in _HANDING_ON:
            return "an input" if node is None else str(node.op_type)
        scope, name = owner, node.input[0]
    return "many operators"


def input_of(scope: Scope, name: str) -> str:
    """The input whose elements reach a state, for one that is handed on."""
    while (made := scope.producer(name))[1] is not None:
        scope, name = made[0], made[1].input[0]
    return scope.owner(name)[1]


def joined(states: list[Any], what: str) -> Any:
    """The states of stacked nodes as one.

    Raises
    ------
    Unknown
        If one caller's argument cannot stand for all of them.
    """
    if what == "sequence_lens" or all(state is None for state in states):
        return states[0]
    given = [isinstance(state, (str, Computed)) for state in states]
    if not any(given):
        return tuple(states)
    if not all(given):
        raise Unknown(f"{what} of some layers is given, and of others it is not")
    names = ", ".join(state if isinstance(state, str) else state.name for state in states)
    others = [state.by for state in states if isinstance(state, Computed)]
    return Computed(names, others[0]) if others else names


def in_order(scope: Scope, names: list[str], sizes: Sizes) -> bool:
    """Whether the states of stacked nodes are inputs of their own, or the rows of one, in the order of the layers."""
    inputs = {input_of(scope, name) for name in names}
    if len(inputs) > 1:
        return len(inputs) == len(names)
    D, H, layers = sizes.directions, sizes.hidden_size, len(names)
    whole = np.arange(layers * D * 2 * H, dtype=np.float32).reshape(layers * D, 2, H)
    whole = whole.swapaxes(0, 1) if sizes.layout else whole
    axis = 1 if sizes.layout else 0
    try:
        probe = scope.probe({inputs.pop(): whole})
        parts = np.split(whole, layers, axis)
        return all(np.array_equal(probe.value(name), part) for name, part in zip(names, parts, strict=True))
    except ValueError:
        return False


def resolved(state: Any, shape: tuple[int, ...]) -> Any:
    """A state without what depends on the sizes of X, which are given."""
    return state(shape) if isinstance(state, Derived) else state
