"""Measure the cupy backend on an NVIDIA GPU against torch.nn.LSTM, which runs cuDNN there: ``make bench-cuda``.

Times are medians by CUDA's events; input, weights and gradients lie on the GPU. Beside each time stands the largest
error against float64. float32 is strict in both, but in the cases of the regime TF32, where both may use that.
Contenders are PyTorch, cylstm as it chooses by itself, and each of its kernel variants: where one is faster than
another that stands before it in ``cupy_backend.backend.VARIANTS``, the report says so. Needs PyTorch with CUDA, CuPy
and ml_dtypes.

Each run goes on where the last one on such a device has ended: ``--seconds`` bounds it, and the file of results, in
``benchmarks/results/gpu``, is written after each case. ``--list DEVICE`` says what is missing there, in order. Cases
are measured in another process, for some errors of CUDA leave one in which nothing works; then a new one goes on.

PyTorch does not keep weights of bfloat16 in one piece of memory, so it puts them together in each call. That is its own
doing and stays in its time; the warning about it is not shown.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np
from cases import Case
from gpu_cases import allows_tf32, matching
from gpu_docs import write_docs
from gpu_results import CONTENDERS, PEER, TIERS, Data, Plan, Row, add, missing, path_of, read, report, write

import cylstm
from cylstm.backends import cupy_backend
from cylstm.backends.cupy_backend import CupyBackend

#: Words of errors after which nothing works in a process, and the status that it ends with then.
POISONED, STATUS_POISONED = ("illegal", "misaligned", "launch failure", "launch timed out", "ECC", "assert"), 3
#: Seconds that a case may take.
MOST_SECONDS = 120
#: Calls before the clock; calls on the clock, at least, at most, and the seconds after which they are enough.
WARM_UP, FEWEST, MOST, ENOUGH = 2, 3, 7, 1.0


class Place(Protocol):
    """Where it runs: a GPU, or the CPU in the tests."""

    torch_device: str

    def array(self, tensor: Any) -> Any:
        """A tensor of PyTorch there as an array that cylstm takes, on the same memory."""

    def tensor(self, array: Any) -> Any:
        """An array that cylstm has returned as a tensor of PyTorch."""

    def allow_tf32(self, allowed: bool) -> None:
        """Let PyTorch use TF32, or not."""

    def backend(self, tier: str, tf32: bool) -> CupyBackend:
        """The backend with a tier, "" for its own choice."""

    def seconds(self, run: Callable[[], Any]) -> float:
        """The median time of a function."""


# What is measured ----------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """The numbers of a case, as tensors of its dtype, but for the lengths."""

    parameters: dict[str, Any]  # under PyTorch's names
    input: Any  # (T, B, I)
    grad_output: Any  # (T, B, D * H), or None
    lengths: list[int] | None  # the longest first; None for equal ones


def make_problem(place: Place, case: Case) -> Problem:
    """Random numbers, the same ones each time. They are made where they are used, for there are up to 10^9 of them."""
    import torch

    torch.manual_seed(1)
    dtype, width = getattr(torch, case.dtype), case.H * case.directions
    module = torch.nn.LSTM(
        case.input_size, case.H, num_layers=case.layers, bidirectional=case.bidirectional, device=place.torch_device
    )
    parameters = {name: p.detach().to(dtype) for name, p in module.named_parameters()}
    x = torch.randn(case.T, case.B, case.input_size, device=place.torch_device).to(dtype)
    grad = torch.randn(case.T, case.B, width, device=place.torch_device).to(dtype) if case.training else None
    lengths = sorted(case.lengths.tolist(), reverse=True) if case.shortest else None
    return Problem(parameters, x, grad, lengths)


def error_of(found: Iterable[Any], expected: Sequence[Any], *, training: bool) -> float:
    """The largest error: of output and states, which are below 1, or of gradients as a share of the largest element."""
    errors = []
    for a, b in zip(found, expected, strict=True):
        largest = b.abs().max().item() if training else 1.0
        errors.append((a.double() - b).abs().max().item() / largest)
    return float(np.max(errors))  # nan stays


def torch_runner(place: Place, problem: Problem, case: Case, dtype: str) -> Callable[[], list[Any]]:
    """torch.nn.LSTM in a dtype: output and states, or all gradients."""
    import torch

    parameters, x, grad, lengths = problem
    lstm = torch.nn.LSTM(
        case.input_size, case.H, num_layers=case.layers, bidirectional=case.bidirectional,
        device=place.torch_device, dtype=getattr(torch, dtype),
    )  # fmt: skip
    lstm.load_state_dict(parameters)
    x, grad = (None if a is None else a.detach().to(getattr(torch, dtype)) for a in (x, grad))
    if lengths:
        pack = torch.nn.utils.rnn.pack_padded_sequence
        x, grad = pack(x, torch.tensor(lengths)), None if grad is None else pack(grad, torch.tensor(lengths)).data
    if not case.training:

        def forward() -> list[Any]:
            with torch.inference_mode():
                output, state = lstm(x)
            return [output.data, *state]

        return forward
    data = x.data if lengths else x
    data.requires_grad_()
    wanted = [data, *lstm.parameters()]
    return lambda: list(torch.autograd.grad(lstm(x)[0].data if lengths else lstm(x)[0], wanted, grad))


def cylstm_runner(place: Place, problem: Problem, case: Case, tier: str) -> Callable[[], list[Any]]:
    """The same by cylstm."""
    lstm = cylstm.LSTM(
        case.input_size, case.H, num_layers=case.layers, bidirectional=case.bidirectional, dtype=case.dtype,
        backend=place.backend(tier, allows_tf32(case)),
    )  # fmt: skip
    lstm.load_state_dict({name: p.cpu() for name, p in problem.parameters.items()})
    x, grad = (None if a is None else place.array(a) for a in (problem.input, problem.grad_output))
    if problem.lengths:
        x, grad = (a if a is None else cylstm.pack_padded_sequence(a, problem.lengths) for a in (x, grad))
    if not case.training:

        def forward() -> list[Any]:
            output, state = lstm(x)
            return [output.data if problem.lengths else output, *state]

        return forward

    def both() -> list[Any]:
        grads = lstm.vjp(x)[2](grad)
        return [grads.input.data if problem.lengths else grads.input, *grads.parameters.values()]

    return both


def measure(place: Place, case: Case, contenders: Sequence[str] = CONTENDERS) -> list[Row]:
    """A row for each contender. One that fails, for lack of memory say, has the reason in the place of figures.

    After an error that leaves the process useless, there are no more rows.
    """
    rows: list[Row] = []
    expected: list[Any] = []
    problem = None
    place.allow_tf32(allows_tf32(case))
    for name in contenders:
        row: Row = {"case": case.name, "contender": name}
        rows.append(row)
        try:
            problem = problem or make_problem(place, case)
            expected = expected or torch_runner(place, problem, case, "float64")()
            if name == PEER:
                run, tensor = torch_runner(place, problem, case, case.dtype), lambda a: a
            else:
                run, tensor = cylstm_runner(place, problem, case, TIERS.get(name, "")), place.tensor
            error = error_of(map(tensor, run()), expected, training=case.training)
            row.update(error=error, seconds=place.seconds(run))
        except Exception as failure:
            row["failure"] = f"{type(failure).__name__}: {failure}"
            if is_poisoned(row):
                break
    return rows


def is_poisoned(row: Row) -> bool:
    """Whether nothing works in a process after what happened in a row."""
    return any(word in row.get("failure", "") for word in POISONED)


# A GPU ---------------------------------------------------------------------------------------------------------------


class Gpu:
    """The current GPU."""

    torch_device = "cuda"

    def array(self, tensor: Any) -> Any:
        import cupy
        import ml_dtypes
        import torch

        if tensor.dtype == torch.bfloat16:
            return cupy.from_dlpack(tensor.view(torch.int16)).view(ml_dtypes.bfloat16)
        return cupy.from_dlpack(tensor)

    def tensor(self, array: Any) -> Any:
        import torch

        if array.dtype.name == "bfloat16":
            return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(array)

    def allow_tf32(self, allowed: bool) -> None:
        import torch

        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed

    def backend(self, tier: str, tf32: bool) -> CupyBackend:
        return CupyBackend(tier=tier, tf32=tf32)

    def seconds(self, run: Callable[[], Any]) -> float:
        import torch  # CuPy and PyTorch both use the default stream

        for _ in range(WARM_UP):
            run()
        times: list[float] = []
        while len(times) < FEWEST or (len(times) < MOST and sum(times) < ENOUGH):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        return median(times)

    def free(self) -> None:
        """Give back memory of the case before."""
        import cupy
        import torch

        torch.cuda.empty_cache()
        cupy.get_default_memory_pool().free_all_blocks()


def why_not() -> str:
    """What is missing here; nothing where it can run."""
    available, reason = CupyBackend.is_available()
    if not available:
        return reason
    import torch

    return "" if torch.cuda.is_available() else f"PyTorch {torch.__version__} has no CUDA: install one that has"


def what_runs() -> dict[str, Any]:
    """When and with what a run was made."""
    import cupy
    import torch

    sources = sorted(Path(cupy_backend.__file__).parent.rglob("*.*"))
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources if p.suffix in (".py", ".cu", ".h")))
    return {
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(),
        "sources": digest.hexdigest()[:12],  # of the backend
        "versions": {
            "cylstm": cylstm.__version__,
            "cupy": cupy.__version__,
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "driver": cupy.cuda.runtime.driverGetVersion(),
        },
    }


# Processes -----------------------------------------------------------------------------------------------------------


def measure_here(place: Place, plan: Plan, seconds: float, free: Callable[[], None]) -> int:
    """Measure in this process, and print the rows of each case as a line of JSON. The status to end with."""
    warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk of memory")
    end = time.monotonic() + seconds
    for case, contenders in plan:
        if time.monotonic() > end:
            break
        rows = measure(place, case, contenders)
        print(json.dumps(rows), flush=True)
        if is_poisoned(rows[-1]):
            return STATUS_POISONED
        free()
    return 0


def measure_apart(
    plan: Plan,
    keep: Callable[[Case, list[Row]], None],
    seconds: float,
    command: Sequence[str] = (sys.executable, __file__, "--here"),
    most: float = MOST_SECONDS,
) -> None:
    """Measure in another process, and hand on the rows of each case as they come.

    Where it ends too early, or a case takes too long, that case has failed, and a new process goes on with the next.
    """
    plan, end = list(plan), time.monotonic() + seconds
    while plan and (left := end - time.monotonic()) > 0:
        child = subprocess.Popen(
            [*command, "--seconds", str(left)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin
        assert child.stdout
        with child:
            json.dump([[case.name, names] for case, names in plan], child.stdin)
            child.stdin.close()
            lines = iter(child.stdout)
            while True:
                clock = threading.Timer(most, child.kill)
                clock.start()
                line = next((line for line in lines if line.startswith("[")), None)
                clock.cancel()
                if line is None:
                    break
                keep(plan.pop(0)[0], json.loads(line))
        if child.returncode == 0:
            return
        if plan and child.returncode != STATUS_POISONED:
            case, names = plan.pop(0)
            why = f"the process ended with status {child.returncode}, or was ended after {most} s"
            keep(case, [{"case": case.name, "contender": name, "failure": why} for name in names])


def run(data: Data, path: Path, plan: Plan, seconds: float, **options: Any) -> None:
    """Measure, and write the file after each case."""
    number = len(data["runs"])

    def keep(case: Case, rows: list[Row]) -> None:
        if len(data["runs"]) == number:
            data["runs"].append(what_runs())
        add(data, case, rows, number)
        write(path, data)

    measure_apart(plan, keep, seconds, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-k", dest="words", default="", help="only cases whose name or regime holds this")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case later than this")
    parser.add_argument("--results", type=Path, metavar="FILE", help="the file to go on with, not that of the device")
    parser.add_argument("--again", action="store_true", help="measure also what the file has")
    parser.add_argument("--list", metavar="DEVICE", help="measure nothing, say what is missing for a device")
    parser.add_argument("--here", action="store_true", help="measure here what stands on the input, print JSON")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="renew the documentation from a file of results")
    given = parser.parse_args(arguments)
    if given.docs:
        write_docs(json.loads(given.docs.read_text("utf-8")))
        return 0
    chosen = matching(given.words)
    if not chosen:
        parser.error(f"no case has {given.words!r} in its name or regime")
    if not given.list and (reason := why_not()):
        print(f"nothing can be measured here: {reason}", file=sys.stderr)
        return 2
    if given.here:
        by_name, gpu = {case.name: case for case in chosen}, Gpu()
        plan = [(by_name[name], names) for name, names in json.load(sys.stdin)]
        return measure_here(gpu, plan, given.seconds, gpu.free)
    device = given.list or _device_name()
    path = given.results or path_of(device)
    data = read(path, device)
    plan = missing(data, chosen, given.contenders, again=given.again)
    if given.list:
        print("\n".join(f"{case.name}: {', '.join(names)}" for case, names in plan))
        return 0
    run(data, path, plan, given.seconds)
    left = {case.name for case, _ in missing(data, chosen, given.contenders)}
    print(f"{report(data)}\nwritten: {path}; of {len(left)} of {len(chosen)} cases something is missing")
    return 0


def _device_name() -> str:
    import torch

    return str(torch.cuda.get_device_name())


if __name__ == "__main__":
    sys.exit(main())
