"""Workers of all kinds: the bits of one process, threads divided among them and not multiplied, and the examples.

Each engine runs in a process of its own with a plain environment, for the number of threads depends on it; nothing that
it starts outlives it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LIMIT

import cylstm
from cylstm.backends.cython_backend import threads

EXAMPLES = Path(__file__).parents[2] / "examples"
BUILT = any(b.name == "cython" and b.status == "available" for b in cylstm.available_backends())
#: For a test that compares a batch with its parts: the numpy backend's bits depend on the batch.
CYTHON = {"CYLSTM_BACKEND": "cython"}
needs_cython = pytest.mark.skipif(not BUILT, reason="the compiled backend is not built")
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def run(path: Path, *arguments: str, **environment: str) -> str:
    """What a script prints. It and all that it has started is ended when it takes too long."""
    kept = {name: value for name, value in os.environ.items() if not re.match("(OMP|OPENBLAS|MKL|CYLSTM)_", name)}
    kept |= {name: os.environ[name] for name in ("CYLSTM_BACKEND", "CYLSTM_MAX_ISA") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, path, *arguments],
        env={**kept, **environment},
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=LIMIT)
    finally:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    assert process.returncode == 0, f"{output}\n{errors}"
    assert not re.search(r"\bcylstm\S*:\d+: \w*Warning", errors), errors  # other packages may deprecate what they use
    return output


def table(output: str) -> dict[str, str]:
    """The lines "name  value" that an example prints at its end."""
    return dict(re.findall(r"^(\S+(?: \S+)*)  +(.+)$", output, re.MULTILINE))


def names_in_docs(one: str) -> set[str]:
    """The names in that block of the documentation's output which has this one."""
    page = (EXAMPLES.parent / "docs" / "scale-out.md").read_text("utf-8")
    blocks = [table(block).keys() for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL)]
    return next(set(names) for names in blocks if one in names)


def script(folder: Path, code: str) -> Path:
    path = folder / "script.py"
    path.write_text(code, "utf-8")
    return path


# Threads --------------------------------------------------------------------------------------------------------------

PROCESSES = """
import multiprocessing, os, sys
import numpy as np
import cylstm

def last(lstm, x):
    return lstm(x)[1][0][-1], cylstm.get_num_threads()

if __name__ == "__main__":
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(8, 96, batch_first=True)
    batches = np.split(cylstm.randn(24, 40, 8), 4)
    here = [last(lstm, x)[0] for x in batches]
    context = multiprocessing.get_context(sys.argv[1])
    share = (cylstm.set_num_threads, (3,)) if len(sys.argv) > 2 else (None, ())
    with context.Pool(2, *share) as pool:
        for (output, threads), expected in zip(pool.starmap(last, [(lstm, x) for x in batches]), here):
            assert np.array_equal(output, expected)
            print(threads)
"""


