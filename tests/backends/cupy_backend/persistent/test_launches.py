"""Launches whose blocks wait for one another: none hangs, none is larger than what runs at once."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_host import HostDevice, needs_compiler
from fake_cupy import CUDADriverError
from grid_host import HostGridKernel
from persistent_host import HostPersistent
from variant_backend import VariantBackend

from cylstm import testing
from cylstm.testing.problems import backward, forward, make_problem

pytestmark = pytest.mark.names_backend("cupy")


class Impatient(HostPersistent):
    tries = 2000


@needs_compiler
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_blocks_that_wait_in_vain_give_up_and_it_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where some blocks of a launch never run. After it the same layer computes as before."""
    run, short = HostGridKernel.__call__, []

    def without_the_last_block(self: HostGridKernel, grid: tuple[int, int, int], arguments: Any) -> None:
        short.append(name)
        run(self, (grid[0] - (f"persistent_{name}" in self._what), *grid[1:]), arguments)

    given = make_problem(testing.Case(T=4, B=3, H=24, states=True), "float16")
    used = VariantBackend(Impatient())
    prepared = used.prepare(given.parameters)
    expected = forward(used, given, prepared, "gates")
    passes = {
        "forward": lambda: forward(used, given, prepared),
        "backward": lambda: backward(used, given, prepared, expected.workspace),
    }
    with monkeypatch.context() as patch:
        patch.setattr(HostGridKernel, "__call__", without_the_last_block)
        with pytest.raises(RuntimeError, match=r"waited for one another in vain.*are nan.*CYLSTM_CUPY_TIER"):
            passes[name]()
    assert short
    np.testing.assert_array_equal(forward(used, given, prepared).output, expected.output)
    backward(used, given, prepared, expected.workspace)


def test_each_thread_hears_that_blocks_have_waited_in_vain() -> None:
    """Not the first one alone that asks: the results that are nan may be another one's."""
    device = HostDevice()
    failed = pytest.raises(RuntimeError, match="waited for one another in vain")
    device.verify()  # a call begins here, and while it waits for its results
    device.in_vain[0] = 1
    with ThreadPoolExecutor(1) as other:
        with failed:
            other.submit(device.verify).result()  # another one begins there
        with failed:
            device.verify()
        other.submit(device.verify).result()  # once each
        device.verify()
    with ThreadPoolExecutor(1) as later:
        later.submit(device.verify).result()


@needs_compiler
def test_what_is_kept_goes_with_the_variant_and_not_with_the_collector() -> None:
    """Tables of steps are memory of the device."""
    given = make_problem(testing.Case(H=11, D=2, states=True), "float16")
    gc.collect()
    gc.disable()
    try:
        used = VariantBackend(HostPersistent())
        forward(used, given)
        variant = weakref.ref(used.variant)
        del used
        assert variant() is None
    finally:
        gc.enable()


@needs_compiler
def test_a_pullback_may_be_called_again() -> None:
    used, given = VariantBackend(HostPersistent()), make_problem(testing.Case(H=11, D=2, states=True), "float16")
    prepared = used.prepare(given.parameters)
    for keep in ("gates", "states"):
        workspace = forward(used, given, prepared, keep).workspace
        first, second = (backward(used, given, prepared, workspace) for _ in range(2))
        np.testing.assert_array_equal(first.input, second.input)
        np.testing.assert_array_equal(first.c_0, second.c_0)


@needs_compiler
def test_of_16_bits_nothing_is_widened_for_a_product() -> None:
    """Products over all rows are those of tensor cores, with float32 sums."""
    device = HostDevice()
    used, given = VariantBackend(HostPersistent(device)), make_problem(testing.Case(D=2, states=True), "float16")
    prepared = used.prepare(given.parameters)
    backward(used, given, prepared, forward(used, given, prepared, "gates").workspace)
    assert {kind for kind, _, _ in device.products} == {"float16"}
    assert [out for _, out, _ in device.products] == ["float32", *["float16"] * 4, "float32", *["float16"] * 2]


class RawModule:
    """As CuPy's, of a device with two blocks on a multiprocessor at most, and 100 KB for a block."""

    def __init__(self, *, code: str, options: tuple[str, ...], enable_cooperative_groups: bool) -> None:
        assert enable_cooperative_groups
        self.code, self.options = code, options

    def get_function(self, name: str) -> Any:
        return Function()


class Function:
    kernel = SimpleNamespace(ptr=123)

    def __init__(self) -> None:
        self.launches: list[Any] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "max_dynamic_shared_size_bytes" and value > 100 * 1024:
            raise CUDADriverError(1)
        super().__setattr__(name, value)

    def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
        assert shared_mem == self.max_dynamic_shared_size_bytes
        self.launches.append((grid, block, arguments))


def test_what_runs_at_once_is_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy")
    from cylstm.backends.cupy_backend import cupy_device

    asked: list[Any] = []
    driver = SimpleNamespace(
        CUDADriverError=CUDADriverError,
        occupancyMaxActiveBlocksPerMultiprocessor=lambda *arguments: asked.append(arguments) or 2,
    )
    fake = SimpleNamespace(RawModule=RawModule, cuda=SimpleNamespace(driver=driver))
    monkeypatch.setattr(cupy_device, "cupy", fake)
    kernel = cupy_device.CupyGridKernel("k", "code", ("-DA=1",), 256, 64 * 1024, 132, np.uint64(77))
    assert kernel.resident == 264
    assert asked == [(123, 256, 64 * 1024)]
    kernel((5, 2, 1), ["a", None])
    assert kernel._function.launches == [((5, 2, 1), (256, 1, 1), ("a", None, 77))]
    assert cupy_device.CupyGridKernel("k", "code", (), 256, 192 * 1024, 132, np.uint64(77)).resident == 0
