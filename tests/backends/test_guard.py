"""Backends of other people that raise, exit, or return what they must not: an error with their name, at the border."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from command_line import popen
from plugin_sources import SUBCLASS
from processes import LIMIT

import cylstm
from cylstm.backends import registry
from cylstm.backends.base import Capabilities
from cylstm.backends.numpy_backend import NumpyBackend
from cylstm.testing import ConformanceError, check_backend

X = cylstm.randn(4, 2, 3)


class Foreign(NumpyBackend):
    name: ClassVar[str] = "foreign"
    spoiled: str = ""  # the method that misbehaves
    spoil: Any = None  # what it gives instead, from what it should give

    def prepare(self, layer_parameters: Any) -> Any:
        return self.result("prepare", super().prepare(layer_parameters))

    def forward(self, prepared: Any, **arguments: Any) -> Any:
        return self.result("forward", super().forward(prepared, **arguments))

    def backward(self, prepared: Any, workspace: Any, **arguments: Any) -> Any:
        return self.result("backward", super().backward(prepared, workspace, **arguments))

    def result(self, method: str, right: Any) -> Any:
        return self.spoil(right) if method == self.spoiled else right


def raising(error: BaseException) -> Callable[[Any], Any]:
    def spoil(_: Any) -> Any:
        raise error

    return spoil


class Mute(Exception):
    def __str__(self) -> str:
        sys.exit(3)


def run_all(backend: Any) -> None:
    lstm = cylstm.LSTM(3, 5, bidirectional=True, proj_size=2, backend=backend)
    lstm(X)
    output, _, pullback = lstm.vjp(X)
    pullback(output)
    cylstm.LSTMCell(3, 5, backend=backend)(X[0])
    stream = cylstm.LSTM(3, 5, backend=backend).stream(2)
    stream(X[0])


def test_a_right_backend_passes() -> None:
    run_all(Foreign())


@pytest.mark.parametrize("method", ["prepare", "forward", "backward"])
@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(0), GeneratorExit(), KeyboardInterrupt(), Mute(), BaseException("odd")],
    ids=lambda error: type(error).__name__,
)
def test_what_it_raises(method: str, error: BaseException) -> None:
    backend = Foreign()
    backend.spoiled, backend.spoil = method, raising(error)
    with pytest.raises(cylstm.BackendFailedError, match=f"^backend 'foreign' failed in {method}: ") as caught:
        run_all(backend)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError, cylstm.UnsupportedError])
def test_what_passes(error: type[BaseException]) -> None:
    backend = Foreign()
    backend.spoiled, backend.spoil = "forward", raising(error())
    with pytest.raises(error):
        run_all(backend)


def test_what_a_signal_handler_raises_passes() -> None:
    def handle(number: int, frame: Any) -> None:
        sys.exit(7)

    def spoil(_: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return _

    backend = Foreign()
    backend.spoiled, backend.spoil = "forward", spoil
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(SystemExit) as caught:
            run_all(backend)
        assert caught.value.code == 7
    finally:
        signal.signal(signal.SIGUSR1, before)


class Exiting:
    """It ends the program whatever is looked at."""

    def __getattribute__(self, name: str) -> Any:
        sys.exit(3)


class Shapeless(np.ndarray):
    @property
    def shape(self) -> Any:
        sys.exit(3)


def with_output(make: Callable[[np.ndarray], Any]) -> Callable[[Any], Any]:
    return lambda right: right._replace(output=make(right.output))


WRONG = {
    "exits": ("forward", lambda r: Exiting(), "forward must return a LayerOutput, got Exiting"),
    "exiting array": (
        "forward",
        with_output(lambda a: Exiting()),
        "output of forward must be an array .* got .*Exiting",
    ),
    "exiting shape": ("forward", with_output(lambda a: a.view(Shapeless)), "output of forward must .* got .*Shapeless"),
    "masked": ("forward", with_output(np.ma.asarray), "output of forward must be .*class, got numpy.ma.*MaskedArray"),
    "matrix": ("forward", with_output(np.asmatrix), "output of forward must be .*class, got numpy.matrix"),
    "none": ("forward", lambda r: None, "forward must return a LayerOutput, got NoneType"),
    "tuple": ("forward", tuple, "forward must return a LayerOutput, got tuple"),
    "output": ("forward", lambda r: r._replace(output=r.output[:, :3]), r"output of forward must be .* \(8, 4\)"),
    "no output": ("forward", lambda r: r._replace(output=None), "output of forward must be an array .* got NoneType"),
    "list": ("forward", lambda r: r._replace(c_n=r.c_n.tolist()), "c_n of forward must be .* got list"),
    "h_n": ("forward", lambda r: r._replace(h_n=r.h_n[0]), "h_n of forward must"),
    "dtype": ("forward", lambda r: r._replace(output=r.output.astype(float)), "dtype float32, got .* dtype float64"),
    "workspace": ("forward", lambda r: r._replace(workspace=None), "workspace of forward must be there"),
    "no gradients": ("backward", lambda r: None, "backward must return LayerGradients, got NoneType"),
    "grad_input": ("backward", lambda r: r._replace(input=r.input.T), r"input of backward must be .* \(8, 3\)"),
    "h_0": ("backward", lambda r: r._replace(h_0=None), "h_0 of backward must"),
    "parameters": ("backward", lambda r: r._replace(parameters=None), "parameters of backward must be 2 Dir"),
    "one": ("backward", lambda r: r._replace(parameters=r.parameters[:1]), "parameters of backward must be 2 Dir"),
    "weight": (
        "backward",
        lambda r: r._replace(parameters=(r.parameters[0]._replace(weight_hh=None), r.parameters[1])),
        "weight_hh of backward must be an array of shape",
    ),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", WRONG)
def test_what_it_returns(name: str) -> None:
    method, spoil, message = WRONG[name]
    backend = Foreign()
    backend.spoiled, backend.spoil = method, spoil
    with pytest.raises(cylstm.BackendFailedError, match="^backend 'foreign': .*" + message):
        run_all(backend)


@pytest.mark.parametrize(
    ("result", "message"),
    [("no", "must be an array"), (np.zeros((2, 4), np.float32), r"\(2, 5\)"), (np.zeros((2, 5)), "float64")],
)
def test_what_a_stepper_returns(result: Any, message: str) -> None:
    class Stepping(NumpyBackend):
        name: ClassVar[str] = "stepping"

        def stepper(self, layers: Any, *, batch_size: int) -> Any:
            members = dict.fromkeys(("get_state", "set_state"), lambda *_: None)
            return SimpleNamespace(serial=True, step=lambda *_: result, **members)

    with pytest.raises(cylstm.BackendFailedError, match=f"^backend 'stepping': .*{message}"):
        cylstm.LSTM(3, 5, backend=Stepping()).stream(2)(X[0])


def test_a_stepper_that_exits_when_it_is_looked_at() -> None:
    class Stepping(NumpyBackend):
        name: ClassVar[str] = "stepping"

        def stepper(self, layers: Any, *, batch_size: int) -> Any:
            return Exiting()

    with pytest.raises(cylstm.BackendFailedError, match=r"^backend 'stepping' failed in .*: SystemExit: 3"):
        cylstm.LSTM(3, 5, backend=Stepping()).stream(2)(X[0])


@pytest.mark.parametrize("version", ["1", 2, True, np.array([1])], ids=repr)
def test_an_object_of_another_version(version: Any) -> None:
    backend = Foreign()
    backend.api_version = version
    with pytest.raises(TypeError, match=r"which has version .* of the backend interface"):
        cylstm.LSTM(3, 5, backend=backend)(X)


def test_an_object_that_exits_when_it_is_asked() -> None:
    class Asked(NumpyBackend):
        @property
        def capabilities(self) -> Any:
            sys.exit(3)

    with pytest.raises(TypeError, match="which cannot be asked what it is: SystemExit: 3"):
        cylstm.LSTM(3, 5, backend=Asked())


def test_long_names_and_messages_are_cut() -> None:
    backend = Foreign()
    backend.name, backend.spoiled = "n" * 1_000_000, "forward"
    for spoil in (raising(ValueError("m" * 1_000_000)), lambda right: None):
        backend.spoil = spoil
        with pytest.raises(cylstm.BackendFailedError) as caught:
            run_all(backend)
        assert len(str(caught.value)) < 1000


def test_an_object_that_is_not_hashable() -> None:
    @dataclass
    class Unhashable(NumpyBackend):
        width: int = 1

    np.testing.assert_array_equal(
        cylstm.LSTM._of(LSTM.state_dict(), input_size=3, hidden_size=5, backend=Unhashable())(X)[0], LSTM(X)[0]
    )


LSTM = cylstm.LSTM(3, 5, backend="numpy")

# Loading -------------------------------------------------------------------------------------------------------------

BAD = {
    "version": ("api_version = __import__('numpy').array([1, 2])", "interface"),
    "odd_version": (
        "class V:\n        def __ne__(self, other): raise SystemExit(3)\n        __eq__ = __ne__\n"
        "        def __repr__(self): raise ValueError\n    api_version = V()",
        "interface",
    ),
    "no_capabilities": ("capabilities = None", "lacks|capabilities"),
    "dtypes": ("capabilities = NumpyBackend.capabilities._replace(dtypes=None)", "dtypes that must be a set of names"),
    "numbers": ("capabilities = NumpyBackend.capabilities._replace(dtypes={1})", "dtypes that must be a set of names"),
    "array": ("capabilities = NumpyBackend.capabilities._replace(training=__import__('numpy').ones(2))", "training"),
    "devices": ("capabilities = NumpyBackend.capabilities._replace(devices='cpu')", "devices that must be a tuple"),
    "name": ("name = None", "name that must be a str"),
    "made": ("def __new__(cls): return None", "what its constructor made lacks"),
    "late": ("def __init__(self): self.capabilities = None", "what its constructor made"),
    "mute": ("class E(Exception):\n        def __str__(self): raise SystemExit(3)\n    raise E", "failed to load"),
}


@pytest.mark.usefixtures("new_registry")
@pytest.mark.parametrize("name", BAD)
def test_bad_classes_harm_nobody(name: str, install: Callable[..., Path]) -> None:
    line, message = BAD[name]
    install(f"bad-{name}", f"{name} = bad_{name}:Plugin", **{f"bad_{name}": SUBCLASS.format(name=name) + f"    {line}"})
    rows = {row.name: row for row in cylstm.available_backends()}
    assert rows["numpy"].status == "available"
    assert rows[name].status == "available" if name in ("made", "late") else "broken"
    with pytest.raises(cylstm.BackendLoadError, match=message):
        registry.load(name)
    with pytest.raises(cylstm.UnsupportedError, match="Backends that can: none"):
        registry.choose("numpy", dtype="float128")


@pytest.mark.usefixtures("new_registry")
def test_a_class_whose_metaclass_is_not_hashable(install: Callable[..., Path]) -> None:
    source = "class M(type):\n    __hash__ = None\n" + SUBCLASS.format(name="odd").replace(
        "NumpyBackend)", "NumpyBackend, metaclass=M)"
    )
    install("odd-dist", "odd = odd_backend:Plugin", odd_backend=source)
    assert registry.load("odd") is registry.load("odd_backend:Plugin")
    assert {row.name: row.status for row in cylstm.available_backends()}["odd"] == "available"


@pytest.mark.parametrize(
    "capabilities", [None, 1, Capabilities(dtypes=None), NumpyBackend.capabilities._replace(devices=None)]
)
def test_objects_are_looked_at_too(capabilities: Any) -> None:
    backend = Foreign()
    backend.capabilities = capabilities  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"which (has capabilities|lacks capabilities)"):
        cylstm.LSTM(3, 5, backend=backend)


# The conformance kit ------------------------------------------------------------------------------------------------


def paths(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), str(Path(cylstm.__file__).parents[1])])


EXITS = """
class Plugin(NumpyBackend):
    name = "exits"
    def forward(self, *arguments, **named):
        raise {error}
"""


@pytest.mark.parametrize("error", ["SystemExit(0)", "GeneratorExit()", "KeyboardInterrupt()", "BaseException('odd')"])
def test_check_backend_of_one_that_exits(error: str, tmp_path: Path) -> None:
    Path(tmp_path, "exits.py").write_text(SUBCLASS.splitlines()[0] + EXITS.format(error=error), "utf-8")
    command = popen("check-backend", "exits:Plugin", env={**os.environ, "PYTHONPATH": paths(tmp_path)})
    output, errors = command.communicate(timeout=LIMIT)
    assert (command.returncode, errors) == (1, "")
    assert "FAILED values-plain-float64" in output
    assert error.partition("(")[0] in output
    assert "backend exits:Plugin: 0 of" not in output  # what does not call forward passes


def test_check_backend_reports_one_that_exits() -> None:
    backend = Foreign()
    backend.spoiled, backend.spoil = "forward", raising(SystemExit(0))
    with pytest.raises(ConformanceError, match="SystemExit"):
        check_backend(backend)
