"""``cylstm info``, ``backends``, ``check-backend`` and ``bench``; help, version, and a start that is cheap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from available import names
from command_line import fails, popen, prepare

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
    assert {"name": "numpy", "distribution": "cylstm", "status": "available", "reason": ""} in info["backends"]
    assert info["environment"]["CYLSTM_MAX_ISA"] == os.environ["CYLSTM_MAX_ISA"]
    if info["backend"]["name"] == "cython":
        assert {"instruction_set", "instruction_sets", "threads", "openmp"} <= info["backend"].keys()
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if not line.startswith(" ")] == [f"{section}:" for section in info]


def test_info_tells_of_a_wrong_backend(folder: Path) -> None:
    with popen("info", "--json", env={**os.environ, "CYLSTM_BACKEND": "fastest"}) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    info = json.loads(out)
    assert info["backend"]["name"] is None
    assert "'fastest'" in info["backend"]["reason"]
    assert info["environment"]["CYLSTM_BACKEND"] == "fastest"


def test_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    assert capsys.readouterr().out.strip() == repr(cylstm.available_backends())


def test_check_backend(capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["check-backend", "numpy"]) == 0
    assert capsys.readouterr().out.startswith("backend numpy: ")
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


def test_bench_refuses_what_cannot_be(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'fastest'" in fails(capsys, *SMALL, "--backend", "numpy", "fastest")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in fails(capsys, *SMALL, "--peer", "torch")


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
        assert process.communicate(timeout=60)[0] == f"cylstm {cylstm.__version__}\n"


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
