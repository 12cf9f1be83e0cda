"""``pytest benchmarks`` needs cylstm, pytest and pytest-benchmark, nothing else; plugins take part by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
OTHERS = ["torch", "onnx", "onnxruntime", "jax", "keras", "tensorflow", "sybil", "matplotlib", "sklearn"]
CODE = f"""
import sys
sys.modules.update(dict.fromkeys({OTHERS}))  # as if they were not installed
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def run(*arguments: str, path: str = "") -> str:
    """What pytest prints for benchmarks of one step."""
    pytest.importorskip("pytest_benchmark")
    options = ["-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin", "-k", "step-h64", *arguments, "benchmarks"]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), path)))}
    command = [sys.executable, "-c", CODE, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_backends_alone() -> None:
    text = run("--benchmark-only", "--benchmark-max-time=0.01", "--benchmark-min-rounds=1")
    assert "values against cylstm-numpy in float64" in text
    assert "test_step[step-h64-cylstm-numpy]" in text
    assert "torch is not installed" in text


def test_a_plugin_takes_part(install: Callable[..., Path]) -> None:
    source = "from cylstm.backends.numpy_backend import NumpyBackend\nclass Mine(NumpyBackend):\n    name = 'mine'\n"
    site = install("mine-dist", "mine = mine_module:Mine", mine_module=source)
    text = run("--benchmark-disable", "-v", path=str(site))
    assert "test_step[step-h64-cylstm-mine] PASSED" in text
