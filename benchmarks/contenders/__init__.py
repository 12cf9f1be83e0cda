"""The contenders: cylstm's backends and their peers, each at its best and with the same number of threads.

A contender prepares a case outside of the measurement: weights are loaded, packed or compiled, the input lies in the
contender's own kind of array. What is measured is the call alone.
"""

from .base import Contender, Runner, Values
from .expected import judge, reference
from .jax_keras import Jax, Keras
from .onnx_runtime import OnnxRuntime
from .ours import ours
from .pytorch import Torch

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in [*ours(), Torch(onednn=True), Torch(onednn=False), OnnxRuntime(), Jax(), Keras()]
}
#: Those that come close to the fastest: in quick runs, and where sweeps would take too long with all.
FASTEST = ("cylstm-cython", "cylstm-cython-stream", "torch-onednn", "torch-native", "onnxruntime")

__all__ = ["CONTENDERS", "FASTEST", "Contender", "Runner", "Values", "judge", "reference"]
