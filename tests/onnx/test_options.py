"""The options of ONNX's LSTM beyond PyTorch's, against ONNX Runtime: read, run, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_close, node_model, ort_run, random

import cylstm
import cylstm.onnx

#: Of the gates, of the candidate, of the cell state, with numbers for those that have no defaults.
ACTIVATIONS: list[tuple[list[str], list[float], list[float]]] = [
    (["HardSigmoid", "Relu", "Tanh"], [], []),
    (["HardSigmoid", "Softsign", "Elu"], [0.3, 0.7], [0.4]),
    (["Sigmoid", "LeakyRelu", "Softplus"], [0.2], []),
    (["Sigmoid", "ThresholdedRelu", "Affine"], [0.3, 0.9], [0.1]),
    (["ScaledTanh", "ScaledTanh", "ScaledTanh"], [0.5, 1.2, 1.1], [0.9, 0.8, 0.7]),
    (["sigmoid", "TANH", "relu"], [], []),
    (["Tanh", "Sigmoid", "Sigmoid"], [], []),
]


def options(D: int) -> list[dict[str, Any]]:
    """The attributes and constants of nodes."""
    P = {"P": random(D, 12)}
    of_activations = [
        {"activations": names * D, "activation_alpha": alphas * D, "activation_beta": betas * D}
        for names, alphas, betas in ACTIVATIONS
    ]
    return [
        {"more": P},
        {"clip": 0.3},
        {"more": P, "clip": 0.3},
        {"input_forget": 1},
        {"more": P, "input_forget": 1, "clip": 0.4, "activations": ["HardSigmoid", "Tanh", "Relu"] * D},
        *({name: value for name, value in one.items() if value} for one in of_activations),
    ]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("number", range(len(options(1))))
def test_each_option_is_what_onnx_runtime_computes(number: int, direction: str, tmp_path: Path) -> None:
    D = 2 if direction == "bidirectional" else 1
    given = options(D)[number]
    more = given.pop("more", {}) | {"initial_h": random(D, 4, 4), "initial_c": 3 * random(D, 4, 4)}
    X = 3 * random(6, 4, 3)
    for lengths in (None, np.array([6, 0, 3, 1], np.int32)):
        states = more if lengths is None else more | {"sequence_lens": lengths}
        model = node_model(D, direction=direction, more=states, **given)
        assert_close(cylstm.onnx.load(model)(X), ort_run(model, X=X), tolerance=3e-6)
    plain = node_model(D, direction=direction, more={k: v for k, v in more.items() if k == "P"}, **given)
    onnx.save(plain, tmp_path / "m.onnx")
    if direction == "reverse":
        with pytest.raises(ValueError, match=r"runs in reverse alone: use cylstm\.onnx\.load"):
            cylstm.load(tmp_path / "m.onnx")
        return
    output, (h_n, c_n) = cylstm.load(tmp_path / "m.onnx")(X)
    Y, *wanted = ort_run(plain, X=X)
    assert_close([output, h_n, c_n], [Y.swapaxes(1, 2).reshape(6, 4, -1), *wanted], tolerance=3e-6)


def test_directions_with_activations_of_their_own() -> None:
    given = {
        "activations": ["Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid", "Elu", "LeakyRelu"],
        "activation_alpha": [0.1, 0.25, 0.8, 0.3],  # consumed in order, by those that take one
        "activation_beta": [0.4],
    }
    model, X = node_model(2, direction="bidirectional", **given), 2 * random(5, 2, 3)
    lstm = cylstm.onnx.load(model)
    assert_close(lstm(X), ort_run(model, X=X))
    assert lstm.module.activations == (
        *("sigmoid", ("leaky_relu", 0.1), "tanh"),
        *(("hard_sigmoid", 0.25, 0.4), ("elu", 0.8), ("leaky_relu", 0.3)),
    )


def test_numbers_for_all_activations_are_taken_where_both_readings_agree() -> None:
    """Some exporters write a number for each activation, also for those that take none."""
    given = {"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [0.3, 0.0, 0.0]}
    model, X = node_model(**given), random(5, 2, 3)
    assert_close(cylstm.onnx.load(model)(X), ort_run(model, X=X))


def test_all_sequences_without_a_step() -> None:
    more = {"sequence_lens": np.zeros(2, np.int32), "initial_h": random(1, 2, 4)}
    model, X = node_model(more=more), random(5, 2, 3)
    assert_close(cylstm.onnx.load(model)(X), ort_run(model, X=X))


# Written ------------------------------------------------------------------------------------------------------------

WRITTEN: list[dict[str, Any]] = [
    {"peephole": True},
    {"clip": 0.5},
    {"input_forget": True},
    {"activations": ("hard_sigmoid", ("leaky_relu", 0.25), "linear")},
    {
        "peephole": True,
        "clip": 0.5,
        "activations": (("hard_sigmoid", 0.25, 0.5), "softsign", ("scaled_tanh", 1.5, 0.5)),
        "input_forget": True,
    },
]


@pytest.mark.parametrize("more", WRITTEN, ids=str)
@pytest.mark.parametrize("shape", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
def test_options_are_written_and_come_back(shape: dict, more: dict, tmp_path: Path) -> None:
    lstm, path = cylstm.LSTM(3, 4, **shape, **more), tmp_path / "m.onnx"
    cylstm.save(lstm, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x = 3 * random(6, 5, 3)
    output, (h_n, c_n) = lstm(x)
    assert_close([output, h_n, c_n], ort_run(onnx.load(path), input=x), tolerance=3e-6)
    back = cylstm.load(path)
    assert repr(back) == repr(lstm)
    assert np.array_equal(back(x)[0], output)


def test_directions_of_their_own_are_written(tmp_path: Path) -> None:
    six = ("sigmoid", ("elu", 0.5), "tanh", ("hard_sigmoid", 0.25, 0.5), "tanh", "relu")
    lstm = cylstm.LSTM(3, 4, bidirectional=True, activations=six)
    cylstm.save(lstm, tmp_path / "m.onnx")
    x = random(6, 5, 3)
    assert_close([lstm(x)[0]], ort_run(onnx.load(tmp_path / "m.onnx"), input=x)[:1])
    assert cylstm.load(tmp_path / "m.onnx").activations == six


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"cell_clip": 1.0}, "cell_clip"),
        ({"proj_size": 2, "proj_clip": 1.0}, "proj"),
        ({"activations": ("selu", "tanh", "tanh")}, "selu"),
    ],
)
def test_what_onnx_lacks_is_refused(more: dict, word: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word):
        cylstm.save(cylstm.LSTM(3, 4, **more), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
