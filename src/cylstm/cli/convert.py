"""``cylstm convert``: one module from a model file to another, of any kind that cylstm reads and writes."""

from __future__ import annotations

from pathlib import Path

from ..files.formats import read, save
from ..files.modules import make
from ..files.names import choose, find_modules
from ..words import counted, listed
from .outputs import check_output


def convert_file(
    source: Path, target: Path, *, prefix: str = "", batch_first: bool | None = None, force: bool = False
) -> tuple[str, str]:
    """Read one module from a file and write it to another, each in the format of its extension.

    Returns
    -------
    tuple of two str
        What was converted, and what else the file holds, which was not; empty if nothing.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError, ImportError
        As :func:`cylstm.load` and :func:`cylstm.save` do; ValueError also if the target is the source, or is there
        already and `force` is not given. Nothing is written then.
    """
    contents = read(source)
    check_output(target, [source], force=force)
    module = make(contents, source, prefix, batch_first=batch_first)
    save(module, target)
    _, chosen, names = choose(contents, prefix, source)
    modules = {p: found for kind in find_modules(contents.tensors).values() for p, found in kind.items() if p != chosen}
    others = len(contents.tensors) - len(names) - sum(map(len, modules.values()))
    layers = [prefix for prefix in contents.others if contents.parameters.get(prefix) != 0]  # of those that hold some
    left = [repr(p) for p in dict.fromkeys([*modules, *contents.refused, *layers])]
    if others:
        left.append(counted(others, "other array" if left else "array"))
    return f"{module}, {module.dtype}", listed(left)
