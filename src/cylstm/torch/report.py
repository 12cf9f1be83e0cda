"""What `replace` tells: which modules it takes, which it leaves, and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["has_own_forward", "tell", "why_left"]

_NAMES = {"LSTM", "LSTMCell"}


def has_own_forward(module: nn.Module, known: Iterable[type[nn.Module]]) -> bool:
    """Whether the forward of a module is none of those of the known classes."""
    return "forward" in vars(module) or type(module).forward not in {kind.forward for kind in known}


def why_left(module: nn.Module, theirs: tuple[type[nn.Module], ...], ours: tuple[type[nn.Module], ...]) -> str | None:
    """Why a module that is an LSTM, but none of ours, cannot become one; None if it can.

    It is None for what is no LSTM too, and for what only contains some.
    """
    if isinstance(module, ours):
        return None
    if parametrize.type_before_parametrizations(module) in theirs:
        if has_own_forward(module, theirs):
            return "its forward is its own"
        if any(parameter.dtype == torch.bfloat16 for parameter in module.parameters()):
            return "cylstm.torch does not compute in bfloat16, but after .float()"
        return None
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted" if module.original_name in _NAMES else None
    if not _NAMES.intersection(cls.__name__ for cls in type(module).__mro__):
        return None
    if isinstance(module, theirs):
        return "the forward of a subclass may be its own"
    if type(module).__module__.startswith("torch.ao."):
        return "it is quantised, or made for that"
    return None if any(isinstance(inner, (*theirs, *ours)) for inner in module.modules()) else "it is another class"


def tell(verb: str, done: list[str], left: dict[str, str], verbose: bool) -> None:
    """A line for each module and their number, where that is wanted; else a warning about those that were left."""
    inside = tuple(f"{name}." for name in left)  # a part of what was left needs no line of its own
    left = {name or "the model": why for name, why in left.items() if not name.startswith(inside)}
    done = [name or "the model" for name in done]
    if verbose:
        for name in done:
            print(f"{name}: {verb}")
        for name, why in left.items():
            print(f"{name}: left, {why}")
        print(f"{verb} {len(done)}, left {len(left)}")
    elif left:
        reasons = "; ".join(f"{name}, for {why}" for name, why in left.items())
        warnings.warn(f"cylstm.torch.replace {verb} {len(done)} and left {len(left)}: {reasons}", stacklevel=3)
