"""The number of threads: who sets it, and many callers at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import run

import cylstm
from cylstm.backends.cython_backend import threads

_lstm = pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")


@pytest.fixture(autouse=True)
def threads_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_count", "_quota_threads"):
        monkeypatch.setattr(threads, name, getattr(threads, name))


@pytest.mark.parametrize("wrong", [0, -1, 4097, 10**12, 2.0, "2", None])
def test_a_wrong_number_is_refused(wrong: object) -> None:
    cylstm.set_num_threads(3)
    with pytest.raises((TypeError, ValueError), match="n must be"):
        cylstm.set_num_threads(wrong)
    assert cylstm.get_num_threads() == 3


SHOW = "import cylstm; print(cylstm.get_num_threads())"


def test_environment_variables() -> None:
    assert run(SHOW, CYLSTM_NUM_THREADS="5") == "5"
    assert run(SHOW, CYLSTM_NUM_THREADS="1", OMP_NUM_THREADS="3") == "1"
    assert run(SHOW, OMP_NUM_THREADS="1") == "1"
    assert (
        run("import cylstm; cylstm.set_num_threads(4); print(cylstm.get_num_threads())", CYLSTM_NUM_THREADS="2") == "4"
    )


#: What a program does before OpenMP is there, and after.
FIRST = {
    "one processor": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "quota of 1.5": "from cylstm.backends.cython_backend import threads; threads._quota_of_group = lambda: 1.5",
}
THEN = {
    "set to 3": "cylstm.set_num_threads(3)",
    "limited to 2": "import threadpoolctl; limits = threadpoolctl.threadpool_limits(limits=2)",
}
COUNT = """
import os
{first}
import numpy as np, cylstm
from cylstm.backends.cython_backend import _lstm
{then}
_lstm.open_regions(True)
lstm, x = cylstm.LSTM(64, 256, backend="cython"), cylstm.randn(20, 16, 64)
threads = cylstm.get_num_threads()
before = len(os.listdir("/proc/self/task"))
output, _ = lstm(x)
print(threads, 1 + len(os.listdir("/proc/self/task")) - before)
cylstm.set_num_threads(1)
assert np.array_equal(lstm(x)[0], output)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system does not show the threads of a process")
@pytest.mark.parametrize(
    ("given", "environment", "threads", "came"),
    [
        ("", "OMP_NUM_THREADS=3", 3, 3),
        ("", "CYLSTM_NUM_THREADS=3", 3, 3),
        ("", "CYLSTM_NUM_THREADS=2 OMP_NUM_THREADS=4", 2, 2),
        ("", "CYLSTM_NUM_THREADS=3 OMP_NUM_THREADS=1", 3, 3),
        ("set to 3", "CYLSTM_NUM_THREADS=2", 3, 3),
        ("", "CYLSTM_NUM_THREADS=4 OMP_THREAD_LIMIT=2", 4, 2),  # OpenMP has the last word
        ("", "CYLSTM_NUM_THREADS=3 OMP_WAIT_POLICY=passive", 3, 3),
        ("one processor", "", 1, 1),
        ("one processor", "CYLSTM_NUM_THREADS=2", 2, 2),
        ("quota of 1.5", "OMP_NUM_THREADS=4", 2, 2),
        ("quota of 1.5", "CYLSTM_NUM_THREADS=3", 3, 3),
        ("limited to 2", "OMP_NUM_THREADS=4", 2, 2),
        ("limited to 2", "CYLSTM_NUM_THREADS=4 OMP_NUM_THREADS=4", 2, 2),
    ],
)
def test_as_many_threads_work_as_are_allowed(given: str, environment: str, threads: int, came: int) -> None:
    """What is said, and how many threads the process has after a call; the same bits as on one."""
    if given == "limited to 2":
        pytest.importorskip("threadpoolctl")
    if given == "one processor" and not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    code = COUNT.format(first=FIRST.get(given, ""), then=THEN.get(given, ""))
    variables = dict(variable.split("=") for variable in environment.split())
    assert run(code, **variables) == f"{threads} {came}"


