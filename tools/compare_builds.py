"""Hold two builds of cylstm against each other: bits, or with ``--speed`` times.

``python tools/compare_builds.py OLD NEW`` takes two source trees whose compiled module lies in ``src`` (``python
setup.py build_ext --inplace``). Both compute the same random layers in every way a layer can be called, once for each
instruction set of this machine, in processes of their own; what they return must be equal bit for bit. With ``--speed``
two processes time the cases of ``make bench-quick`` in turns: while one runs, the other waits at its pipe.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import itertools
import json
import os
import pkgutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from cases import CASES, Case, make_problem

THREADS = (1, 2)
BLOCK, WARM_UP, IDLE = 0.005, 0.003, 0.05  # seconds: timed, unmeasured before it, and for the threads to fall asleep


# Random layers -------------------------------------------------------------------------------------------------------


def random_layer(seed: int) -> dict[str, Any]:
    """One layer and one way to call it, all plain data."""
    rng = np.random.default_rng(seed)
    large = rng.random() < 0.03
    I, H = (int(n) for n in (rng.integers(200, 520, 2) if large else rng.integers(1, 131, 2)))
    form = str(rng.choice(["padded", "packed", "unbatched", "batch_first"]))
    layers = int(rng.integers(1, 4))
    return {
        "seed": seed,
        "dtype": str(rng.choice(["float32", "float64"])),
        "input_size": I,
        "hidden_size": H,
        "num_layers": layers,
        "bidirectional": bool(rng.random() < 0.35),
        "bias": bool(rng.random() < 0.8),
        "proj_size": int(rng.integers(1, H)) if H > 1 and rng.random() < 0.25 else 0,
        "dropout": 0.3 if layers > 1 and rng.random() < 0.2 else 0.0,
        "form": form,
        "steps": int(rng.integers(1, 7 if large else 25)),
        "batch": 1
        if form == "unbatched"
        else int(rng.choice([1, 2, 3, 5, 8, 13, 33], p=[0.25, *[0.15] * 4, 0.1, 0.05])),
        "state": bool(rng.random() < 0.5),
    }


def digest(*values: Any) -> str:
    """A short hash of arrays, packed sequences and nested tuples of them."""
    hashed = hashlib.blake2b(digest_size=8)

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            hashed.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        elif value is not None:
            for item in value.values() if isinstance(value, dict) else value:
                add(item)

    add(values)
    return hashed.hexdigest()


def results_of(layer: dict[str, Any]) -> dict[str, str]:
    """What the build in force computes for a layer: the digest of each kind of result."""
    import cylstm

    options = {k: layer[k] for k in ("num_layers", "bidirectional", "bias", "proj_size", "dropout", "dtype")}
    first, form = layer["form"] == "batch_first", layer["form"]
    cylstm.manual_seed(layer["seed"])
    lstm = cylstm.LSTM(layer["input_size"], layer["hidden_size"], batch_first=first, backend="cython", **options)
    rng = np.random.default_rng(layer["seed"] + 1)
    T, B, D = layer["steps"], layer["batch"], 1 + layer["bidirectional"]
    H, R = layer["hidden_size"], layer["proj_size"] or layer["hidden_size"]

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(layer["dtype"])

    def shaped(array: np.ndarray) -> Any:
        """(T, B, features) in the form of the layer."""
        if form == "packed":
            return cylstm.pack_padded_sequence(array, lengths, enforce_sorted=False)
        return array[:, 0] if form == "unbatched" else array.swapaxes(0, 1) if first else array

    lengths = rng.integers(1, T + 1, B)
    lengths[0] = T
    x, grad_output = draw(T, B, layer["input_size"]), draw(T, B, D * R)
    D_layers = D * layer["num_layers"]
    hx, grad_hx = ((draw(D_layers, B, R), draw(D_layers, B, H)) for _ in range(2))
    if form == "unbatched":
        hx, grad_hx = (tuple(state[:, 0] for state in pair) for pair in (hx, grad_hx))
    given, data = hx if layer["state"] else None, shaped(x)

    found = {"weights": digest(lstm.state_dict())}
    for threads in THREADS:
        cylstm.set_num_threads(threads)
        found[f"forward, {threads}"] = _seeded(layer, lambda: lstm(data, given))
        for recompute in (False, True):
            grads = _seeded(layer, lambda r=recompute: _gradients(lstm, data, given, shaped(grad_output), grad_hx, r))
            found[f"{'recompute' if recompute else 'gradients'}, {threads}"] = grads
        if D == 1:
            found[f"stream, {threads}"] = digest(list(_stream(lstm, x, None if form == "unbatched" else given)))
        if D == 1 and not first:
            found[f"loop, {threads}"] = digest(list(_loop(lstm, x, None if form == "unbatched" else given)))
    return found


def _seeded(layer: dict[str, Any], call: Callable[[], Any]) -> str:
    import cylstm

    cylstm.manual_seed(layer["seed"])  # of the dropout masks
    return digest(call())


def _gradients(lstm: Any, data: Any, given: Any, grad_output: Any, grad_hx: Any, recompute: bool) -> list[Any]:
    output, state, pullback = lstm.vjp(data, given, recompute=recompute)
    alone = pullback(grad_output)
    both = pullback(grad_output, grad_hx)
    return [output, state, *([grads.input, grads.hx, grads.parameters] for grads in (alone, both))]


def _stream(lstm: Any, x: np.ndarray, hx: Any) -> Iterator[Any]:
    """Step by step by ``stream``, the states at the end, and again after a reset."""
    lstm.eval()
    stream = lstm.stream(x.shape[1])
    if hx is not None:
        stream.state = hx
    for _ in range(2):
        for x_t in x:
            yield stream(x_t).copy()
        yield tuple(np.array(state) for state in stream.state)
        stream.reset()
    lstm.train()


def _loop(lstm: Any, x: np.ndarray, state: Any) -> Iterator[Any]:
    """Step by step by calls."""
    lstm.eval()
    for t in range(len(x)):
        output, state = lstm(x[t : t + 1], state)
        yield output
    yield state
    lstm.train()


# A build, in a process of its own ------------------------------------------------------------------------------------


def private(name: str) -> Any:
    """A function of the compiled modules, wherever this build has it; None where it has none of that name."""
    import cylstm.backends as backends

    places = [module.name for module in pkgutil.walk_packages(backends.__path__, "cylstm.backends.")]
    for place in sorted((p for p in places if "cupy" not in p), key=lambda p: p.rpartition(".")[2] != "_lstm"):
        with contextlib.suppress(ImportError):
            if (found := getattr(importlib.import_module(place), name, None)) is not None:
                return found
    return None


def work_bits(arguments: argparse.Namespace) -> None:
    """A line of JSON per layer, each the digests of its results; before them what this build is."""
    from cylstm.backends.cython_backend import CythonBackend

    open_regions, sets = private("open_regions"), private("instruction_sets")
    if open_regions:
        open_regions(True)
    about = {
        "isa": CythonBackend().info()["instruction_set"],
        "sets": list(sets()) if sets else [],
        "forced": bool(open_regions),
    }
    print(json.dumps(about), flush=True)
    for seed in range(arguments.seed, arguments.seed + arguments.layers):
        print(json.dumps(results_of(random_layer(seed))), flush=True)


def work_speed(arguments: argparse.Namespace) -> None:
    """Read the name of a case, time one block of calls, answer with the seconds of one call; until the pipe ends."""
    import cylstm

    cylstm.set_num_threads(arguments.threads)
    calls, tasks = {}, {name: (case, stream) for name, case, stream in speed_tasks("")}
    for line in sys.stdin:
        name = line.strip()
        if name not in calls:
            calls.clear()  # one case at a time
            calls[name] = speed_call(*tasks[name])
        print(time_block(calls[name]), flush=True)


def speed_tasks(wanted: str) -> list[tuple[str, Case, bool]]:
    """(name, case, by ``stream``) of what is timed."""
    tasks = [(case.name, case, False) for case in CASES if case.quick]
    tasks += [(f"{case.name}-stream", case, True) for case in CASES if case.quick and case.T == 1]
    return [task for task in tasks if wanted in task[0]]


def speed_call(case: Case, stream: bool) -> Callable[[], object]:
    """The call of a case, everything made beforehand."""
    import cylstm

    problem = make_problem(case)
    lstm = cylstm.LSTM(
        case.input_size, case.H, case.layers, bidirectional=case.bidirectional, proj_size=case.proj_size,
        dtype=case.dtype, backend="cython",
    )  # fmt: skip
    lstm.load_state_dict(problem.parameters)
    if stream:
        step, x_t = lstm.stream(case.B), problem.input[0]
        return lambda: step(x_t)

    def packed(array: np.ndarray) -> Any:
        return cylstm.pack_padded_sequence(array, case.lengths, enforce_sorted=False) if case.shortest else array

    data = packed(problem.input)
    if case.training:
        grad_output = packed(problem.grad_output)
        return lambda: lstm.vjp(data)[2](grad_output)
    return lambda: lstm(data)


def time_block(call: Callable[[], object]) -> float:
    """Seconds of one call, after calls that go unmeasured; then this process's threads fall asleep."""
    end, calls, fastest = time.perf_counter() + WARM_UP, 0, float("inf")
    while not calls or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        fastest, calls = min(fastest, time.perf_counter() - begin), calls + 1
    count = max(1, int(BLOCK / fastest))
    begin = time.perf_counter()
    for _ in range(count):
        call()
    seconds = (time.perf_counter() - begin) / count
    time.sleep(IDLE)
    return seconds


