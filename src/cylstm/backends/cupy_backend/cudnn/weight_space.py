"""Where cuDNN has each matrix and bias: the weight space, one array with all parameters of a layer."""

from __future__ import annotations

from contextlib import ExitStack
from ctypes import byref, c_size_t, c_void_p
from typing import Any, NamedTuple

import numpy as np

from ...base import DirectionParameters, LayerParameters
from ..device import Device, part
from ..variants import LayerShape
from .descriptors import descriptor, rnn_descriptor
from .library import Library


class Place(NamedTuple):
    """Where a part of a parameter lies."""

    parameter: str  # a field of DirectionParameters
    direction: int
    rows: slice  # of the parameter
    shape: tuple[int, ...]
    elements: slice  # of the weight space


class Layout(NamedTuple):
    """The weight space of a layer."""

    layer: LayerShape
    length: int  # in elements
    places: tuple[Place, ...]

    def packed(self, layer_parameters: LayerParameters, device: Device) -> Any:
        """The weight space with these parameters. A layer without biases has zeros there."""
        space = device.xp.zeros(self.length, layer_parameters[0].weight_ih.dtype)
        for place in self.places:
            parameter = getattr(layer_parameters[place.direction], place.parameter)
            if parameter is not None:
                device.copy(parameter[place.rows].reshape(-1), space[place.elements])
        return space

    def parameters(self, space: Any, device: Device) -> LayerParameters:
        """What lies in the weight space, such as gradients, in the shapes of the parameters.

        What lies side by side is a part of `space`, where its address allows that, not a copy of it.
        """
        layer = self.layer
        H, I, R, P = layer.H, layer.I, layer.R, layer.P
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (4 * H, I), "weight_hh": (4 * H, R)}
        shapes |= {"bias_ih": (4 * H,), "bias_hh": (4 * H,)} if layer.bias else {}
        shapes |= {"weight_hr": (P, H)} if P else {}
        directions: list[dict[str, Any]] = [{} for _ in range(layer.D)]
        for place in self.places:
            if (shape := shapes.get(place.parameter)) is None:
                continue
            view, arrays = space[place.elements].reshape(place.shape), directions[place.direction]
            if place.shape == shape:
                arrays[place.parameter] = part(device, view)
                continue
            if place.parameter not in arrays:
                arrays[place.parameter] = device.xp.empty(shape, space.dtype)
            device.copy(view, arrays[place.parameter][place.rows])
        return tuple(DirectionParameters(**arrays) for arrays in directions)


def layout(library: Library, handle: c_void_p, layer: LayerShape, *, itemsize: int, algorithm: str) -> Layout:
    """Ask cuDNN for the layout of the weight space.

    cuDNN numbers the matrices of a direction: those of the input in PyTorch's order i, f, g, o, those of the state in
    the same order, and the projection. It gives addresses; nothing is read or written there, so any do.
    """
    base, size, places = 1 << 32, c_size_t(), []
    with ExitStack() as made:
        rnn = rnn_descriptor(library, layer, made, algorithm=algorithm, tf32=False, packed=False)
        of_matrix, of_bias = (descriptor(library, "Tensor", made) for _ in range(2))
        library.call("cudnnGetRNNWeightSpaceSize", handle, rnn, byref(size))
        for direction in range(layer.D):
            for number in range(9 if layer.P else 8):
                matrix, bias = c_void_p(), c_void_p()
                library.call(
                    "cudnnGetRNNWeightParams",
                    handle, rnn, direction, size.value, c_void_p(base), number,
                    of_matrix, byref(matrix), of_bias, byref(bias),
                )  # fmt: skip
                kind, rows, shape = _part(layer, number)
                for name, address, of in (("weight", matrix, shape), ("bias", bias, shape[:1])):
                    if address.value is not None and (name == "weight" or kind != "hr"):
                        first = (address.value - base) // itemsize
                        elements = slice(first, first + int(np.prod(of)))
                        places.append(Place(f"{name}_{kind}", direction, rows, of, elements))
    return Layout(layer, size.value // itemsize, _joined(places))


def _joined(places: list[Place]) -> tuple[Place, ...]:
    """The places, with one for gates that lie side by side in the weight space and in the parameter."""
    joined: list[Place] = []
    for place in sorted(places, key=lambda p: (p.direction, p.parameter, p.elements.start)):
        last = joined[-1] if joined else None
        beside = last and (last.rows.stop, last.elements.stop) == (place.rows.start, place.elements.start)
        if last and beside and last[:2] == place[:2]:
            shape = (last.shape[0] + place.shape[0], *place.shape[1:])
            rows, elements = (slice(a.start, b.stop) for a, b in zip(last[2:5:2], place[2:5:2], strict=True))
            joined[-1] = last._replace(rows=rows, shape=shape, elements=elements)
        else:
            joined.append(place)
    return tuple(joined)


def _part(layer: LayerShape, number: int) -> tuple[str, slice, tuple[int, int]]:
    """The kind of a matrix by its number, its rows in the parameter, and its shape."""
    if number == 8:
        return "hr", slice(0, layer.P), (layer.P, layer.H)
    gate = number % 4
    rows = slice(gate * layer.H, (gate + 1) * layer.H)
    return ("ih", rows, (layer.H, layer.I)) if number < 4 else ("hh", rows, (layer.H, layer.R))
