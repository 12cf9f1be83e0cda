"""The variants in the backend: which one computes a call where several can, on the CPU in the place of a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem, needs_compiler
from host_cudnn import HostCudnn
from persistent_host import HostPersistent

from cylstm import testing
from cylstm.backends.cupy_backend import backend as of_backend
from cylstm.backends.cupy_backend.cudnn import Cudnn
from cylstm.backends.cupy_backend.cudnn.library import Library
from cylstm.testing.compare import assert_close
from cylstm.testing.problems import expected_outputs_and_gradients, make_problem, outputs_and_gradients

pytestmark = [pytest.mark.names_backend("cupy"), needs_compiler]


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> HostCudnn:
    """A stand-in for libcudnn, in the place of the real one."""
    functions = HostCudnn()

    class OnHost(Cudnn):
        find = staticmethod(lambda: Library(functions))

    in_place = {Cudnn: OnHost, of_backend.Persistent: HostPersistent}
    variants = tuple(in_place.get(variant, variant) for variant in of_backend.VARIANTS)
    monkeypatch.setattr(of_backend, "VARIANTS", variants)
    return functions


@pytest.mark.parametrize(
    ("tier", "dtype", "sizes", "computes"),
    [
        ("", "float16", {}, "persistent"),
        ("", "float64", {}, "steps"),
        ("", "float64", {"H": 700, "B": 6, "T": 1}, "cudnn"),
        ("", "float32", {"P": 2}, "cudnn"),
        ("", "complex64", {}, "array"),
        ("", "float32", {"B": 0}, "other"),
        ("persistent", "float16", {"D": 2, "ragged": True}, "persistent"),
        ("persistent", "float16", {"P": 2}, "cudnn"),
        ("persistent", "float32", {}, "persistent"),
        ("persistent", "float64", {}, "cudnn"),
        ("persistent", "float16", {"H": 161}, "cudnn"),
        ("persistent", "float16", {"B": 0}, "other"),
        ("persistent", "complex64", {}, "array"),
        ("cudnn", "float16", {}, "cudnn"),
        ("steps", "float16", {}, "steps"),
    ],
)
def test_the_first_variant_that_does_not_refuse_a_call(
    tier: str, dtype: str, sizes: dict[str, Any], computes: str, cudnn: HostCudnn
) -> None:
    system = HostSystem()
    device = system.device(0)
    problem = make_problem(testing.Case(**{"T": 3, "states": True} | sizes), dtype)
    result = outputs_and_gradients(HostBackend(tier=tier, system=system), problem)
    expected = expected_outputs_and_gradients(problem)
    assert_close(result, expected, dtype, testing.TOLERANCES[dtype].gradients, computes)
    used = {"cudnn": bool(cudnn.calls), "persistent": bool(device.grids), "steps": bool(device.launches)}
    assert [name for name, did in used.items() if did] == ([computes] if computes in used else [])


def test_the_persistent_kernels_in_their_own_configurations() -> None:
    """Those of the smallest layers, which are quick on the CPU."""
    system = HostSystem()
    problem = make_problem(testing.Case(T=3, H=9, D=2, ragged=True, states=True), "float16")
    result = outputs_and_gradients(HostBackend(tier="persistent", system=system), problem)
    expected = expected_outputs_and_gradients(problem)
    assert_close(result, expected, "float16", testing.TOLERANCES["float16"].gradients, "persistent")
    assert system.device(0).grids == [(2, 2, 1)] * 2


def test_without_cudnn_a_lack_of_memory_is_met_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cudnn, "find", staticmethod(lambda: "cuDNN 9 is not found (nowhere): pip install it"))
    backend = HostBackend()
    outputs_and_gradients(backend, make_problem(testing.Case(), "float32"))
    backend._free(backend._devices().device(0))  # type: ignore[arg-type]


def test_a_tier_that_cannot_run_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cudnn, "find", staticmethod(lambda: "cuDNN 9 is not found (nowhere): pip install it"))
    problem = make_problem(testing.Case(), "float32")
    with pytest.raises(RuntimeError, match="tier 'cudnn' cannot run on cuda:0: cuDNN 9 is not found"):
        HostBackend(tier="cudnn").prepare(problem.parameters)
    np.testing.assert_allclose(  # not named, it is passed over
        outputs_and_gradients(HostBackend(), problem)["output"],
        expected_outputs_and_gradients(problem)["output"],
        atol=1e-5,
    )
