"""Many callers at once: threads of Python, of OpenMP, of another OpenMP library, other processes. The same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest
from processes import run

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")
needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="this system does not show the threads of a process"
)

# A small module with work for two threads. `right()` says whether a call from here gives the bits of one thread.
BEGIN = """
import os, threading, time
import numpy as np
import cylstm
from cylstm.backends.cython_backend import _lstm

_lstm.open_regions(True)
cylstm.manual_seed(0)
lstm = cylstm.LSTM(64, 200, bidirectional=True, backend="cython")
x = cylstm.randn(20, 16, 64)
cylstm.set_num_threads(1)
expected, _ = lstm(x)
_, _, pullback = lstm.vjp(x)
expected_grad = pullback(expected).input
cylstm.set_num_threads(2)

def right():
    return np.array_equal(lstm(x)[0], expected) and np.array_equal(pullback(expected).input, expected_grad)

def os_threads():
    return len(os.listdir("/proc/self/task"))

def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads

assert right()
start = os_threads()
answers = []
"""
# Threads of OpenMP end a moment after the Python thread that they worked for.
END = """
for _ in range(3000):
    if os_threads() <= start:
        break
    time.sleep(0.01)
print(len(answers), all(answers), os_threads() - start)
"""
ALL_AT_ONCE = """
def work():
    for _ in range(10):
        answers.append(right())

for thread in in_threads(32, work):
    thread.join()
"""
ONE_AFTER_THE_OTHER = """
for _ in range(100):
    for thread in in_threads(1, lambda: answers.append(right())):
        thread.join()
"""
# Each calls when it is its turn and then stays. What it leaves behind is counted while all are there.
LONG_LIVED = """
turns, end = threading.Semaphore(0), threading.Event()

def work():
    turns.acquire()
    answers.append(right())
    end.wait()

threads = in_threads(32, work)
for n in range(1, 33):
    turns.release()
    while len(answers) < n:
        time.sleep(0.001)
more = os_threads() - start - 32
end.set()
for thread in threads:
    thread.join()
assert more <= 8, f"32 Python threads have {more} threads of OpenMP behind them"
"""


@needs_proc
@pytest.mark.parametrize(
    ("work", "calls"), [(ALL_AT_ONCE, 320), (ONE_AFTER_THE_OTHER, 100), (LONG_LIVED, 32)],
    ids=["all at once", "one after the other", "long-lived"],
)  # fmt: skip
def test_threads_of_python_leave_none_behind(work: str, calls: int) -> None:
    assert run(BEGIN + work + END, OMP_NUM_THREADS="2") == f"{calls} True 0"


# `parallel(library, threads, work)` runs `work` on several threads of an OpenMP library.
PARALLEL = """
import ctypes

def parallel(library, threads, work):
    library.GOMP_parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: work()), None, threads, 0)
"""
OWN_LIBRARY = """
own = ctypes.CDLL(_lstm.__file__)  # and what it is linked with
for _ in range(20):
    parallel(own, 4, lambda: answers.append((right(), os_threads() - start <= 2)))
answers = [all(answer) for answer in answers]
start += 2  # the library keeps them for the next region
"""


@needs_proc
def test_inside_a_parallel_region_of_the_same_library_a_call_takes_no_more_threads() -> None:
    assert run(BEGIN + PARALLEL + OWN_LIBRARY + END, OMP_NUM_THREADS="2") == "80 True 0"


OTHER_LIBRARIES = """
import glob, importlib.util, sys
import torch
from sklearn.cluster import KMeans  # brings an OpenMP library of its own

torch.set_num_threads(2)
libraries = {line.split()[-1] for line in open("/proc/self/maps") if "omp-" in line or "libgomp" in line}
assert len(libraries) > 1, libraries
others = [ctypes.CDLL(name) for name in libraries]
a, rows = torch.randn(300, 300), np.random.default_rng(0).standard_normal((2000, 8))
product, labels = a @ a, None

def mixed():
    global labels
    found = KMeans(5, n_init=1, random_state=0).fit(rows).labels_
    labels = found if labels is None else labels
    return np.array_equal(found, labels) and torch.allclose(a @ a, product)

def work():
    for _ in range(5):
        answers.append(right())
        answers.append(mixed())

for _ in range(10):
    answers.append(right())
    answers.append(mixed())
for library in others:
    for _ in range(5):
        parallel(library, 3, lambda: answers.append(right()))
for thread in in_threads(4, work):
    thread.join()
print(len(answers) - 15 * len(others), all(answers))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there /proc tells which libraries are loaded")
@pytest.mark.parametrize(
    "first", ["import cylstm.backends.cython_backend._lstm", "import torch", "import sklearn.cluster"]
)
def test_beside_other_openmp_libraries(first: str) -> None:
    """In turn, at once, and our calls on the threads of another library; whichever of the libraries came first."""
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    assert run(first + BEGIN + PARALLEL + OTHER_LIBRARIES, OMP_NUM_THREADS="2") == "60 True"


LLVM = """
llvm = ctypes.CDLL({path!r})

def work():
    for _ in range(5):
        parallel(llvm, 2, lambda: answers.append(right()))

for _ in range(20):
    parallel(llvm, 3, lambda: answers.append(right()))
    answers.append(right())
for thread in in_threads(4, work):
    thread.join()
print(len(answers), all(answers))
"""


def test_beside_the_openmp_library_of_llvm() -> None:
    """In turn, and our calls on its threads, from one thread of Python and from several."""
    try:
        files = metadata.files("intel-openmp") or []
    except metadata.PackageNotFoundError:
        files = []
    found = [str(file.locate()) for file in files if file.name == "libiomp5.so"]
    if not found:
        pytest.skip("the package intel-openmp, which has it, is not installed")
    assert run(BEGIN + PARALLEL + LLVM.format(path=found[0]), OMP_NUM_THREADS="2") == "120 True"


def test_on_a_busy_machine_calls_come_to_an_end() -> None:
    """Three busy processes for each processor that is used, which take turns with the threads of a call."""
    code = BEGIN + "answers += [right() for _ in range(50)]; print(len(answers), all(answers))"
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))[:2]
        code = f"import os; os.sched_setaffinity(0, {processors})\n" + code
    spin = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    busy = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(6)]
    try:
        assert run(code, OMP_NUM_THREADS="2") == "50 True"
    finally:
        for process in busy:
            process.kill()
            process.wait()