def test_a_wrong_environment_variable_is_an_error() -> None:
    for wrong in ("many", "0", "1" * 20):
        with pytest.raises(
            AssertionError, match=f"CYLSTM_NUM_THREADS must be a whole number from 1 to 4096, got '{wrong}'"
        ):
            run(SHOW, CYLSTM_NUM_THREADS=wrong)


def test_one_thread_where_nothing_is_compiled() -> None:
    code = "import sys; sys.modules['cylstm.backends.cython_backend._lstm'] = None; "
    assert run(code + "import cylstm; cylstm.set_num_threads(3); print(cylstm.get_num_threads())") == "1"


def test_one_thread_where_there_is_no_openmp() -> None:
    code = "import cylstm; from cylstm.backends.cython_backend import _lstm; _lstm.openmp = lambda: False; "
    assert run(code + "cylstm.set_num_threads(3); print(cylstm.get_num_threads())") == "1"


def test_quota_of_a_control_group(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert threads._quota_of_group(root) > 1000
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert threads._quota_of_group(root) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads._quota_of_group(root) > 1000


@pytest.mark.parametrize("group", ["/", "/a.slice", "/a.slice/b:1.service"])
@pytest.mark.parametrize("old", [False, True])
def test_quota_of_a_group_further_down_or_around(tmp_path: Path, old: bool, group: str) -> None:
    membership = tmp_path / "membership"
    membership.write_text(f"3:memory:/x\n2:cpu,cpuacct:{group}\n0::/\n" if old else f"0::{group}\n")
    root = tmp_path / "fs"
    folder = Path(root, *(["cpu"] if old else []), group.lstrip("/"))
    folder.mkdir(parents=True)
    if old:
        (folder / "cpu.cfs_quota_us").write_text("250000\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
    else:
        (folder / "cpu.max").write_text("250000 100000\n")
    assert threads._quota_of_group(str(root), str(membership)) == 2.5
    inside = f"{group.rstrip('/')}/c"  # of the quotas on the way to the root the least
    membership.write_text(f"2:cpu:{inside}\n" if old else f"0::{inside}\n")
    assert threads._quota_of_group(str(root), str(membership)) == 2.5
    membership.write_text("0::/elsewhere\nnonsense\n")
    assert (threads._quota_of_group(str(root), str(membership)) > 1000) == (group != "/")


def test_threadpoolctl_limits_them() -> None:
    pytest.importorskip("threadpoolctl")
    code = """
import cylstm, threadpoolctl
print(cylstm.get_num_threads())
cylstm.set_num_threads(4)
with threadpoolctl.threadpool_limits(limits=1):
    print(cylstm.get_num_threads())
print(cylstm.get_num_threads())
"""
    assert run(code, OMP_NUM_THREADS="3").split() == ["3", "1", "4"]


def test_many_python_threads_at_once() -> None:
    """Calls that meet do not wait for each other, and give what one alone gives."""
    cylstm.set_num_threads(2)
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(64, 200, backend="cython")
    inputs = [cylstm.randn(30, B, 64) for B in (1, 3, 16, 40)]
    expected = [lstm(x) for x in inputs]

    def work(k: int) -> bool:
        output, (h_n, c_n) = lstm(inputs[k % 4])
        return all(map(np.array_equal, (output, h_n, c_n), (expected[k % 4][0], *expected[k % 4][1])))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(120)))


def test_more_threads_than_processors_come_to_an_end() -> None:
    cylstm.set_num_threads(16)
    lstm = cylstm.LSTM(32, 256, backend="cython")
    x = cylstm.randn(60, 2, 32)
    one = threading.Thread(target=lstm, args=(x,))
    one.start()
    output, _ = lstm(x)
    one.join(60)
    assert not one.is_alive()
    cylstm.set_num_threads(1)
    np.testing.assert_array_equal(lstm(x)[0], output)


