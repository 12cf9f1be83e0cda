"""``replace`` and ``restore``, which put the drop-ins into models and take them out."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from ..backends import registry
from ..backends.base import Backend
from ..backends.precision import DEFAULT, check_precision
from .modules import LSTM, LSTMCell, OnBackend, check_choice
from .report import tell, why_left

__all__ = ["replace", "restore"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_DROP_INS: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}


def replace(
    model: AnyModule,
    *,
    backend: str | Backend | None = None,
    precision: str | None = None,
    back: bool = False,
    verbose: bool = False,
) -> AnyModule:
    """Turn each ``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` of a model into the drop-in, in place.

    The modules stay the objects that they are, with their parameters, hooks and mode; only their class changes. So
    optimisers, other references and shared weights go on as before. Modules of a subclass of ``torch.nn.LSTM`` are
    left alone, for their ``forward`` may be their own; so are quantised and scripted ones, those in bfloat16, and those
    with a ``forward`` of their own. A warning names each that was left and why, and says where there was none at all.

    Parameters
    ----------
    model : torch.nn.Module
        The model, which may be an LSTM itself.
    backend : str or Backend, optional
        The backend of the drop-ins, those that were there before too; None for the selection in force at each call,
        and for drop-ins that were there before the one that they have.
    precision : {"float32", "bfloat16", "int8"}, optional
        That of the drop-ins, as for `LSTM`; those that were there before keep theirs where it is None.
    back : bool
        The other way round: turn the drop-ins into PyTorch's modules.
    verbose : bool
        Print what was done with each LSTM, and how many there are, instead of the warning.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    TypeError
        If it is no model.
    ValueError
        If a backend or a precision is named for the way back, or parameters do not have the precision.
    BackendError
        If the backend cannot compute one of the modules. None of them has changed then.

    Examples
    --------
    >>> import torch, cylstm.torch
    >>> model = torch.nn.Sequential(torch.nn.LSTM(10, 20))
    >>> type(cylstm.torch.replace(model)[0])
    <class 'cylstm.torch.LSTM'>
    >>> type(cylstm.torch.restore(model)[0])
    <class 'torch.nn.modules.rnn.LSTM'>
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if back and backend is not None:
        raise ValueError(f"backend must be None where back is True, got {backend!r}: leave it out")
    if back and precision is not None:
        raise ValueError(f"precision must be None where back is True, got {precision!r}: leave it out")
    names = {module: name for name, module in model.named_modules()}
    kinds = {module: parametrize.type_before_parametrizations(module) for module in names}
    left = {module: why for module in names if (why := why_left(module, tuple(_DROP_INS), (LSTM, LSTMCell)))}
    theirs = [module for module, kind in kinds.items() if kind in _DROP_INS and module not in left]
    ours = [module for module, kind in kinds.items() if kind in _DROP_INS.values()]
    if back:
        classes = {new: old for old, new in _DROP_INS.items()}
        for module in ours:
            module.__class__ = _class_in_place_of(type(module), classes)
            for name in ("backend", "precision"):
                vars(module).pop(name, None)
        tell("restored", [names[module] for module in ours], {}, verbose)
        return model
    choices = _choices(theirs, ours, backend, precision)
    for module in theirs:
        module.__class__ = _class_in_place_of(type(module), _DROP_INS)
    for module, name, value in [(module, *one) for module, choice in choices.items() for one in choice.items()]:
        setattr(module, name, value)
    if not (theirs or left or any(isinstance(module, OnBackend) for module in names)):
        warnings.warn("cylstm.torch.replace has found no torch.nn.LSTM and no LSTMCell in the model", stacklevel=2)
    tell("replaced", [names[module] for module in theirs], {names[module]: left[module] for module in left}, verbose)
    return model


def _choices(
    theirs: list[nn.Module], ours: list[nn.Module], backend: str | Backend | None, precision: str | None
) -> dict[nn.Module, dict[str, Any]]:
    """The backend and the precision of each module that gets another one, found to compute it."""
    check_precision(precision, "float32")  # what is wrong is wrong without an LSTM too
    if backend is not None and not (theirs or ours):
        registry.choose(backend, dtype="float32", precision=precision or DEFAULT)
    given = {name: value for name, value in (("backend", backend), ("precision", precision)) if value is not None}
    choices: dict[nn.Module, dict[str, Any]]
    choices = {module: {"backend": None, "precision": None, **given} for module in theirs}
    if given:
        choices |= {module: {"backend": module.backend, "precision": module.precision, **given} for module in ours}
    for module, choice in choices.items():
        check_choice(module, **choice)
    return choices


def restore(model: AnyModule) -> AnyModule:
    """Turn each `LSTM` and `LSTMCell` of a model into PyTorch's own, in place: ``replace(model, back=True)``."""
    return replace(model, back=True)


def _class_in_place_of(cls: type, classes: dict[type[nn.Module], type[nn.Module]]) -> type:
    """The other class; for a parametrised module, whose class is made for it, one like its own on top of the other."""
    if cls in classes:
        return classes[cls]
    own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (classes[cls.__bases__[0]],), own)
