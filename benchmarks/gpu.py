"""Measure the cupy backend on an NVIDIA GPU against torch.nn.LSTM, which runs cuDNN there: ``make bench-cuda``.

Times are medians by CUDA's events; input, weights and gradients lie on the GPU. Beside each time stands the largest
error against float64. float32 is strict in both; with ``--tf32`` both may use TF32. Contenders are PyTorch, cylstm as
it chooses by itself, and each of its kernel variants: where one is faster than another that stands before it in
``cupy_backend.backend.VARIANTS``, the report says so. Each regime is measured in a process of its own, for some errors
of CUDA leave a process in which nothing works. Results go to ``benchmarks/results/gpu``. Needs PyTorch with CUDA, CuPy
and ml_dtypes.

PyTorch does not keep weights of bfloat16 in one piece of memory, so it puts them together in each call. That is its own
doing and stays in its time; the warning about it is not shown.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, Protocol

import numpy as np
from cases import Case, Problem, make_problem
from gpu_docs import write_docs

import cylstm
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.backend import VARIANTS

RESULTS = Path(__file__).parent / "results" / "gpu"
T = 256
BATCH_SIZES = (1, 16, 64, 256)
HIDDEN_SIZES = (128, 512, 1024, 256, 2048)
PEER, CHOSEN = "torch", "cylstm"
TIERS = {f"{CHOSEN}-{variant.name}": variant.name for variant in VARIANTS}  # best first
CONTENDERS = (PEER, CHOSEN, *TIERS)
#: A variant is faster than another where its time is this share of the other's, or less.
FASTER = 0.95
#: Words of errors after which nothing works in a process.
POISONED = ("illegal", "misaligned", "launch failure", "launch timed out", "ECC", "assert")
Arrays = list[np.ndarray]


class Place(Protocol):
    """Where it runs: a GPU, or the CPU in the tests."""

    torch_device: str

    def asarray(self, array: np.ndarray) -> Any:
        """An array there, as cylstm takes it."""

    def backend(self, tier: str) -> CupyBackend:
        """The backend with a tier, "" for its own choice."""

    def seconds(self, run: Callable[[], Any]) -> float:
        """The median time of a function."""


class PoisonedError(RuntimeError):
    """An error after which nothing works in this process."""


# What is measured ----------------------------------------------------------------------------------------------------


def cases(*, quick: bool = False) -> list[Case]:
    """The table of cases. Of equal lengths, the largest come last, for time may end before them."""
    grid = [
        {"dtype": dtype, "H": H, "B": B}
        for H in HIDDEN_SIZES
        for B in BATCH_SIZES
        for dtype in ("float32", "float16", "bfloat16")
        if not quick or (H in (128, 512, 1024) and B in (1, 64))
    ]
    few = [{"dtype": dtype, "H": H, "B": B} for dtype in ("float32", "bfloat16") for H in (128, 512) for B in (16, 64)]
    regimes: dict[str, list[dict[str, Any]]] = {
        "long": [{"dtype": dtype, "H": 768, "B": 16, "T": 1024} for dtype in ("float16", "bfloat16", "float32")],
        "ragged": [{**sizes, "shortest": 16} for sizes in few],
        "3 layers, bidirectional": [{**sizes, "layers": 3, "bidirectional": True} for sizes in few],
        "float64": [{**sizes, "dtype": "float64"} for sizes in few[: len(few) // 2]],
        "equal lengths": grid,
    }
    return [
        Case(name=_name(regime, sizes, training), regime=regime, training=training, **{"T": T, **sizes})
        for regime, listed in regimes.items()
        for sizes in listed
        for training in (False, True)
    ]


def _name(regime: str, sizes: dict[str, Any], training: bool) -> str:
    words = [regime.split()[0] if regime != "equal lengths" else "", sizes.get("dtype", "float32")]
    words += [f"h{sizes['H']}", f"b{sizes['B']}", "training" if training else "forward"]
    return "-".join(dict.fromkeys(filter(None, words)))


def matching(words: str, *, quick: bool) -> list[Case]:
    """The cases whose name or regime holds these words."""
    return [case for case in cases(quick=quick) if words in case.name or words in case.regime]


def sorted_problem(case: Case) -> tuple[Problem, list[int]]:
    """The arrays of a case, the longest sequence first, and the lengths."""
    problem, order = make_problem(case), np.argsort(-case.lengths, kind="stable")
    grad = None if problem.grad_output is None else problem.grad_output[:, order]
    return Problem(problem.parameters, problem.input[:, order], grad), case.lengths[order].tolist()


def errors(found: Arrays, expected: Arrays, *, training: bool) -> float:
    """The largest error: of output and states, which are below 1, or of gradients as a share of the largest element."""
    pairs = zip(found, expected, strict=True)
    return float(np.max([np.abs(a - b).max() / (np.abs(b).max() if training else 1) for a, b in pairs]))  # nan stays


# Contenders ----------------------------------------------------------------------------------------------------------


def torch_runner(place: Place, case: Case, dtype: str) -> Callable[[], list[Any]]:
    """torch.nn.LSTM in a dtype, on the numbers of the case: output and states, or all gradients."""
    import torch

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(array.astype(np.float64)).to(place.torch_device, getattr(torch, dtype))

    problem, lengths = sorted_problem(case)
    lstm = torch.nn.LSTM(
        case.input_size, case.H, num_layers=case.layers, bidirectional=case.bidirectional,
        device=place.torch_device, dtype=getattr(torch, dtype),
    )  # fmt: skip
    lstm.load_state_dict({name: tensor(array) for name, array in problem.parameters.items()})
    x: Any = tensor(problem.input)
    pack = torch.nn.utils.rnn.pack_padded_sequence
    if case.shortest:
        x = pack(x, torch.tensor(lengths))
    data = x.data if case.shortest else x
    if not case.training:

        def forward() -> list[Any]:
            with torch.inference_mode():
                output, state = lstm(x)
            return [output.data, *state]

        return forward
    grad = tensor(problem.grad_output)
    grad = pack(grad, torch.tensor(lengths)).data if case.shortest else grad
    data.requires_grad_()
    wanted = [data, *lstm.parameters()]
    return lambda: list(torch.autograd.grad(lstm(x)[0].data if case.shortest else lstm(x)[0], wanted, grad))


def cylstm_runner(place: Place, case: Case, tier: str) -> Callable[[], list[Any]]:
    """The same by cylstm."""
    problem, lengths = sorted_problem(case)
    lstm = cylstm.LSTM(
        case.input_size, case.H, num_layers=case.layers, bidirectional=case.bidirectional, dtype=case.dtype,
        backend=place.backend(tier),
    )  # fmt: skip
    lstm.load_state_dict(problem.parameters)
    x = place.asarray(problem.input)
    if case.shortest:
        x = cylstm.pack_padded_sequence(x, lengths)
    if not case.training:

        def forward() -> list[Any]:
            output, state = lstm(x)
            return [output.data if case.shortest else output, *state]

        return forward
    grad = place.asarray(problem.grad_output)
    if case.shortest:
        grad = cylstm.pack_padded_sequence(grad, lengths)

    def both() -> list[Any]:
        grads = lstm.vjp(x)[2](grad)
        return [grads.input.data if case.shortest else grads.input, *grads.parameters.values()]

    return both


def on_host(arrays: Iterable[Any]) -> Arrays:
    """Tensors and arrays of any place in float64."""
    hosts = [a.detach().cpu().double().numpy() if hasattr(a, "detach") else a.get() for a in arrays]
    return [array.astype(np.float64) for array in hosts]


def measure(place: Place, case: Case, contenders: Sequence[str] = CONTENDERS) -> list[dict[str, Any]]:
    """A row for each contender. One that fails, for lack of memory say, has the reason in the place of figures."""
    expected: Arrays = []
    rows = []
    for name in contenders:
        row: dict[str, Any] = {"case": case.name, "contender": name}
        try:
            expected = expected or on_host(torch_runner(place, case, "float64")())
            if name == PEER:
                run = torch_runner(place, case, case.dtype)
            else:
                run = cylstm_runner(place, case, TIERS.get(name, ""))
            row["error"] = errors(on_host(run()), expected, training=case.training)
            row["seconds"] = place.seconds(run)
        except Exception as error:
            row["failure"] = f"{type(error).__name__}: {error}"
            if any(word in str(error) for word in POISONED):
                raise PoisonedError(f"{case.name}, {name}: {row['failure']}") from error
        rows.append(row)
    return rows


# Report --------------------------------------------------------------------------------------------------------------


def ratios(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """PyTorch's time over that of each contender, by case and contender: above 1 is faster than PyTorch."""
    peer = {row["case"]: row["seconds"] for row in rows if row["contender"] == PEER and "seconds" in row}
    return {
        (row["case"], row["contender"]): peer[row["case"]] / row["seconds"]
        for row in rows
        if row["contender"] != PEER and "seconds" in row and row["case"] in peer
    }


