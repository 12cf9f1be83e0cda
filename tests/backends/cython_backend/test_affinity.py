"""Many threads with different layers at once, while others change where they may run, beside other people's threads."""

from __future__ import annotations

import os

import pytest
from processes import run

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = [
    pytest.mark.names_backend("cython"),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not tell where a thread may run"),
]

# Each of `calls` returns arrays, which are those of one thread alone. `others` run beside and are checked likewise.
BEGIN = """
import os, random, threading, time
import numpy as np, cylstm
from cylstm.backends.cython_backend import _lstm

def whole(lstm, x):
    output, state = lstm(x)
    return [output, *state]

def gradients(lstm, x):
    output, state, pullback = lstm.vjp(x)
    found = pullback(output, state)
    return [found.input, *found.hx, *found.parameters.values()]

def stepwise(lstm, x):
    stream = lstm.stream(x.shape[1])
    return [stream(x_t).copy() for x_t in x]

def make(work, I, H, T, B, **options):
    lstm = cylstm.LSTM(I, H, backend="cython", **options)
    x = cylstm.randn(T, B, I, dtype=options.get("dtype"))
    return lambda: work(lstm, x)

_lstm.open_regions(True)
cylstm.manual_seed(0)
cylstm.set_num_threads(1)
calls = [
    make(whole, 64, 128, 30, 16), make(whole, 16, 250, 40, 1), make(gradients, 32, 90, 12, 20, bidirectional=True),
    make(whole, 24, 130, 20, 9, num_layers=2, proj_size=7), make(stepwise, 8, 150, 30, 2),
    make(whole, 32, 200, 20, 4, precision="int8"), make(whole, 32, 200, 20, 4, precision="bfloat16"),
    make(whole, 16, 96, 20, 8, peephole=True, cell_clip=1.0), make(gradients, 16, 70, 10, 33, dtype="float64"),
]
expected = [call() for call in calls]
others = []
cylstm.set_num_threads(3)

def right(n):
    return all(map(np.array_equal, calls[n](), expected[n]))

for n in range(len(calls)):
    assert right(n)  # the threads behind the main thread are there now, and may run everywhere

def tasks():
    return list(map(int, os.listdir("/proc/self/task")))

everywhere, start, answers, ended = os.sched_getaffinity(0), len(tasks()), [], False
sets = [{cpu} for cpu in everywhere] + [everywhere]
"""
WORK = """
def work(n):
    for _ in range(8):
        answers.append(right(n))

def work_of_others(check):
    while not ended:
        answers.append(check())

def change(which):
    draw = random.Random(1)
    while not ended:
        for task in which():
            try:
                os.sched_setaffinity(task, draw.choice(sets))
            except ProcessLookupError:
                pass
        time.sleep(0.001)

workers = [threading.Thread(target=work, args=(n,)) for n in range(len(calls))]
beside = [threading.Thread(target=work_of_others, args=(check,)) for check in others]
for thread in workers + beside:
    thread.start()
changer = threading.Thread(target=change, args=({which},))
changer.start()
for _ in range(8):
    answers.append(all(right(n) for n in range(0, len(calls), 3)))
for thread in workers:
    thread.join()
ended = True
for thread in [changer, *beside]:
    thread.join()
for _ in range(3000):
    if len(tasks()) <= start:
        break
    time.sleep(0.01)
"""
CALLERS = "lambda: [thread.native_id for thread in workers]"
END = """
print(len(answers) >= 80, all(answers), len(tasks()) - start,
      all(os.sched_getaffinity(task) == everywhere for task in tasks()))
"""
WIDEN = """
for task in tasks():
    os.sched_setaffinity(task, everywhere)
answers.append(right(0))
"""
OTHERS = """
import onnxruntime, torch
from cylstm import onnx as to_onnx
import tempfile
torch.set_num_threads(2)
theirs, y = torch.nn.LSTM(32, 64).eval(), torch.randn(20, 8, 32)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    cylstm.save(cylstm.LSTM.from_torch(theirs), f"{folder}/m.onnx")
    session = onnxruntime.InferenceSession(f"{folder}/m.onnx", options)
    of_torch = theirs(y)[0]
feed = {session.get_inputs()[0].name: y.numpy()}
of_onnx = session.run(None, feed)[0]

def check_torch():
    with torch.no_grad():
        return torch.equal(theirs(y)[0], of_torch)

others = [check_torch, lambda: np.array_equal(session.run(None, feed)[0], of_onnx)]
assert all(check() for check in others)
start = len(tasks())
"""


def test_where_callers_may_run_changes_during_their_calls() -> None:
    """The same bits; afterwards each thread may run where it could, and none is left."""
    assert run(BEGIN + WORK.format(which=CALLERS) + END, OMP_NUM_THREADS="3") == "True True 0 True"


def test_where_all_threads_may_run_changes_during_calls() -> None:
    """Those of OpenMP too, as `taskset -a -p` does: the same bits, and calls go on when all is as before."""
    assert run(BEGIN + WORK.format(which="tasks") + WIDEN + END, OMP_NUM_THREADS="3") == "True True 0 True"


def test_beside_the_threads_of_pytorch_and_of_onnx_runtime() -> None:
    for package in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    code = BEGIN + OTHERS + WORK.format(which="list") + END
    answer = run(code, OMP_NUM_THREADS="3").split()
    assert (answer[:2], int(answer[2]) <= 4, answer[3]) == (["True", "True"], True, "True")  # 4: OpenMP of PyTorch