@needs_cython
@pytest.mark.parametrize("method", [pytest.param("fork", marks=pytest.mark.forks), "spawn", "forkserver"])
def test_processes_take_one_thread_each_unless_told_otherwise(method: str, tmp_path: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    path = script(tmp_path, PROCESSES)
    assert run(path, method).split() == ["1"] * 4
    told = "1" if method == "fork" else "3"  # threads do not survive a fork
    assert run(path, method, "share").split() == [told] * 4
    assert run(path, method, OMP_NUM_THREADS="2").split() == ["1" if method == "fork" else "2"] * 4
    assert run(path, method, CYLSTM_NUM_THREADS="2").split() == ["1" if method == "fork" else "2"] * 4


FORK_UNLOADED = """
import os, signal
import torch
torch.set_num_threads(2)
torch.ones(2000, 2000).exp()
import cylstm
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    cylstm.set_num_threads(2)
    lstm = cylstm.LSTM(128, 256)
    x = cylstm.randn(40, 16, 128)
    try:
        from cylstm.backends.cython_backend import _lstm
        _lstm.open_regions(True)
    except ImportError:
        pass
    lstm(x)
    os._exit(cylstm.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_a_process_that_has_imported_cylstm_does_not_hang(tmp_path: Path) -> None:
    """Though the compiled part is loaded in the child only, and PyTorch has used OpenMP before."""
    assert run(script(tmp_path, FORK_UNLOADED)) == "1\n"


THREADS = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import cylstm
from cylstm.backends.cython_backend import _lstm

def count():
    return len(os.listdir("/proc/self/task"))

workers, threads = map(int, sys.argv[1:])
cylstm.manual_seed(0)
lstm = cylstm.LSTM(64, 256, backend="cython")
x = cylstm.randn(20, 8, 64)
cylstm.set_num_threads(1)
expected = lstm(x)[0]
_lstm.open_regions(True)
cylstm.set_num_threads(threads)
before = count()
lstm(x)
together = threading.Barrier(workers)

def work():
    together.wait(60)
    right = all([np.array_equal(lstm(x)[0], expected) for _ in range(20)])
    together.wait(60)
    return right, count()

for _ in range(2):  # the second pool may have what the first one had
    with ThreadPoolExecutor(workers) as pool:
        results = [future.result(60) for future in [pool.submit(work) for _ in range(workers)]]
    assert all(right for right, _ in results)
    assert max(n for _, n in results) <= before + workers + 2 * (threads - 1), (before, results)
    del results
    deadline = time.monotonic() + 60
    while count() > before + threads - 1 and time.monotonic() < deadline:  # threads end after they are joined
        time.sleep(0.01)
    assert count() <= before + threads - 1
"""


@needs_cython
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list the threads of a process")
@pytest.mark.parametrize("count", [2, 5])
def test_python_threads_do_not_multiply_the_threads_of_openmp(count: int, tmp_path: Path) -> None:
    run(script(tmp_path, THREADS), "6", str(count), OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1")


def test_the_environment_is_as_before() -> None:
    """What cylstm decides for itself it does not tell others."""
    before = dict(os.environ)
    cylstm.get_num_threads()
    assert threads._is_worker() is False
    assert dict(os.environ) == before


# Engines --------------------------------------------------------------------------------------------------------------

JOBLIB = """
import joblib
import numpy as np
import cylstm

def last(lstm, x):
    array = lstm.weight_hh_l0
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return lstm(x)[1][0][-1], cylstm.get_num_threads(), type(array).__name__, lstm.weight_hh_l0.flags.writeable

if __name__ == "__main__":
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(8, 300, batch_first=True)  # weight_hh_l0 has more than the megabyte from which joblib maps
    batches = np.split(cylstm.randn(24, 10, 8), 4)
    here = [last(lstm, x)[0] for x in batches]

    def check(name, **options):
        results = joblib.Parallel(n_jobs=2, timeout=200, **options)(joblib.delayed(last)(lstm, x) for x in batches)
        for (output, threads, owner, writeable), expected in zip(results, here):
            assert np.array_equal(output, expected)
            print(name, threads, owner, writeable)

    check("loky")
    with joblib.parallel_config("loky", inner_max_num_threads=2):
        check("two")
    check("threading", backend="threading")
"""


def test_joblib(tmp_path: Path) -> None:
    lines = run(script(tmp_path, JOBLIB)).splitlines()
    share = max(1, PROCESSORS // 2) if BUILT else 1
    assert lines[:4] == [f"loky {share} memmap False"] * 4
    assert lines[4:8] == [f"two {2 if BUILT else 1} memmap False"] * 4
    assert {line.split()[2] for line in lines[8:]} == {"bytes"}  # nothing is pickled


DASK = """
import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
import cylstm

def last(x, lstm):
    return lstm(x)[1][0][-1]

def kept(dask_worker):
    return [type(value).__name__ for value in dask_worker.data.values()]

if __name__ == "__main__":
    dask.config.set({"tokenize.ensure-deterministic": True, "distributed.comm.timeouts.connect": "120s"})
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(8, 64, batch_first=True)
    x = cylstm.randn(60, 20, 8)
    expected = last(x, lstm)
    blocks = da.from_array(x, chunks=(16, -1, -1))

    def score(lstm):
        return blocks.map_blocks(last, lstm, drop_axis=(1, 2), new_axis=1, chunks=(blocks.chunks[0], (64,)),
                                 meta=np.empty((0, 0), np.float32))

    for scheduler in ("synchronous", "threads", "processes"):
        assert np.array_equal(score(lstm).compute(scheduler=scheduler, num_workers=2), expected), scheduler
    assert score(lstm).name == score(lstm).name
    name = score(lstm).name
    lstm.bias_ih_l0 = lstm.bias_ih_l0 + 1
    assert score(lstm).name != name  # another version is another task
    expected = last(x, lstm)
    page = "127.0.0.1:0"  # any free port of the loopback interface
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=page) as cluster, Client(cluster) as client:
        print("cluster", *client.run(cylstm.get_num_threads).values())
        assert np.array_equal(score(lstm).compute(), expected)
        assert np.array_equal(score(dask.delayed(lstm)).compute(), expected)
        everywhere = client.scatter(lstm, broadcast=True)
        assert np.array_equal(score(everywhere).compute(), expected)
        assert client.submit(repr, everywhere).result(120) == repr(lstm)
    with Client(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=page) as client:
        assert np.array_equal(score(lstm).compute(), expected)
        print("threads", *client.run(cylstm.get_num_threads).values())
"""


@needs_cython
def test_dask(tmp_path: Path) -> None:
    lines = run(script(tmp_path, DASK), **CYTHON).splitlines()
    assert lines[0] == "cluster 1 1"
    assert int(lines[1].split()[1]) <= PROCESSORS


# Examples -------------------------------------------------------------------------------------------------------------


@needs_cython
def test_many_workers() -> None:
    output = run(EXAMPLES / "many_workers.py", "--sequences", "256", "--hidden-size", "32", **CYTHON)
    rows = re.findall(r"^(\S.*?)  +[\d.]+ +(\d) +(\S+)  (\w+)$", output, re.MULTILINE)
    engines = {name: (threads, same) for name, _, threads, same in rows}
    assert {"thread pool", "processes, spawn", "joblib, loky", "joblib, threading"} <= engines.keys()
    assert {same for _, same in engines.values()} == {"True"}
    assert {engines[name][0] for name in engines if name.startswith("processes")} == {"1"}


@needs_cython
def test_batch_scoring() -> None:
    arguments = ("--megabytes", "60", "--rows", "256", "--memory-limit", "600MiB")
    rows = table(run(EXAMPLES / "batch_scoring.py", *arguments, **CYTHON))
    assert rows["file"].startswith("60 MB, 7,324 sequences")
    assert rows["threads of cylstm"] == "1, 1 in the workers"
    assert rows["same bits"] == "yes: 50 sequences scored alone, 0 of them differ"
    grown = [int(megabytes) for megabytes in re.findall(r"(\d+) MB", rows["of it for scoring"])]
    assert len(grown) == 3
    assert rows.keys() == names_in_docs("of it for scoring")
    assert max(grown) < 30


def test_serve() -> None:
    rows = table(run(EXAMPLES / "serve.py", "--requests", "300"))
    assert rows["same bits"] == "300 of 300"
    assert len(re.findall(r"\d+\.\d", rows["latency"])) == 4
    assert rows["wrong size"].startswith("400: input.shape[-1] must be equal to input_size: expected 16, got 17")
    assert rows["no array"].startswith("400: the body must be an array as numpy.save writes it")
    assert rows.keys() == names_in_docs("on SIGTERM")
    assert rows["on SIGTERM"] == "the request on its way was answered, then it ended"


def test_serve_answers_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import serve

    process, port = serve.start(threads=2)
    try:
        too_long = [("Content-Length", str(serve.LARGEST + 1))]
        for path, method, body, headers, status, message in [
            ("/health", "GET", b"", [], 200, "LSTM(16, 128"),
            ("/elsewhere", "GET", b"", [], 404, "GET /health or POST /score"),
            ("/elsewhere", "POST", b"x", [], 404, "GET /health or POST /score"),
            ("/score", "POST", b"PK\x03\x04", [], 400, "as numpy.save writes it, got 4 other bytes"),
            ("/score", "POST", serve.np.lib.format.MAGIC_PREFIX, [], 400, "cannot be read"),
            ("/score", "POST", b"\x93NUMPY\x01\x00\x76\x00" + b"(".ljust(117) + b"\n", [], 400, "cannot be read"),
            ("/score", "POST", serve.as_npy(serve.np.zeros(16, "f4")), [], 400, "2-D"),
            ("/score", "POST", b"", too_long, 413, "may have 16777216 bytes"),
        ]:
            connection = serve.HTTPConnection(serve.HOST, port, timeout=120)
            connection.putrequest(method, path)
            for name, value in headers or [("Content-Length", str(len(body)))]:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            assert (answer.status, message in text) == (status, True), text
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT)
        assert (process.returncode, output) == (0, "stopped\n")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="the two processes meet on a loopback interface")
def test_train_ddp() -> None:
    rows = table(run(EXAMPLES / "train_ddp.py", "--epochs", "8"))
    assert rows.keys() == names_in_docs("first gradients")
    assert rows["same bits in all"] == "yes"
    assert rows["threads of cylstm"] == "1, 1 in the processes"
    for name in ("first gradients", "weights"):
        assert float(rows[name].split()[1]) <= 1e-9
    assert float(rows["held-out accuracy"]) >= 0.9


def test_train_ddp_refuses_parts_that_are_not_equal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import train_ddp

    monkeypatch.setattr(sys, "argv", ["train_ddp.py", "--processes", "3"])
    with pytest.raises(SystemExit):
        train_ddp.main()
    assert "a number of processes that divides the batch of 64" in capsys.readouterr().err
