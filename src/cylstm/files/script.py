"""Options that the code in an archive of TorchScript tells, and the names and shapes of its tensors do not.

The code is searched as text: a call of ``torch.lstm`` ends with has_biases, num_layers, dropout, train, bidirectional
and batch_first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache

_BOOL = "(?:True|False)"
_LAST = re.compile(rf", {_BOOL}, \d{{1,9}}, ([\d.e+-]{{1,30}}), \w{{1,30}}, {_BOOL}, ({_BOOL})\)$")


def options_of(classes: Mapping[str, str], read: Callable[[str], bytes]) -> dict[str, str]:
    """batch_first and dropout of the LSTMs, as metadata of a file.

    Parameters
    ----------
    classes : mapping of str to str
        Prefix → class, ``__torch__.module.Class``.
    read : callable
        The content of a file with code, by its path in the archive; KeyError if there is none.
    """

    @cache
    def lines(path: str) -> list[str]:
        try:
            return read(path).decode("utf-8", "replace").splitlines()
        except KeyError:
            return []

    metadata: dict[str, str] = {}
    for prefix, full in classes.items():
        module, _, name = full.rpartition(".")
        calls = set(_calls(lines(f"{module.replace('.', '/')}.py"), name))
        if calls:
            metadata[f"{prefix}dropout"] = " or ".join(sorted({dropout for dropout, _ in calls}))
            metadata[f"{prefix}batch_first"] = " or ".join(sorted({first for _, first in calls}))
    return metadata


def _calls(lines: Iterable[str], name: str) -> Iterable[tuple[str, str]]:
    """The dropout and batch_first of each call in a class."""
    inside = False
    for line in lines:
        if line.startswith("class "):
            inside = line.startswith(f"class {name}(")
        elif inside and "torch.lstm(" in line and (match := _LAST.search(line)):
            yield match[1], match[2]
