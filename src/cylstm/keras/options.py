"""The options of Keras's LSTM, Bidirectional and Dense layers in a configuration: what they ask for, or why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arrays.activations import as_activations
from ..words import quoted

#: Options that change nothing in what an LSTM computes for a whole sequence.
_NO_EFFECT = frozenset(
    """
    name trainable dtype units use_bias activation recurrent_activation batch_shape input_shape input_dim input_length
    sparse ragged kernel_initializer recurrent_initializer bias_initializer unit_forget_bias kernel_regularizer
    recurrent_regularizer bias_regularizer activity_regularizer kernel_constraint recurrent_constraint bias_constraint
    dropout recurrent_dropout return_sequences return_state stateful zero_output_for_mask unroll implementation
    use_cudnn seed cudnn build_config autocast
    """.split()  # noqa: SIM905
)
#: Options with a value that asks for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "go_backwards": (False, None),
    "time_major": (False, None),
    "weights": (None,),
    "quantization_config": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
}
_BIDIRECTIONAL = frozenset(
    {
        "name",
        "trainable",
        "dtype",
        "layer",
        "backward_layer",
        "merge_mode",
        "batch_shape",
        "input_shape",
        "build_config",
    }
)
#: Keras's names of activations that have another name or other parameters here.
_RENAMED: dict[str, Any] = {"swish": "silu", "hard_swish": "hard_silu", "leaky_relu": ("leaky_relu", 0.2)}
#: Options that say nothing of what a layer computes, beside those of training.
_NOT_SHOWN = frozenset(
    """
    name trainable dtype cudnn build_config layers input_layers output_layers implementation unit_forget_bias
    build_input_shape
    """.split()  # noqa: SIM905
)
REMEDY = ": use cylstm.keras.load_model"


def activations_of(config: Mapping[str, Any]) -> tuple[Any, Any, Any] | None:
    """The activations (f, g, h) of an LSTM for :class:`cylstm.LSTM`; None for PyTorch's.

    Raises
    ------
    ValueError
        If one is unknown; it names the option.
    """
    found = {}
    for option, default in (("recurrent_activation", "sigmoid"), ("activation", "tanh")):
        value = config.get(option, default)
        value = "linear" if value is None else value
        if value == "hard_sigmoid":
            raise ValueError(f"has {option}='hard_sigmoid', of a version of Keras that the file does not tell")
        given = _RENAMED.get(value, value) if isinstance(value, str) else value
        try:
            if not isinstance(given, str | tuple):
                raise TypeError
            as_activations((given, "tanh", "tanh"), 1)
        except (TypeError, ValueError):
            raise ValueError(f"has {option}={quoted(value)}, which cylstm does not know") from None
        found[option] = given
    f, g = found["recurrent_activation"], found["activation"]
    return None if (f, g) == ("sigmoid", "tanh") else (f, g, g)


def why_not_lstm(config: Mapping[str, Any], backwards: bool = False) -> str:
    """Why :class:`cylstm.LSTM` does not compute an LSTM of Keras; empty where it does."""
    for option, value in config.items():
        if option == "go_backwards" and backwards:
            if value is not True:
                return f"has a backward layer with go_backwards={quoted(value)}"
        elif option in _NOTHING:
            if value not in _NOTHING[option]:
                return f"has {option}={quoted(value)}" + (REMEDY if option == "go_backwards" else "")
        elif option not in _NO_EFFECT:
            return f"has the option {option}={quoted(value)}, which cylstm does not know"
    if not isinstance(config.get("use_bias", True), bool):
        return f"has use_bias={quoted(config['use_bias'])}"
    if isinstance(config.get("dtype"), dict):
        return f"has the dtype {quoted(config['dtype'].get('class_name'))}"
    try:
        activations_of(config)
    except ValueError as error:
        return str(error)
    return ""


def why_not_bidirectional(config: Mapping[str, Any]) -> str:
    """Why :class:`cylstm.LSTM` with two directions does not compute a Bidirectional of Keras; empty where it does."""
    one, other = config["layer"], config.get("backward_layer") or config["layer"]
    if (one["class_name"], other["class_name"]) != ("LSTM", "LSTM"):
        return f"is Bidirectional, of {one['class_name']} and {other['class_name']}"
    for option, value in config.items():
        if option not in _BIDIRECTIONAL:
            return f"has the option {option}={quoted(value)}, which cylstm does not know"
    if config.get("merge_mode", "concat") != "concat":
        return f"is Bidirectional with merge_mode={quoted(config['merge_mode'])}{REMEDY}"
    if one["config"].get("units") != other["config"].get("units"):
        return (
            f"has {one['config'].get('units')} units in one direction and {other['config'].get('units')} in the other"
        )
    given = isinstance(config.get("backward_layer"), dict)
    return why_not_lstm(one["config"]) or why_not_lstm(other["config"], backwards=given)


def described(config: Mapping[str, Any]) -> str:
    """The options of a layer that say what it computes, as text."""
    shown = []
    for option, value in config.items():
        training = option.endswith(("_initializer", "_regularizer", "_constraint"))
        if training or option in _NOT_SHOWN or value is None or value is False or value == {}:
            continue
        if option.endswith("dropout") and not value:
            continue
        if isinstance(value, dict) and "class_name" in value:
            value = value["class_name"]
        shown.append(f"{option}={value!r:.60}")
    return ", ".join(shown)
