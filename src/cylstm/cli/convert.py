"""``cylstm convert`` and ``cylstm inspect``: model files of all kinds that cylstm reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..files.formats import load, read, save
from ..files.modules import make
from ..files.names import find_modules


def convert_file(source: Path, target: Path, *, prefix: str = "") -> str:
    """Read one module from a file and write it to another, each in the format of its extension.

    Returns
    -------
    str
        What was converted.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError, ImportError
        As :func:`cylstm.load` and :func:`cylstm.save` do. Nothing is written then.
    """
    module = load(source, prefix)
    save(module, target)
    return f"{module}, {module.dtype}"


def inspect_file(path: Path) -> dict[str, Any]:
    """What is in a model file, as plain data for JSON.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As :func:`cylstm.load` does, of what concerns the file as a whole.
    """
    contents = read(path)
    modules: list[dict[str, Any]] = []
    used = 0
    for kind, prefixes in find_modules(contents.tensors).items():
        for prefix, names in prefixes.items():
            used += len(names)
            parameters = sum(math.prod(contents.tensors[prefix + name].shape) for name in names)
            one: dict[str, Any] = {"prefix": prefix, "parameters": parameters}
            modules.append(one)
            if kind == "other":
                one |= {"refused": "is an RNN or GRU, not an LSTM"}
                continue
            try:
                module = make(contents, path, prefix)
                one |= {"module": str(module), "dtype": module.dtype.name}
            except ValueError as error:
                one |= {"refused": str(error)}
    modules += [{"prefix": prefix, "refused": reason} for prefix, reason in contents.refused.items()]
    modules += [{"prefix": prefix, "other": what} for prefix, what in contents.others.items()]
    if contents.options:  # the file's order
        order = {prefix: n for n, prefix in enumerate(contents.options)}
        modules.sort(key=lambda one: order.get(one["prefix"], len(order)))
        for one in modules:
            if text := contents.options.get(one["prefix"]):
                one["options"] = text
    others = len(contents.tensors) - used
    report = {"file": str(path), "bytes": path.stat().st_size, "modules": modules, "other_arrays": others}
    return report | ({"assumed": contents.assumed} if contents.assumed else {})
