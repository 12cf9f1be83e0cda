"""The command line: ``cylstm run`` against one call of the module, the other commands, errors, interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from available import names

import cylstm
from cylstm.cli import main
from cylstm.cli.run import plan_chunks

LAYOUTS = {"time-major": (7, 5, 3), "batch-first": (5, 7, 3), "unbatched": (7, 3)}
MODELS = {
    "plain": {},
    "stacked": {"num_layers": 2, "dropout": 0.5},
    "bidirectional": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 2},
}
CUTS = [[], ["--batch-chunk", "2"], ["--chunk", "2"], ["--chunk", "3", "--batch-chunk", "4"], ["--chunk", "100"]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(shape: tuple[int, ...] = (7, 5, 3), dtype: str = "float32", **options: object) -> cylstm.LSTM:
    """Write model.safetensors and input.npy into the working folder."""
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(3, 4, **options)
    cylstm.save(lstm, "model.safetensors")
    np.save("input.npy", cylstm.randn(*shape).astype(dtype))
    return lstm.eval()


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is to fail; its one line on stderr."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cylstm: ")
    assert captured.err.count("\n") == 1
    return captured.err


def popen(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cylstm", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **options,
    )


# cylstm run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("model", "cut"),
    [(model, cut) for model in MODELS for cut in CUTS if not (model == "bidirectional" and "--chunk" in cut)],
    ids=str,
)
def test_run_is_one_call(folder: Path, backend: str, model: str, layout: str, cut: list[str]) -> None:
    lstm = prepare(LAYOUTS[layout], **MODELS[model])
    lstm.batch_first = layout == "batch-first"
    options = ["--backend", backend, *cut, *(["--batch-first"] if lstm.batch_first else [])]
    assert main(["run", "model.safetensors", "input.npy", "-o", "output.npy", *options]) == 0
    assert main(["run", "model.safetensors", "input.npy", "--output", "output.npz", *options]) == 0
    with cylstm.use_backend(backend):
        output, (h_n, c_n) = lstm(np.load("input.npy"))
    with np.load("output.npz") as results:
        assert set(results) == {"output", "h_n", "c_n"}
        for name, expected in {"output": output, "h_n": h_n, "c_n": c_n}.items():
            actual = results[name]
            assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_allclose(actual, expected, atol=0 if backend == "cython" else 1e-6, rtol=0)
        np.testing.assert_array_equal(np.load("output.npy"), results["output"])
    assert {path.name for path in folder.iterdir()} == {"input.npy", "model.safetensors", "output.npy", "output.npz"}


def test_run_agrees_with_torch(folder: Path) -> None:
    prepare(bidirectional=True)
    main(["run", "model.safetensors", "input.npy", "-o", "output.npy"])
    module = torch.nn.LSTM(3, 4, bidirectional=True)
    module.load_state_dict(safetensors.torch.load_file("model.safetensors"))
    with torch.no_grad():
        expected = module(torch.from_numpy(np.load("input.npy")))[0].numpy()
    np.testing.assert_allclose(np.load("output.npy"), expected, atol=1e-6, rtol=0)


def test_layout_comes_from_the_file_unless_given(folder: Path) -> None:
    lstm = prepare((5, 7, 3), batch_first=True)
    expected = lstm(np.load("input.npy"))[0]
    main(["run", "model.safetensors", "input.npy", "-o", "output.npy"])
    np.testing.assert_allclose(np.load("output.npy"), expected, atol=1e-6, rtol=0)
    main(["run", "model.safetensors", "input.npy", "-o", "other.npy", "--no-batch-first"])
    lstm.batch_first = False
    np.testing.assert_allclose(np.load("other.npy"), lstm(np.load("input.npy"))[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", ["time-major", "unbatched"])
def test_states_come_with_an_npz(folder: Path, layout: str) -> None:
    lstm = prepare(LAYOUTS[layout])
    x = np.load("input.npy")
    states = cylstm.randn(2, 1, *x.shape[1:-1], 4)
    np.savez("input.npz", input=x, h_0=states[0], c_0=states[1])
    main(["run", "model.safetensors", "input.npz", "-o", "output.npz", "--chunk", "2", "--batch-chunk", "2"])
    output, (h_n, c_n) = lstm(x, (states[0], states[1]))
    with np.load("output.npz") as results:
        for name, expected in {"output": output, "h_n": h_n, "c_n": c_n}.items():
            np.testing.assert_allclose(results[name], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_head_turns_the_last_state_into_logits(folder: Path, layout: str, bidirectional: bool) -> None:
    prepare(LAYOUTS[layout])
    lstm = cylstm.LSTM(3, 4, 2, batch_first=layout == "batch-first", bidirectional=bidirectional)
    head = cylstm.Linear(8 if bidirectional else 4, 6)
    cylstm.save({"lstm": lstm, "head": head}, "model.npz")
    options = ["--head", "head.", "--batch-chunk", "2"]
    assert main(["run", "model.npz", "input.npy", "-o", "logits.npy", *options]) == 0
    assert main(["run", "model.npz", "input.npy", "-o", "output.npz", *options]) == 0
    output, (h_n, _) = lstm.eval()(np.load("input.npy"))
    expected = head(np.concatenate(h_n[-2:] if bidirectional else h_n[-1:], axis=-1))
    np.testing.assert_allclose(np.load("logits.npy"), expected, atol=1e-6, rtol=0)
    with np.load("output.npz") as results:
        np.testing.assert_array_equal(results["logits"], np.load("logits.npy"))
        np.testing.assert_allclose(results["output"], output, atol=1e-6, rtol=0)


def test_dtype_converts_model_and_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lstm = prepare(dtype="float64")
    run = ("run", "model.safetensors", "input.npy", "-o", "output.npy")
    assert "input is float64 and the model float32: --dtype float32 converts it" in fails(capsys, *run)
    assert main([*run, "--dtype", "float64"]) == 0
    expected = lstm.double()(np.load("input.npy"))[0]
    np.testing.assert_allclose(np.load("output.npy"), expected, atol=1e-14, rtol=0)
    np.save("input.npy", np.zeros((7, 5, 3), np.uint8))
    assert main([*run, "--dtype", "float32"]) == 0
    assert np.load("output.npy").dtype == np.float32
    np.save("input.npy", np.zeros((7, 5, 3), np.complex64))
    assert "complex64, which cannot be converted to float32" in fails(capsys, *run, "--dtype", "float32")
    cylstm.save(cylstm.LSTM(3, 4, dtype="complex64"), "model.safetensors")
    assert "complex64, which cannot be converted to float32" in fails(capsys, *run, "--dtype", "float32")


def test_bidirectional_is_not_cut_in_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(bidirectional=True)
    error = fails(capsys, "run", "model.safetensors", "input.npy", "--chunk", "2")
    assert "from both ends" in error
    assert "--batch-chunk" in error


def test_chunks_follow_the_order_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cylstm.cli.run.CHUNK_BYTES", 100 * 4 * (3 + 4))  # 100 rows of input and output
    lstm = cylstm.LSTM(3, 4)
    assert plan_chunks(lstm, 1000, 20) == (5, 20)  # whole steps
    assert plan_chunks(lstm, 1000, 2000) == (1, 100)
    assert plan_chunks(lstm, 1000, 20, chunk=10) == (10, 10)
    assert plan_chunks(lstm, 1000, 20, batch_chunk=4) == (25, 4)
    assert plan_chunks(lstm, 3, 2) == (3, 2)
    assert plan_chunks(lstm, 3, 0) == (3, 1)
    lstm.batch_first = True
    assert plan_chunks(lstm, 20, 1000) == (20, 5)  # whole sequences
    assert plan_chunks(lstm, 1000, 20) == (100, 1)
    assert plan_chunks(cylstm.LSTM(3, 2, bidirectional=True), 1000, 20) == (1000, 1)


def test_empty_batch(folder: Path) -> None:
    prepare((7, 0, 3))
    for output in ("output.npy", "output.npz"):
        assert main(["run", "model.safetensors", "input.npy", "-o", output]) == 0
    assert np.load("output.npy").shape == (7, 0, 4)
    with np.load("output.npz") as results:
        shapes = {name: results[name].shape for name in results}
    assert shapes == {"output": (7, 0, 4), "h_n": (1, 0, 4), "c_n": (1, 0, 4)}


def test_memory_does_not_grow_with_the_file(folder: Path) -> None:
    """512 MiB of zeros (sparse) are read, 1 MiB is written."""
    cylstm.save(cylstm.LSTM(512, 1), "model.npz")
    header = {"descr": "<f4", "fortran_order": False, "shape": (64, 4096, 512)}
    with open("input.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + (512 << 20))
    tracemalloc.start()  # sees the arrays of NumPy, not the pages of the mapped file
    try:
        assert main(["run", "model.npz", "input.npy", "-o", "output.npy"]) == 0
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_report(folder: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    prepare()
    run = ["run", "model.safetensors", "input.npy", "--backend", backend]
    assert main([*run, "--json", "-o", "output.npy"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""  # no progress where there is no terminal
    assert (report["sequences"], report["steps"], report["shape"]) == (5, 7, [7, 5, 3])
    assert report["results"] == {"output": [7, 5, 4]}
    assert report["sequences_per_second"] == pytest.approx(5 / report["seconds"])
    assert report["backend"]["name"] == backend
    if backend == "cython":
        assert report["backend"]["instruction_set"] in report["backend"]["instruction_sets"]
        assert report["backend"]["threads"] >= 1
    assert main(run) == 0
    text = capsys.readouterr().out
    assert "LSTM(3, 4), float32" in text
    assert "5 sequences of 7 steps" in text
    assert "not kept" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("backend ")] == [backend]


def test_progress_in_lines_where_there_is_no_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare((7, 20, 3))
    main(["run", "model.safetensors", "input.npy", "--progress", "--batch-chunk", "1"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert " 50%  10/20 sequences" in lines[5]
    main(["run", "model.safetensors", "input.npy", "--progress", "--chunk", "3"])
    assert "60/140 steps" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of POSIX")
def test_progress_on_a_terminal(folder: Path) -> None:
    import pty

    prepare()
    leader, follower = pty.openpty()
    with popen("run", "model.safetensors", "input.npy", "-o", "output.npy") as quiet:
        assert quiet.communicate()[1] == ""
    command = [sys.executable, "-m", "cylstm", "run", "model.safetensors", "input.npy"]
    process = subprocess.run(command, stderr=follower, stdout=subprocess.PIPE, check=True)
    os.close(follower)
    shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert shown.startswith("\r")
    assert "100%  5/5 sequences" in shown
    assert shown.endswith("\r\n")
    assert b"5 sequences of 7 steps" in process.stdout


# Errors and interruptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.safetensors", "input.npy"], "no such file: 'none.safetensors'"),
        (["model.safetensors", "none.npy"], "none.npy: No such file"),
        (["model.safetensors", "model.safetensors"], "ends in .npy or .npz"),
        (["input.npy", "input.npy"], "ends in .safetensors"),
        (["model.safetensors", "input.npy", "-o", "output.txt"], "ends in .npy or .npz, got 'output.txt'"),
        (["model.safetensors", "input.npy", "-o", "none/output.npy"], "no such folder"),
        (["model.safetensors", "input.npy", "-o", "folder.npy"], "not a file that could be replaced"),
        (["model.safetensors", "input.npy", "--prefix", "encoder"], "'encoder'"),
        (["model.safetensors", "input.npy", "--head", "head"], "'head'"),
        (["linear.npz", "input.npy"], "expected an LSTM, and linear.npz holds a Linear"),
        (["both.npz", "input.npy", "--head", "lstm"], "expected a Linear under the head 'lstm', got LSTM"),
        (["both.npz", "input.npy", "--head", "head"], "takes 9 features; the LSTM gives 4"),
        (["model.safetensors", "input.npy", "--backend", "fastest"], "'fastest'"),
        (["model.safetensors", "wide.npy"], "expected an input of shape (T, B, I) or (T, I) with I = 3, got (7, 5, 9)"),
        (["model.safetensors", "wide.npy", "--batch-first"], "(B, T, I)"),
        (["model.safetensors", "no_steps.npy"], "one step or more"),
        (["model.safetensors", "objects.npy"], "objects.npy: not a readable .npy"),
        (["model.safetensors", "broken.npy"], "broken.npy: not a readable .npy"),
        (["model.safetensors", "half.npy"], "half.npy: not a readable .npy"),
        (["model.safetensors", "open.npy"], "open.npy: not a readable .npy"),
        (["model.safetensors", "negative.npy"], "negative.npy: not a readable .npy"),
        (["model.safetensors", "no_input.npz"], "expected the array input"),
        (["model.safetensors", "no_c_0.npz"], "h_0 with c_0 or neither"),
        (["model.safetensors", "wrong_states.npz"], "expected h_0 (1, 5, 4) and c_0 (1, 5, 4), got (1, 5, 3)"),
    ],
)
def test_errors_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    prepare()
    x = np.load("input.npy")
    cylstm.save(cylstm.Linear(3, 2), "linear.npz")
    cylstm.save({"lstm": cylstm.LSTM(3, 4), "head": cylstm.Linear(9, 2)}, "both.npz")
    np.save("wide.npy", np.zeros((7, 5, 9), np.float32))
    np.save("no_steps.npy", np.zeros((0, 5, 3), np.float32))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    Path("broken.npy").write_bytes(b"hello")
    Path("half.npy").write_bytes(Path("input.npy").read_bytes()[:-4])
    for name, text in (("open", b"("), ("negative", Path("input.npy").read_bytes()[10:128].replace(b"(7", b"(-7"))):
        Path(f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + text[:118].ljust(118) + bytes(500))
    np.savez("no_input.npz", x=x)
    np.savez("no_c_0.npz", input=x, h_0=np.zeros((1, 5, 4), np.float32))
    np.savez("wrong_states.npz", input=x, h_0=np.zeros((1, 5, 3), np.float32), c_0=np.zeros((1, 5, 4), np.float32))
    Path("folder.npy").mkdir()
    before = sorted(folder.iterdir())
    assert message in fails(capsys, "run", *arguments)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments", ["", "dance", "run", "run m i --chunk 0", "run m i --batch-chunk x", "bench --seconds nan"]
)
def test_wrong_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments.split())
    assert error.value.code == 2
    assert "usage: cylstm" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("name", ["output.npy", "output.npz"])
def test_a_file_that_is_replaced_keeps_its_permissions(folder: Path, name: str) -> None:
    prepare()
    Path(name).touch(mode=0o600)
    assert main(["run", "model.safetensors", "input.npy", "-o", name]) == 0
    assert Path(name).stat().st_size
    assert Path(name).stat().st_mode & 0o777 == 0o600


def test_input_in_another_byte_order(folder: Path) -> None:
    lstm = prepare()
    x = np.load("input.npy")
    np.save("input.npy", x.astype(x.dtype.newbyteorder()))
    assert main(["run", "model.safetensors", "input.npy", "-o", "output.npy"]) == 0
    np.testing.assert_array_equal(np.load("output.npy"), lstm(x)[0])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("output", ["output.npy", "output.npz"])
def test_an_interrupted_run_leaves_no_half_file(folder: Path, output: str, number: signal.Signals) -> None:
    prepare((1_000_000, 1, 3))
    Path(output).write_bytes(b"old")
    before = sorted(folder.iterdir())
    run = ["run", "model.safetensors", "input.npy", "-o", output, "--chunk", "1", "--backend", "numpy", "--progress"]
    # a test run in the background ignores some of them, and its children would too
    with popen(*run, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)) as process:
        assert "0/1,000,000 steps" in process.stderr.readline()
        process.send_signal(number)
        rest = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert rest.splitlines()[-1] == f"cylstm: {'interrupted' if number == signal.SIGINT else 'terminated'}"
    assert "Traceback" not in rest
    assert sorted(folder.iterdir()) == before
    assert Path(output).read_bytes() == b"old"


# The other commands -------------------------------------------------------------------------------------------------


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
