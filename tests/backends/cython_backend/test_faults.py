"""Signals, limits of memory and processes, exit, other interpreters: an error at most, and modules that still work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from processes import LIMIT, run

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")

BEGIN = """
import os, resource, signal, sys, threading, time
import numpy as np
import cylstm, cylstm.optim
from cylstm.backends.cython_backend import _lstm
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a program in the background has not
_lstm.open_regions(True)
cylstm.manual_seed(0)
"""

# The call would take minutes: that it ends is the test.
INTERRUPT = """
lstm = cylstm.LSTM(1, 1024, {options})
short, long = cylstm.randn(20, {B}, 1), cylstm.randn({T}, {B}, 1)
expected = lstm(short)[0]
cylstm.set_num_threads({threads})
calls = {{"forward": lambda: lstm(long), "vjp": lambda: lstm.vjp(long, recompute=True)}}
if {backward} is None:
    stream = lstm.stream({B})
    calls = {{"forward": lambda: lstm(long), "stream": lambda: [stream(x_t) for x_t in long]}}
if {backward}:
    output, _, pullback = lstm.vjp(long[:{T} // 200], recompute=True)
    calls = {{"backward": lambda: [pullback(output) for _ in range(1000)]}}
def interrupt():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
for name, call in calls.items():
    threading.Thread(target=interrupt).start()
    try:
        call()
    except KeyboardInterrupt:
        assert np.array_equal(lstm(short)[0], expected)
        print(name)
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("options", "B"), [("", 1), ("bidirectional=True, proj_size=7", 40)])
def test_an_interrupt_ends_a_long_call(options: str, B: int, threads: int) -> None:
    code = BEGIN + INTERRUPT.format(options=options, B=B, T=200_000 // B, threads=threads, backward=False)
    assert run(code).split() == ["forward", "vjp"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", ['precision="int8"', 'precision="bfloat16"', "peephole=True, cell_clip=1.0"])
def test_an_interrupt_ends_calls_and_streams_that_do_not_train(options: str, threads: int) -> None:
    code = BEGIN + INTERRUPT.format(options=options, B=4, T=500_000, threads=threads, backward=None)
    assert run(code).split() == ["forward", "stream"]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_ends_a_long_backward_pass(threads: int) -> None:
    code = BEGIN + INTERRUPT.format(options="bidirectional=True", B=4, T=200_000, threads=threads, backward=True)
    assert run(code).split() == ["backward"]


def test_handlers_of_other_signals_run_meanwhile_and_may_call_modules() -> None:
    """One that raises nothing changes nothing; arithmetic in it is the caller's, with denormal numbers."""
    code = """
lstm, other = cylstm.LSTM(1, 1024), cylstm.LSTM(3, 5)
x, y = cylstm.randn(1500, 4, 1), cylstm.randn(4, 2, 3)
expected, of_other, seen = lstm(x)[0], other(y)[0], []
tiny = np.float64(5e-324)
def handle(number, frame):
    seen.append(np.array_equal(other(y)[0], of_other) and tiny * 1.0 == tiny)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
while len(seen) < 5:
    assert np.array_equal(lstm(x)[0], expected)
signal.setitimer(signal.ITIMER_REAL, 0)
print(all(seen))
"""
    assert run(BEGIN + code, CYLSTM_NUM_THREADS="2") == "True"


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the limit holds for other users alone")
def test_where_no_thread_can_be_made_a_call_runs_on_one() -> None:
    code = """
lstm, x = cylstm.LSTM(64, 128), cylstm.randn(40, 16, 64)
cylstm.set_num_threads(1)
expected, _, pullback = lstm.vjp(x)
gradient = pullback(expected).input
cylstm.set_num_threads(4)
os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
tasks = len(os.listdir("/proc/self/task"))
for _ in range(3):
    assert np.array_equal(lstm(x)[0], expected) and np.array_equal(pullback(expected).input, gradient)
print(len(os.listdir("/proc/self/task")) - tasks)
"""
    assert run(BEGIN + code) == "0"


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the limit holds for other users alone")
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) == 1, reason="one processor alone"
)
def test_where_threads_can_be_made_again_the_next_long_call_has_some() -> None:
    code = """
_lstm.open_regions(False)
lstm, x = cylstm.LSTM(64, 256), cylstm.randn(50, 16, 64)
cylstm.set_num_threads(2)
os.setuid(65534)
tasks, (_, most) = [], resource.getrlimit(resource.RLIMIT_NPROC)
for limit in (1, most):
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, most))
    before = len(os.listdir("/proc/self/task"))
    lstm(x)
    tasks.append(len(os.listdir("/proc/self/task")) - before)
print(tasks)
"""
    assert run(BEGIN + code) == "[0, 1]"


@linux
def test_memory_that_runs_out_is_an_error_and_changes_nothing() -> None:
    """Each phase under limits from next to nothing to enough; the first call after the limit is right again."""
    code = """
page = os.sysconf("SC_PAGE_SIZE")
def used():
    return int(open("/proc/self/statm").read().split()[0]) * page
lstm, x = cylstm.LSTM(256, 512, backend="cython"), cylstm.randn(300, 16, 256)
cylstm.set_num_threads(2)
output, _, pullback = lstm.vjp(x)
gradient = pullback(output)
optimizer, stream = cylstm.optim.Adam(lstm, lr=0), lstm.stream(16)
stream(x[0])
state, loaded = stream.state[0].tobytes(), lstm.state_dict()
def fresh():
    module = cylstm.LSTM._of(loaded, input_size=256, hidden_size=512)
    return module(x)[0].tobytes() == output.tobytes()
phases = {
    "make": lambda: cylstm.LSTM(512, 1024) is not None,
    "prepare": fresh,
    "call": lambda: lstm(x)[0].tobytes() == output.tobytes(),
    "vjp": lambda: lstm.vjp(x)[2](output).input.tobytes() == gradient.input.tobytes(),
    "pullback": lambda: pullback(output).input.tobytes() == gradient.input.tobytes(),
    "load": lambda: lstm.load_state_dict(loaded) is not None,
    "optimizer": lambda: optimizer.step(gradient.parameters) is None,
}
outcomes = set()
for name, phase in phases.items():
    before = [array.tobytes() for array in [*lstm.parameters(), *optimizer.state_dict().values()]]
    for extra in (0, 4 << 20, 1 << 30):
        resource.setrlimit(resource.RLIMIT_AS, (used() + extra, -1))
        try:
            outcome = phase()
        except MemoryError:
            outcome = "MemoryError"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        outcomes.add(outcome)
        if outcome == "MemoryError":
            after = [array.tobytes() for array in [*lstm.parameters(), *optimizer.state_dict().values()]]
            assert after == before, name
            assert stream.state[0].tobytes() == state
print(sorted(map(str, outcomes)))
"""
    assert run(BEGIN + code) == "['MemoryError', 'True']"


@linux
def test_memory_that_runs_out_is_an_error_in_whatever_computes() -> None:
    """Likewise of other modules, precisions, options and conversions: an error, or the same bits as before."""
    code = """
import copy, pickle
page = os.sysconf("SC_PAGE_SIZE")
def used():
    return int(open("/proc/self/statm").read().split()[0]) * page
cylstm.set_num_threads(2)
lstm, x = cylstm.LSTM(64, 200), cylstm.randn(40, 16, 64)
int8, bfloat16 = (cylstm.LSTM(64, 200, precision=one) for one in ("int8", "bfloat16"))
options, numpy = cylstm.LSTM(64, 200, peephole=True, clip=1.0), cylstm.LSTM(64, 200, backend="numpy")
both = cylstm.LSTM(64, 100, 2, bidirectional=True).eval()
cell, linear, state = cylstm.LSTMCell(64, 200), cylstm.Linear(64, 300), lstm.state_dict()
packed = cylstm.pack_padded_sequence(x, range(40, 24, -1))
grad, blob = cylstm.randn(40, 16, 200), pickle.dumps(lstm)
def fresh(**given):
    return cylstm.LSTM._of(state, input_size=64, hidden_size=200, **given)
def drawn():
    cylstm.manual_seed(0)
    return cylstm.randn(300, 300)
phases = {
    "cell": lambda: cell(x[0])[0],
    "linear": lambda: linear(x),
    "int8": lambda: int8(x)[0],
    "bfloat16": lambda: bfloat16(x)[0],
    "options": lambda: options(x)[0],
    "numpy": lambda: numpy(x)[0],
    "layers": lambda: both(x)[0],
    "layers backward": lambda: both.vjp(x)[2](grad).input,
    "recompute": lambda: lstm.vjp(x, recompute=True)[2](grad).input,
    "packed": lambda: lstm(packed)[0].data,
    "ragged": lambda: lstm(cylstm.pack_padded_sequence(x, range(25, 41), enforce_sorted=False))[0].data,
    "padded": lambda: cylstm.pad_packed_sequence(packed)[0],
    "stream": lambda: lstm.stream(16)(x[0]),
    "prepare int8": lambda: fresh(precision="int8")(x)[0],
    "freeze": lambda: fresh(precision="bfloat16").freeze()(x)[0],
    "double": lambda: fresh().double()(x.astype(float))[0],
    "deepcopy": lambda: copy.deepcopy(lstm)(x)[0],
    "pickle": lambda: pickle.loads(blob)(x)[0],
    "draw": drawn,
}
outcomes = {}
for name, phase in phases.items():
    expected = phase().tobytes()
    for extra in (0, 64 << 10, 256 << 10, 1 << 20, 3 << 20, 8 << 20, 1 << 30):
        resource.setrlimit(resource.RLIMIT_AS, (used() + extra, -1))
        try:
            outcome = phase().tobytes() == expected
        except MemoryError:
            outcome = "MemoryError"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        outcomes.setdefault(outcome, set()).add(name)
    assert phase().tobytes() == expected, name
print(sorted(map(str, outcomes)), len(outcomes["MemoryError"]) > 12, len(outcomes[True]) == len(phases))
"""
    # Arrays in memory of their own: the limit is met by small ones too.
    limited = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "OPENBLAS_NUM_THREADS": "1"}
    assert run(BEGIN + code, **limited) == "['MemoryError', 'True'] True True"