# Both builds ---------------------------------------------------------------------------------------------------------


def start(tree: Path, kind: str, arguments: argparse.Namespace, isa: str = "", **pipes: Any) -> subprocess.Popen:
    """A worker that imports cylstm from a tree."""
    env = {k: v for k, v in os.environ.items() if k not in ("CYLSTM_BACKEND", "CYLSTM_NUM_THREADS")}
    env["PYTHONPATH"] = str(tree / "src")
    if isa:
        env["CYLSTM_MAX_ISA"] = isa
    command = [sys.executable, __file__, str(tree), str(tree), "--worker", kind]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("seed", "layers", "threads")]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, **pipes)


def progress(items: Any, total: int, label: str) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(
        items, total=total, desc=label, leave=False, dynamic_ncols=True, disable=None
    )  # None: on a terminal only


def table(rows: list[list[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def bits_of(tree: Path, isa: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What a tree says of itself, and the digests of all layers."""
    worker = start(tree, "bits", arguments, isa)
    about = json.loads(worker.stdout.readline() or "null")
    lines = progress(worker.stdout, arguments.layers, f"{tree.name}, {about and about['isa']}") if about else []
    found = [json.loads(line) for line in lines]
    if worker.wait() or len(found) < arguments.layers:
        sys.exit(f"{tree} ended with status {worker.returncode} after {len(found)} layers (seed {arguments.seed})")
    return about, found


def instruction_sets(tree: Path) -> list[str]:
    """Those of this machine, as the tree names them."""
    worker = start(tree, "bits", argparse.Namespace(seed=0, layers=0, threads=1))
    line = worker.stdout.readline()
    if worker.wait():
        sys.exit(f"{tree} cannot be imported: is its compiled module built in place?")
    about = json.loads(line)
    return about["sets"] or [about["isa"]]


def compare_bits(old: Path, new: Path, arguments: argparse.Namespace) -> int:
    equal, different, examples = Counter(), Counter(), []
    isas = arguments.isa or instruction_sets(old)
    for isa in isas:
        (about_old, found_old), (about_new, found_new) = (bits_of(tree, isa, arguments) for tree in (old, new))
        if about_old["isa"] != about_new["isa"]:
            sys.exit(f"with CYLSTM_MAX_ISA={isa} {old} runs {about_old['isa']}, {new} runs {about_new['isa']}")
        for tree, about in ((old, about_old), (new, about_new)):
            if not about["forced"]:
                print(f"{tree} has no open_regions: it decides itself when two threads pay")
        for seed, a, b in zip(itertools.count(arguments.seed), found_old, found_new):
            for kind in a.keys() | b.keys():
                same = a.get(kind) == b.get(kind)
                (equal if same else different)[kind, isa] += 1
                if not same:
                    examples.append(f"{isa}: {kind}: {random_layer(seed)}")
    kinds = list(dict.fromkeys(kind for kind, _ in sorted([*equal, *different])))
    rows = [["result, threads", *(f"{isa} {word}" for isa in isas for word in ("equal", "different"))]]
    rows += [[kind, *(f"{count[kind, isa]:,}" for isa in isas for count in (equal, different))] for kind in kinds]
    rows += [
        ["sum", *(f"{sum(n for (_, i), n in c.items() if i == isa):,}" for isa in isas for c in (equal, different))]
    ]
    print(table(rows))
    print(*examples[:10], sep="\n")
    print(f"{arguments.layers:,} layers: {'all equal' if not different else f'{different.total():,} results differ'}")
    return 1 if different else 0


def compare_speed(old: Path, new: Path, arguments: argparse.Namespace) -> int:
    tasks = speed_tasks(arguments.case)
    if not tasks:
        sys.exit(f"no case has {arguments.case!r} in its name: {', '.join(name for name, *_ in speed_tasks(''))}")
    workers = [start(tree, "speed", arguments, stdin=subprocess.PIPE) for tree in (old, new)]
    rows, ratios = [["case", "old µs", "new µs", "new/old", "quartiles", "least"]], {}
    for name, _, _ in progress(tasks, len(tasks), "cases"):
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(arguments.rounds + 1):  # the first makes the layer
            for which in (0, 1) if turn % 2 else (1, 0):
                print(name, file=workers[which].stdin, flush=True)
                seconds[which].append(float(workers[which].stdout.readline()))
        pairs = [b / a for a, b in zip(seconds[0][1:], seconds[1][1:], strict=True)]
        low, ratios[name], high = statistics.quantiles(pairs, n=4)
        medians = [f"{1e6 * statistics.median(side[1:]):,.1f}" for side in seconds]
        least = min(seconds[1][1:]) / min(seconds[0][1:])
        rows.append([name, *medians, f"{ratios[name]:.3f}", f"{low:.3f} - {high:.3f}", f"{least:.3f}"])
    for worker in workers:
        worker.stdin.close()
        worker.wait()
    print(table(rows))
    worst = max(ratios, key=ratios.get)
    print(f"\n{arguments.rounds} rounds in turns, {arguments.threads} threads")
    print("new/old: median of the rounds' ratios; least: of the fastest blocks, which a busy machine disturbs less")
    print(f"worst: {ratios[worst]:.3f} ({worst})")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path, help="a source tree with its compiled module in place")
    parser.add_argument("new", type=Path, help="another")
    parser.add_argument("--layers", type=int, default=1000, help="random layers per instruction set (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first layer (0)")
    parser.add_argument("--isa", action="append", help="this instruction set alone; may be repeated")
    parser.add_argument("--speed", action="store_true", help="times in place of bits")
    parser.add_argument("--case", default="", help="with --speed, only cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=41, help="with --speed, per case (41)")
    parser.add_argument("--threads", type=int, default=2, help="with --speed (2)")
    parser.add_argument("--worker", choices=("bits", "speed"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        (work_bits if arguments.worker == "bits" else work_speed)(arguments)
        return 0
    compare = compare_speed if arguments.speed else compare_bits
    return compare(arguments.old.resolve(), arguments.new.resolve(), arguments)


if __name__ == "__main__":
    sys.exit(main())
