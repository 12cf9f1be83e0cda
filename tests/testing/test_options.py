"""The options beyond PyTorch's LSTM: the definition against their equations in PyTorch, with its autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cylstm
from cylstm import testing
from cylstm.arrays.activations import ACTIVATIONS
from cylstm.backends.base import Backend, Capabilities, DirectionParameters, LayerGradients, LayerOptions, LayerOutput
from cylstm.testing import problems

#: PyTorch's functions of the same names, of a, alpha and beta.
FUNCTIONS: dict[str, Any] = {
    "sigmoid": lambda a, p, q: torch.sigmoid(a),
    "tanh": lambda a, p, q: torch.tanh(a),
    "linear": lambda a, p, q: a,
    "affine": lambda a, p, q: p * a + q,
    "scaled_tanh": lambda a, p, q: p * torch.tanh(q * a),
    "relu": lambda a, p, q: F.relu(a),
    "leaky_relu": lambda a, p, q: F.leaky_relu(a, p),
    "thresholded_relu": lambda a, p, q: F.threshold(a, p, 0),
    "relu6": lambda a, p, q: F.relu6(a),
    "hard_sigmoid": lambda a, p, q: F.hardtanh(p * a + q, 0, 1),
    "hard_tanh": lambda a, p, q: F.hardtanh(a),
    "elu": lambda a, p, q: F.elu(a, p),
    "celu": lambda a, p, q: F.celu(a, p),
    "selu": lambda a, p, q: F.selu(a),
    "softsign": lambda a, p, q: F.softsign(a),
    "softplus": lambda a, p, q: F.softplus(a),
    "exponential": lambda a, p, q: torch.exp(a),
    "silu": lambda a, p, q: F.silu(a),
    "hard_silu": lambda a, p, q: F.hardswish(a),
    "gelu": lambda a, p, q: F.gelu(a),
    "mish": lambda a, p, q: F.mish(a),
    "log_sigmoid": lambda a, p, q: F.logsigmoid(a),
    "tanh_shrink": lambda a, p, q: F.tanhshrink(a),
    "hard_shrink": lambda a, p, q: F.hardshrink(a, p),
    "soft_shrink": lambda a, p, q: F.softshrink(a, p),
    "squareplus": lambda a, p, q: (a + torch.sqrt(a * a + p)) / 2,
    "sparse_plus": lambda a, p, q: torch.where(a <= -1, 0 * a, torch.where(a < 1, (a + 1) ** 2 / 4, a)),
}


def limited(a: torch.Tensor, limit: float | None) -> torch.Tensor:
    return a if limit is None else a.clamp(-limit, limit)


class Equations(Backend):
    """One sequence at a time, as ONNX's operator and the papers write the options; gradients by autograd."""

    name = "equations"
    capabilities = Capabilities(
        dtypes=frozenset({"float64", "complex128"}), training=True, options=frozenset(LayerOptions._fields)
    )

    def prepare(self, layer_parameters: Any, *, options: LayerOptions | None = None) -> Any:
        return layer_parameters, options or LayerOptions()

    def forward(self, prepared: Any, *, input: Any, batch_sizes: Any, h_0: Any, c_0: Any, keep: Any = "nothing") -> Any:
        layer, options = prepared
        leaf = lambda a: None if a is None else torch.tensor(a, requires_grad=True)  # noqa: E731
        parameters = [[leaf(p) for p in direction] for direction in layer]
        R, H = layer[0].weight_hh.shape[1], layer[0].weight_ih.shape[0] // 4
        B, D = int(batch_sizes[0]), len(layer)
        h_0, c_0 = (np.zeros((D, B, n), input.dtype) if s is None else s for s, n in ((h_0, R), (c_0, H)))
        x, h_0, c_0 = leaf(input), leaf(h_0), leaf(c_0)
        begins = np.concatenate([[0], np.cumsum(batch_sizes)])
        rows: dict[tuple[int, int], torch.Tensor] = {}
        ends: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        for d in range(D):
            ends.append([])
            for b in range(B):
                times = [t for t in range(len(batch_sizes)) if batch_sizes[t] > b]
                h, c = h_0[d, b], c_0[d, b]
                for t in times if d == 0 else reversed(times):
                    n = int(begins[t]) + b
                    activations = options.activations[d % len(options.activations)]
                    h, c = one_step(parameters[d], options, activations, x[n], h, c)
                    rows[n, d] = h
                ends[d].append((h, c))
        output = torch.stack([torch.cat([rows[n, d] for d in range(D)]) for n in range(len(input))])
        h_n, c_n = (torch.stack([torch.stack([end[k] for end in of]) for of in ends]) for k in (0, 1))
        kept = None if keep == "nothing" else ((x, h_0, c_0), parameters, (output, h_n, c_n))
        return LayerOutput(*(a.detach().numpy() for a in (output, h_n, c_n)), kept)

    def backward(self, prepared: Any, workspace: Any, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any) -> Any:
        given, parameters, results = workspace
        inputs = [*given, *(p for direction in parameters for p in direction if p is not None)]
        grads = torch.autograd.grad(
            results,
            inputs,
            [torch.tensor(g) for g in (grad_output, grad_h_n, grad_c_n)],
            allow_unused=True,
            retain_graph=True,
        )
        found = iter([torch.zeros_like(a) if g is None else g for a, g in zip(inputs, grads, strict=True)])
        x, h_0, c_0 = (next(found).resolve_conj().numpy() for _ in given)
        layer = tuple(
            DirectionParameters(*(None if p is None else next(found).resolve_conj().numpy() for p in direction))
            for direction in parameters
        )
        return LayerGradients(x, h_0, c_0, layer)