def test_exit_while_a_daemon_thread_is_in_a_call() -> None:
    code = """
lstm, x = cylstm.LSTM(64, 256), cylstm.randn(2000, 4, 64)
def work():
    while True:
        lstm.vjp(x)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
print("ends")
"""
    assert run(BEGIN + code, CYLSTM_NUM_THREADS="2") == "ends"


@pytest.mark.forks
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes(method: str, tmp_path) -> None:
    program = tmp_path / "pool.py"
    program.write_text("""
import multiprocessing, sys
import cylstm
def work(seed):
    cylstm.manual_seed(seed)
    lstm = cylstm.LSTM(3, 5)
    return lstm(cylstm.randn(4, 2, 3))[0].tobytes()
if __name__ == "__main__":
    expected = list(map(work, range(8)))
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(work, range(8)) == expected)
""")
    code = f"import runpy, sys; sys.argv[1:] = [{method!r}]; runpy.run_path({str(program)!r}, run_name='__main__')"
    if method == "fork":
        assert run(code) == "True"
    else:  # what is not the fork of this process reads the program from its file
        code = f"import subprocess, sys; subprocess.run([sys.executable, {str(program)!r}, {method!r}], check=True)"
        assert run(code) == "True"


def test_another_interpreter_of_the_process_is_refused_or_works() -> None:
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
lstm, x = cylstm.LSTM(3, 5), cylstm.randn(4, 2, 3)
expected = lstm(x)[0]
number = interpreters.create()
source = "import cylstm; assert cylstm.LSTM(3, 5)(cylstm.randn(4, 2, 3))[0].shape == (4, 2, 5)"
try:
    result = interpreters.run_string(number, source) if hasattr(interpreters, "run_string") else None
    refused = "" if result is None else str(result)
