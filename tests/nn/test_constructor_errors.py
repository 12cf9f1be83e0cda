"""Mistakes in the arguments of a constructor: the exceptions are of one type with PyTorch and with cylstm."""

from __future__ import annotations

from typing import Any

import available
import numpy as np
import pytest
import torch
from same_errors import assert_same_error

import cylstm

CONSTRUCTOR: list[tuple[dict[str, Any], list[str]]] = [
    ({"input_size": 0}, ["input_size", "greater than zero", "0"]),
    ({"input_size": -1}, ["input_size", "greater than zero", "-1"]),
    ({"input_size": 3.0}, ["input_size", "int", "3.0", "float"]),
    ({"input_size": "3"}, ["input_size", "int", "'3'", "str"]),
    ({"input_size": None}, ["input_size", "int", "NoneType"]),
    ({"input_size": np.int64(3)}, ["input_size", "int", "int64"]),
    ({"hidden_size": 0}, ["hidden_size", "greater than zero", "0"]),
    ({"hidden_size": -4}, ["hidden_size", "greater than zero", "-4"]),
    ({"hidden_size": 4.0}, ["hidden_size", "int", "4.0", "float"]),
    ({"hidden_size": "4"}, ["hidden_size", "int", "str"]),
    ({"hidden_size": np.int32(4)}, ["hidden_size", "int", "int32"]),
    ({"num_layers": 0}, ["num_layers", "greater than zero", "0"]),
    ({"num_layers": -1}, ["num_layers", "greater than zero", "-1"]),
    ({"num_layers": 2.0}, ["num_layers", "int", "2.0", "float"]),
    ({"num_layers": "2"}, ["num_layers", "int", "'2'", "str"]),
    ({"num_layers": None}, ["num_layers", "int", "NoneType"]),
    ({"bias": 0}, ["bias", "True or False", "0", "int"]),
    ({"bias": None}, ["bias", "True or False", "None"]),
    ({"bias": "True"}, ["bias", "True or False", "str"]),
    ({"bias": np.True_}, ["bias", "True or False", "True"]),
    ({"batch_first": 1}, ["batch_first", "True or False", "1", "int"]),
    ({"batch_first": None}, ["batch_first", "True or False", "None"]),
    ({"dropout": -0.1}, ["dropout", "[0, 1]", "-0.1"]),
    ({"dropout": 1.1}, ["dropout", "[0, 1]", "1.1"]),
    ({"dropout": float("nan")}, ["dropout", "[0, 1]", "nan"]),
    ({"dropout": True}, ["dropout", "[0, 1]", "True"]),
    ({"dropout": False}, ["dropout", "[0, 1]", "False"]),
    ({"dropout": "0.5"}, ["dropout", "[0, 1]", "'0.5'"]),
    ({"dropout": "a"}, ["dropout", "[0, 1]", "'a'"]),
    ({"dropout": None}, ["dropout", "[0, 1]", "None"]),
    ({"dropout": 1j}, ["dropout", "[0, 1]", "1j"]),
    ({"dropout": [0.5]}, ["dropout", "[0, 1]", "[0.5]"]),
    ({"dropout": np.array(0.5)}, ["dropout", "[0, 1]", "array"]),
    ({"proj_size": -1}, ["proj_size", "hidden_size (4)", "-1"]),
    ({"proj_size": 4}, ["proj_size", "smaller than hidden_size (4)", "got 4"]),
    ({"proj_size": 5}, ["proj_size", "smaller than hidden_size (4)", "got 5"]),
    ({"proj_size": 2.0}, ["proj_size", "int", "2.0", "float"]),
    ({"proj_size": True}, ["proj_size", "int", "bool"]),
    ({"proj_size": None}, ["proj_size", "int", "NoneType"]),
    ({"proj_size": "2"}, ["proj_size", "int", "str"]),
    ({"device": "foo"}, ["cpu", "foo"]),
    ({"device": ""}, ["cpu", "''"]),
    ({"device": 3.5}, ["device", "torch.device", "float"]),
    ({"device": 0}, ["cpu", "0"]),
    ({"device": "cuda"}, ["cpu", "cuda", "cupy-cuda13x[ctk]", "cupy"]),
    ({"device": "cuda:1"}, ["cpu", "cuda:1", "cupy-cuda13x[ctk]"]),
    ({"device": torch.device("cuda")}, ["cpu", "cuda", "cupy-cuda13x[ctk]"]),
    ({"device": "mps"}, ["cpu", "mps"]),
    ({"dtype": torch.int32}, ["float32", "complex64", "int32"]),
    ({"dtype": torch.bool}, ["float32", "complex64", "bool"]),
    ({"dtype": int}, ["float32", "complex64", "int64"]),
    ({"dtype": 5}, ["float32", "complex64", "5"]),
    ({"dtype": torch.float8_e5m2}, ["float32", "float8_e5m2"]),
    ({"nonsense": 1}, ["nonsense"]),
    # More than one mistake: the one that PyTorch sees first.
    ({"dropout": 2.0, "bias": 1}, ["dropout"]),
    ({"bias": 1, "input_size": 0}, ["bias"]),
    ({"input_size": "3", "hidden_size": 0}, ["input_size"]),
    ({"num_layers": 0, "proj_size": -1}, ["num_layers"]),
    ({"hidden_size": 0, "proj_size": 3}, ["hidden_size"]),
    ({"proj_size": 9, "device": "cuda"}, ["proj_size"]),
]

