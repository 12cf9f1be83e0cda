from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@disjoint_base
class Layer:
    D: int
    H: int
    R: int
    P: int
    blocks: int
    lanes: int
    bias: bool
    serial_below: int
    def __new__(cls, D: int, I: int, H: int, P: int, itemsize: int, isa: str | None = None) -> Self: ...
    @property
    def isa(self) -> str: ...

@disjoint_base
class Stepper:
    serial: bool
    def __new__(cls, layers: tuple[Layer, ...], batch_size: int) -> Self: ...
    def step(self, x_t: Any, out: Any, threads: int) -> NDArray[Any] | None: ...
    def get_state(self, h: NDArray[Any], c: NDArray[Any]) -> None: ...
    def set_state(self, h: NDArray[Any], c: NDArray[Any]) -> None: ...

def pack(
    layer: Layer,
    d: int,
    weight_ih: NDArray[Any],
    weight_hh: NDArray[Any],
    bias_ih: NDArray[Any] | None,
    bias_hh: NDArray[Any] | None,
    weight_hr: NDArray[Any] | None,
) -> None: ...
def forward(
    layer: Layer,
    input: NDArray[Any],
    batch_sizes: NDArray[np.int64],
    h_0: NDArray[Any] | None,
    c_0: NDArray[Any] | None,
    output: NDArray[Any],
    h_n: NDArray[Any],
    c_n: NDArray[Any],
    h_prev: NDArray[Any] | None,
    c_prev: NDArray[Any] | None,
    gates: NDArray[Any] | None,
    h_segment: NDArray[Any] | None,
    c_segment: NDArray[Any] | None,
    threads: int,
) -> None: ...
def backward(
    layer: Layer,
    input: NDArray[Any],
    batch_sizes: NDArray[np.int64],
    h_prev: NDArray[Any] | None,
    c_prev: NDArray[Any] | None,
    gates: NDArray[Any] | None,
    h_segment: NDArray[Any] | None,
    c_segment: NDArray[Any] | None,
    grad_output: NDArray[Any] | None,
    grad_h_n: NDArray[Any] | None,
    grad_c_n: NDArray[Any] | None,
    grad_input: NDArray[Any],
    grad_h_0: NDArray[Any],
    grad_c_0: NDArray[Any],
    grad_weight_ih: NDArray[Any],
    grad_weight_hh: NDArray[Any],
    grad_bias: NDArray[Any],
    grad_weight_hr: NDArray[Any] | None,
    threads: int,
) -> None: ...

backward_float32 = backward
backward_float64 = backward

default_threads: int
line_bytes: int

def segments(T: int, B: int) -> int: ...
def instruction_sets() -> list[str]: ...
def openmp() -> bool: ...
def max_threads() -> int: ...
def until_line(array: NDArray[Any]) -> int: ...
def open_regions(always: bool) -> bool: ...
def activate(tanh: bool, x: NDArray[Any], out: NDArray[Any], isa: str | None = None) -> None: ...
