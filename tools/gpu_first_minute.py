"""One check for each thing that only a GPU can show of the cupy backend: a line each; a failure does not end the run.

Most were suspected by reading. With ``-v`` tracebacks are printed.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import cylstm
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.backend import VARIANTS

CHECKS: list[Callable[[], str | None]] = []
LIMITS = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2, "float64": 1e-12}


def check(function: Callable[[], str | None]) -> Callable[[], str | None]:
    """Runs it in turn. It raises, or returns what is to be said beside "ok"."""
    CHECKS.append(function)
    return function


def lstm(tier: str = "", I: int = 64, H: int = 64, **options: Any) -> cylstm.LSTM:
    """The same module each time."""
    cylstm.manual_seed(0)
    return cylstm.LSTM(I, H, backend=CupyBackend(tier=tier), **options)


def on_the_cpu(module: cylstm.LSTM, **options: Any) -> cylstm.LSTM:
    """The same numbers by the numpy backend."""
    other = cylstm.LSTM(module.input_size, module.hidden_size, backend="numpy", **options)
    other.load_state_dict(module.state_dict())
    return other


def up(array: np.ndarray) -> Any:
    """The array on the GPU."""
    import cupy

    return cupy.asarray(array)


@check
def each_tier_and_dtype_launched_recorded_and_replayed() -> None:
    import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 from then on)

    for tier in (variant.name for variant in VARIANTS):
        for dtype, limit in LIMITS.items():
            try:
                module, x = lstm(tier, dtype=dtype), cylstm.randn(19, 5, 64, dtype=dtype)
                expected = on_the_cpu(module, dtype=dtype)(x)[0].astype(float)
                for call in range(3):
                    error = abs(module(up(x))[0].get().astype(float) - expected).max()
                    assert error < limit, f"call {call} is wrong by {error:.1e}"
            except Exception as error:
                raise AssertionError(f"{tier} in {dtype}: {type(error).__name__}: {error}") from error


@check
def recording_leaves_the_stream_that_was_used() -> None:
    import cupy

    stream, module, x = cupy.cuda.Stream(non_blocking=True), lstm("steps"), up(cylstm.randn(19, 5, 64))
    before = cupy.cuda.get_current_stream()
    stream.use()
    try:
        for call in range(3):
            module(x)
            current = cupy.cuda.get_current_stream()
            assert current == stream, f"after call {call} the current stream is {current}"
    finally:
        before.use()
        stream.synchronize()


@check
def calls_in_a_recording_are_refused() -> None:
    import cupy

    module, x = lstm(), up(cylstm.randn(19, 5, 64))
    expected, said = module(x)[0].get(), "no error"
    before, stream = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    stream.use()
    stream.begin_capture()
    try:
        module(x)
    except RuntimeError as error:
        said = str(error)
    finally:
        stream.end_capture()
        before.use()
    assert "cannot be recorded" in said, said
    assert np.array_equal(module(x)[0].get(), expected)


@check
def pullbacks_in_another_stream() -> None:
    import cupy

    module, x, grad = lstm(H=256), up(cylstm.randn(200, 16, 64)), up(cylstm.randn(200, 16, 256))
    expected = module.vjp(x)[2](grad).input.get()
    cupy.cuda.Device().synchronize()
    for k in range(20):
        with cupy.cuda.Stream(non_blocking=True):
            pullback = module.vjp(x)[2]
        with cupy.cuda.Stream(non_blocking=True):
            got = pullback(grad).input.get()
        error = abs(got - expected).max()
        assert error < 1e-5, f"call {k} is wrong by {error:.1e}"


@check
def memory_of_old_parameters_is_freed() -> None:
    import cupy

    module, x, used = lstm(H=256), up(cylstm.randn(128, 64, 64)), []
    gc.collect()
    gc.disable()
    try:
        for _ in range(6):
            output, _, pullback = module.vjp(x)
            pullback(output)
            del output, pullback
            module.bias_ih_l0 = module.bias_ih_l0 + 1e-3
            used.append(cupy.get_default_memory_pool().used_bytes())
    finally:
        gc.enable()
    assert used[-1] - used[2] < 1 << 20, f"bytes in use after each step: {used}"


@check
def saturated_complex_gates_are_numbers() -> None:
    module, x = lstm("array", dtype="complex64"), (cylstm.randn(3, 2, 64) * 2000).astype(np.complex64)
    assert np.isfinite(module(up(x))[0].get()).all(), "not a number"


@check
def training_replays() -> str:
    from cylstm.backends.cupy_backend.cupy_device import CupySystem

    system, recorded = CupySystem(), []
    device = system.device(0)
    record = device.recorded
    device.recorded = lambda launch: recorded.append(1) or record(launch)
    module = cylstm.LSTM(64, 64, backend=CupyBackend(tier="steps", system=system))
    x, seconds = up(cylstm.randn(256, 16, 64)), []
    for _ in range(5):
        begin = time.perf_counter()
        output, _, pullback = module.vjp(x)
        pullback(output).input.get()
        module.bias_ih_l0 = module.bias_ih_l0 + 1e-3
        seconds.append(f"{1e3 * (time.perf_counter() - begin):.1f}")
    assert len(recorded) == 2, f"{len(recorded)} recordings in 5 steps of training"
    return f"ms of each step: {', '.join(seconds)}"


@check
def memory_of_torch_in_a_stream_of_its_own() -> None:
    """What is freed there may be filled anew while it is still read elsewhere."""
    import torch

    module, side = lstm(), torch.cuda.Stream()
    expected = [on_the_cpu(module)(np.full((64, 16, 64), k, np.float32))[0] for k in range(3)]
    for k in range(100):
        with torch.cuda.stream(side):
            x = torch.full((64, 16, 64), float(k % 3), device="cuda")
            y, _ = module(x)
            del x
            torch.full((64, 16, 64), 1e6, device="cuda").mul_(2)
            got = y.cpu().numpy()
        error = abs(got - expected[k % 3]).max()
        assert error < 1e-4, f"call {k} is wrong by {error:.1e}"


@check
def torch_and_jax_come_back_as_they_went_in() -> str:
    import torch

    module, x = lstm(), cylstm.randn(7, 5, 64)
    expected = module(up(x))[0].get()
    output, (h_n, _) = module(torch.from_numpy(x).cuda())
    assert isinstance(output, torch.Tensor)
    assert isinstance(h_n, torch.Tensor)
    assert output.is_cuda
    assert np.array_equal(output.cpu().numpy(), expected)
    try:
        import jax
    except ImportError:
        return "no jax here"
    output = module(jax.numpy.asarray(x))[0]
    assert isinstance(output, jax.Array)
    assert np.array_equal(np.asarray(output), expected)
    return "jax too"


@check
def the_drop_in_of_pytorch_trains_on_the_gpu() -> str:
    """Against PyTorch's own, with its optimiser, also in a stream of its own, where memory is freed and filled anew."""
    import torch

    import cylstm.torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    worst = 0.0
    for options in ({}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 24}):
        theirs = torch.nn.LSTM(64, 64, device="cuda", **options)
        ours = cylstm.torch.LSTM(64, 64, device="cuda", **options)
        ours.load_state_dict(theirs.state_dict())
        for side in (None, torch.cuda.Stream()):
            with torch.cuda.stream(side):
                for module in (theirs, ours):
                    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
                    for step in range(5):
                        x = torch.full((40, 7, 64), 0.1 * step, device="cuda")
                        optimizer.zero_grad()
                        module(x)[0].square().mean().backward()
                        del x
                        torch.full((40, 7, 64), 1e6, device="cuda").mul_(2)
                        optimizer.step()
                torch.cuda.synchronize()
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                worst = max(worst, float((p - q).detach().abs().max()))
    assert worst < 1e-4, f"parameters differ by {worst:.1e}"
    return f"parameters differ by {worst:.1e}"