except Exception as error:
    refused = str(error)
assert not refused or "ImportError" in refused, refused
interpreters.destroy(number)
print(np.array_equal(lstm(x)[0], expected))
"""
    assert run(BEGIN + code) == "True"


def test_thousands_of_threads_in_a_backward_pass() -> None:
    """As many as the processors can bring forward: with a barrier of 4,096 threads this took minutes."""
    code = """
lstm, x = cylstm.LSTM(64, 200, bidirectional=True), cylstm.randn(30, 40, 64)
output, _, pullback = lstm.vjp(x)
expected = pullback(output).input
cylstm.set_num_threads(4096)
assert np.array_equal(pullback(output).input, expected) and np.array_equal(lstm(x)[0], output)
print(len(os.listdir("/proc/self/task")) < 600)
"""
    assert run(BEGIN + code) == "True"


def test_nothing_is_said_at_exit_about_what_lives_in_modules() -> None:
    """Pullbacks and streams of a module, in a cycle and beside it, are finalised when much is gone already."""
    code = """
import cylstm, sys
lstm, x = cylstm.LSTM(64, 128), cylstm.randn(200, 16, 64)
output, _, pullback = lstm.vjp(x)
class Keeper:
    def __init__(self):
        self.pullback, self.me = pullback, self
sys.modules["a module of one object"] = Keeper()
stream = lstm.stream()
stream(x[0, 0])
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
