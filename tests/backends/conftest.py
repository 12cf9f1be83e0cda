"""Plugins that the tests of this folder install."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_sources import SUBCLASS


@pytest.fixture
def alpha_and_beta(install: Callable[..., Path]) -> None:
    entry_points = "alpha = plugin_alpha:Plugin\nbeta = plugin_beta:Plugin"
    install(
        "greek-letters",
        entry_points,
        plugin_alpha=SUBCLASS.format(name="alpha"),
        plugin_beta=SUBCLASS.format(name="beta"),
    )
