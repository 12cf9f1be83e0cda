"""The variant ``persistent`` without a GPU: all blocks of its kernels run on the CPU, in random order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_host import SMALL, HostDevice, needs_compiler, needs_gpu
from persistent_host import HostPersistent
from thorough import others_thorough
from variant_backend import VariantBackend

from cylstm import testing
from cylstm.backends.cupy_backend.variants import LayerShape
from cylstm.testing.compare import assert_close
from cylstm.testing.problems import expected_outputs_and_gradients, forward, make_problem, outputs_and_gradients

pytestmark = [pytest.mark.names_backend("cupy"), needs_compiler]


#: Those of large layers take seconds each on the CPU; other tests have large ones.
SLOW = ("large", "long", "threads")
#: Of bfloat16, which differs from float16 by its rounding alone.
FEW = ("values-plain", "gradients-ragged", "saturation", "not_finite")


def checks() -> list[testing.Check]:
    """Those of the dtypes that it computes."""
    every = [c for c in testing.checks(VariantBackend(HostPersistent())) if not any(slow in c.id for slow in SLOW)]
    few = [c for c in every if c.id.endswith("bfloat16") and any(topic in c.id for topic in FEW)]
    return [c for c in every if c.id.endswith(("-float16", "-float32"))] + few


#: What needs kernels of further configurations, each a second to compile.
THOROUGH = ("odd_sizes", "calls_independent", "bfloat16")


def is_ordinary(check: testing.Check) -> bool:
    return check.id == "values-plain-bfloat16" or not any(topic in check.id for topic in THOROUGH)


@pytest.mark.parametrize("check", others_thorough(checks(), is_ordinary), ids=lambda check: check.id)
def test_conformance(check: testing.Check) -> None:
    if "bfloat16" in check.id:
        pytest.importorskip("ml_dtypes")
    check()


def problem(dtype: str = "float16", **sizes: Any) -> Any:
    return make_problem(
        testing.Case(**{"T": 5, "B": 5, "H": 24, "D": 2, "ragged": True, "states": True} | sizes), dtype
    )


def assert_right(variant: HostPersistent, given: Any, dtype: str = "float16") -> None:
    result, expected = outputs_and_gradients(VariantBackend(variant), given), expected_outputs_and_gradients(given)
    assert_close(result, expected, dtype, testing.TOLERANCES[dtype].gradients, "persistent")


def test_what_it_does_not_compute_goes_on_to_the_next_variant() -> None:
    variant, one = HostPersistent(), np.array([1])
    shape = LayerShape("float16", 3, 8, 0, 1, True)
    assert variant.refusal(shape, one, "gates") == ""
    for change, sizes, why in (
        ({"dtype": "float64"}, one, "it computes bfloat16 and float16 and float32, not float64"),
        ({"dtype": "complex64"}, one, "not complex64"),
        ({"P": 2}, one, "no projection"),
        ({"H": 161}, one, "hidden_size is above 160 in float16"),
        ({}, np.array([0]), "empty batch"),
    ):
        assert why in variant.refusal(shape._replace(**change), sizes, "nothing")


def test_many_launches_one_after_the_other_are_left_to_cudnn() -> None:
    """Blocks of 16 units for 16 sequences, ten at once: one group of a layer with 160 units."""
    device = HostDevice()
    device.resident = 10
    shape, variant = LayerShape("float16", 3, 160, 0, 1, True), HostPersistent(device)
    assert [variant.slower_than(shape, B) for B in (1, 48, 49)] == ["", "", "cudnn"]
    assert variant.refusal(shape, np.array([49]), "gates") == ""


def test_an_old_device_is_not_used() -> None:
    old = HostDevice(facts=SMALL._replace(compute_capability=(7, 5)))
    assert HostPersistent(old).unavailable() == "it needs compute capability 8.0, and this device has 7.5"
    assert HostPersistent().unavailable() == ""


def test_directions_go_one_by_one_where_both_do_not_fit() -> None:
    """Three blocks of eight units each; and where one does not fit either, the call is refused, not shrunk."""
    for resident, launches in ((6, [(3, 2, 1)] * 2), (5, [(3, 1, 1)] * 4), (3, [(3, 1, 1)] * 4)):
        device = HostDevice()
        device.resident = resident
        assert_right(HostPersistent(device), problem())
        assert device.grids == launches
    device.resident = 2
    shape = LayerShape("float16", 4, 24, 0, 2, True)
    assert "do not fit" in HostPersistent(device).refusal(shape, np.array([5]), "nothing")


def test_a_larger_layer() -> None:
    """Of 17 blocks in two directions."""
    assert_right(HostPersistent(), problem(T=3, B=33, I=70, H=130))


def test_more_sequences_than_a_launch_takes() -> None:
    """A group of these configurations takes 16; groups go together where their blocks run at once."""
    for resident, launches in ((10_000, [(3, 2, 3)] * 2), (12, [(3, 2, 2), (3, 2, 1)] * 2)):
        device = HostDevice()
        device.resident = resident
        assert_right(HostPersistent(device), problem(B=37, T=4))
        assert device.grids == launches


def test_a_state_of_all_bits_is_no_missing_word() -> None:
    """It is a nan, which is the caller's, and was there before the launch."""
    given = problem(D=1)
    given.h_0.view(np.uint16)[0, 0] = 0xFFFF
    with np.errstate(invalid="ignore"):
        result = forward(VariantBackend(HostPersistent()), given)
    rows = np.cumsum([0, *given.batch_sizes[:-1]])
    assert np.isnan(result.output[rows]).all()
    assert np.isfinite(np.delete(result.output, rows, axis=0)).all()


@needs_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("H", [24, 128, 200, 384, 768, 1024, 1536])
def test_values_on_the_gpu(dtype: str, H: int) -> None:
    """Each row of the table, ragged, in both directions, with more sequences than a launch takes."""
    from cylstm.backends.cupy_backend import CupyBackend

    for B in (1, 16, 70):
        given = make_problem(testing.Case(T=9, B=B, I=40, H=H, D=2, ragged=True, states=True), dtype)
        result = outputs_and_gradients(CupyBackend(tier="persistent"), given)
        expected = expected_outputs_and_gradients(given)
        assert_close(result, expected, dtype, testing.TOLERANCES[dtype].gradients, "persistent")


@needs_gpu
def test_conformance_on_the_gpu() -> None:
    from cylstm.backends.cupy_backend import CupyBackend

    testing.check_backend(CupyBackend(tier="persistent"))
