"""What a call costs beside its arithmetic: import, wheel, memory, first call, calls after a rest; and scaling.

``python benchmarks/run.py costs`` prints it. Import, memory and first calls have processes of their own.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from cases import Case, make_problem
from contenders import CONTENDERS
from machine import settle

from .measure import measure

BENCHMARKS = Path(__file__).parents[1]
FAST = ["cylstm-cython", "torch-onednn", "torch-native", "onnxruntime"]

_IMPORT = """
import time; begin = time.perf_counter()
import {first}
middle = time.perf_counter()
import {second}
print(time.perf_counter() - middle, middle - begin)
"""

# VmHWM, the largest memory so far, starts anew from what is in use when 5 is written to clear_refs.
_MEMORY = """
import sys
sys.path.insert(0, {folder!r})
from cases import Case, make_problem
from contenders import CONTENDERS
def status(field):
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
case = Case(name="", regime="", H=256, T={T})
small, large = Case(name="", regime="", H=256, T=200), Case(name="", regime="", H=256, T={T})
problem = make_problem(large)
import dataclasses
short = dataclasses.replace(problem, input=problem.input[:200].copy())
contender = CONTENDERS[{name!r}]
for case, arrays in ((small, short), (large, problem)):
    runner = contender.prepare(case, arrays, {threads})
    with runner.context():
        if case is large:
            open("/proc/self/clear_refs", "w").write("5")
            before = status("VmRSS")
        result = runner.call()
print(status("VmHWM") - before - 4 * 256 * {T})
"""

_FIRST_CALL = """
import sys, time
import numpy as np
x = np.zeros((1, 1, 256), np.float32)
begin = time.perf_counter()
import cylstm
imported = time.perf_counter()
lstm = cylstm.LSTM(256, 256)
made = time.perf_counter()
lstm(x)
called = time.perf_counter()
lstm(x)
print(imported - begin, made - imported, called - made, time.perf_counter() - called)
"""


def measure_costs(threads: int, *, quick: bool) -> dict[str, Any]:
    """Everything of this module, as plain data. Seconds and bytes."""
    repeats = 5 if quick else 15
    costs: dict[str, Any] = {
        "import": {
            name: _medians(_IMPORT.format(first="numpy", second=name), repeats)[0] for name in ("cylstm", "torch")
        },
        "import_numpy": _medians(_IMPORT.format(first="numpy", second="cylstm"), repeats)[1],
        "first_call": dict(
            zip(("import", "construct", "first call", "second call"), _medians(_FIRST_CALL, repeats), strict=True)
        ),
        "after_rest": measure_after_rest(threads, 10 if quick else 60),
        "wheel": _wheel_size(),
        "memory": {},
    }
    if Path("/proc/self/clear_refs").exists():
        for T in (1_000, 10_000) if quick else (1_000, 5_000, 20_000, 50_000):
            for name in FAST:
                script = _MEMORY.format(folder=str(BENCHMARKS), T=T, name=name, threads=threads)
                costs["memory"].setdefault(name, []).append([T, max(0.0, _medians(script, 1)[0])])
    costs["scaling"] = {} if quick else measure_scaling(threads)
    costs["threads"] = {} if quick else measure_threads(threads)
    return costs


def measure_scaling(threads: int) -> dict[str, Any]:
    """Median seconds per step and sequence, as B, T or H grows and the others stay: {axis: {contender: [[n, s]]}}."""
    sweeps = {
        "B": [dict(B=n, T=50, H=128) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)],
        "T": [dict(B=1, T=n, H=128) for n in (1, 3, 10, 30, 100, 300, 1000, 3000)],
        "H": [dict(B=1, T=100, H=n) for n in (16, 32, 64, 128, 256, 512, 1024)],
    }
    result: dict[str, Any] = {}
    for axis, points in sweeps.items():
        result[axis] = {}
        for sizes in points:
            rows = measure(Case(name="", regime="", **sizes), FAST, threads, budget=1.0, rounds=10)
            for name, row in rows.items():
                if row.seconds:
                    point = [sizes[axis], row.median / sizes["B"] / sizes["T"]]
                    result[axis].setdefault(name, []).append(point)
    return result


def measure_after_rest(threads: int, repeats: int) -> dict[str, Any]:
    """Ten calls, T=1 H=256, when all threads have gone to sleep: {contender: [median seconds of the ten, the most]}."""
    case = Case(name="", regime="", H=256)
    problem = make_problem(case)
    right = [name for name, row in measure(case, FAST, threads, budget=0).items() if not row.wrong]
    runners = {name: CONTENDERS[name].prepare(case, problem, threads) for name in right}
    for runner in runners.values():
        with runner.context():
            runner.call()
    seconds: dict[str, list[float]] = {name: [] for name in right}
    for _ in range(repeats):
        for name, runner in runners.items():
            settle()
            with runner.context():
                begin = time.perf_counter()
                for _ in range(10):
                    runner.call()
                seconds[name].append(time.perf_counter() - begin)
    return {name: [statistics.median(taken), max(taken)] for name, taken in seconds.items()}


def measure_threads(threads: int) -> dict[str, dict[str, float]]:
    """Median seconds of our own calls on 1, 2, 4 … threads."""
    cases = {
        "T=100 H=128": Case(name="", regime="", T=100, H=128),
        "T=100 H=512": Case(name="", regime="", T=100, H=512),
        "B=64 T=50 H=256": Case(name="", regime="", B=64, T=50, H=256),
    }
    counts = sorted({1 << i for i in range(int(math.log2(threads)) + 1)} | {threads})
    return {
        label: {str(n): measure(case, ["cylstm-cython"], n, budget=1.0)["cylstm-cython"].median for n in counts}
        for label, case in cases.items()
    }


def _medians(script: str, repeats: int) -> list[float]:
    """What a script prints, the median of each number over several processes."""
    rows = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        rows.append([float(word) for word in done.stdout.split()[-4:]])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _wheel_size() -> dict[str, int] | None:
    """Bytes of the newest wheel, packed and unpacked; None where none was built."""
    wheels = sorted(
        [*BENCHMARKS.parent.glob("wheelhouse/*.whl"), *BENCHMARKS.parent.glob("dist/*.whl")], key=os.path.getmtime
    )
    if not wheels:
        return None
    with zipfile.ZipFile(wheels[-1]) as wheel:
        return {"packed": wheels[-1].stat().st_size, "unpacked": sum(item.file_size for item in wheel.infolist())}
