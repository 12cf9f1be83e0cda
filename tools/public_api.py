"""Prints the public names and signatures, one a line. ``tests/package/public_api.txt`` keeps them; a test compares."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

MODULES = [
    "cylstm",
    "cylstm.optim",
    "cylstm.random",
    "cylstm.testing",
    "cylstm.backends.base",
    "cylstm.keras",
    "cylstm.onnx",
    "cylstm.torch",
]


def names(module: Any) -> list[str]:
    """Those of ``__all__``, else those that the module defines itself."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__)


def signature(value: Any) -> str:
    """Names, kinds and defaults of the arguments; types are for type checkers."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    plain = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


def lines() -> Iterator[str]:
    """All of them."""
    for path in MODULES:
        module = importlib.import_module(path)
        for name in names(module):
            value = getattr(module, name)
            public = value.__module__.startswith("cylstm") if hasattr(value, "__module__") else False
            yield f"{path}.{name}{signature(value) if callable(value) else ''}"
            if not (inspect.isclass(value) and public) or issubclass(value, BaseException):
                continue
            for member, _ in sorted(inspect.getmembers_static(value)):
                if member[0] == "_" and member != "__call__":
                    continue
                own = any(member in vars(c) for c in value.__mro__ if c.__module__.startswith("cylstm"))
                if own:
                    function = getattr(value, member)
                    yield f"{path}.{name}.{member}{signature(function) if callable(function) else ''}"


if __name__ == "__main__":
    print(*lines(), sep="\n")
