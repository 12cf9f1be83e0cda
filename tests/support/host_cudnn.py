"""Stands for libcudnn, without a GPU: functions of the same names and signatures, which compute on the CPU.

It follows cuDNN's documentation as far as cylstm relies on it, and is strict where a mistake would show on a GPU alone:
it reads nothing but descriptors and addresses, gives the weights an order of its own, holds that a reserve serves one
backward pass, and that gradients of weights are added. What it computes says nothing of the values of cuDNN.
"""

from __future__ import annotations

import ctypes
import itertools
import traceback
from collections.abc import Callable, Iterator
from ctypes import c_char, c_int, c_int32, c_size_t
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from device_array import here

from cylstm.backends.base import DirectionParameters, LayerParameters
from cylstm.backends.cupy_backend.cudnn.library import SIGNATURES
from cylstm.backends.numpy_backend import NumpyBackend

SUCCESS, NOT_INITIALIZED, BAD_PARAM, NOT_SUPPORTED, INTERNAL_ERROR = 0, 1001, 2000, 3000, 4000
NAMES = {NOT_INITIALIZED: "NOT_INITIALIZED", BAD_PARAM: "BAD_PARAM", NOT_SUPPORTED: "NOT_SUPPORTED"}
STANDARD, PERSIST_STATIC, PERSIST_DYNAMIC, SMALL_H = range(4)
DTYPES = {0: "float32", 1: "float64", 2: "float16", 9: "bfloat16"}
#: The parameters of what computes, as cudnn_adv.h names them.
_MEMORY = "weightSpaceSize {} workSpaceSize workSpace reserveSpaceSize reserveSpace"
PARAMETERS = {
    "cudnnRNNForward": "handle rnnDesc fwdMode devSeqLengths xDesc x yDesc y hDesc hx hy cDesc cx cy "
    + _MEMORY.format("weightSpace"),
    "cudnnRNNBackwardData_v8": "handle rnnDesc devSeqLengths yDesc y dy xDesc dx hDesc hx dhy dhx cDesc cx dcy dcx "
    + _MEMORY.format("weightSpace"),
    "cudnnRNNBackwardWeights_v8": "handle rnnDesc addGrad devSeqLengths xDesc x hDesc hx yDesc y "
    + _MEMORY.format("dweightSpace"),
}
#: Those of them that are addresses of numbers.
MEMORY = ("weightSpace", "dweightSpace", "workSpace", "reserveSpace", "x", "y", "hx", "hy", "cx", "cy")
MEMORY += ("dx", "dy", "dhx", "dhy", "dcx", "dcy")


class Status(Exception):
    """The status that a call ends with."""


class Rnn(NamedTuple):
    algorithm: int
    D: int
    data: int
    math: tuple[int, int]
    I: int
    H: int
    R: int
    padded: int

    @property
    def P(self) -> int:
        return self.R if self.R != self.H else 0


class Rows(NamedTuple):
    data: int
    layout: int
    T: int
    B: int
    width: int
    lengths: tuple[int, ...]


