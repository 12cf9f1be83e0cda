"""Which weights Keras's layers have: names and shapes, as far as the configuration tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The shape of a weight: None for a size that the configuration does not tell; None alone if it does not tell the axes.
Shape = tuple[int | None, ...] | None
#: Trained weights, and others, by name, in Keras's order.
Weights = tuple[Mapping[str, Shape], Mapping[str, Shape]]

#: Layers without weights.
WITHOUT = frozenset(
    """
    InputLayer Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout AlphaDropout
    ActivityRegularization Activation ReLU LeakyReLU ELU ThresholdedReLU Softmax Masking Flatten Reshape Permute
    RepeatVector Rescaling Identity Lambda Concatenate Add Subtract Multiply Average Maximum Minimum Dot
    MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D
    UpSampling1D UpSampling2D UpSampling3D TFOpLambda SlicingOpLambda TensorFlowOpLayer
    """.split()  # noqa: SIM905
)


def weights_of(kind: str, config: Mapping[str, Any]) -> Weights | None:
    """The weights of a layer of this class, without those of layers inside it; None for a class that is not known."""
    units, bias = config.get("units"), config.get("use_bias", True)
    trained: Mapping[str, Shape] = {}
    others: Mapping[str, Shape] = {}
    if kind in WITHOUT:
        return {}, {}
    if isinstance(config.get("dtype"), dict) or config.get("quantization_config") or config.get("lora_rank"):
        return None  # quantised, or with more weights than usual
    if kind in ("LSTM", "LSTMCell", "SimpleRNN", "SimpleRNNCell"):
        gates = 4 if kind.startswith("LSTM") else 1
        columns = gates * units if isinstance(units, int) else None
        of_bias = 2 * columns if config.get("cudnn") and columns else columns
        trained = {"kernel": (None, columns), "recurrent_kernel": (units, columns)} | (
            {"bias": (of_bias,)} if bias else {}
        )
    elif kind in ("GRU", "GRUCell"):
        trained = {"kernel": None, "recurrent_kernel": None} | ({"bias": None} if bias else {})
    elif kind == "Dense":
        trained = {"kernel": (None, units)} | ({"bias": (units,)} if bias else {})
    elif kind == "Embedding":
        trained = {"embeddings": (config.get("input_dim"), config.get("output_dim"))}
    elif kind in ("BatchNormalization", "LayerNormalization"):
        trained = {name: None for name, option in (("gamma", "scale"), ("beta", "center")) if config.get(option, True)}
        if kind == "BatchNormalization":
            others = {"moving_mean": None, "moving_variance": None}
    elif kind in ("Conv1D", "Conv2D", "Conv3D"):
        filters = config.get("filters")
        kernel = (None,) * (int(kind[4]) + 1)
        trained = {"kernel": (*kernel, filters)} | ({"bias": (filters,)} if bias else {})
    elif kind in ("SeparableConv1D", "SeparableConv2D"):
        trained = {"depthwise_kernel": None, "pointwise_kernel": None} | ({"bias": None} if bias else {})
    elif kind == "PReLU":
        trained = {"alpha": None}
    else:
        return None
    return trained, others


def fits(shape: tuple[int, ...], expected: Shape) -> bool:
    """Whether an array has a shape, as far as that is known."""
    return expected is None or (
        len(shape) == len(expected) and all(want in (None, size) for size, want in zip(shape, expected, strict=True))
    )
