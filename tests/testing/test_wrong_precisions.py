"""Backends whose bfloat16 or int8 is wrong in one thing each: the conformance kit catches every one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cylstm import testing
from cylstm.arrays import quantization as q
from cylstm.backends.numpy_backend import NumpyBackend

BFLOAT16, INT8 = ("float32", "bfloat16"), ("float32", "int8")


class Right(NumpyBackend):
    name = "right"
    capabilities = NumpyBackend.capabilities._replace(dtypes=frozenset({"float32"}), training=False)


class Bfloat16(Right):
    """Subclasses change what becomes of the matrices."""

    name = "wrong"
    capabilities = Right.capabilities._replace(precisions=BFLOAT16)

    def prepare(self, layer_parameters, *, precision="float32"):
        prepared = super().prepare(layer_parameters, precision=precision)
        return prepared if precision == "float32" else tuple(map(self.changed, prepared, layer_parameters))

    def changed(self, prepared, given) -> Any:
        raise NotImplementedError


class Int8(Bfloat16):
    capabilities = Right.capabilities._replace(precisions=INT8)


class IgnoresIt(Bfloat16):
    def changed(self, prepared, given):
        return prepared._replace(weight_ih=given.weight_ih, weight_hh=given.weight_hh, weight_hr=given.weight_hr)


class OnlyWeights(Bfloat16):
    """x and h stay float32."""

    def changed(self, prepared, given):
        return prepared._replace(weight_ih=prepared.weight_ih.weight, weight_hh=prepared.weight_hh.weight)


class KeepsH(Bfloat16):
    def changed(self, prepared, given):
        return prepared._replace(weight_hh=prepared.weight_hh.weight)


class CutsOff(Bfloat16):
    """Weights are cut off instead of rounded."""

    def changed(self, prepared, given):
        cut = (given.weight_ih.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return prepared._replace(weight_ih=q.Bfloat16Product(cut))


class KeepsTheProjectedFactor(Bfloat16):
    """o * tanh(c) is not rounded in front of the projection."""

    def changed(self, prepared, given):
        return prepared if given.weight_hr is None else prepared._replace(weight_hr=prepared.weight_hr.weight)


class OneScale(Int8):
    """One scale for the whole matrix."""

    def changed(self, prepared, given):
        scale = np.float32(np.abs(given.weight_hh).max() / 127)
        values = np.rint(given.weight_hh / scale).astype(np.int8)
        scales = np.full(len(values), scale)
        return prepared._replace(weight_hh=q.prepared_for_int8(q.QuantizedWeight(values, scales)))


class FixedScaleOnly(Int8):
    """A state larger than 1 is cut off."""

    def changed(self, prepared, given):
        class Clipped:
            shape = prepared.weight_hh.shape

            def of(self, h):
                return prepared.weight_hh.of(h.clip(-1, 1))

        return prepared._replace(weight_hh=_as_product(Clipped()))


class ScaleOfOne(Int8):
    """The scale of h is 1/127 wherever h is not larger than 1."""

    def changed(self, prepared, given):
        class Fixed:
            shape = prepared.weight_hh.shape

            def of(self, h):
                one = np.ones((len(h), 1), np.float32)
                whole = prepared.weight_hh
                wider = q.Int8Product(np.vstack([whole.columns, np.zeros_like(whole.columns[:1])]), whole.scale)
                return wider.of(np.hstack([h, one]))

        return prepared._replace(weight_hh=_as_product(Fixed()))


class InputInInt8(Int8):
    """The input's matrix in int8 too."""

    def changed(self, prepared, given):
        return prepared._replace(weight_ih=q.prepared_for_bfloat16(q.quantized(given.weight_ih)))


class HidesNan(Int8):
    """A row of weights that is not finite counts as zeros."""

    def changed(self, prepared, given):
        scale = np.nan_to_num(prepared.weight_hh.scale)
        return prepared._replace(weight_hh=prepared.weight_hh._replace(scale=scale))


class QuantizesAgain(Int8):
    """Other people's integers and scales are taken for numbers to be quantised."""

    def changed(self, prepared, given):
        if isinstance(given.weight_hh, q.QuantizedWeight):
            again = q.dequantized(given.weight_hh)
            return prepared._replace(weight_hh=q.prepared_for_int8(again))
        return prepared


class BatchDependent(Int8):
    """The scale of h is that of the whole batch."""

    def changed(self, prepared, given):
        class OfTheBatch:
            shape = prepared.weight_hh.shape

            def of(self, h):
                largest = max(1, np.abs(h).max(initial=0))
                values = np.rint(h * np.float32(127 / largest)).astype(np.float32)
                return values @ given.weight_hh.T * np.float32(largest / 127)

        return (
            prepared
            if isinstance(given.weight_hh, q.QuantizedWeight)
            else prepared._replace(weight_hh=_as_product(OfTheBatch()))
        )


def _as_product(one: Any) -> Any:
    """An object with `of` in a form that `arrays.quantization.product` takes."""

    class Product(q.Bfloat16Product):
        @property
        def shape(self):
            return one.shape

        def of(self, a):
            return one.of(a)

    return Product(np.empty((0, 0), np.float32))


class Claims(Right):
    name = "wrong"
    capabilities = Right.capabilities._replace(precisions=("float32", "int4"))


class ClaimsNoFloat32(Right):
    name = "wrong"
    capabilities = Right.capabilities._replace(precisions=("int8",))


CAUGHT = {
    IgnoresIt: "values-plain-float32-bfloat16",
    OnlyWeights: "values-plain-float32-bfloat16",
    KeepsH: "values-initial_state-float32-bfloat16",
    CutsOff: "values-plain-float32-bfloat16",
    KeepsTheProjectedFactor: "values-projection-float32-bfloat16",
    OneScale: "values-plain-float32-int8",
    FixedScaleOnly: "values-initial_state-float32-int8",
    ScaleOfOne: "values-projection-float32-int8",
    InputInInt8: "values-plain-float32-int8",
    HidesNan: "not_finite-float32-int8",
    QuantizesAgain: "quantized_weights-float32-int8",
    BatchDependent: "values-initial_state-float32-int8",
    Claims: "contract",
    ClaimsNoFloat32: "contract",
}


@pytest.mark.parametrize("wrong", CAUGHT, ids=lambda wrong: wrong.__name__)
def test_the_kit_catches_it(wrong: type[Right]) -> None:
    [check] = [check for check in testing.checks(wrong()) if check.id == CAUGHT[wrong]]
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        check()


def test_the_kit_passes_what_is_right() -> None:
    ids = [check.id for check in testing.checks(Right())]
    assert len(set(ids)) == len(ids)
    for precision in ("bfloat16", "int8"):
        assert f"values-projection-float32-{precision}" in ids
    for check in testing.checks(Right()):
        if check.id in CAUGHT.values():
            check()


def test_a_backend_of_before_is_not_asked() -> None:
    class Before(NumpyBackend):
        name = "before"
        capabilities = Right.capabilities._replace(precisions=("float32",), options=frozenset())

        def prepare(self, layer_parameters):
            return super().prepare(layer_parameters)

    assert not [check.id for check in testing.checks(Before()) if "int8" in check.id]
    assert not testing.check_backend(Before()).failures
