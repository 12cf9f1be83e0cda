"""Which cases of a test run in the ordinary suite, where all of them take too long: ``--thorough`` runs the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def others_thorough(cases: Iterable[Any], ordinary: Callable[[Any], bool]) -> list[Any]:
    """Cases for ``parametrize``: those that are not `ordinary` have the marker ``thorough``."""
    return [
        case
        if ordinary(case)
        else pytest.param(*(case if type(case) is tuple else (case,)), marks=pytest.mark.thorough)
        for case in cases
    ]
