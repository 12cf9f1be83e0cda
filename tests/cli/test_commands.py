"""``cylstm info``, ``backends``, ``check-backend`` and ``bench``; help, version, and a start that is cheap."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from available import names
from command_line import fails, popen, prepare
from processes import LIMIT

import cylstm
from cylstm.cli import main


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYLSTM_MAX_ISA", os.environ.get("CYLSTM_MAX_ISA", "avx2"))
    assert main(["info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["cylstm"]["version"] == cylstm.__version__
    assert info["cylstm"]["NumPy"] == np.__version__
    assert Path(info["cylstm"]["folder"]) == Path(cylstm.__file__).parent
    assert info["backend"]["name"] == cylstm.get_backend()
    [row] = [row for row in info["backends"] if row["name"] == "numpy"]
    assert row["distribution"] == "cylstm"
    assert row["status"] == "available"
    assert (row["training"], row["dtypes"][:2]) == (True, ["float16", "float32"])
    assert info["environment"]["CYLSTM_MAX_ISA"] == os.environ["CYLSTM_MAX_ISA"]
    if info["backend"]["name"] == "cython":
        assert {"instruction_set", "instruction_sets", "threads", "openmp"} <= info["backend"].keys()
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    sections = [f"{section}:" for section in info if section != "wrong"]
    assert [line for line in text.splitlines() if not line.startswith(" ")] == sections
    assert re.search(rf"^  CYLSTM_MAX_ISA +{os.environ['CYLSTM_MAX_ISA']}$", text, re.MULTILINE)


def test_info_tells_of_a_wrong_backend(folder: Path) -> None:
    with popen("info", "--json", env={**os.environ, "CYLSTM_BACKEND": "fastest"}) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    info = json.loads(out)
    assert info["backend"]["name"] is None
    assert "'fastest'" in info["backend"]["reason"]
    assert info["environment"]["CYLSTM_BACKEND"] == "fastest"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("CYLSTM_NUM_THREADS", "abc", "must be a whole number from 1 to 4096, got 'abc'"),
        ("CYLSTM_MAX_ISA", "sse9", "CYLSTM_MAX_ISA must be one of"),
        ("CYLSTM_CUPY_TIER", "fast", "CYLSTM_CUPY_TIER must be one of"),
        ("CYLSTM_BACKEND", "nowhere:Class", "No module named 'nowhere'"),
        ("OMP_NUM_THREADS", "many", "must be a whole number"),
    ],
)
def test_info_always_reports(name: str, value: str, wanted: str) -> None:
    """A variable with a wrong value is shown as wrong, whole."""
    with popen("info", env={**os.environ, name: value}) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    [line] = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
    assert f" {value}: wrong, " in line
    assert wanted in line


def test_both_rows_of_a_claimed_name(install: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    install("thief", "cython = thief:Backend", thief="class Backend: pass")
    for command in ("info", "backends"):
        assert main([command]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        rows = [line for line in lines if line[:1] == ["cython"]]
        assert len(rows) == 2
        assert any("refused" in word for row in rows for word in row)


def test_backends(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is selected and by whom, and what each one computes."""
    with cylstm.use_backend("numpy"):
        assert main(["backends"]) == 0
        selected, header, *rows = capsys.readouterr().out.splitlines()
        assert selected == "selected: numpy, by use_backend"
        assert header.split() == ["name", "distribution", "status", "dtypes", "gradients", "reason"]
        assert [row.split()[0] for row in rows] == [row.name for row in cylstm.available_backends()]
        [numpy] = [row for row in rows if row.startswith("numpy ")]
        assert "float16, float32, float64, complex64, complex128" in numpy
        assert numpy.rstrip().endswith("yes")
    assert main(["backends", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["selected"]["name"] == cylstm.get_backend()
    assert [row["name"] for row in report["backends"]] == [row.name for row in cylstm.available_backends()]
    monkeypatch.setenv("CYLSTM_BACKEND", "numppy")
    cylstm.set_backend(None)
    assert main(["backends"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("selected: none, by CYLSTM_BACKEND: backend 'numppy'")


MINE = """
from cylstm.backends.numpy_backend import NumpyBackend
class Mine(NumpyBackend):
    name = "mine"
"""


@pytest.mark.parametrize("how", ["NAME", "variable", "--backend"])
def test_the_current_folder_has_backends(folder: Path, how: str) -> None:
    """As with ``python -m cylstm``, so with the script ``cylstm``, whose folder is the first on the path."""
    prepare()
    Path("mine.py").write_text(MINE)
    commands = {
        "NAME": ["check-backend", "mine:Mine"],
        "variable": ["backends"],
        "--backend": ["run", "model.safetensors", "input.npy", "--backend", "mine:Mine"],
    }
    code = f"import sys; from cylstm.cli import main; sys.exit(main({commands[how]}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(cylstm.__file__).parents[1])}
    if how == "variable":
        environment["CYLSTM_BACKEND"] = "mine:Mine"
    process = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    assert {"NAME": "checks passed", "variable": "mine:Mine", "--backend": "mine"}[how] in process.stdout


def test_a_choice_is_named_as_it_was_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare()
    assert "named by --backend," in fails(capsys, "run", "model.safetensors", "input.npy", "--backend", "nmpy")
    assert "named by --backend," in fails(capsys, *SMALL, "--backend", "nmpy")
    assert "named by NAME," in fails(capsys, "check-backend", "nmpy")


def test_check_backend(capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["check-backend", "numpy", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["backend"], report["passed"], report["failed"]) == ("numpy", report["checks"], {})
    Path("wrong_backend.py").write_text(
        "from cylstm.backends.numpy_backend import NumpyBackend\n"
        "class Wrong(NumpyBackend):\n"
        "    name = 'wrong'\n"
        "    def forward(self, prepared, *, h_0, c_0, **arguments):\n"
        "        return super().forward(prepared, h_0=c_0, c_0=h_0, **arguments)\n"
    )
    monkeypatch.syspath_prepend(folder)
    assert main(["check-backend", "wrong_backend:Wrong"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILED ")
    assert lines[-1].startswith("backend wrong_backend:Wrong: ")
    assert "'fastest'" in fails(capsys, "check-backend", "fastest")


SMALL = ["bench", "--seconds", "0", "--batch", "2", "--steps", "3", "--input", "4", "--hidden", "5"]


@pytest.fixture
def _torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_torch_threads")
@pytest.mark.parametrize("options", [[], ["--training"], ["--layers", "2", "--bidirectional", "--training"]], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_bench_measures_what_agrees(dtype: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--dtype", dtype, "--peer", "torch", "--json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["rows"]
    assert {row["name"] for row in rows} == {*names(dtype), "torch"}
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    tolerance = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-13, "complex64": 1e-5}[dtype]
    for row in rows:
        assert row["error"] <= tolerance
        assert row["error"] > 0 or (row["name"], dtype) == ("numpy", "float64")
        assert row["ratio"] == pytest.approx(row["seconds"] / rows[0]["seconds"])
        flops = row["gflops"] * 1e9 * row["seconds"]
        products = 2 * 3 * 4 * 5 * (2 * (4 + 5) + 2 * (10 + 5) if "--layers" in options else 4 + 5)
        per_product = (8 if dtype == "complex64" else 2) * (3 if "--training" in options else 1)
        assert flops == pytest.approx(products * per_product)


def test_bench_prints_a_table(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--backend", backend]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["model    LSTM(4, 5), float32", "input    2 sequences of 3 steps"]
    header, row = lines[-2:]
    assert header.split() == ["backend", "ms", "ratio", "GFLOP/s", "error"]
    assert row.split()[::2][:2] == [backend, "1.00"]
    assert len(header) == len(row)


def test_bench_refuses_what_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "'fastest'" in fails(capsys, *SMALL, "--backend", "numpy", "fastest")
    cylstm.save(cylstm.LSTM(3, 4, proj_size=2), "model.npz")
    assert "must be left out with MODEL" in fails(capsys, "bench", "model.npz", "--hidden", "5")
    assert "has no projections" in fails(capsys, "bench", "model.npz", "--peer", "onnxruntime")
    assert "computes no gradients" in fails(capsys, *SMALL, "--training", "--peer", "onnxruntime")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in fails(capsys, *SMALL, "--peer", "torch")


@pytest.mark.usefixtures("_torch_threads")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2}, {"batch_first": True}], ids=str
)
def test_bench_of_a_model(folder: Path, options: dict, capsys: pytest.CaptureFixture[str]) -> None:
    """One's own model beside the peers that are here and can."""
    cylstm.save({"encoder": cylstm.LSTM(3, 4, **options), "head": cylstm.Linear(4, 1)}, "model.npz")
    size = ["--seconds", "0", "--batch", "2", "--steps", "3", "--progress"]
    assert main(["bench", "model.npz", "--prefix", "encoder", *size, "--json", "--peer"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["lstm"] == repr(cylstm.LSTM(3, 4, **(options | {"batch_first": False})))  # (T, B, I) is measured
    able = {"torch", "onnxruntime"} if "proj_size" not in options else {"torch"}
    assert {row["name"] for row in report["rows"]} == {*names("float32"), *able}
    assert all(row["error"] < 1e-5 for row in report["rows"])
    assert "100%" in captured.err


@pytest.mark.parametrize("command", [[], ["info"], ["backends"], ["check-backend"], ["run"], ["bench"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([*command, "--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {' '.join(['cylstm', *command])}")
    assert command or all(name in text for name in ("info", "backends", "check-backend", "run", "CYLSTM_BACKEND"))


def test_module_and_version() -> None:
    with popen("--version") as process:
        assert process.communicate(timeout=LIMIT)[0] == f"cylstm {cylstm.__version__}\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cylstm", "info"]
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")


def test_starting_is_cheap() -> None:
    """Help and errors import neither the kernels nor what only some commands need."""
    code = (
        "import sys\nfrom cylstm.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "unwanted = {'torch', 'importlib.metadata', 'cylstm.cli.run', 'cylstm.testing'}\n"
        "unwanted.add('cylstm.backends.cython_backend._lstm')\n"
        "print(sorted(unwanted & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"


def test_the_warning_of_the_automatic_choice_is_one_line(folder: Path) -> None:
    """Where the compiled backend does not load, `run` says so and goes on."""
    prepare()
    code = (
        "import sys; sys.modules['cylstm.backends.cython_backend._lstm'] = None\n"
        "from cylstm.cli import main; sys.exit(main(['run', 'model.safetensors', 'input.npy']))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CYLSTM_BACKEND"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert process.stderr.startswith("cylstm: warning: backend 'cython' ")
    assert process.stderr.count("\n") == 1
    assert "numpy" in process.stdout