@check
def a_stream_is_a_graph() -> str:
    """Values of each dtype, and the time of a step."""
    import cupy
    import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 from then on)

    for dtype, limit in LIMITS.items():
        module = lstm("steps", dtype=dtype, num_layers=2)
        stream, expected = module.stream(3), on_the_cpu(module, dtype=dtype, num_layers=2).stream(3)
        for k, frame in enumerate(cylstm.randn(6, 3, 64, dtype=dtype)):
            error = abs(stream(up(frame)).get().astype(float) - expected(frame).astype(float)).max()
            assert error < limit, f"step {k} in {dtype} is wrong by {error:.1e}"
    stream, frame = lstm("steps", num_layers=2).stream(), up(cylstm.randn(1, 64))
    for _ in range(5):
        stream(frame)
    cupy.cuda.Device().synchronize()
    begin = time.perf_counter()
    for _ in range(1000):
        stream(frame)
    cupy.cuda.Device().synchronize()
    return f"a step of two layers, H=64: {1e3 * (time.perf_counter() - begin):.1f} us"


@check
def streams_and_threads() -> None:
    import cupy

    module, x = lstm(), cylstm.randn(50, 9, 64)
    expected = on_the_cpu(module)(x)[0]

    def work(_: int) -> float:
        with cupy.cuda.Stream(non_blocking=True):
            return max(abs(module(up(x))[0].get() - expected).max() for _ in range(20))

    with ThreadPoolExecutor(6) as threads:
        errors = list(threads.map(work, range(6)))  # raises what a thread has raised
    assert max(errors) < 1e-5, f"wrong by {max(errors):.1e}"


