from typing import Any, Self

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
    def __new__(cls, D: int, I: int, H: int, P: int, precision: str, isa: str) -> Self: ...
    @property
    def isa(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def whole(self) -> bool: ...
    @property
    def trains(self) -> bool: ...

def pack(
    layer: Layer,
    d: int,
    weight_ih: NDArray[Any],
    scale_ih: NDArray[Any] | None,
    weight_hh: NDArray[Any] | None,
    bias_ih: NDArray[Any] | None,
    bias_hh: NDArray[Any] | None,
    weight_hr: NDArray[Any] | None,
) -> None: ...
def pack_options(
    layer: Layer,
    d: int,
    activations: tuple[dict[str, float], ...],
    limits: tuple[float, float, float],
    input_forget: bool,
    weight_ch: NDArray[Any] | None,
) -> None: ...
def pack_whole(layer: Layer, d: int, values: NDArray[Any], scale: NDArray[Any]) -> None: ...

line_bytes: int

def kernel_table() -> list[tuple[str, str, bool]]: ...
def instruction_sets(precision: str = "float32") -> list[str]: ...
def segments(T: int, B: int) -> int: ...
def until_line(array: NDArray[Any]) -> int: ...
def activate(tanh: bool, x: NDArray[Any], out: NDArray[Any], isa: str | None = None) -> None: ...