def out_of_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where a kernel variant is faster than one that stands before it: what the order in code has wrong."""
    seconds = {(row["case"], row["contender"]): row["seconds"] for row in rows if "seconds" in row}
    order, found = list(TIERS), []
    for case in dict.fromkeys(row["case"] for row in rows):
        for k, first in enumerate(order):
            for later in order[k + 1 :]:
                times = seconds.get((case, first)), seconds.get((case, later))
                if None not in times and times[1] < FASTER * times[0]:
                    found.append(f"{case}: {later} takes {times[1] / times[0]:.2f} of the time of {first}")
    return found


def report(data: dict[str, Any]) -> str:
    """The rows as a table, the mean ratio of each regime, and where the order of the variants is wrong."""
    ratio, regimes = ratios(data["rows"]), {case["name"]: case["regime"] for case in data["cases"]}
    lines = [f"{data['device']}, TF32 {'allowed' if data['tf32'] else 'off'}"]
    lines.append(f"{'case':40} {'contender':14} {'ms':>10} {'error':>9} {'ratio':>6}")
    for row in data["rows"]:
        figures = row.get("failure", "")
        if not figures:
            of_peer = ratio.get((row["case"], row["contender"]))
            figures = f"{1e3 * row['seconds']:10.3f} {row['error']:9.1e} {'' if of_peer is None else f'{of_peer:6.2f}'}"
        lines.append(f"{row['case']:40} {row['contender']:14} {figures}".rstrip())
    for regime in dict.fromkeys(regimes.values()):
        for contender in CONTENDERS[1:]:
            of_regime = [r for (case, name), r in ratio.items() if name == contender and regimes[case] == regime]
            if of_regime:
                lines.append(f"mean ratio, {regime}: {contender} {geometric_mean(of_regime):.2f}")
    lines += [f"out of order: {line}" for line in out_of_order(data["rows"])]
    if left := len(regimes.keys() - {row["case"] for row in data["rows"]}):
        lines.append(f"no time was left for {left} cases")
    return "\n".join(lines)


def file_name(data: dict[str, Any]) -> str:
    """Day, minute, device and precision of a run."""
    words = [re.sub(r"[^0-9T]", "", data["datetime"])[:13], data["device"], "tf32" if data["tf32"] else "strict"]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()) + ".json"


# A GPU ---------------------------------------------------------------------------------------------------------------


class Gpu:
    """The current GPU."""

    torch_device = "cuda"

    def __init__(self, tf32: bool) -> None:
        self.tf32 = tf32

    def asarray(self, array: np.ndarray) -> Any:
        import cupy

        return cupy.asarray(array)

    def backend(self, tier: str) -> CupyBackend:
        return CupyBackend(tier=tier, tf32=self.tf32)

    def seconds(self, run: Callable[[], Any], warm_up: int = 3, repeats: int = 7) -> float:
        import torch  # CuPy and PyTorch both use the default stream

        times = []
        for k in range(warm_up + repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            if k >= warm_up:
                times.append(start.elapsed_time(end) / 1000)
        return median(times)


def why_not() -> str:
    """What is missing here; nothing where it can run."""
    available, reason = CupyBackend.is_available()
    if not available:
        return reason
    import torch

    return "" if torch.cuda.is_available() else f"PyTorch {torch.__version__} has no CUDA: install one that has"


def measure_here(chosen: Sequence[Case], contenders: Sequence[str], tf32: bool, seconds: float) -> None:
    """Measure cases in this process, and print the rows of each as a line of JSON."""
    import cupy
    import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 from then on)
    import torch

    warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk of memory")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    end = time.monotonic() + seconds
    for case in chosen:
        if time.monotonic() > end:
            return
        print(json.dumps(measure(Gpu(tf32), case, contenders)), flush=True)
        torch.cuda.empty_cache()
        cupy.get_default_memory_pool().free_all_blocks()


def measure_apart(
    names: Sequence[str], options: Sequence[str], command: Sequence[str] = (sys.executable, __file__)
) -> Any:
    """The rows of some cases, measured in a process of their own; where it failed, why, for those it did not reach."""
    done = subprocess.run([*command, *options, "--here", *names], stdout=subprocess.PIPE, text=True, check=False)
    rows = [row for line in done.stdout.splitlines() if line.startswith("[") for row in json.loads(line)]
    missing = [name for name in names if name not in {row["case"] for row in rows}] if done.returncode else []
    why = f"the process ended with status {done.returncode}"
    return rows + [{"case": name, "contender": CHOSEN, "failure": why} for name in missing]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("-k", dest="words", default="", help="only cases whose name or regime holds this")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in float32, in both")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case later than this")
    parser.add_argument("--here", nargs="+", metavar="CASE", help="measure these cases in this process, print JSON")
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="renew the documentation from a file of results alone"
    )
    given = parser.parse_args(arguments)
    if given.docs:
        write_docs(json.loads(given.docs.read_text("utf-8")))
        return 0
    chosen = matching(given.words, quick=given.quick)
    if not chosen:
        parser.error(f"no case has {given.words!r} in its name or regime")
    if missing := why_not():
        print(f"nothing can be measured here: {missing}", file=sys.stderr)
        return 2
    if given.here:
        measure_here([c for c in chosen if c.name in given.here], given.contenders, given.tf32, given.seconds)
        return 0
    options = ["--quick"] * given.quick + ["--tf32"] * given.tf32 + ["--contenders", *given.contenders]
    end, rows = time.monotonic() + given.seconds, []
    for regime in dict.fromkeys(case.regime for case in chosen):
        left = end - time.monotonic()
        names = [case.name for case in chosen if case.regime == regime]
        rows += measure_apart(names, [*options, "--seconds", str(left)])
    import cupy
    import torch

    data = {
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(),
        "device": torch.cuda.get_device_name(),
        "tf32": given.tf32,
        "versions": {
            "cylstm": cylstm.__version__,
            "cupy": cupy.__version__,
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "driver": cupy.cuda.runtime.driverGetVersion(),
        },
        "cases": [asdict(case) for case in chosen],
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / file_name(data)
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    print(f"{report(data)}\nwritten: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
