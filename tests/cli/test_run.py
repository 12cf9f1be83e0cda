"""``cylstm run`` against one call of the module, however it is cut up; its report and progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from command_line import fails, popen, prepare

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
    run = ("run", "model.safetensors", "input.npy", "-o", "output.npy", "--force")
    assert "input must be float32, as the model, got float64: --dtype float32 converts it" in fails(capsys, *run)
    assert main([*run, "--dtype", "float64"]) == 0
    expected = lstm.double()(np.load("input.npy"))[0]
    np.testing.assert_allclose(np.load("output.npy"), expected, atol=1e-14, rtol=0)
    np.save("input.npy", np.zeros((7, 5, 3), np.uint8))
    assert main([*run, "--dtype", "float32"]) == 0
    assert np.load("output.npy").dtype == np.float32
    np.save("input.npy", np.zeros((7, 5, 3), np.complex64))
    assert "input must be convertible to float32, got complex64" in fails(capsys, *run, "--dtype", "float32")
    cylstm.save(cylstm.LSTM(3, 4, dtype="complex64"), "model.safetensors")
    assert "parameters must be convertible to float32, got complex64" in fails(capsys, *run, "--dtype", "float32")


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


@pytest.mark.parametrize("layout", ["time-major", "batch-first"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cut", [[], ["--batch-chunk", "2"]], ids=str)
def test_lengths(folder: Path, layout: str, model: str, cut: list[str]) -> None:
    """As `pack_padded_sequence` in PyTorch: zero behind the ends, and the states are those at the ends."""
    lstm = prepare(LAYOUTS[layout], **MODELS[model])
    lengths = np.array([3, 7, 1, 7, 2])
    np.save("lengths.npy", lengths)
    first = ["--batch-first"] if layout == "batch-first" else []
    command = ["run", "model.safetensors", "input.npy", *first, *cut]
    assert main([*command, "-o", "output.npz", "--lengths", "lengths.npy"]) == 0
    x = np.load("input.npy")
    np.savez("input.npz", input=x, lengths=lengths)
    assert main(["run", "model.safetensors", "input.npz", *first, *cut, "-o", "same.npz"]) == 0
    lstm.batch_first = bool(first)
    packed = cylstm.pack_padded_sequence(x, lengths, batch_first=bool(first), enforce_sorted=False)
    output, states = lstm(packed)
    output, _ = cylstm.pad_packed_sequence(output, batch_first=bool(first))
    for name in ("output.npz", "same.npz"):
        with np.load(name) as results:
            for key, expected in zip(("output", "h_n", "c_n"), (output, *states), strict=True):
                np.testing.assert_allclose(results[key], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("lengths", "more", "message"),
    [
        ([7, 7], [], "lengths must be 5 whole numbers"),
        ([7.0] * 5, [], "lengths must be 5 whole numbers, got float64"),
        ([7, 7, 7, 7, 8], [], "lengths must be from 1 to the 7 steps of input, got 7 to 8"),
        ([7, 7, 0, 7, 7], [], "got 0 to 7"),
        ([7] * 5, ["--chunk", "2"], "--chunk must be left out for sequences of several lengths"),
    ],
)
def test_wrong_lengths(
    folder: Path, capsys: pytest.CaptureFixture[str], lengths: list, more: list[str], message: str
) -> None:
    prepare()
    np.save("lengths.npy", lengths)
    command = ["run", "model.safetensors", "input.npy", "--lengths", "lengths.npy", "-o", "output.npy", *more]
    assert message in fails(capsys, *command)
    assert not Path("output.npy").exists()


def test_lengths_of_one_sequence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare((7, 3))
    np.save("lengths.npy", [7])
    error = fails(capsys, "run", "model.safetensors", "input.npy", "--lengths", "lengths.npy")
    assert "lengths must be left out for one sequence" in error
    assert "no such file: 'none.npy'" in fails(capsys, "run", "model.safetensors", "input.npy", "--lengths", "none.npy")


def test_bfloat16(folder: Path) -> None:
    pytest.importorskip("ml_dtypes")
    lstm = prepare()
    assert main(["run", "model.safetensors", "input.npy", "-o", "output.npy", "--dtype", "bfloat16"]) == 0
    output = np.load("output.npy")
    assert output.dtype == np.float32
    x = np.load("input.npy")
    np.testing.assert_array_equal(output, lstm.bfloat16()(x.astype(lstm.dtype))[0].astype(np.float32))


def test_threads(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from cylstm.backends.cython_backend import threads

    monkeypatch.setattr(threads, "_count", threads._count)
    lstm = prepare()
    with cylstm.use_backend("numpy"):
        assert main(["run", "model.safetensors", "input.npy", "-o", "o.npy", "--threads", "1", "--json"]) == 0
    assert cylstm.get_num_threads() == 1
    np.testing.assert_allclose(np.load("o.npy"), lstm(np.load("input.npy"))[0], atol=1e-6)
