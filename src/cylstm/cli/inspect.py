"""``cylstm inspect``: all that a model file holds, in the order of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files.container import Contents
from ..files.formats import read
from ..files.modules import make
from ..files.names import find_modules
from ..words import counted, printable


def inspect_file(path: Path) -> dict[str, Any]:
    """What is in a model file, as plain data for JSON.

    Returns
    -------
    dict
        ``file``, ``bytes``, and ``contents``: for each prefix one of ``module`` (with ``dtype``), ``refused`` (why
        cylstm does not compute it), ``other`` (a layer of another kind) and ``arrays`` (shapes and dtypes by name, of
        what no module was recognised in); how many ``parameters`` there are, as the source counts them; and the
        ``options`` that the file names. ``assumed`` is what is taken for granted because the file does not tell it.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As :func:`cylstm.load` does, of what concerns the file as a whole.
    """
    contents = read(path)
    places = {name: place for place, name in enumerate(contents.tensors)}
    order = {prefix: place - len(contents.parameters) for place, prefix in enumerate(contents.parameters)}
    last = len(places)
    entries = [
        (order.get(entry["prefix"], min((places[name] for name in names), default=last)), entry)
        for names, entry in _entries(contents, path)
    ]
    in_order = [entry for _, entry in sorted(entries, key=lambda one: one[0])]
    for entry in in_order:
        if options := contents.options.get(entry["prefix"]):
            entry["options"] = options
    report = {"file": str(path), "bytes": path.stat().st_size, "contents": in_order}
    return report | ({"assumed": contents.assumed} if contents.assumed else {})


def _entries(contents: Contents, path: Path) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Names of tensors, and what they are, together: each tensor once."""
    rest = dict.fromkeys(contents.tensors)
    for kind, prefixes in find_modules(contents.tensors).items():
        for prefix, short_names in prefixes.items():
            names = [prefix + name for name in short_names]
            for name in names:
                rest.pop(name, None)
            yield names, _module(contents, path, kind, prefix, names)
    for prefix, reason in contents.refused.items():
        yield [], {"prefix": prefix, "refused": reason}
    for prefix, what in (*contents.others.items(), *contents.parts.items()):
        yield [], {"prefix": prefix, "other": what}
    groups: dict[str, list[str]] = {}
    for name in rest:
        groups.setdefault(name[: name.rfind(".") + 1], []).append(name)
    for prefix, names in groups.items():
        tensors = {name.removeprefix(prefix): contents.tensors[name] for name in names}
        arrays = {name: {"shape": list(one.shape), "dtype": one.dtype} for name, one in tensors.items()}
        yield names, {"prefix": prefix, "arrays": arrays, "parameters": _size(contents, names)}


def _module(contents: Contents, path: Path, kind: str, prefix: str, names: list[str]) -> dict[str, Any]:
    """The entry of what could be a module."""
    entry = {"prefix": prefix, "parameters": contents.parameters.get(prefix, _size(contents, names))}
    if kind == "other":
        return entry | {"refused": "is an RNN or GRU, not an LSTM"}
    try:
        module = make(contents, path, prefix)
    except ValueError as error:
        return entry | {"refused": str(error)}
    return entry | {"module": str(module), "dtype": module.dtype.name, "matrix": _is_matrix(kind, names)}


def _is_matrix(kind: str, names: list[str]) -> bool:
    """Whether it is one matrix alone: an Embedding looks the same as a Linear without a bias."""
    return kind == "Linear" and len(names) == 1


def _size(contents: Contents, names: list[str]) -> int:
    return sum(math.prod(contents.tensors[name].shape) for name in names)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report of :func:`inspect_file` as text; nothing out of the file steers the terminal."""
    yield printable(f"{report['file']}: {report['bytes']:,} bytes")
    for entry in report["contents"]:
        options = f"; {entry['options']}" if "options" in entry else ""
        yield printable(f"  {entry['prefix'] or '(no prefix)'}  {_text(entry)}{options}")
    if "assumed" in report:
        yield f"  {report['assumed']}"


def _text(entry: dict[str, Any]) -> str:
    if "refused" in entry:
        return f"refused: {entry['refused']}"
    if "other" in entry:
        return str(entry["other"])
    number = counted(entry["parameters"], "parameter")
    if "module" in entry:
        or_embedding = " or an Embedding: a matrix alone" if entry["matrix"] else ""
        return f"{entry['module']}{or_embedding}, {number}, {entry['dtype']}"
    arrays = [f"{name} {tuple(one['shape'])} {one['dtype']}" for name, one in entry["arrays"].items()]
    return f"{', '.join(arrays)}: {number}"
