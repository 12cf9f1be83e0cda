"""The transforms of torch.func, vmap and batched gradients through the drop-in modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call, functionalize, grad, jacrev, stack_module_state, vjp, vmap
from torch.nn.utils import rnn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch_modules import both, close, flat, leaves_of

import cylstm.torch

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]

float64 = torch.float64
OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"proj_size": 2, "bias": False, "num_layers": 2},
]


def pair(**options: Any) -> list[torch.nn.Module]:
    return both(2, 3, dtype=float64, **options)


def loss(module: torch.nn.Module, parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    output, state = functional_call(module, parameters, (x,)) if parameters else module(x)
    return output.sin().sum() + sum(s.square().sum() for s in state)


def detached(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def same(actual: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return all(same(actual[name], expected[name]) for name in expected)
    return all(map(close, leaves_of(actual), leaves_of(expected)))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_are_those_of_pytorch(options, backend):
    theirs, ours = pair(**options)
    ours.backend = backend
    x = torch.randn(4, 2, 2, dtype=float64)
    by_parameters = [grad(loss, argnums=1)(m, detached(m), x) for m in (ours, theirs)]
    assert same(*by_parameters)
    assert same(*(grad(lambda x, m=m: loss(m, {}, x))(x) for m in (ours, theirs)))
    assert same(*(jacrev(lambda x, m=m: m(x)[0].sum(-1))(x) for m in (ours, theirs)))
    results, pullback = vjp(lambda x: tuple(flat(ours(x))), x)
    expected, their_pullback = vjp(lambda x: tuple(flat(theirs(x))), x)
    assert same(results, expected)
    cotangents = tuple(map(torch.randn_like, results))
    assert same(pullback(cotangents), their_pullback(cotangents))


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_gradients_of_ragged_batches_and_of_cells(kind):
    theirs, ours = pair(kind=kind)
    x = torch.randn(5, 2, dtype=float64)

    def run(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        if kind == "LSTMCell":
            return module(x)[1].sin().sum()
        output, _ = module(rnn.PackedSequence(x, torch.tensor([2, 2, 1])))
        return output.data.sin().sum()

    def gradient(x: torch.Tensor) -> torch.Tensor:
        leaf = x.clone().requires_grad_()  # PyTorch's own takes no packed sequence in torch.func
        return torch.autograd.grad(run(theirs, leaf), leaf)[0]

    assert same(grad(lambda x: run(ours, x))(x), gradient(x))
    xs = torch.randn(3, 5, 2, dtype=float64)
    assert same(vmap(lambda x: run(ours, x))(xs), torch.stack([run(theirs, x) for x in xs]))
    assert same(vmap(grad(lambda x: run(ours, x)))(xs), torch.stack([gradient(x) for x in xs]))


@pytest.mark.parametrize("form", ["unbatched", "batched", "empty batch"])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vmap_over_inputs_and_states(options, dim, form, backend):
    theirs, ours = pair(**options)
    ours.backend = backend
    L, D, R = ours.num_layers, 1 + ours.bidirectional, ours.proj_size or 3
    B = {"unbatched": (), "batched": (2,), "empty batch": (0,)}[form]
    x = torch.randn(5, *((*B, 4) if ours.batch_first else (4, *B)), 2, dtype=float64)
    h, c = (torch.randn(5, L * D, *B, size, dtype=float64) for size in (R, 3))
    expected = [flat(theirs(*arguments)) for arguments in zip(x, zip(h, c, strict=True), strict=True)]
    expected = [torch.stack(result) for result in zip(*expected, strict=True)]
    moved = x.movedim(0, dim), (h.movedim(0, dim), c.movedim(0, dim))
    assert same(vmap(lambda x, hx: flat(ours(x, hx)), in_dims=dim)(*moved), expected)
    expected = [torch.stack(r) for r in zip(*(flat(theirs(xi, (h[0], c[0]))) for xi in x), strict=True)]
    assert same(vmap(lambda x: flat(ours(x, (h[0], c[0]))))(x), expected)
    expected = [torch.stack(r) for r in zip(*(flat(theirs(x[0], (hi, c[0]))) for hi in h), strict=True)]
    assert same(vmap(lambda h: flat(ours(x[0], (h, c[0]))))(h), expected)


def test_vmap_in_vmap():
    theirs, ours = pair(batch_first=True)
    x = torch.randn(3, 2, 2, 4, 2, dtype=float64)
    expected = torch.stack([torch.stack([theirs(x[i, j])[0] for j in range(2)]) for i in range(3)])
    assert same(vmap(vmap(lambda x: ours(x)[0]))(x), expected)
    expected = torch.stack([torch.stack([theirs(x[i, j])[0] for i in range(3)]) for j in range(2)])
    assert same(vmap(vmap(lambda x: ours(x)[0]), in_dims=1)(x), expected)


def test_an_entry_is_computed_as_alone():
    module = cylstm.torch.LSTM(2, 3, 2, bidirectional=True, backend="cython")
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(vmap(lambda x: module(x)[0])(x), torch.stack([module(each)[0] for each in x]))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_of_each_sample(options, backend):
    theirs, ours = pair(**options)
    ours.backend = backend
    x = torch.randn(3, 4, 2, dtype=float64)
    per_sample = vmap(grad(loss, argnums=1), in_dims=(None, None, 0))(ours, detached(ours), x)
    for v in range(3):
        expected = grad(loss, argnums=1)(theirs, detached(theirs), x[v])
        assert same({name: value[v] for name, value in per_sample.items()}, expected)
    inside = grad(lambda p: vmap(lambda x: loss(ours, p, x))(x).sum())(detached(ours))
    assert same(inside, {name: value.sum(0) for name, value in per_sample.items()})


def test_an_ensemble():
    models = [pair(num_layers=2, seed=seed) for seed in range(3)]
    parameters, _ = stack_module_state([ours for _, ours in models])
    x = torch.randn(4, 2, 2, dtype=float64)
    shared = vmap(lambda p, x: functional_call(models[0][1], p, (x,))[0], in_dims=(0, None))(parameters, x)
    assert same(shared, torch.stack([theirs(x)[0] for theirs, _ in models]))
    gradients = vmap(grad(lambda p, x: loss(models[0][1], p, x)), in_dims=(0, None))(parameters, x)
    for v, (theirs, _) in enumerate(models):
        expected = grad(loss, argnums=1)(theirs, detached(theirs), x)
        assert same({name: value[v] for name, value in gradients.items()}, expected)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_under_vmap(randomness):
    module = cylstm.torch.LSTM(2, 3, 2, dropout=0.5, dtype=float64)
    x = torch.randn(1, 40, 2, dtype=float64).expand(2, 40, 2)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(lambda x: module(x)[0])(x)
    first, second = vmap(lambda x: module(x)[0], randomness=randomness)(x)
    assert torch.equal(first, second) == (randomness == "same")
    torch.manual_seed(0)
    first, second = vmap(grad(lambda x: module(x)[0].sum()), randomness=randomness)(x)
    assert torch.equal(first, second) == (randomness == "same")


@pytest.mark.parametrize("options", [*OPTIONS, {"num_layers": 2, "dropout": 0.5}], ids=str)
def test_batched_gradients(options):
    theirs, ours = pair(**options)
    x = torch.randn(4, 2, 2, dtype=float64, requires_grad=True)

    def gradients(module: torch.nn.Module, batched: bool) -> list[torch.Tensor]:
        torch.manual_seed(3)
        results, leaves = flat(module(x)), [x, *module.parameters()]
        generator = torch.Generator().manual_seed(1)
        grads = [torch.randn(3, *r.shape, generator=generator, dtype=float64) for r in results]
        if batched:
            return list(torch.autograd.grad(results, leaves, grads, is_grads_batched=True))
        each = [torch.autograd.grad(results, leaves, [g[v] for g in grads], retain_graph=True) for v in range(3)]
        return [torch.stack(of_one) for of_one in zip(*each, strict=True)]

    assert same(gradients(ours, True), gradients(ours, False))
    assert same(gradients(ours, True), gradients(theirs, False))


def test_jacobian_vectorized():
    theirs, ours = pair()
    x = torch.randn(4, 2, dtype=float64)
    expected = torch.autograd.functional.jacobian(lambda x: theirs(x)[0], x)
    assert same(torch.autograd.functional.jacobian(lambda x: ours(x)[0], x, vectorize=True), expected)


def test_second_derivatives_and_forward_mode_are_refused():
    _, ours = pair()
    x = torch.randn(4, 2, dtype=float64)
    scalar = lambda x: ours(x)[0].sum()  # noqa: E731
    for transform in (lambda f: grad(lambda x: grad(f)(x).sum()), lambda f: jacrev(jacrev(f))):
        with pytest.raises(RuntimeError, match=r"no second derivatives.*restore\(model\)"):
            transform(scalar)(x)
    for transform in (torch.func.hessian, torch.func.jacfwd, lambda f: torch.func.jacfwd(grad(f))):
        with pytest.raises(NotImplementedError, match=r"no forward-mode derivatives.*restore\(model\)"):
            transform(scalar)(x)


def test_functionalize():
    theirs, ours = pair()
    x = torch.randn(4, 2, dtype=float64)
    for module in (theirs, ours):
        module.zero_grad()
        functionalize(lambda x, module=module: module(x)[0].sin().sum())(x).backward()
    assert all(close(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert close(functionalize(lambda x: ours(x)[0])(x), theirs(x)[0])
    mapped = vmap(functionalize(lambda x: ours(x)[0]))(torch.stack([x, 2 * x]))
    assert close(mapped, torch.stack([theirs(x)[0], theirs(2 * x)[0]]))
    scalar = lambda x: ours(x)[0].sum()  # noqa: E731
    for transform in (
        lambda f: grad(functionalize(f)),
        lambda f: functionalize(grad(f)),
        lambda f: functionalize(vmap(f)),
    ):
        with pytest.raises(NotImplementedError, match=r"functionalize: leave it out.*restore\(model\)"):
            transform(scalar)(x.expand(3, 4, 2))


def test_expanded_weights_are_refused():
    _, ours = pair(batch_first=True)
    with pytest.raises(NotImplementedError, match=r"expanded weights.*torch\.func\.vmap.*restore\(model\)"):
        call_for_per_sample_grads(ours)(torch.randn(4, 2, 2, dtype=float64))


@pytest.mark.parametrize("allow_rnn", [False, True])
def test_transforms_are_compiled(allow_rnn):
    torch._dynamo.reset()
    theirs, ours = pair()
    x = torch.randn(3, 4, 2, dtype=float64)

    def per_sample(x: torch.Tensor) -> torch.Tensor:
        return vmap(grad(lambda x: ours(x)[0].sin().sum()))(x)

    with torch._dynamo.config.patch(allow_rnn=allow_rnn):
        actual = torch.compile(per_sample, backend="aot_eager")(x)
    expected = [grad(lambda x: theirs(x)[0].sin().sum())(each) for each in x]
    assert same(actual, torch.stack(expected))