def one_step(p: Any, options: LayerOptions, activations: Any, x: Any, h: Any, c: Any) -> Any:
    """h and c of one sequence after one step."""
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, weight_ch = p
    f, g, out = (lambda a, one=one: FUNCTIONS[one.name](a, one.alpha, one.beta) for one in activations)
    a = weight_ih @ x + weight_hh @ h
    if bias_ih is not None:
        a = a + bias_ih + bias_hh
    a_i, a_f, a_g, a_o = a.chunk(4)
    P_i, P_f, P_o = (0, 0, 0) if weight_ch is None else weight_ch.chunk(3)
    i = f(limited(a_i + P_i * c, options.clip))
    forget = 1 - i if options.input_forget else f(limited(a_f + P_f * c, options.clip))
    c = limited(forget * c + i * g(limited(a_g, options.clip)), options.cell_clip)
    h = f(limited(a_o + P_o * c, options.clip)) * out(c)
    return (h if weight_hr is None else limited(weight_hr @ h, options.proj_clip)), c


TODO = [
    check
    for check in testing.checks("numpy")
    if check.id.startswith("option_gradients") and check.id.endswith(("-float64", "-complex128"))  # values among them
]


@pytest.mark.parametrize("check", TODO, ids=lambda check: check.id)
def test_options_against_their_equations_in_pytorch(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "REFERENCE", Equations())
    check()


def test_each_option_and_activation_is_checked() -> None:
    topics = {"peephole", "input_forget", "clip", "cell_clip", "proj_clip", "activations"}
    assert {check.id.split("-")[1] for check in TODO} == topics == set(problems.OPTION_CASES)
    cases = problems.OPTION_CASES["activations"]
    assert {one.name for case in cases for one in case.options.activations[0]} == set(FUNCTIONS) == set(ACTIVATIONS)


class WithoutClip(problems.NumpyBackend):
    """It takes the options, and leaves the clip out."""

    name = "without-clip"

    def prepare(self, layer_parameters: Any, *, options: LayerOptions | None = None) -> Any:
        return super().prepare(layer_parameters, options=None if options is None else options._replace(clip=None))


def test_an_option_that_is_ignored_is_found() -> None:
    [check] = [one for one in testing.checks(WithoutClip()) if one.id == "option_values-clip-float64"]
    with pytest.raises(AssertionError, match="output off by"):
        check()


class Some(problems.NumpyBackend):
    """It has peepholes, and relu, and no other option."""

    name = "some"
    capabilities = problems.NumpyBackend.capabilities._replace(options=frozenset({"peephole", "relu", "tanh"}))


class WithoutGradients(problems.NumpyBackend):
    """It computes all options, and gradients of peepholes alone."""

    name = "without-gradients"
    capabilities = problems.NumpyBackend.capabilities._replace(training_options=frozenset({"peephole"}))


def test_gradients_with_options_are_a_claim_of_their_own() -> None:
    ids = {check.id for check in testing.checks(WithoutGradients()) if check.id.endswith("-float64")}
    topics = {one.removeprefix("option_values-") for one in ids if one.startswith("option_values-")}
    assert topics == {f"{topic}-float64" for topic in problems.OPTION_CASES}
    assert [one for one in ids if one.startswith("option_gradients-")] == ["option_gradients-peephole-float64"]
    backend = WithoutGradients()
    lstm, x = cylstm.LSTM(3, 4, clip=1.0, backend=backend), cylstm.randn(2, 3)
    lstm(x)
    with pytest.raises(cylstm.UnsupportedError, match="cannot compute gradients with the option clip"):
        lstm.vjp(x)
    cylstm.LSTM(3, 4, peephole=True, backend=backend).vjp(x)


@pytest.mark.parametrize("claim", [{"peephole"}, frozenset({"cell"})])
def test_a_wrong_claim_of_gradients_is_found(claim: Any) -> None:
    class Wrong(problems.NumpyBackend):
        capabilities = problems.NumpyBackend.capabilities._replace(training_options=claim)

    with pytest.raises(AssertionError, match=r"capabilities\.training_options must be None or a frozenset of some"):
        next(check for check in testing.checks(Wrong()) if check.id == "contract")()


class LastBit(problems.NumpyBackend):
    """The last bit of a result with options depends on the rows of the call."""

    name = "last-bit"

    def prepare(self, layer_parameters: Any, *, options: LayerOptions | None = None) -> Any:
        return super().prepare(layer_parameters, options=options), options is not None

    def forward(self, prepared: Any, **arguments: Any) -> Any:
        result = super().forward(prepared[0], **arguments)
        if prepared[1] and len(arguments["input"]) % 2:
            result = result._replace(output=np.nextafter(result.output, np.inf))
        return result


def test_bits_that_depend_on_the_call_are_found_with_options() -> None:
    todo = [one for one in testing.checks(LastBit(), bitwise=True) if one.id.startswith("bitwise_options")]
    assert {one.id.split("-")[1] for one in todo} == set(problems.OPTION_CASES)
    for one in todo:
        with pytest.raises(AssertionError, match="steps at a time"):
            one()


def test_options_are_checked_as_they_are_claimed() -> None:
    begin, end = "option_values-", "-float64"
    found = [check for check in testing.checks(Some()) if check.id.startswith(begin) and check.id.endswith(end)]
    checks = {check.id.removeprefix(begin).removesuffix(end): check for check in found}
    assert set(checks) == {"peephole", "activations"}
    cases = checks["activations"].function.keywords["cases"]
    assert {case.options.activations[0][0].name for case in cases} == {"relu", "tanh"}
