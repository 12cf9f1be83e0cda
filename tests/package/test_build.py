"""The build from source: what the sdist holds; without OpenMP a warning, and a module that is right on one thread."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
from processes import LIMIT

import cylstm

pytest.importorskip("Cython", reason="Cython is not installed")
ROOT = Path(__file__).parents[2]
COMPILER = shutil.which(os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0])
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
#: What the extra "test" brings beside pytest.
EXTRAS = ["torch", "onnx", "onnxruntime", "keras", "h5py", "hypothesis", "ml_dtypes", "joblib", "skorch", "safetensors"]
WARNING = "the compiler cannot build OpenMP: cylstm will run on one thread"
pytestmark = [
    pytest.mark.names_backend("cython"),
    pytest.mark.skipif(COMPILER is None or os.name != "posix", reason="there is no C compiler"),
]

CHECK = """
import sys
import cylstm
from cylstm import testing
from cylstm.backends.cython_backend import _lstm

assert cylstm.__file__.startswith(sys.argv[1]), cylstm.__file__
assert not _lstm.openmp()
assert _lstm.max_threads() == 1
print(len(testing.check_backend("cython", bitwise=True)), "checks passed")
cylstm.set_num_threads(4)
lstm = cylstm.LSTM(64, 200, bidirectional=True, backend="cython")
print(*lstm(cylstm.randn(30, 16, 64))[0].shape)
"""


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Build the compiled module of a copy of the sources, without optimisation, inside the copy.

    The build's own files go to a folder with an absolute path, as an editable installation has it.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CYLSTM_")}
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace", "--build-temp", str(folder.parent / "temp")],
        cwd=folder,
        env={**kept, "CC": str(folder / "cc"), "CYLSTM_CFLAGS": "-O1 -w", **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, beside a compiler that refuses -fopenmp."""
    folder = tmp_path_factory.mktemp("sources")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "build_target.py", folder / "tools")
    built = shutil.ignore_patterns("*.so", "_*.c", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=built)
    compiler = folder / "cc"
    compiler.write_text(f'#!/bin/sh\ncase " $* " in *" -fopenmp "*) exit 1 ;; esac\nexec {COMPILER} "$@"\n')
    compiler.chmod(0o755)
    return folder


def test_a_build_without_openmp_says_so_and_passes_the_conformance_kit(sources: Path) -> None:
    done = build(sources)
    assert done.returncode == 0, done.stderr
    assert WARNING in done.stderr
    # Nothing lies about that git does not ignore.
    assert {path.name for path in sources.iterdir()} - {"build"} == {*FILES, "cc", "src", "tools"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CYLSTM_")}
    checked = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHECK, str(sources)],
        env={**kept, "PYTHONPATH": str(sources / "src")},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert checked.returncode == 0, checked.stderr
    passed, shape = checked.stdout.splitlines()
    assert int(passed.split()[0]) > 50
    assert shape == "30 16 400"


def test_openmp_can_be_required(sources: Path) -> None:
    done = build(sources, CYLSTM_OPENMP="required")
    assert done.returncode != 0
    assert f"RuntimeError: {WARNING} (CYLSTM_OPENMP=required makes that an error)" in done.stderr


def test_a_compiler_that_is_missing_is_named(sources: Path) -> None:
    done = build(sources, CC="/nowhere/gcc")
    assert done.returncode != 0
    assert "there must be a C compiler, and '/nowhere/gcc' is not there: install one" in done.stderr
    assert "Traceback" not in done.stderr


def sdist(folder: Path) -> Path:
    """Make the sdist of the sources in a folder."""
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder / "dist")]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    assert made.returncode == 0, made.stderr
    (archive,) = (folder / "dist").glob("*.tar.gz")
    return archive


def test_the_sdist_holds_every_source_and_nothing_generated(sources: Path) -> None:
    with tarfile.open(sdist(sources)) as tar:
        paths = {Path(*Path(member.name).parts[1:]) for member in tar if member.isfile()}
    held = {path for path in paths if path.parts[0] == "src" and "cylstm.egg-info" not in path.parts}
    lying = {path.relative_to(sources) for path in (sources / "src").rglob("*") if path.is_file()}
    generated = {path.with_suffix(".c") for path in lying if path.suffix == ".pyx"}
    assert generated <= lying
    built = {path for path in lying if path.suffix in {".so", ".pyc"} or "cylstm.egg-info" in path.parts}
    assert held == lying - generated - built


def test_the_tests_of_the_sdist_need_numpy_and_pytest_alone(sources: Path, tmp_path: Path) -> None:
    """Where it is unpacked, beside an installed package: they are found, and import nothing else."""
    shutil.copytree(ROOT / "tests", sources / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    with tarfile.open(sdist(sources)) as tar:
        tar.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    missing = [name for name in EXTRAS if importlib.util.find_spec(name)]
    (tmp_path / "without.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "without",
        "--collect-only",
        "tests",
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CYLSTM_")}
    kept["PYTHONPATH"] = os.pathsep.join([str(Path(cylstm.__file__).parents[1]), str(tmp_path)])
    kept["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # Hypothesis has one
    done = subprocess.run(command, cwd=unpacked, env=kept, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.splitlines()[-1].split()[0]) > 500
