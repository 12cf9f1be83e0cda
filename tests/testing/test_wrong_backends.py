"""Backends that are wrong on purpose, each in one thing: the conformance kit catches every one, by the check named."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from cylstm.backends.base import Capabilities, DirectionParameters, LayerGradients, LayerOutput, LayerParameters
from cylstm.backends.numpy_backend import NumpyBackend, Workspace, steps
from cylstm.testing import ConformanceError, check_backend, checks
from cylstm.testing.kit import failure

WRONG: list[tuple[type[NumpyBackend], str]] = []


def caught_by(*checks: str) -> Any:
    """Each of these checks fails for the class."""

    def register(cls: type[NumpyBackend]) -> type[NumpyBackend]:
        WRONG.extend((cls, check) for check in checks)
        return cls

    return register


class Wrong(NumpyBackend):
    name = "wrong"
    capabilities = Capabilities(dtypes=frozenset({"float64"}), training=True)


def mapped(parameters: LayerParameters, **functions: Any) -> LayerParameters:
    """The parameters (or gradients) with functions applied to the fields named."""
    return tuple(
        p._replace(**{k: f(getattr(p, k)) for k, f in functions.items() if getattr(p, k) is not None})
        for p in parameters
    )


# Values -------------------------------------------------------------------------------------------------------------


@caught_by("values-initial_state-float64", "values-one_step-float64", "module_gradients-float64")
class SwapsInitialStates(Wrong):
    def forward(self, prepared: Any, *, h_0: Any, c_0: Any, **arguments: Any) -> LayerOutput:
        if h_0 is not None and c_0 is not None and h_0.shape == c_0.shape:
            h_0, c_0 = c_0, h_0
        return super().forward(prepared, h_0=h_0, c_0=c_0, **arguments)


@caught_by("values-initial_state-float64")
class SwapsFinalStates(Wrong):
    def forward(self, prepared: Any, **arguments: Any) -> LayerOutput:
        result = super().forward(prepared, **arguments)
        return result._replace(h_n=result.c_n, c_n=result.h_n)


@caught_by("values-plain-float64", "module_packed-float64")
class GateOrderOfOnnx(Wrong):
    def prepare(self, layer_parameters: LayerParameters) -> Any:
        def iofc(a: np.ndarray) -> np.ndarray:
            i, f, g, o = np.split(a, 4)
            return np.concatenate([i, o, f, g])

        fields = dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), iofc)
        return super().prepare(mapped(layer_parameters, **fields))


@caught_by("values-plain-float64")
class OneBias(Wrong):
    def prepare(self, layer_parameters: LayerParameters) -> Any:
        return super().prepare(mapped(layer_parameters, bias_hh=np.zeros_like))


@caught_by("values-reverse-float64", "values-ragged-float64", "module_packed-float64")
class IgnoresReverse(Wrong):
    def forward(self, prepared: Any, *, h_0: Any, c_0: Any, **arguments: Any) -> LayerOutput:
        results = [
            super(IgnoresReverse, self).forward(
                (p,),
                h_0=None if h_0 is None else h_0[d : d + 1],
                c_0=None if c_0 is None else c_0[d : d + 1],
                **arguments,
            )
            for d, p in enumerate(prepared)
        ]
        outputs, h_n, c_n, _ = zip(*results, strict=True)
        return LayerOutput(np.concatenate(outputs, 1), np.concatenate(h_n), np.concatenate(c_n), None)


@caught_by("values-ragged-float64", "module_packed-float64")
class ReverseStartsAtPadding(Wrong):
    """The reverse direction of a short sequence starts at the end of the longest, as if padded with zeros."""

    def forward(self, prepared: Any, *, input: Any, batch_sizes: Any, **arguments: Any) -> LayerOutput:
        B, T = int(batch_sizes[0]), len(batch_sizes)
        padded, mask = np.zeros((T, B, input.shape[1])), np.arange(B) < batch_sizes[:, None]
        padded[mask] = input
        result = super().forward(prepared, input=padded.reshape(T * B, -1), batch_sizes=np.full(T, B), **arguments)
        return result._replace(output=result.output[mask.ravel()])


@caught_by("values-ragged-float64")
class WrongLastStepOfRaggedBatches(Wrong):
    """h_n of a sequence that ends early is that of the step before its last."""

    def forward(self, prepared: Any, *, batch_sizes: Any, **arguments: Any) -> LayerOutput:
        result = super().forward(prepared, batch_sizes=batch_sizes, **arguments)
        starts = np.cumsum(batch_sizes) - batch_sizes
        for b in range(int(batch_sizes[0])):
            length = np.count_nonzero(batch_sizes > b)
            if 1 < length < len(batch_sizes):
                result.h_n[0, b] = result.output[starts[length - 2] + b, : result.h_n.shape[2]]
        return result


@caught_by("prepare_copies-float64", "module_weights_changed-float64", "values-plain-float64")
class KeepsStaleCopyOfWeights(Wrong):
    """Prepared parameters are looked up by their shapes."""

    def __init__(self) -> None:
        self.copies: dict[Any, Any] = {}

    def prepare(self, layer_parameters: LayerParameters) -> Any:
        key = tuple(None if a is None else a.shape for p in layer_parameters for a in p)
        return self.copies.setdefault(key, super().prepare(layer_parameters))


@caught_by("prepare_copies-float64")
class FollowsTheCallersWeights(Wrong):
    def prepare(self, layer_parameters: LayerParameters) -> Any:
        return layer_parameters


@caught_by("inputs_unchanged-float64", "inputs_read_only-float64")
class WritesToInput(Wrong):
    def forward(self, prepared: Any, *, input: Any, **arguments: Any) -> LayerOutput:
        input += 0.0
        result = super().forward(prepared, input=input, **arguments)
        input *= 2
        return result


@caught_by("outputs_new-float64", "calls_independent-float64")
class ReturnsInternalBuffers(Wrong):
    def __init__(self) -> None:
        self.buffers: dict[tuple[int, ...], np.ndarray] = {}

    def forward(self, prepared: Any, **arguments: Any) -> LayerOutput:
        result = super().forward(prepared, **arguments)
        buffer = self.buffers.setdefault(result.output.shape, result.output)
        buffer[...] = result.output
        return result._replace(output=buffer)


@caught_by("outputs_new-float64")
class ReturnsReadOnlyArrays(Wrong):
    def forward(self, prepared: Any, **arguments: Any) -> LayerOutput:
        result = super().forward(prepared, **arguments)
        result.c_n.flags.writeable = False
        return result


@caught_by("calls_independent-float64")
class ContinuesTheLastCall(Wrong):
    """Without h_0 and c_0, the states of the call before."""

    last: tuple[Any, LayerOutput] | None = None

    def forward(self, prepared: Any, *, h_0: Any, c_0: Any, **arguments: Any) -> LayerOutput:
        B = int(arguments["batch_sizes"][0])
        if self.last is not None and self.last[0] is prepared and self.last[1].h_n.shape[1] == B and h_0 is None:
            h_0, c_0 = self.last[1].h_n.copy(), self.last[1].c_n.copy()
        result = super().forward(prepared, h_0=h_0, c_0=c_0, **arguments)
        self.last = prepared, result
        return result


@caught_by("threads-float64")
class OneCallAtATime(Wrong):
    """The arguments pass through the object."""

    def forward(self, prepared: Any, **arguments: Any) -> LayerOutput:
        self.arguments = arguments
        time.sleep(1e-3)
        return super().forward(prepared, **self.arguments)


@caught_by("not_finite-float64")
class HidesNan(Wrong):
    def forward(self, prepared: Any, *, input: Any, **arguments: Any) -> LayerOutput:
        return super().forward(prepared, input=np.nan_to_num(input), **arguments)


@caught_by("values-plain-float64", "gradients-differences-float64")
class ComputesInFloat32(Wrong):
    def forward(self, prepared: Any, **arguments: Any) -> LayerOutput:
        result = super().forward(prepared, **arguments)
        return LayerOutput(*(a.astype(np.float32).astype(np.float64) for a in result[:3]), result.workspace)


@caught_by("values-empty_batch-float64")
class RefusesEmptyBatches(Wrong):
    def forward(self, prepared: Any, *, batch_sizes: Any, **arguments: Any) -> LayerOutput:
        if not batch_sizes[0]:
            raise RuntimeError("empty batch")
        return super().forward(prepared, batch_sizes=batch_sizes, **arguments)


@caught_by("contract")
class ClaimsAnUnknownDtype(Wrong):
    capabilities = Capabilities(dtypes=frozenset({"float64", "double"}))


# Gradients ----------------------------------------------------------------------------------------------------------


class WrongGradients(Wrong):
    """Wrong in :meth:`spoil` alone."""

    def backward(self, prepared: Any, workspace: Workspace, **arguments: Any) -> LayerGradients:
        return self.spoil(super().backward(prepared, workspace, **arguments), workspace)

    def spoil(self, gradients: LayerGradients, workspace: Workspace) -> LayerGradients:
        raise NotImplementedError


@caught_by("gradients-initial_state-float64", "gradients-differences-float64")
class MissesTheFirstStep(Wrong):
    """The first step of each direction adds nothing to the gradient of weight_hh."""

    def backward(self, prepared: Any, workspace: Workspace, **arguments: Any) -> LayerGradients:
        result = super().backward(prepared, workspace, **arguments)
        h_prev = [h.copy() for h in workspace.h_prev]
        for d, h in enumerate(h_prev):
            h[next(steps(workspace.batch_sizes, reverse=d == 1))[0]] = 0
        gates = (
            workspace.gates
            or super()
            .forward(
                prepared,
                input=workspace.input,
                batch_sizes=workspace.batch_sizes,
                h_0=None,
                c_0=None,
                keep="gates",
            )
            .workspace.gates
        )
        without = super().backward(prepared, workspace._replace(h_prev=h_prev, gates=gates), **arguments)
        parameters = tuple(
            p._replace(weight_hh=q.weight_hh) for p, q in zip(result.parameters, without.parameters, strict=True)
        )
        return result._replace(parameters=parameters)


@caught_by("gradients-initial_state-float64", "gradients-differences-float64", "module_gradients-float64")
class SwapsGradientsOfStates(WrongGradients):
    def spoil(self, gradients: LayerGradients, workspace: Workspace) -> LayerGradients:
        return gradients._replace(h_0=gradients.c_0, c_0=gradients.h_0)


@caught_by("gradients-plain-float64", "gradients-differences-float64", "module_gradients-float64")
class CountsBiasOnce(WrongGradients):
    """The gradient of the sum of the two biases, half for each."""

    def spoil(self, gradients: LayerGradients, workspace: Workspace) -> LayerGradients:
        return gradients._replace(
            parameters=mapped(gradients.parameters, bias_ih=lambda b: b / 2, bias_hh=lambda b: b / 2)
        )


@caught_by("gradients-reverse-float64", "gradients-differences-float64")
class ReverseOffByOne(Wrong):
    """The gradients of the reverse direction see the state of a neighbouring row."""

    def backward(self, prepared: Any, workspace: Workspace, **arguments: Any) -> LayerGradients:
        h_prev = [h if d == 0 else np.roll(h, workspace.batch_sizes[0], axis=0) for d, h in enumerate(workspace.h_prev)]
        return super().backward(prepared, workspace._replace(h_prev=h_prev), **arguments)


@caught_by("gradients-ragged-float64", "gradients-differences-float64")
class MissesTheRaggedTail(Wrong):
    """grad_h_n reaches only the sequences that are as long as the longest."""

    def backward(self, prepared: Any, workspace: Workspace, *, grad_h_n: Any, **arguments: Any) -> LayerGradients:
        if grad_h_n is not None:
            grad_h_n = grad_h_n.copy()
            grad_h_n[:, workspace.batch_sizes[-1] :] = 0
        return super().backward(prepared, workspace, grad_h_n=grad_h_n, **arguments)


@caught_by("gradients-plain-float64", "gradient_repeated-float64")
class ComputesGatesAgainFromAnotherBias(Wrong):
    """Only keep="states" is wrong."""

    calls = 0

    def backward(self, prepared: Any, workspace: Workspace, **arguments: Any) -> LayerGradients:
        if workspace.gates is None:
            self.calls += 1
            prepared = mapped(prepared, bias_hh=lambda b: b * self.calls)
        return super().backward(prepared, workspace, **arguments)


@caught_by("gradient_repeated-float64")
class SpoilsItsWorkspace(WrongGradients):
    def spoil(self, gradients: LayerGradients, workspace: Workspace) -> LayerGradients:
        for c in workspace.c_prev:
            c *= 0.5
        return gradients


@caught_by("gradient_arguments-float64")
class NeedsGradOutput(Wrong):
    """Without grad_output, the others count for nothing."""

    def backward(self, prepared: Any, workspace: Workspace, *, grad_output: Any, **arguments: Any) -> LayerGradients:
        if grad_output is None:
            arguments = dict.fromkeys(arguments)
        return super().backward(prepared, workspace, grad_output=grad_output, **arguments)


@caught_by("outputs_new-float64")
class SharesBiasGradients(WrongGradients):
    def spoil(self, gradients: LayerGradients, workspace: Workspace) -> LayerGradients:
        return gradients._replace(parameters=tuple(p._replace(bias_hh=p.bias_ih) for p in gradients.parameters))


@caught_by("inputs_unchanged-float64", "inputs_read_only-float64")
class WritesToGradOutput(Wrong):
    def backward(self, prepared: Any, workspace: Workspace, *, grad_output: Any, **arguments: Any) -> LayerGradients:
        result = super().backward(prepared, workspace, grad_output=grad_output, **arguments)
        if grad_output is not None:
            grad_output *= 0
        return result


@caught_by("gradients-plain-complex128", "gradients-differences-complex128")
class OtherComplexConvention(WrongGradients):
    capabilities = Capabilities(dtypes=frozenset({"complex128"}), training=True)

    def spoil(self, gradients: LayerGradients, workspace: Workspace) -> LayerGradients:
        parameters = mapped(gradients.parameters, **dict.fromkeys(DirectionParameters._fields, np.conj))
        return LayerGradients(*map(np.conj, gradients[:3]), parameters)


# The tests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "check"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_caught(cls: type[NumpyBackend], check: str) -> None:
    [named] = [each for each in checks(cls()) if each.id == check]
    error = failure(named)
    assert error is not None
    assert str(error)


def test_right_one_passes() -> None:
    assert not check_backend(Wrong()).failures


def test_bitwise_is_a_claim_of_its_own() -> None:
    class LastBit(Wrong):
        """A rounding that depends on the number of rows, well within the tolerance."""

        def forward(self, prepared: Any, *, input: Any, **arguments: Any) -> LayerOutput:
            result = super().forward(prepared, input=input, **arguments)
            return result._replace(output=result.output * (1 + 2.0**-52 * (len(input) % 5)))

    assert not check_backend(LastBit()).failures
    with pytest.raises(ConformanceError) as caught:
        check_backend(LastBit(), bitwise=True)
    failed = {result.check for result in caught.value.report.failures}
    assert {"bitwise_chunks-float64", "bitwise_batch-float64", "bitwise_module-float64"} <= failed
