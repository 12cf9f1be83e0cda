"""The options beyond PyTorch's LSTM, as arguments of the modules: checks, backends, streams, pickles, files."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cylstm

ALL: dict[str, Any] = {
    "peephole": True,
    "clip": 0.8,
    "activations": ("hard_sigmoid", ("leaky_relu", 0.2), ("scaled_tanh", 1.5, 0.5)),
    "input_forget": True,
    "cell_clip": 0.7,
}
#: One option at a time, and all of them.
EACH = [{name: value} for name, value in ALL.items()] + [ALL]


def differs(one: Any, other: Any) -> bool:
    return bool(np.abs(np.asarray(one) - np.asarray(other)).max() > 1e-3)


@pytest.mark.parametrize("options", EACH, ids=str)
def test_the_automatic_choice_computes_them_without_a_warning(options: dict, new_registry: None) -> None:
    lstm = cylstm.LSTM(3, 4, 2, bidirectional=True, **options)
    plain = cylstm.LSTM(3, 4, 2, bidirectional=True)
    plain.load_state_dict(lstm.state_dict(), strict=False)
    x = 3 * cylstm.randn(5, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, _ = lstm(x)
    assert differs(output, plain(x)[0])
    assert np.array_equal(cylstm.get_backend(), "cython") or "cython" not in repr(cylstm.available_backends())


@pytest.mark.names_backend("cython")
def test_a_backend_that_lacks_one_says_its_name() -> None:
    options, word = {"activations": ALL["activations"]}, "leaky_relu"
    with pytest.raises(cylstm.UnsupportedError, match=rf"cannot compute the \w+ {word}.*Backends that can: numpy"):
        cylstm.LSTM(3, 4, backend="cython", **options)
    with cylstm.use_backend("cython"), pytest.raises(cylstm.UnsupportedError, match=word):
        cylstm.LSTM(3, 4, **options)(cylstm.randn(2, 3))
    with pytest.raises(cylstm.UnsupportedError, match=word):
        cylstm.LSTMCell(3, 4, backend="cython", **options)


@pytest.mark.parametrize("options", EACH, ids=str)
def test_steps_streams_and_cells_are_the_whole(options: dict) -> None:
    lstm = cylstm.LSTM(3, 4, dtype="float64", **options)
    cell = cylstm.LSTMCell(3, 4, dtype="float64", **options)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in lstm.state_dict().items()})
    x = 2 * cylstm.randn(6, 2, 3, dtype="float64")
    output, (h_n, c_n) = lstm(x)
    stream, state = lstm.stream(2), None
    for t, x_t in enumerate(x):
        np.testing.assert_allclose(stream(x_t), output[t], atol=1e-14)
        state = cell(x_t, state)
        np.testing.assert_allclose(state[0], output[t], atol=1e-14)
    np.testing.assert_allclose(state, (h_n[0], c_n[0]), atol=1e-14)


@pytest.mark.parametrize("extension", [".npz", ".safetensors"])
@pytest.mark.parametrize("options", EACH, ids=str)
def test_they_survive_pickle_copy_and_files(options: dict, extension: str, tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 4, 2, proj_size=2, proj_clip=0.2, bidirectional=True, **options)
    cell = cylstm.LSTMCell(3, 4, **options)
    cylstm.save({"lstm": lstm, "cell": cell}, tmp_path / f"m{extension}")
    x = cylstm.randn(5, 2, 3)
    for back in (
        pickle.loads(pickle.dumps(lstm)),
        copy.deepcopy(lstm),
        cylstm.load(tmp_path / f"m{extension}", "lstm"),
    ):
        assert repr(back) == repr(lstm)
        assert all(getattr(back, name) == getattr(lstm, name) for name in (*ALL, "proj_clip"))
        assert np.array_equal(back(x)[0], lstm(x)[0])
    back = cylstm.load(tmp_path / f"m{extension}", "cell")
    assert (repr(back), np.array_equal(back(x[0]), cell(x[0]))) == (repr(cell), True)


def test_two_directions_with_activations_of_their_own(tmp_path: Path) -> None:
    six = ("sigmoid", "tanh", "relu", "hard_sigmoid", ("elu", 0.5), "tanh")
    lstm = cylstm.LSTM(3, 4, bidirectional=True, activations=six)
    forward, reverse = (cylstm.LSTM(3, 4, activations=three) for three in (six[:3], six[3:]))
    state = lstm.state_dict()
    forward.load_state_dict({name: state[name] for name in forward.state_dict()})
    reverse.load_state_dict({name: state[f"{name}_reverse"] for name in reverse.state_dict()})
    x = cylstm.randn(5, 2, 3)
    wanted = np.concatenate([forward(x)[0], reverse(x[::-1])[0][::-1]], axis=2)
    np.testing.assert_allclose(lstm(x)[0], wanted, atol=1e-6)
    assert lstm.activations == six
    cylstm.save(lstm, tmp_path / "m.npz")
    assert cylstm.load(tmp_path / "m.npz").activations == six


def test_what_is_plain_stays_plain() -> None:
    lstm = cylstm.LSTM(3, 4, activations=["sigmoid", "tanh", ("tanh",)], peephole=False, clip=None)
    assert repr(lstm) == "LSTM(3, 4)"
    assert lstm.activations == ("sigmoid", "tanh", "tanh")
    assert cylstm.LSTM(3, 4, bidirectional=True, activations=("sigmoid", "tanh", "tanh") * 2).activations == (
        "sigmoid",
        "tanh",
        "tanh",
    )
    assert (lstm.peephole, lstm.input_forget) == (False, False)
    assert (lstm.clip, lstm.cell_clip, lstm.proj_clip) == (None, None, None)


WRONG = [
    (TypeError, "peephole must be True or False, got 1", {"peephole": 1}),
    (TypeError, "input_forget must be True or False", {"input_forget": "yes"}),
    (TypeError, "clip must be None or a number, got True", {"clip": True}),
    (ValueError, "clip must be None or a positive finite number, got 0", {"clip": 0}),
    (ValueError, "cell_clip must be None or a positive finite number, got nan", {"cell_clip": float("nan")}),
    (ValueError, "cell_clip must be .* got inf", {"cell_clip": float("inf")}),
    (ValueError, "proj_clip must be None without a projection, got 1.0", {"proj_clip": 1.0}),
    (TypeError, "activations must be a tuple of three", {"activations": "relu"}),
    (ValueError, r"activations must be three \(f, g, h\), got 6", {"activations": ("relu",) * 6}),
    (ValueError, "or six .*, got 4", {"activations": ("relu",) * 4, "bidirectional": True}),
    (ValueError, "each of activations must be one of sigmoid, .*, got 'softmax'", {"activations": ("softmax",) * 3}),
    (TypeError, "each of activations must be a name", {"activations": (np.tanh,) * 3}),
    (ValueError, "'relu' must have no parameters", {"activations": (("relu", 1.0),) * 3}),
    (ValueError, "'affine' must have 2 finite numbers", {"activations": ("affine",) * 3}),
    (ValueError, "'elu' must have 0 to 1 finite numbers", {"activations": (("elu", float("inf")),) * 3}),
    (TypeError, "'elu' must be numbers", {"activations": (("elu", "1"),) * 3}),
    (RuntimeError, "dtype must be real for clip and relu, got complex64",
     {"activations": ("relu", "tanh", "tanh"), "clip": 1.0, "dtype": "complex64"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "options"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_options(error: type[Exception], message: str, options: dict) -> None:
    with pytest.raises(error, match=message):
        cylstm.LSTM(3, 4, **options)


def test_they_are_fixed_and_complex_numbers_are_refused_later_too() -> None:
    lstm = cylstm.LSTM(3, 4, clip=1.0)
    with pytest.raises(AttributeError, match="clip is fixed"):
        lstm.clip = 2.0
    with pytest.raises(RuntimeError, match="dtype must be real for clip"):
        lstm.to("complex64")(np.zeros((2, 3), np.complex64))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("clip", "soft", "clip must be JSON, got 'soft'"),
        ("clip", "-1", "clip must be None or a positive finite number"),
        ("clip", "[" * 100_000, "clip must be JSON"),
        ("cell_clip", "[1]", "cell_clip must be None or a number"),
        ("activations", '["relu"]', "activations must be three"),
        ("activations", '{"f": 1}', "activations must be a tuple"),
        ("input_forget", "1", "input_forget must be True or False"),
        ("proj_clip", "1.5", "proj_clip must be None without a projection"),
    ],
)
def test_wrong_options_in_a_file(name: str, text: str, message: str, tmp_path: Path) -> None:
    from cylstm.files import npz

    npz.write(tmp_path / "m.npz", cylstm.LSTM(3, 4).state_dict(), {name: text[:60000]})
    with pytest.raises(ValueError, match=f"m.npz: {message}"):
        cylstm.load(tmp_path / "m.npz")


def test_wrong_peepholes_in_a_file(tmp_path: Path) -> None:
    state = dict(cylstm.LSTM(3, 4, peephole=True).state_dict())
    np.savez(tmp_path / "m.npz", **state | {"weight_ch_l0": np.zeros(16, np.float32)})
    with pytest.raises(ValueError, match=r"must have weight_ch_l0 \(12,\) .*got weight_ch_l0 \(16,\)"):
        cylstm.load(tmp_path / "m.npz")
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight_ch_l0"):
        cylstm.LSTM(3, 4).load_state_dict(state)


@pytest.mark.parametrize("options", [{name: value} for name, value in ALL.items()], ids=str)
def test_what_has_no_options_refuses_them_by_name(options: dict, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    [name] = options
    lstm = cylstm.LSTM(3, 4, **options)
    with pytest.raises(ValueError, match=f"module must be the LSTM of PyTorch, .* got {name}="):
        lstm.to_torch()
    with pytest.raises(ValueError, match=f"module must be the LSTM of PyTorch, .* got {name}="):
        cylstm.LSTMCell(3, 4, **options).to_torch()
    with pytest.raises(ValueError, match=f"got {name}="):
        cylstm.save(lstm, tmp_path / "m.weights.h5")
    assert not list(tmp_path.iterdir())


def test_elmo_clips_act_as_in_its_paper_code() -> None:
    """The clipped cell state is the one that goes on, and the clipped projection the one that is seen."""
    lstm = cylstm.LSTM(3, 8, proj_size=4, cell_clip=0.1, proj_clip=0.05)
    output, (_, c_n) = lstm(5 * cylstm.randn(20, 2, 3))
    assert np.abs(c_n).max() == np.float32(0.1)
    assert np.abs(output).max() == np.float32(0.05)
    plain = cylstm.LSTM(3, 8, proj_size=4)
    wide = cylstm.LSTM(3, 8, proj_size=4, cell_clip=1e3, proj_clip=1e3)
    wide.load_state_dict(plain.state_dict())
    x = cylstm.randn(20, 2, 3)
    np.testing.assert_allclose(wide(x)[0], plain(x)[0], atol=1e-6)
