"""The options of an LSTM beyond PyTorch's: what callers pass, what they read back, and what files say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays.activations import Activations, as_activations
from ..backends.base import LayerOptions
from ..words import listed, quoted

#: Their names, in the order of the constructor.
NAMES = ("peephole", "clip", "activations", "input_forget", "cell_clip", "proj_clip")


def checked_options(*, directions: int, projection: bool, **given: Any) -> LayerOptions:
    """The options that a caller means.

    Raises
    ------
    TypeError, ValueError
        If one of them is not what it must be.
    """
    for name in ("peephole", "input_forget"):
        value = given.get(name, False)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r:.100} of type {type(value).__name__}")
    for name in ("clip", "cell_clip", "proj_clip"):
        if (value := given.get(name)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name} must be None or a number, got {value!r:.100} of type {type(value).__name__}")
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be None or a positive finite number, got {value}")
        given[name] = float(value)
    if given.get("proj_clip") is not None and not projection:
        raise ValueError(f"proj_clip must be None without a projection, got {given['proj_clip']}: give proj_size too")
    activations = as_activations(given.pop("activations", None), directions)
    return LayerOptions(activations=activations, **given)


def check_real(options: LayerOptions, dtype: np.dtype) -> None:
    """Refuse complex numbers where an option orders numbers, or an activation is not defined for them.

    Raises
    ------
    RuntimeError
    """
    if dtype.kind != "c":
        return
    activations = {one.name for direction in options.activations for one in direction if not one.is_complex}
    limits = {name for name in ("clip", "cell_clip", "proj_clip") if getattr(options, name) is not None}
    if reasons := sorted(activations | limits):
        raise RuntimeError(f"dtype must be real for {' and '.join(reasons)}, got {dtype}")


def spelled(activations: tuple[Activations, ...]) -> tuple[Any, ...]:
    """The activations as callers write them: three, or six where the two directions differ."""
    each = activations[:1] if len(set(activations)) == 1 else activations
    return tuple(one.spelling for direction in each for one in direction)


def read_back(options: LayerOptions, name: str) -> Any:
    """An option as callers write it."""
    return spelled(options.activations) if name == "activations" else getattr(options, name)


def named(options: LayerOptions) -> dict[str, Any]:
    """Those that are not the defaults, as callers write them."""
    return {name: read_back(options, name) for name in NAMES if name in options.named()}


def refuse(options: LayerOptions, what: str) -> None:
    """Refuse what is more than PyTorch's LSTM, for what has no more.

    Raises
    ------
    ValueError
        It names the first of the options.
    """
    for name, value in named(options).items():
        raise ValueError(f"module must be the LSTM of PyTorch, for {what} has no other, got {name}={value!r}")


# In the metadata of files -------------------------------------------------------------------------------------------


def to_metadata(options: LayerOptions) -> dict[str, str]:
    """Names and JSON of the options that names and shapes of the parameters do not tell."""
    return {name: json.dumps(value) for name, value in named(options).items() if name != "peephole"}


def from_metadata(metadata: Mapping[str, str], prefix: str, *, directions: int, projection: bool) -> dict[str, Any]:
    """The arguments that `to_metadata` has written under a prefix.

    Raises
    ------
    ValueError
        If one is not JSON, or not what the option must be.
    """
    found = {}
    for name in NAMES[1:]:  # peepholes show in the names of the parameters
        if (text := metadata.get(f"{prefix}{name}")) is not None:
            try:
                found[name] = json.loads(text)
            except (ValueError, RecursionError):
                raise ValueError(f"{listed([prefix + name])} must be JSON, got {quoted(text)}") from None
    try:
        checked_options(directions=directions, projection=projection, **found)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return found