@pytest.mark.parametrize("policy", ["passive", "active"])
def test_wait_policy(policy: str) -> None:
    code = """
import numpy as np, cylstm
from cylstm.backends.cython_backend import _lstm
_lstm.open_regions(True)
cylstm.manual_seed(0)
lstm = cylstm.LSTM(64, 256, backend="cython")
x = cylstm.randn(50, 1, 64)
cylstm.set_num_threads(1)
one = lstm(x)[0]
cylstm.set_num_threads(2)
print(all(np.array_equal(lstm(x)[0], one) for _ in range(20)))
"""
    assert run(code, OMP_WAIT_POLICY=policy, OMP_NUM_THREADS="2") == "True"


def pullback_of(lstm: cylstm.LSTM, x: np.ndarray) -> Callable[[], object]:
    output, _, pullback = lstm.vjp(x)
    return lambda: pullback(output)


def step_of(lstm: cylstm.LSTM, x: np.ndarray) -> Callable[[], object]:
    stream = lstm.stream(batch_size=len(x))
    return lambda: stream(x)


@pytest.mark.parametrize(
    "kernel",
    [
        lambda: partial(cylstm.LSTM(64, 64, backend="cython"), cylstm.randn(20_000, 64)),
        lambda: pullback_of(cylstm.LSTM(64, 64, backend="cython"), cylstm.randn(20_000, 64)),
        lambda: step_of(cylstm.LSTM(256, 256, backend="cython"), cylstm.randn(2_000, 256)),
    ],
    ids=["call", "pullback", "step of a stream"],
)
def test_the_interpreter_is_released(kernel: Callable[[], Callable[[], object]]) -> None:
    """Python does not take the lock from a thread here; so this one runs inside a call only if the call gave it away.

    Whether it gets a turn before the call ends is up to the system, so it has many tries.
    """
    call = kernel()
    inside = met = False

    def work() -> None:
        nonlocal inside
        for _ in range(200):
            inside = True
            call()
            inside = False
            if met:
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            met = met or inside
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
    assert met


@pytest.mark.parametrize("nap", [0, 0.02])
def test_left_to_itself_it_gives_the_same(nap: float) -> None:
    """With and without a rest before the call, whatever the module finds out about its threads."""
    _lstm.open_regions(False)  # the fixture restores it
    lstm = cylstm.LSTM(32, 150, backend="cython")
    x = cylstm.randn(40, 3, 32)
    cylstm.set_num_threads(1)
    expected = lstm(x)[0]
    cylstm.set_num_threads(2)
    for _ in range(12):
        time.sleep(nap)
        np.testing.assert_array_equal(lstm(x)[0], expected)


BESIDE_BUSY_PROCESSES = """
import multiprocessing, os, random
import numpy as np, cylstm

def masks():
    return {task: os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}

def compute():
    while True:
        pass

cylstm.manual_seed(0)
models = [(cylstm.LSTM(I, H, backend="cython"), cylstm.randn(T, B, I)) for I, H, T, B in
          [(64, 128, 40, 64), (64, 256, 30, 32), (64, 256, 60, 1)]]
cylstm.set_num_threads(1)
expected = [lstm(x)[0] for lstm, x in models]
cylstm.set_num_threads(3)
for lstm, x in models:
    lstm(x)
busy = [multiprocessing.get_context("fork").Process(target=compute, daemon=True) for _ in range(2)]
for process in busy:
    process.start()
allowed, right = os.sched_getaffinity(0), True
for n in range(90):
    lstm, x = models[n % 3]
    output, _, pullback = lstm.vjp(x)
    pullback(output)
    right &= np.array_equal(output, expected[n % 3])
for process in busy:
    process.kill()
print(right, all(mask == allowed for mask in masks().values()))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell where a thread may run")
def test_beside_busy_processes_the_same_bits_and_each_thread_may_run_where_it_could() -> None:
    """Threads are moved to other processors in such calls; what they are allowed afterwards is what it was before."""
    assert run(BESIDE_BUSY_PROCESSES, OMP_NUM_THREADS="3") == "True True"