@check
def lack_of_memory() -> str:
    import cupy

    module, pool = lstm(H=1024, I=1024), cupy.get_default_memory_pool()
    small = cupy.zeros((64, 64, 1024), cupy.float32)
    expected = module(small)[0].get()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + (64 << 20))
    try:
        module(cupy.zeros((640, 64, 1024), cupy.float32))
        said = "no error"
    except MemoryError as error:
        said = str(error)[:80]
    finally:
        pool.set_limit(size=0)
    assert np.array_equal(module(small)[0].get(), expected)
    return said


@check
def bits_repeat() -> None:
    for tier in (variant.name for variant in VARIANTS):
        module, x, first = lstm(tier, bidirectional=True), up(cylstm.randn(100, 33, 64)), None
        for _ in range(10):
            output, _, pullback = module.vjp(x)
            arrays = (output, *pullback(output).parameters.values())
            now = [array.get().tobytes() for array in arrays]
            first = first or now
            assert now == first, f"they differ on {tier}"


@check
def large_and_odd_sizes() -> None:
    import cupy

    for B, T, H in ((1, 1, 1), (1, 3, 2048), (257, 2, 33), (4096, 2, 64), (1, 5000, 16)):
        module, x = lstm(H=H), cylstm.randn(T, B, 64)
        error = abs(module(up(x))[0].get() - on_the_cpu(module)(x)[0]).max()
        assert error < 2e-5, f"wrong by {error:.1e} with B={B}, T={T}, H={H}"
    assert lstm(H=4)(cupy.zeros((3, 0, 64), cupy.float32))[0].shape == (3, 0, 4)


@check
def cost_of_a_step() -> str:
    import cupy

    said = []
    for tier in (variant.name for variant in VARIANTS):
        module, x = lstm(tier, H=32, I=32), up(cylstm.randn(1024, 1, 32))
        for name, times in (("first", 1), ("second", 1), ("then", 5)):
            cupy.cuda.Device().synchronize()
            begin = time.perf_counter()
            for _ in range(times):
                module(x)
            cupy.cuda.Device().synchronize()
            said.append(f"{tier} {name} {(time.perf_counter() - begin) / times / 1024 * 1e6:.2f} us")
    return ", ".join(said)


def main() -> int:
    """Run the command."""
    failed = 0
    for function in CHECKS:
        begin = time.perf_counter()
        try:
            said = function() or "ok"
        except Exception as error:
            failed += 1
            said = f"FAILED {type(error).__name__}: {str(error)[:300]}"
            if "-v" in sys.argv:
                traceback.print_exc()
        print(f"{function.__name__:52} {said}  ({time.perf_counter() - begin:.1f} s)", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
