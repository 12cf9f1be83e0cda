"""Imports run one way: the floors of pyproject.toml, and what `import cylstm` leaves alone."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())


def _ran(*command: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_import_goes_up() -> None:
    pytest.importorskip("importlinter")
    _ran("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache")


def test_import_loads_nothing_but_numpy() -> None:
    heavy = ["torch", "onnx", "h5py", "keras", "cupy", "cylstm.torch", "cylstm.onnx", "cylstm.keras", "cylstm.files"]
    heavy += ["cylstm.backends.cython_backend.backend", "cylstm.backends.numpy_backend", "cylstm.optim"]
    loaded = _ran("-c", f"import sys, cylstm; print(*[name for name in {heavy} if name in sys.modules])")
    assert loaded.split() == []


def test_from_torch_needs_no_import_of_the_bridge() -> None:
    pytest.importorskip("torch")
    code = "import torch, cylstm; print(cylstm.LSTM.from_torch(torch.nn.LSTM(3, 4)).to_torch())"
    assert _ran("-c", code).strip() == "LSTM(3, 4)"


@pytest.mark.parametrize("name", ["cylstm", "cylstm.keras", "cylstm.onnx", "cylstm.optim"])
def test_public_classes_can_be_looked_into(name: str) -> None:
    """What editors and notebooks ask for: annotations and source."""
    package = importlib.import_module(name)
    classes = [value for public in package.__all__ if isinstance(value := getattr(package, public), type)]
    assert classes
    for cls in classes:
        typing.get_type_hints(cls)
        if not issubclass(cls, Exception):  # those show the public path in a traceback
            assert f"class {cls.__name__}" in inspect.getsource(cls)


@pytest.mark.parametrize("path", ["cylstm.stream:Stream", "cylstm.gradients:Gradients", "cylstm.optim:Adam"])
def test_paths_of_the_reference(path: str) -> None:
    module, _, name = path.partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), type)
