"""Parameters: locked, versioned, replaced as a whole; ``state_dict``, conversions, copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from random_cases import BACKENDS

import cylstm

X = np.linspace(-1, 1, 5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
MODULES = {
    "LSTM": lambda lib: lib.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
    "LSTMCell": lambda lib: lib.LSTMCell(3, 4),
    "Linear": lambda lib: lib.Linear(3, 4),
}
EVERY_MODULE = pytest.mark.parametrize("make", MODULES.values(), ids=list(MODULES))


def lstm(**options: Any) -> cylstm.LSTM:
    return cylstm.LSTM(3, 4, **{"backend": "numpy", **options})


@EVERY_MODULE
def test_names_shapes_and_order_are_those_of_torch(make: Callable[[Any], Any]) -> None:
    ours, theirs = make(cylstm), make(torch.nn)
    expected = {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    assert list(expected) == list(theirs.state_dict())
    assert {name: p.shape for name, p in ours.named_parameters()} == expected
    assert list(ours.state_dict()) == list(expected)
    assert [p.shape for p in ours.parameters()] == list(expected.values())
    assert [name for name, _ in ours.named_parameters("rnn")] == [name for name, _ in theirs.named_parameters("rnn")]
    assert set(expected) <= set(dir(ours))


def test_all_weights() -> None:
    ours, theirs = MODULES["LSTM"](cylstm), MODULES["LSTM"](torch.nn)
    assert ours._all_weights == theirs._all_weights
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [tuple(w.shape) for w in ws] for ws in theirs.all_weights
    ]
    assert ours.all_weights[1][0] is ours.weight_ih_l0_reverse


@EVERY_MODULE
def test_parameters_are_locked_for_good(make: Callable[[Any], Any]) -> None:
    module = make(cylstm)
    for name, array in [*module.named_parameters(), *module.state_dict().items()]:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.view().setflags(write=True)
        with pytest.raises(ValueError, match="read-only"):
            exec("module.x += 1", {"module": _Attribute(module, name)})


class _Attribute:
    """``module.x`` is one parameter, so that an augmented assignment can be written for any name."""

    def __init__(self, module: Any, name: str) -> None:
        self.__dict__.update(module=module, name=name)

    def __getattr__(self, _: str) -> Any:
        return getattr(self.module, self.name)

    def __setattr__(self, _: str, value: Any) -> None:
        setattr(self.module, self.name, value)


@EVERY_BACKEND
def test_every_change_is_seen_by_the_next_call(backend: str) -> None:
    ours, theirs = lstm(backend=backend), torch.nn.LSTM(3, 4)
    rng = np.random.default_rng(0)

    def draw(name: str) -> np.ndarray:
        return rng.standard_normal(ours.state_dict()[name].shape).astype(np.float32)

    def assign() -> None:
        ours.weight_hh_l0 = draw("weight_hh_l0")

    def assign_a_tensor() -> None:
        ours.bias_ih_l0 = torch.tensor(draw("bias_ih_l0"))  # type: ignore[assignment]

    def unlock() -> None:
        with ours.unlocked() as params:
            params["weight_ih_l0"] *= 2
            params["bias_hh_l0"] = draw("bias_hh_l0")

    def load() -> None:
        ours.load_state_dict({name: draw(name) for name in ours.state_dict()})

    for version, change in enumerate((assign, assign_a_tensor, unlock, load, ours.reset_parameters, assign), start=1):
        change()
        assert ours._store.version == version
        theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.named_parameters()})
        expected = theirs(torch.tensor(X))[0].detach().numpy()
        np.testing.assert_allclose(ours(X)[0], expected, rtol=0, atol=1e-6)


def test_assignment_copies() -> None:
    module, array = lstm(), np.ones(16, np.float32)
    module.bias_ih_l0 = array
    array[...] = 2
    assert (module.bias_ih_l0 == 1).all()
    before = module.bias_ih_l0
    module.bias_ih_l0 = array
    assert (before == 1).all()  # what was read is one version and stays it


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros(15, np.float32), ValueError, r"bias_ih_l0 must have shape \(16,\), got \(15,\)"),
        (np.zeros((16, 1), np.float32), ValueError, r"shape \(16,\), got \(16, 1\)"),
        (np.zeros(16), TypeError, r"dtype float32, got float64: use \.astype\('float32'\)"),
        (np.zeros(16, np.int32), TypeError, "dtype float32, got int32"),
        ([0.0] * 16, TypeError, "must be an array.*list"),
        (None, TypeError, "must be an array.*NoneType"),
    ],
)
def test_assignment_checks(value: Any, error: type[Exception], message: str) -> None:
    module = lstm()
    before = module.state_dict()
    with pytest.raises(error, match=message):
        module.bias_ih_l0 = value
    with pytest.raises(error, match=message), module.unlocked() as params:  # noqa: PT012
        params["weight_ih_l0"][...] = 0
        params["bias_ih_l0"] = value
    np.testing.assert_equal(module.state_dict(), before)
    assert module._store.version == 0


def test_unlocked_changes_nothing_after_an_exception() -> None:
    module = lstm()
    before = module.state_dict()
    with pytest.raises(ZeroDivisionError), module.unlocked() as params:  # noqa: PT012
        params["weight_ih_l0"][...] = 0
        raise ZeroDivisionError
    np.testing.assert_equal(module.state_dict(), before)
    assert module._store.version == 0
    with module.unlocked() as params:  # and can be unlocked again
        params["weight_ih_l0"][...] = 0
    assert not module.weight_ih_l0.any()


def test_unlocked_arrays_are_locked_at_the_end() -> None:
    module = lstm()
    with module.unlocked() as params:
        array = params["weight_ih_l0"]
        part = array[:2]
        array[...] = 1
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 2
    part[...] = 3  # NumPy cannot lock a view that was taken before; the module does not see it
    assert (module.weight_ih_l0 == 1).all()


def test_unlocked_refuses_other_names() -> None:
    module = lstm()
    with pytest.raises(KeyError, match="parameters must keep the names"), module.unlocked() as params:
        params["weight_ih_l7"] = np.zeros(3, np.float32)
    with pytest.raises(KeyError, match="parameters must keep the names"), module.unlocked() as params:
        del params["weight_ih_l0"]


@EVERY_BACKEND
def test_inside_unlocked_the_module_cannot_be_called_or_changed_otherwise(backend: str) -> None:
    module = lstm(backend=backend)
    expected = module(X)[0]
    stream = module.stream(2)
    stream(X[0])
    with module.unlocked() as params:
        params["bias_ih_l0"] += 1
        for call in (lambda: module(X), lambda: module.vjp(X), lambda: stream(X[0])):
            with pytest.raises(RuntimeError, match="call the module after the block"):
                call()
        for change in (module.reset_parameters, module.double, lambda: module.unlocked().__enter__()):
            with pytest.raises(RuntimeError, match="unlocked already"):
                change()
        with ThreadPoolExecutor(1) as pool:  # another thread goes on with the version before
            np.testing.assert_array_equal(pool.submit(module, X).result()[0], expected)
    assert not np.array_equal(module(X)[0], expected)


# load_state_dict ----------------------------------------------------------------------------------------------------


@EVERY_MODULE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_load_state_dict_takes_tensors_and_converts_as_torch_does(
    make: Callable[[Any], Any], dtype: torch.dtype
) -> None:
    ours, theirs = make(cylstm), make(torch.nn)
    state = {name: (10 * p).to(dtype) for name, p in make(torch.nn).state_dict().items()}
    theirs.load_state_dict(state)
    result = ours.load_state_dict(state)
    assert repr(result) == "<All keys matched successfully>"
    assert result == ([], [])
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(getattr(ours, name), parameter.detach().numpy(), strict=True)


def test_load_state_dict_takes_parameters_that_require_gradients_and_lazy_conjugates() -> None:
    ours, theirs = lstm(dtype="complex64"), torch.nn.LSTM(3, 4, dtype=torch.complex64)
    state = {name: p.conj() for name, p in theirs.named_parameters()}
    ours.load_state_dict(state)
    for name, parameter in state.items():
        np.testing.assert_array_equal(getattr(ours, name), parameter.detach().resolve_conj().numpy())


def test_load_state_dict_reports_everything_at_once_and_loads_nothing() -> None:
    module = lstm()
    before = module.state_dict()
    state = {
        "weight_ih_l0": np.ones((16, 3)),
        "bias_ih_l0": np.ones(3),
        "bias_hh_l0": np.array(["x"] * 16),
        "lstm.bias": np.ones(1),
    }
    with pytest.raises(RuntimeError) as error:
        module.load_state_dict(state)
    for part in (
        "Error(s) in loading state_dict for LSTM",
        "Missing key(s) in state_dict: 'weight_hh_l0'",
        "Unexpected key(s) in state_dict: 'lstm.bias'",
        "size mismatch for bias_ih_l0: expected shape (16,), got (3,)",
        "bias_hh_l0 must hold numbers",
    ):
        assert part in str(error.value)
    np.testing.assert_equal(module.state_dict(), before)
    assert module._store.version == 0


def test_load_state_dict_not_strict() -> None:
    module, theirs = lstm(), torch.nn.LSTM(3, 4)
    state = {"bias_ih_l0": np.ones(16), "more": 1}
    result = module.load_state_dict(state, strict=False)
    expected = theirs.load_state_dict({**state, "bias_ih_l0": torch.ones(16)}, strict=False)
    assert result.missing_keys == expected.missing_keys
    assert result.unexpected_keys == expected.unexpected_keys
    assert repr(result) == repr(expected).removeprefix("_")
    assert (module.bias_ih_l0 == 1).all()


def test_torch_loads_our_state_dict() -> None:
    module, theirs = lstm(), torch.nn.LSTM(3, 4)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in module.state_dict().items()})
    np.testing.assert_array_equal(theirs.weight_ih_l0.detach().numpy(), module.weight_ih_l0)


# dtype, mode, copies ------------------------------------------------------------------------------------------------


@EVERY_MODULE
def test_conversions(make: Callable[[Any], Any]) -> None:
    for convert, dtype in (
        (lambda m: m.double(), "float64"),
        (lambda m: m.half(), "float16"),
        (lambda m: m.double().float(), "float32"),
        (lambda m: m.to(torch.float64), "float64"),
        (lambda m: m.to(np.float64), "float64"),
        (lambda m: m.to(np.dtype("float64")), "float64"),
        (lambda m: m.to("float64"), "float64"),
        (lambda m: m.to(float), "float64"),
        (lambda m: m.to(dtype=torch.float16), "float16"),
        (lambda m: m.to("cpu", torch.float64), "float64"),
        (lambda m: m.to(device="cpu", dtype="complex64"), "complex64"),
        (lambda m: m.to(torch.device("cpu")), "float32"),
        (lambda m: m.to(np.zeros(1)), "float64"),
        (lambda m: m.to(torch.zeros(1, dtype=torch.float64)), "float64"),
        (lambda m: m.to(None), "float32"),
        (lambda m: m.to(), "float32"),
    ):
        module = make(cylstm)
        before = module.state_dict()
        assert convert(module) is module
        assert module.dtype == dtype
        for name, array in module.named_parameters():
            np.testing.assert_array_equal(array, before[name].astype(dtype), strict=True)
    with pytest.raises(TypeError, match=r"float32.*got int32"):
        make(cylstm).to(np.int32)


def test_a_conversion_that_changes_nothing_is_no_change() -> None:
    module = lstm()
    _, _, pullback = module.vjp(X)
    module.float().to("cpu").to(np.float32)
    pullback()
    assert module._store.version == 0


@EVERY_MODULE
def test_training_mode(make: Callable[[Any], Any]) -> None:
    module = make(cylstm)
    assert module.training is True
    assert module.eval() is module
    assert module.training is False
    assert module.train() is module
    assert module.training is True
    assert module.train(False).training is False


@EVERY_MODULE
def test_reset_parameters_draws_what_torch_draws(make: Callable[[Any], Any]) -> None:
    for dtype in ("float32", "float64", "float16"):
        ours, theirs = make(cylstm).to(dtype), make(torch.nn).to(getattr(torch, dtype))
        cylstm.manual_seed(7)
        torch.manual_seed(7)
        ours.reset_parameters()
        theirs.reset_parameters()
        for name, parameter in theirs.named_parameters():
            np.testing.assert_array_equal(getattr(ours, name), parameter.detach().numpy(), strict=True)


@EVERY_BACKEND
@pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_hold_configuration_and_arrays_alone(backend: str, clone: Callable[[Any], Any]) -> None:
    module = cylstm.LSTM(64, 64, num_layers=2, dropout=0.5, backend=backend).eval()
    x = cylstm.randn(5, 2, 64)
    expected = module(x)[0]
    module.vjp(x)
    other = clone(module)
    assert repr(other) == repr(module)
    assert other.training is False
    assert other.backend == backend
    np.testing.assert_array_equal(other(x)[0], expected)
    with other.unlocked() as params:
        params["weight_ih_l0"][...] = 0
    np.testing.assert_array_equal(module(x)[0], expected)
    size = sum(array.nbytes for array in module.parameters())
    assert len(pickle.dumps(module)) < size + 4000


def test_a_subclass_may_add_attributes() -> None:
    class Named(cylstm.LSTM):
        def __init__(self, name: str) -> None:
            super().__init__(3, 4, backend="numpy")
            self.name = name

    module = copy.deepcopy(Named("a"))
    assert module.name == "a"
    assert repr(module) == "Named(3, 4)"
    with pytest.raises(AttributeError, match="'Named' object has no attribute 'weight'"):
        module.weight  # noqa: B018