class HostCudnn:
    """The functions of libcudnn.

    The algorithms `refused` are described, and not computed. With `gaps`, the parts of a parameter lie apart. `work`
    and `reserve` are bytes, of which the first of the reserve are the number of the pass, and how far it is.
    """

    def __init__(
        self,
        version: int = 92801,
        refused: tuple[int, ...] = (),
        *,
        gaps: bool = True,
        work: int = 64,
        reserve: int = 16,
    ) -> None:
        self.refused = refused
        self.gaps = gaps
        self.work, self.reserve = work, reserve
        self.lacking = ""  # the name of a call that does not succeed
        self.asked: list[str] = []  # the names of all calls
        self.numbers = itertools.count(1)
        self.objects: dict[int, Any] = {}  # handles and descriptors
        self.passes: dict[int, Any] = {}
        self.calls: list[tuple[str, Rnn]] = []  # of those that compute
        self.devices: list[int] = []  # of handles
        self.cudnnGetVersion = _Plain(lambda: version)
        self.cudnnGetErrorString = _Plain(lambda s: f"CUDNN_STATUS_{NAMES.get(s, s)}".encode())
        for name, arguments in SIGNATURES.items():
            setattr(self, name, ctypes.CFUNCTYPE(c_int, *arguments)(self._answering(name)))

    def _answering(self, name: str) -> Callable[..., int]:
        kind = name.removeprefix("cudnn")
        function = getattr(self, f"_{kind}", None)
        if kind.startswith("Create") and function is None:
            function = self._create
        elif kind.startswith("Destroy"):
            function = self._destroy

        def answer(*values: Any) -> int:
            self.asked.append(name)
            try:
                required(name != self.lacking)
                function(*values)
            except Status as status:
                return status.args[0]
            except Exception:
                traceback.print_exc()  # a callback cannot raise
                return INTERNAL_ERROR
            return SUCCESS

        return answer

    # Handles and descriptors ----------------------------------------------------------------------------------------

    def _Create(self, out: Any) -> None:
        self._create(out)
        self.devices.append(here.device)

    def _create(self, out: Any) -> None:
        out[0] = number = next(self.numbers)
        self.objects[number] = None

    def _destroy(self, number: int) -> None:
        del self.objects[number]

    def _SetStream(self, handle: int, stream: int | None) -> None:
        self.objects[handle] = stream

    def _SetRNNDescriptor_v8(self, number: int, *values: Any) -> None:
        algorithm, mode, bias, directions, skip, data, precision, kind, I, H, R, layers, dropout, padded = values
        required((mode, bias, skip, layers, dropout) == (2, 2, 0, 1, None) and 0 < R <= H and I > 0)
        required(not (algorithm != STANDARD and R != H), NOT_SUPPORTED)
        required(not (algorithm in (PERSIST_STATIC, SMALL_H) and data == 1), NOT_SUPPORTED)
        self.objects[number] = Rnn(algorithm, directions + 1, data, (precision, kind), I, H, R, padded)

    def _SetRNNDataDescriptor(
        self, number: int, data: int, layout: int, T: int, B: int, width: int, lengths: int, fill: Any
    ) -> None:
        required(B > 0 and fill is None)
        found = tuple((c_int32 * B).from_address(lengths))
        required(max(found) == T and min(found) > 0 and (layout == 0 or list(found) == sorted(found, reverse=True)))
        self.objects[number] = Rows(data, layout, T, B, width, found)

    def _SetTensorNdDescriptor(self, number: int, data: int, n: int, sizes: int, strides: int) -> None:
        sizes_, strides_ = (tuple((c_int * n).from_address(at)) for at in (sizes, strides))
        required(n == 3 and strides_ == (sizes_[1] * sizes_[2], sizes_[2], 1))
        self.objects[number] = (data, sizes_)

    # The weight space -----------------------------------------------------------------------------------------------

    def _places(self, rnn: Rnn) -> Iterator[tuple[tuple[int, int, str], tuple[int, ...], int]]:
        """The last direction first, in each the biases first, with gaps; or as cuDNN has it."""
        gap = 3 * self.gaps
        offset = gap
        for direction in reversed(range(rnn.D)) if self.gaps else range(rnn.D):
            for name in ("bias", "weight") if self.gaps else ("weight", "bias"):
                for k in range(9 if rnn.P else 8):
                    if name == "bias" and k == 8:
                        continue
                    width = () if name == "bias" else (rnn.I if k < 4 else rnn.R if k < 8 else rnn.H,)
                    shape = (rnn.P if k == 8 else rnn.H, *width)
                    yield (direction, k, name), shape, offset
                    offset += int(np.prod(shape)) + gap
        yield (-1, -1, "end"), (), offset

    def _GetRNNWeightSpaceSize(self, handle: int, rnn: int, size: int) -> None:
        c_size_t.from_address(size).value = self._size(self.objects[rnn])

    def _size(self, rnn: Rnn) -> int:
        *_, (_, _, end) = self._places(rnn)
        return end * itemsize(rnn.data)

    def _GetRNNWeightParams(
        self,
        handle: int,
        rnn: int,
        direction: int,
        size: int,
        space: int,
        k: int,
        matrix: int,
        m: Any,
        bias: int,
        b: Any,
    ) -> None:
        required(handle in self.objects and matrix in self.objects and bias in self.objects)
        offsets = {key: offset for key, _, offset in self._places(self.objects[rnn])}
        width = itemsize(self.objects[rnn].data)
        required(size == self._size(self.objects[rnn]))
        for name, out in (("weight", m), ("bias", b)):
            offset = offsets.get((direction, k, name))
            out[0] = None if offset is None else space + offset * width

    def _weights(self, rnn: Rnn, space: int) -> LayerParameters:
        """The parameters, as views of the weight space."""
        directions: list[dict[str, list[np.ndarray]]] = [{} for _ in range(rnn.D)]
        for (direction, k, name), shape, offset in self._places(rnn):
            if direction >= 0:
                kind = "hr" if k == 8 else "ih" if k < 4 else "hh"
                part = array_at(space + offset * itemsize(rnn.data), rnn.data, shape)
                directions[direction].setdefault(f"{name}_{kind}", []).append(part)
        return tuple(
            DirectionParameters(**{name: np.concatenate(parts) for name, parts in d.items()}) for d in directions
        )

    # The passes -----------------------------------------------------------------------------------------------------

    def _GetRNNTempSpaceSizes(self, handle: int, rnn: int, mode: int, rows: int, work: int, reserve: int) -> None:
        required(handle in self.objects and isinstance(self.objects[rows], Rows))
        c_size_t.from_address(work).value = self.work
        c_size_t.from_address(reserve).value = self.reserve if mode else 0

    def _given(self, name: str, values: tuple[Any, ...]) -> tuple[SimpleNamespace, Rnn, np.ndarray]:
        """The arguments by name, the layer and its batch sizes, after all that cuDNN can see of them."""
        a = SimpleNamespace(**dict(zip(PARAMETERS[name].split(), values, strict=True)))
        layer, rows, out = (self.objects[number] for number in (a.rnnDesc, a.xDesc, a.yDesc))
        required(a.handle in self.objects and a.devSeqLengths is None and rows[:4] == out[:4])
        required(rows.lengths == out.lengths and rows.layout == (0 if layer.padded else 1))
        required((rows.width, out.width, rows.data) == (layer.I, layer.D * layer.R, layer.data))
        required(self.objects[a.hDesc] == (layer.data, (layer.D, rows.B, layer.R)))
        required("cDesc" not in vars(a) or self.objects[a.cDesc] == (layer.data, (layer.D, rows.B, layer.H)))
        required(a.workSpaceSize == self.work and a.workSpace is not None and a.weightSpaceSize == self._size(layer))
        required(a.reserveSpaceSize == (self.reserve if vars(a).get("fwdMode", 1) else 0))
        required(layer.algorithm not in self.refused, NOT_SUPPORTED)
        required(not any((getattr(a, name, None) or 0) % 16 for name in MEMORY))
        self.calls.append((name, layer))
        return a, layer, np.array([sum(length > t for length in rows.lengths) for t in range(rows.T)])

    def _RNNForward(self, *values: Any) -> None:
        a, layer, sizes = self._given("cudnnRNNForward", values)
        given = self._arrays(a, layer, sizes, ("x", "hx", "cx"))
        prepared = NumpyBackend().prepare(self._weights(layer, a.weightSpace))
        result = NumpyBackend().forward(
            prepared, input=given["x"], batch_sizes=sizes, h_0=given["hx"], c_0=given["cx"], keep="gates"
        )
        write(layer.data, {a.y: result.output, a.hy: result.h_n, a.cy: result.c_n})
        if a.fwdMode:
            number = next(self.numbers)
            self.passes[number] = (prepared, result, given | {"y": result.output})
            array_at(a.reserveSpace, np.int64, (2,))[...] = number, 1

    def _RNNBackwardData_v8(self, *values: Any) -> None:
        a, layer, sizes = self._given("cudnnRNNBackwardData_v8", values)
        required(a.dy is not None)
        state = array_at(a.reserveSpace, np.int64, (2,))
        required(state[1] == 1)  # it has not served yet
        prepared, result, of_forward = self.passes[int(state[0])]
        given = self._arrays(a, layer, sizes, ("y", "hx", "cx", "dy", "dhy", "dcy"))
        for name in ("y", "hx", "cx"):
            np.testing.assert_array_equal(given[name], of_forward[name])
        np.testing.assert_equal(NumpyBackend().prepare(self._weights(layer, a.weightSpace)), prepared)
        grads = NumpyBackend().backward(
            prepared, result.workspace, grad_output=given["dy"], grad_h_n=given["dhy"], grad_c_n=given["dcy"]
        )
        write(layer.data, {a.dx: grads.input, a.dhx: grads.h_0, a.dcx: grads.c_0})
        state[...] = next(self.numbers), 2
        self.passes[int(state[0])] = (of_forward, grads)

    def _RNNBackwardWeights_v8(self, *values: Any) -> None:
        a, layer, sizes = self._given("cudnnRNNBackwardWeights_v8", values)
        state = array_at(a.reserveSpace, np.int64, (2,))
        required(a.addGrad == 0 and state[1] == 2)  # after the data
        of_forward, grads = self.passes[int(state[0])]
        for name, array in self._arrays(a, layer, sizes, ("x", "hx", "y")).items():
            np.testing.assert_array_equal(array, of_forward[name])
        for (direction, k, name), shape, offset in self._places(layer):
            if direction >= 0:
                kind, gate = ("hr", 0) if k == 8 else ("ih" if k < 4 else "hh", k % 4)
                rows = slice(gate * shape[0], (gate + 1) * shape[0])
                part = getattr(grads.parameters[direction], f"{name}_{kind}")[rows]
                array_at(a.dweightSpace + offset * itemsize(layer.data), layer.data, shape)[...] += part

    def _arrays(self, a: SimpleNamespace, layer: Rnn, sizes: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        """Copies of arrays among the arguments, None where the address is null."""
        N, B, D, R, H = int(sizes.sum()), int(sizes[0]), layer.D, layer.R, layer.H
        shapes = {"x": (N, layer.I), "y": (N, D * R), "dy": (N, D * R)}
        shapes |= dict.fromkeys(("hx", "dhy"), (D, B, R)) | dict.fromkeys(("cx", "dcy"), (D, B, H))
        at = {name: getattr(a, name) for name in names}
        return {n: None if at[n] is None else array_at(at[n], layer.data, shapes[n]).copy() for n in names}


class _Plain:
    """A function whose types may be set."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *values: Any) -> Any:
        return self._function(*values)


def required(true: bool, status: int = BAD_PARAM) -> None:
    if not true:
        raise Status(status)


def itemsize(data: int) -> int:
    return np.dtype(DTYPES[data]).itemsize


def array_at(address: int, data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """What lies at an address."""
    dtype = np.dtype(DTYPES[data] if isinstance(data, int) else data)
    n = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((c_char * n).from_address(address), np.uint8).view(dtype).reshape(shape)


def write(data: int, arrays: dict[int, np.ndarray]) -> None:
    """Write arrays to addresses."""
    for address, array in arrays.items():
        array_at(address, data, array.shape)[...] = array
