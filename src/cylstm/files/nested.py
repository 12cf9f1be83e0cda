"""The tensors among the dicts, lists and objects of a checkpoint, by the names that a ``state_dict`` has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..words import quoted
from .container import Contents, Tensor, TensorFileError, expansion_limit
from .names import is_parameter, recurrent_prefix
from .pickles import Table, Thing
from .stored import Extents, Stored

MAX_DEPTH = 100
#: Entries that are looked at, and the letters of all paths to them.
MAX_ENTRIES, MAX_LETTERS = 4_000_000, 64 << 20
#: The dicts in which a module keeps what it has; no part of a name in a state_dict.
_OF_MODULE = ("_parameters", "_buffers", "_modules")
_SCRIPT = "__torch__."
_NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


class _Object(NamedTuple):
    """The outermost object that is not made, in which something lies."""

    name: str  # of its class
    path: str
    where: str  # the path as an expression of Python
    module: bool


#: Value, name, the name as an expression of Python, and the object around it.
_Entry = tuple[Any, str, str, _Object | None]


def contents_of(value: Any, extents: Extents, path: Path, size: int, classes: dict[str, str] | None = None) -> Contents:
    """What `cylstm.load` can choose from.

    A tensor inside an object that is not made is there too, and refused: it may be what is asked for, and what the
    object would do with it is unknown.

    Parameters
    ----------
    value : object
        What the pickle describes.
    extents : Extents
        Where the data of the tensors are.
    path : Path
        The file, for messages.
    size : int
        Its bytes.
    classes : dict of str to str, optional
        For an archive of TorchScript: is filled with the classes of its objects, by prefix.

    Raises
    ------
    ValueError
        If a name is there twice, or the tensors are larger than such a file can tell.
    """
    tensors: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    shown: set[str] = set()  # objects that show as modules
    numbers: dict[str, str] = {}  # under the name of a parameter
    total = 0
    for name, found, inside in _walk(value, classes):
        if inside is not None:
            prefix = inside.path and f"{inside.path}."
            others[prefix] = f"{inside.name}, an object that is not read"
            shown |= {prefix} if is_parameter(name) else set()
            if name in tensors:
                continue
        elif name in tensors and not tensors[name].refused:
            raise ValueError(f"each name must be there once, got {quoted(name)} twice")
        if not isinstance(found, (Stored, Thing)) or (isinstance(found, Thing) and found.name in _NUMBERS):
            numbers[name] = f"a {type(found).__name__ if not isinstance(found, Thing) else 'number'}"
            continue
        if isinstance(found, Thing):
            reason = f"an object of {found.name:.200}: save it as a plain tensor"
            tensors[name] = Tensor("an object", (), partial(_unread, reason), refused=reason)
            continue
        total += found.nbytes
        if total > expansion_limit(size):
            raise ValueError(f"the tensors must have at most {expansion_limit(size)} bytes together, got more")
        tensors[name] = found.tensor(extents, name, "" if inside is None else _conversion(inside, path))
    there = {recurrent_prefix(name) for name in tensors}
    for name, what in numbers.items():  # beside tensors it is one of them; alone it is a setting, a statistic …
        if recurrent_prefix(name) in there:
            reason = f"{what}: save it as a plain tensor"
            tensors[name] = Tensor(what, (), partial(_unread, reason), refused=reason)
    others = {prefix: what for prefix, what in others.items() if prefix not in shown}
    if classes is not None and not any("weight_hh" in name for name in tensors):
        others[""] = (
            "an archive of TorchScript, whose weights can be constants of its code (torch.jit.freeze): save the "
            "state_dict of the model that it was made of"
        )
    elif isinstance(value, Thing) and not tensors:
        others[""] = f"{value.name:.200}, an object that is not read"
    return Contents(tensors, {}, others=others)


def _unread(reason: str) -> np.ndarray:
    raise TensorFileError(f"a parameter must be a plain tensor, got {reason}")


def _conversion(inside: _Object, path: Path) -> str:
    """Why a tensor inside an object is refused, and what to do."""
    target = str(path.with_name(f"{path.stem}.state_dict.pt"))
    load = f'torch.load({str(path)!r}, map_location="cpu", weights_only=False)'
    what = f"one inside an object of {inside.name:.200}, which is code and never run"
    if not inside.module or "[...]" in inside.where:  # a key that cannot be written down
        return f"{what}: save the state_dict of the model, where its code and PyTorch are"
    return (
        f"{what}: convert it once, where its code and PyTorch are: import torch; "
        f"model = {load}{inside.where}; torch.save(model.state_dict(), {target!r})"
    )


def _walk(root: Any, classes: dict[str, str] | None) -> Iterator[tuple[str, Any, _Object | None]]:
    """Name, tensor and the object around it, of all tensors; also whatever else has the name of a parameter.

    Nothing recurses. What lies inside objects is visited once, for objects refer to each other in circles.
    """
    levels: list[Iterator[_Entry]] = [iter([(root, "", "", None)])]  # not lists: names take more than what they name
    seen: set[int] = set()
    entries = letters = 0
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
            continue
        value, path, where, inside = entry
        depth = len(levels) - 1
        letters += len(path) + len(where)
        if isinstance(value, Stored):
            yield path, value, inside
            continue
        if inside is not None:
            if id(value) in seen or depth > MAX_DEPTH:
                continue
            seen.add(id(value))
        elif depth > MAX_DEPTH:
            raise ValueError(f"dicts and lists must be nested at most {MAX_DEPTH} deep, got more")
        if inside is None and type(value) is not Table and is_parameter(path):
            yield path, value, None
        if classes is not None and isinstance(value, Thing) and value.name.startswith(_SCRIPT):
            classes[path and f"{path}."] = value.name
        entries += len(value.pairs) if isinstance(value, Table) else len(value) if type(value) in (list, tuple) else 0
        entries += len(value.parts) if isinstance(value, Thing) else 0
        if entries > MAX_ENTRIES or letters > MAX_LETTERS:
            raise ValueError(f"there must be at most {MAX_ENTRIES} entries of {MAX_LETTERS} letters, got more")
        levels.append(_children(value, path, where, inside))


def _children(value: Any, path: str, where: str, inside: _Object | None) -> Iterator[_Entry]:
    """What can hold tensors, or has the name of a parameter: value, name, expression, and the object around it."""
    holds = (Stored, Table, list, tuple)
    for key, child in _pairs(value):
        if isinstance(child, holds) or (
            child is not None and isinstance(key, str) and recurrent_prefix(key) is not None
        ):
            name = key if isinstance(key, str) else str(key) if type(key) in (int, bool, float) else "?"
            joined = path if inside and name in _OF_MODULE else f"{path}.{name}" if path else name
            yield child, joined, f"{where}[{_written(key)}]", inside
    if isinstance(value, Thing):
        if inside is None and not value.name.startswith(_SCRIPT):
            inside = _Object(value.name, path, where, _is_module(value))
        for part in value.parts:
            if isinstance(part, holds):
                yield part, path, where, inside


def _written(key: Any) -> str:
    """A key as an expression of Python, but one that nobody would write down."""
    return repr(key) if type(key) in (str, int) and len(repr(key)) <= 100 else "..."


def _pairs(value: Any) -> Any:
    """The entries of a dict or list, as keys and values."""
    if isinstance(value, Table):
        return value.pairs
    return enumerate(value) if type(value) in (list, tuple) else ()


def _is_module(thing: Thing) -> bool:
    """Whether the state of an object is that of a torch.nn.Module."""
    keys = {key for part in thing.parts for key, _ in _pairs(part) if isinstance(key, str)}
    return {"_parameters", "_modules"} <= keys
