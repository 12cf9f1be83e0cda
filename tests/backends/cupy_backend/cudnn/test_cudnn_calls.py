"""The variant ``cudnn`` on a stand-in for libcudnn: which calls it makes, with which descriptors, addresses and sizes.

The stand-in computes with the numpy backend, so these tests say nothing of cuDNN's values: those want a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_host import SMALL, HostDevice
from device_array import here, to_device
from host_cudnn import PERSIST_STATIC, SMALL_H, STANDARD, HostCudnn
from variant_backend import VariantBackend

from cylstm import testing
from cylstm.backends.cupy_backend.cudnn import Cudnn
from cylstm.backends.cupy_backend.cudnn.descriptors import sequence_lengths
from cylstm.backends.cupy_backend.cudnn.handle import MOST_CALLS
from cylstm.backends.cupy_backend.cudnn.layer import Space
from cylstm.backends.cupy_backend.cudnn.library import CudnnError, Library
from cylstm.backends.cupy_backend.variants import LayerShape
from cylstm.testing.compare import assert_close
from cylstm.testing.problems import (
    Problem,
    backward,
    expected_outputs_and_gradients,
    forward,
    make_problem,
    outputs_and_gradients,
)

pytestmark = pytest.mark.names_backend("cupy")


def variant(functions: HostCudnn, *, tf32: bool = False) -> Cudnn:
    class OnHost(Cudnn):
        find = staticmethod(lambda: Library(functions))

    return OnHost(HostDevice(), tf32=tf32)


def backend(functions: HostCudnn | None = None, **options: Any) -> VariantBackend:
    return VariantBackend(variant(functions or HostCudnn(), **options))


#: Of two wide types one will do.
CHECKS = [check for check in testing.checks(backend()) if not check.id.endswith(("float64", "complex128"))]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_conformance(check: testing.Check) -> None:
    check()


def problem(dtype: str = "float32", **sizes: Any) -> Problem:
    return make_problem(testing.Case(**{"T": 4, "B": 3, "states": True} | sizes), dtype)


def test_complex_numbers_empty_batches_and_an_old_bfloat16_go_on_to_the_next_variant() -> None:
    for functions, dtype, B, taken in (
        (HostCudnn(), "float32", 3, True),
        (HostCudnn(), "float32", 0, False),
        (HostCudnn(), "complex64", 3, False),
        (HostCudnn(), "bfloat16", 3, True),
        (HostCudnn(version=91200), "bfloat16", 3, False),
        (HostCudnn(version=91200), "float16", 3, True),
    ):
        if dtype == "bfloat16":
            pytest.importorskip("ml_dtypes")
        used = backend(functions)
        outputs_and_gradients(used, problem(dtype, B=B))
        assert (used.taken > 0) is taken
        assert bool(functions.calls) is taken


@pytest.mark.parametrize(
    ("dtype", "H", "B", "P", "expected"),
    [
        ("float64", 128, 32, 0, "steps"),
        ("float64", 128, 33, 0, ""),
        ("float64", 128, 32, 64, ""),
        ("float32", 128, 32, 0, ""),
        ("bfloat16", 8, 1, 0, ""),
    ],
)
def test_small_layers_of_float64_are_left_to_steps(dtype: str, H: int, B: int, P: int, expected: str) -> None:
    assert variant(HostCudnn()).slower_than(LayerShape(dtype, H, H, P, 1, True), B) == expected


def test_a_pullback_may_be_called_again() -> None:
    """cuDNN changes the reserve in a backward pass, and adds to the gradients of the weights."""
    used, given = backend(), problem(D=2, ragged=True)
    prepared = used.prepare(given.parameters)
    for keep in ("gates", "states"):
        workspace = forward(used, given, prepared, keep).workspace
        first, second = (backward(used, given, prepared, workspace) for _ in range(2))
        np.testing.assert_array_equal(first.input, second.input)
        np.testing.assert_array_equal(first.parameters[1].weight_hh, second.parameters[1].weight_hh)


@pytest.mark.parametrize("keep", ["gates", "states"])
def test_what_the_caller_does_to_states_and_output_does_not_reach_the_workspace(keep: Any) -> None:
    of, given = variant(HostCudnn()), problem(D=2)
    prepared = of.prepare(tuple(type(p)(*(None if a is None else to_device(a) for a in p)) for p in given.parameters))
    input, h_0, c_0, grad = map(to_device, (given.input, given.h_0, given.c_0, given.grad_output))
    result = prepared.forward(input=input, batch_sizes=given.batch_sizes, h_0=h_0, c_0=c_0, keep=keep)
    grads = []
    for change in (1, 2):
        back = prepared.backward(result.workspace, grad_output=grad, grad_h_n=None, grad_c_n=None)
        grads.append([back.input.get(), back.c_0.get(), back.parameters[0].weight_hh.get()])
        for array in (result.output, h_0, c_0):
            array[...] = change
    np.testing.assert_equal(grads[0], grads[1])


@pytest.mark.parametrize(
    ("dtype", "tf32", "expected"),
    [("float32", False, (0, 3)), ("float32", True, (0, 0)), ("float64", True, (1, 0)), ("float16", True, (0, 1))],
)
def test_float32_is_strict_unless_tf32_is_asked_for(dtype: str, tf32: bool, expected: tuple[int, int]) -> None:
    functions = HostCudnn()
    outputs_and_gradients(backend(functions, tf32=tf32), problem(dtype))
    assert {layer.math for _, layer in functions.calls} == {expected}


def test_the_next_algorithm_is_tried_where_cudnn_does_not_have_one() -> None:
    for refused, expected in (((), SMALL_H), ((SMALL_H,), STANDARD), ((SMALL_H, PERSIST_STATIC), STANDARD)):
        functions = HostCudnn(refused=refused)
        outputs_and_gradients(backend(functions), problem("float16"))
        assert {layer.algorithm for _, layer in functions.calls} == {expected}


@pytest.mark.parametrize(
    ("dtype", "tf32", "expected"),
    [
        ("float32", False, STANDARD),
        ("float32", True, SMALL_H),
        ("float64", True, STANDARD),
        ("float16", False, SMALL_H),
    ],
)
def test_a_strict_float32_is_computed_by_the_algorithm_that_keeps_the_promise(
    dtype: str, tf32: bool, expected: int
) -> None:
    """The persistent ones err by up to 8e-6 in float32, in both directions together and one by one."""
    for D in (1, 2):
        functions = HostCudnn()
        outputs_and_gradients(backend(functions, tf32=tf32), problem(dtype, D=D))
        assert {layer.algorithm for _, layer in functions.calls} == {expected}
    functions = HostCudnn()
    outputs_and_gradients(VariantBackend(of_large_device(functions, tf32=tf32)), problem(dtype, **WIDE))
    assert {layer.algorithm for _, layer in functions.calls} == {PERSIST_STATIC if dtype == "float16" else STANDARD}


WIDE = {"I": 128, "H": 256, "B": 8, "T": 3, "D": 2}


def of_large_device(functions: HostCudnn, *, tf32: bool = False) -> Cudnn:
    """One with enough multiprocessors for all algorithms."""

    class OnHost(Cudnn):
        find = staticmethod(lambda: Library(functions))

    return OnHost(HostDevice(facts=SMALL._replace(multiprocessors=132)), tf32=tf32)


@pytest.mark.parametrize("given_grads", [True, False])
def test_directions_go_one_by_one_where_a_persistent_algorithm_takes_one_alone(given_grads: bool) -> None:
    """Forward and backward, with the numbers of both together; nothing of it for other shapes and lengths."""
    given = problem("float16", **WIDE)
    if not given_grads:
        given = given._replace(h_0=None, c_0=None, grad_h_n=None)
    expected = expected_outputs_and_gradients(given)
    functions = HostCudnn()
    used = VariantBackend(of_large_device(functions))
    result = outputs_and_gradients(used, given)
    assert_close(result, expected, "float16", testing.TOLERANCES["float16"].gradients, "one by one")
    assert {(layer.algorithm, layer.D) for _, layer in functions.calls} == {(PERSIST_STATIC, 1)}
    for change in ({"ragged": True}, {"B": 7}, {"H": 260}):
        functions = HostCudnn()
        outputs_and_gradients(VariantBackend(of_large_device(functions)), problem("float16", **WIDE | change))
        assert {(layer.algorithm, layer.D) for _, layer in functions.calls} == {(STANDARD, 2)}


def test_directions_go_together_where_cudnn_refuses_one_alone() -> None:
    functions = HostCudnn(refused=(PERSIST_STATIC,))
    given = problem("float16", **WIDE)
    result = outputs_and_gradients(VariantBackend(of_large_device(functions)), given)
    assert_close(
        result, expected_outputs_and_gradients(given), "float16", testing.TOLERANCES["float16"].gradients, "together"
    )
    assert {(layer.algorithm, layer.D) for _, layer in functions.calls} == {(STANDARD, 2)}


def test_a_pullback_of_directions_one_by_one_may_be_called_again() -> None:
    used, given = VariantBackend(of_large_device(HostCudnn())), problem("float16", **WIDE)
    prepared = used.prepare(given.parameters)
    for keep in ("gates", "states"):
        workspace = forward(used, given, prepared, keep).workspace
        first, second = (backward(used, given, prepared, workspace) for _ in range(2))
        np.testing.assert_array_equal(first.input, second.input)
        np.testing.assert_array_equal(first.parameters[1].weight_hh, second.parameters[1].weight_hh)


def test_another_stream_waits_for_the_directions_that_were_taken_apart() -> None:
    """The first call has copied them, in its own stream."""
    of, given = of_large_device(HostCudnn()), problem("float16", **WIDE)
    prepared = of.prepare(tuple(type(p)(*map(to_device, p[:4])) for p in given.parameters))
    call = {"input": to_device(given.input), "batch_sizes": given.batch_sizes, "h_0": None, "c_0": None}
    waits = of.device.waits  # type: ignore[attr-defined]
    for here.stream, expected in (("first", []), ("second", [("second", "first")])):
        prepared.forward(**call, keep="nothing")
        assert waits == expected
    here.stream = 0


def test_what_no_algorithm_computes_is_an_error_that_names_the_status() -> None:
    used = backend(HostCudnn(refused=(STANDARD,)))
    with pytest.raises(
        CudnnError, match=r"cudnnRNNForward must succeed, got CUDNN_STATUS_NOT_SUPPORTED \(3000\): .*TIER"
    ):
        forward(used, problem())


def test_calls_of_the_same_sizes_share_descriptors_and_sizes() -> None:
    """Nothing is asked or made again, whatever the arrays and the parameters are; other sizes get others."""
    functions = HostCudnn()
    used, given = backend(functions), problem(P=2, D=2)

    def train() -> list[str]:
        before = len(functions.asked)
        prepared = used.prepare(given.parameters)
        backward(used, given, prepared, forward(used, given, prepared, "gates").workspace)
        return functions.asked[before:]

    computing = ["cudnnRNNForward", "cudnnRNNBackwardData_v8", "cudnnRNNBackwardWeights_v8"]
    assert len(train()) > 20
    assert train() == train() == computing
    here.stream = 5
    try:
        assert train() == ["cudnnSetStream", *computing]
    finally:
        here.stream = 0
    longer = problem(P=2, D=2, T=5)
    forward(used, longer, used.prepare(given.parameters))
    assert functions.asked[-1] == "cudnnRNNForward"
    assert "cudnnCreateRNNDataDescriptor" in functions.asked[-20:]


def test_every_descriptor_is_destroyed() -> None:
    """Those of old calls, of calls that fail, and with the variant all."""
    functions = HostCudnn()
    used, given = backend(functions), problem(D=2)
    prepared = used.prepare(given.parameters)
    assert len(functions.objects) == 1  # the handle
    for T in range(2, MOST_CALLS + 10):
        forward(used, problem(D=2, T=T), prepared)
    assert len(functions.objects) == 1 + 5 * MOST_CALLS
    functions.lacking = "cudnnSetRNNDataDescriptor"
    with pytest.raises(CudnnError):
        forward(used, problem(D=2, T=1), prepared)
    assert len(functions.objects) == 1 + 5 * MOST_CALLS
    used.variant.forget()
    assert not functions.objects  # of the handle too
    functions.lacking = ""
    outputs_and_gradients(used, given)  # with a new one
    assert functions.asked.count("cudnnCreate") == 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lengths_of_memory_are_exact_and_its_copies_are_of_words(dtype: str) -> None:
    """cuDNN is told the bytes that it has asked for, be they no multiple of anything."""
    functions = HostCudnn(work=77, reserve=21)
    used, given = backend(functions), problem(dtype, D=2)
    outputs_and_gradients(used, given)
    assert {name for name, _ in functions.calls} >= {"cudnnRNNForward", "cudnnRNNBackwardData_v8"}
    space = Space.of(21, used.variant.device.xp)
    assert space.nbytes == 21
    assert (space.words.dtype, space.words.size) == (np.uint64, 3)
    assert Space.of(0, used.variant.device.xp).arguments == (0, None)


def test_lengths_of_sequences() -> None:
    assert sequence_lengths(np.array([3, 3, 2, 1, 1])).tolist() == [5, 3, 2]
    assert sequence_lengths(np.array([2, 2])).tolist() == [2, 2]
    assert sequence_lengths(np.array([2, 2])).dtype == np.int32


def test_lack_of_memory_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = HostCudnn()
    used, given = backend(functions), problem()
    prepared = used.prepare(given.parameters)
    library = used.variant.library
    monkeypatch.setitem(library._calls, "cudnnRNNForward", lambda *_: (_ for _ in ()).throw(library._error("f", 4004)))
    with pytest.raises(MemoryError, match="f must have memory for its work"):
        forward(used, given, prepared)


def test_where_there_is_no_cudnn_the_variant_says_so() -> None:
    class Without(Cudnn):
        find = staticmethod(lambda: "cuDNN 9 is not found (nowhere): pip install nvidia-cudnn-cu13")

    assert Without(HostDevice()).unavailable().startswith("cuDNN 9 is not found")


def test_backends_of_a_process_share_handles() -> None:
    """And a handle that is in use is neither lent to others nor destroyed; each has its precision all the same."""
    functions, given = HostCudnn(), problem()
    library = Library(functions)

    class OnHost(Cudnn):
        find = staticmethod(lambda: library)

    maths = []
    for tf32 in (False, True, False):
        outputs_and_gradients(VariantBackend(OnHost(HostDevice(), tf32=tf32)), given)
        maths.append(functions.calls[-1][1].math)
    assert maths == [(0, 3), (0, 0), (0, 3)]
    assert functions.asked.count("cudnnCreate") == 1
    one, other = (OnHost(HostDevice()) for _ in range(2))
    with one.handle() as first, other.handle() as second:
        assert first is not second
        one.forget()
        assert first.pointer.value in functions.objects
        assert second.pointer.value in functions.objects
    assert functions.asked.count("cudnnDestroy") == 0
    one.forget()
    assert functions.asked.count("cudnnDestroy") == 2
    with OnHost(HostDevice(1)).handle():
        assert functions.asked.count("cudnnCreate") == 3  # another device, another handle
    functions.lacking = "cudnnDestroy"
    OnHost(HostDevice(1)).forget()  # what it says is of work queued before


@pytest.mark.parametrize("D", [1, 2])
def test_addresses_are_multiples_of_sixteen_bytes(D: int) -> None:
    """Whatever those of the caller's arrays are; the stand-in refuses others."""
    of, given = variant(HostCudnn()), problem("float16", D=D, I=3, H=5)
    prepared = of.prepare(tuple(type(p)(*map(to_device, p[:4])) for p in given.parameters))
    expected = expected_outputs_and_gradients(given)

    def odd(array: np.ndarray) -> Any:
        there = to_device(np.concatenate([np.zeros(3, array.dtype), array.reshape(-1)]))[3:].reshape(array.shape)
        assert there.data.ptr % 16
        return there

    arguments = {name: odd(getattr(given, name)) for name in ("input", "h_0", "c_0")}
    result = prepared.forward(**arguments, batch_sizes=given.batch_sizes, keep="gates")
    names = ("grad_output", "grad_h_n", "grad_c_n")
    grads = prepared.backward(result.workspace, **{name: odd(getattr(given, name)) for name in names})
    np.testing.assert_allclose(result.output.get(), expected["output"], atol=4e-3)
    np.testing.assert_allclose(grads.input.get(), expected["grad_input"], atol=2e-2)


def test_handles_belong_to_the_device_of_the_variant() -> None:
    """Also where another one is current when it is asked whether there is cuDNN."""
    functions = HostCudnn()

    class OnHost(Cudnn):
        find = staticmethod(lambda: Library(functions))

    assert OnHost(HostDevice(3)).unavailable() == ""
    assert functions.devices == [3]
