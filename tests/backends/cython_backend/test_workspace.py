"""Workspaces that live longer than expected: revived by a finaliser, and at the end of the process."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import cylstm

pytestmark = pytest.mark.names_backend("cython")

#: A pullback in a module that is cleared after the backend's, as one that others hold is.
AT_EXIT = """
import ctypes, sys, types
import numpy as np
sys.modules["early"] = early = types.ModuleType("early")
import cylstm
early.pullback = cylstm.LSTM(64, 128, backend="cython").vjp(np.ones((50, 8, 64), np.float32))[2]
for module in (early, sys.modules["cylstm.backends.cython_backend.backend"]):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))
"""


def test_a_workspace_that_a_finaliser_revives_is_refused():
    lstm = cylstm.LSTM(64, 128, backend="cython")
    x = np.ones((50, 8, 64), np.float32)
    output, _, pullback = lstm.vjp(x)
    revived: list[Any] = []

    class Keeper:
        def __init__(self, pullback: Any) -> None:
            self.pullback, self.itself = pullback, self

        def __del__(self) -> None:
            revived.append(self.pullback)

    Keeper(pullback)
    del pullback
    gc.collect()
    lstm.vjp(2 * x)  # takes the memory that was given back
    with pytest.raises(RuntimeError, match="workspace must be whole, got one that the garbage collector has"):
        revived[0](np.ones_like(output))


def test_a_pullback_at_the_end_of_the_process_says_nothing():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
