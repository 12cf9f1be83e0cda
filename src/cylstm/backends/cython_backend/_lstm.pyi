from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from ._layer import Layer

_Kept = tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]

@disjoint_base
class Stepper:
    serial: bool
    def __new__(cls, layers: tuple[Layer, ...], batch_size: int) -> Self: ...
    def step(self, x_t: Any, out: Any, threads: int) -> NDArray[Any] | None: ...
    def get_state(self, h: NDArray[Any], c: NDArray[Any]) -> None: ...
    def set_state(self, h: NDArray[Any], c: NDArray[Any]) -> None: ...

def forward(
    layer: Layer,
    input: NDArray[Any],
    batch_sizes: NDArray[np.int64],
    hx: tuple[NDArray[Any] | None, NDArray[Any] | None],
    result: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    kept: _Kept | None,
    threads: int,
) -> None: ...
def backward(
    layer: Layer,
    input: NDArray[Any],
    batch_sizes: NDArray[np.int64],
    kept: _Kept,
    grad_result: tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None],
    gradients: tuple[NDArray[Any] | None, ...],
    threads: int,
) -> None: ...

default_threads: int

def openmp() -> bool: ...
def max_threads() -> int: ...
def open_regions(always: bool) -> bool: ...