ACCEPTED: list[dict[str, Any]] = [
    {"input_size": True},
    {"hidden_size": True},
    {"num_layers": True},
    {"num_layers": np.int64(2)},
    {"proj_size": np.int64(2)},
    {"proj_size": False},
    {"dropout": 0},
    {"dropout": np.float32(0.5), "num_layers": 2},
    {"dropout": np.float64(0.25), "num_layers": 2},
    {"dropout": 1, "num_layers": 2},
    {"bidirectional": 1},
    {"bidirectional": 0},
    {"bidirectional": None},
    {"bidirectional": "yes"},
    {"bidirectional": np.True_},
    {"device": "cpu"},
    {"device": "cpu:0"},
    {"device": torch.device("cpu")},
    {"dtype": torch.float64},
    {"dtype": torch.float16},
    {"dtype": torch.complex64},
    {"dtype": torch.cdouble},
    {"dtype": float},
    {"dtype": complex},
    {"bias": False, "proj_size": 2, "num_layers": 2, "bidirectional": True, "batch_first": True},
]


def id_of(value: Any) -> str | None:
    return str(value)[1:-1] if isinstance(value, dict) else None


@pytest.mark.parametrize(("arguments", "words"), CONSTRUCTOR, ids=id_of)
def test_constructor_refuses_what_torch_refuses(arguments: dict[str, Any], words: list[str]) -> None:
    if "cpu" in words and (torch.cuda.is_available() or available.on_gpu()):
        pytest.skip("there is a GPU")
    assert_same_error(lambda lib: lib.LSTM(**{"input_size": 3, "hidden_size": 4, **arguments}), words)


@pytest.mark.parametrize("arguments", ACCEPTED, ids=id_of)
def test_constructor_accepts_what_torch_accepts(arguments: dict[str, Any]) -> None:
    arguments = {"input_size": 3, "hidden_size": 4, **arguments}
    theirs, ours = torch.nn.LSTM(**arguments), cylstm.LSTM(**arguments)
    assert repr(ours) == repr(theirs)
    assert str(ours.dtype) == str(theirs.weight_ih_l0.dtype).removeprefix("torch.")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }


def test_constructor_takes_ten_arguments_by_position() -> None:
    arguments = (3, 4, 2, False, True, 0.5, True, 2, "cpu", torch.float64)
    assert repr(cylstm.LSTM(*arguments)) == repr(torch.nn.LSTM(*arguments))
    for wrong in ((), (3,), (*arguments, None)):
        assert_same_error(lambda lib, wrong=wrong: lib.LSTM(*wrong), [])


@pytest.mark.parametrize("dtype", ["float8", "int8", np.int64, np.longdouble, torch.float8_e5m2])
def test_dtypes_that_parameters_cannot_have(dtype: Any) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"float16, float32, float64, complex64, complex128.*got"):
        cylstm.LSTM(3, 4, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64"), np.dtype(">f8"), float, torch.float64])
def test_spellings_of_a_dtype(dtype: Any) -> None:
    assert cylstm.LSTM(3, 4, dtype=dtype).dtype == np.float64


@pytest.mark.parametrize("proj_size", [0.0])
def test_constructor_is_stricter_than_torch_where_torch_looks_away(proj_size: Any) -> None:
    torch.nn.LSTM(3, 4, proj_size=proj_size)
    with pytest.raises(TypeError, match="proj_size must be an int"):
        cylstm.LSTM(3, 4, proj_size=proj_size)


def test_dropout_with_one_layer_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="dropout option") as theirs:
        torch.nn.LSTM(3, 4, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout option") as ours:
        cylstm.LSTM(3, 4, dropout=0.5)
    assert [str(w.message) for w in ours] == [str(w.message) for w in theirs]
    assert ours[0].category is UserWarning
    assert ours[0].filename == __file__
