"""An example says what to install where a package is missing, and what its options mean."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text("utf-8"))
CODE = """
import runpy, sys
name, *missing = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing))
sys.path.insert(0, name.rpartition("/")[0])
sys.argv = [name, "--help"]
runpy.run_path(name, run_name="__main__")
"""


def run(name: str, *missing: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, (EXAMPLES / name).as_posix(), *missing]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "package", "said"),
    [
        ("forecast.py", "matplotlib", "pip install '.[examples]'"),
        ("forecast.py", "statsmodels", "pip install '.[examples]'"),
        ("train_digits.py", "tqdm", "the package tqdm must be installed: pip install '.[examples]'"),
        ("demo.py", "sklearn", "the package scikit-learn must be installed"),
        ("stream_keypad.py", "matplotlib", "pip install '.[examples]'"),
        ("train_in_pytorch.py", "torch", "the package torch must be installed: pip install torch"),
        ("train_ddp.py", "torch", "pip install torch"),
        ("cross_validation.py", "skorch", "pip install skorch"),
        ("batch_scoring.py", "dask", "pip install 'dask[array,distributed]'"),
        ("many_workers.py", "joblib", "pip install joblib"),
        ("serve.py", "cylstm", "pip install ."),
    ],
)
def test_a_missing_package_is_named(name: str, package: str, said: str) -> None:
    done = run(name, package)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_every_example_is_tried() -> None:
    text = Path(__file__).read_text("utf-8")
    assert [name for name in SCRIPTS if f'"{name}"' not in text] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_options_are_explained(name: str) -> None:
    text = (EXAMPLES / name).read_text("utf-8")
    calls = re.findall(r"add_argument\((.*?)\)\n", text, re.DOTALL)
    assert [call for call in calls if "help=" not in call] == []
